//! Layer norm and RMSNorm of a residual sum, forward and backward.

use super::Pass;
use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::Random;
use longhand_kernels::norm::{Norm as Kernel, NormBackwardArgs, NormForwardArgs};
use longhand_kernels::random::Dropout;
use longhand_reference::{self as reference, LayerNorm, NormGradients, RmsNorm};
use std::fmt;

/// One norm.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Forward or backward.
    pub pass: Pass,
    /// Layer norm, or RMSNorm.
    pub layer: bool,
    /// Of rows.
    pub precision: Precision,
    /// Of weight, bias and their gradients: that of rows, or f32.
    pub weights: Precision,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Elements between the rows of the tensor that may have some.
    pub gap: usize,
    /// Whether there is a residual, or a gradient of the sum.
    pub residual: bool,
    /// Whether the sum overwrites the residual, or `dx` (with dropout, `dresidual`) the gradient of the sum.
    pub in_place: bool,
    /// Whether there is a weight.
    pub weight: bool,
    /// Whether there is a bias.
    pub bias: bool,
    /// Backward: whether the gradients of rows, and of weight and bias, are wanted.
    pub wanted: [bool; 2],
    /// The probability, where there is dropout.
    pub dropout: Option<f64>,
    /// Added to the variance.
    pub eps: f32,
    /// Of the inputs.
    pub seed: u64,
}

impl Case for Norm {
    fn operation(&self) -> &'static str {
        match (self.layer, self.pass) {
            (true, Pass::Forward) => "layer norm forward",
            (true, Pass::Backward) => "layer norm backward",
            (false, Pass::Forward) => "RMSNorm forward",
            (false, Pass::Backward) => "RMSNorm backward",
        }
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        match self.pass {
            Pass::Forward => self.forward(trial),
            Pass::Backward => self.backward(trial),
        }
    }
}

impl fmt::Display for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Norm { precision, rows, width, gap, weights, .. } = self;
        write!(f, "{precision} N{rows} W{width}")?;
        write!(f, "{}", if self.residual { " residual" } else { "" })?;
        write!(f, "{}", if self.residual && self.in_place { " in place" } else { "" })?;
        match (self.weight, self.bias, self.layer) {
            (true, true, true) | (true, false, false) => {}
            (true, true, false) => write!(f, " with bias")?,
            (true, false, true) => write!(f, " without bias")?,
            (false, true, _) => write!(f, " without weight")?,
            (false, false, _) => write!(f, " without parameters")?,
        }
        if weights != precision {
            write!(f, ", {weights} parameters")?;
        }
        if let Some(probability) = self.dropout {
            write!(f, " dropout {probability}")?;
        }
        write!(f, "{}", if self.wanted[0] { "" } else { " without gradients of rows" })?;
        write!(f, "{}", if self.wanted[1] { "" } else { " frozen" })?;
        if *gap > 0 { write!(f, " gap {gap}") } else { Ok(()) }
    }
}

impl Norm {
    /// Layer norm in one type, with all that is usual, of rows that lie one behind the other.
    #[must_use]
    pub fn layer(pass: Pass, precision: Precision, rows: usize, width: usize) -> Norm {
        Norm {
            pass,
            layer: true,
            precision,
            weights: precision,
            rows,
            width,
            gap: 0,
            residual: true,
            in_place: false,
            weight: true,
            bias: true,
            wanted: [true; 2],
            dropout: None,
            eps: 1e-5,
            seed: 1,
        }
    }

    /// The same of RMSNorm.
    #[must_use]
    pub fn rms(pass: Pass, precision: Precision, rows: usize, width: usize) -> Norm {
        Norm { layer: false, bias: false, ..Norm::layer(pass, precision, rows, width) }
    }

    /// The cases that tell the most: for each type, a model's width; each feature; then the widths around what a warp, a
    /// block, its registers and its shared memory hold, with more rows than one block takes.
    #[must_use]
    pub fn telling() -> Vec<Norm> {
        let new = |precision, rows, width| Norm::layer(Pass::Forward, precision, rows, width);
        let rms = |precision, rows, width| Norm::rms(Pass::Forward, precision, rows, width);
        let mut cases: Vec<Norm> = Precision::ALL.map(|precision| new(precision, 37, 768)).into();
        cases.extend(Precision::ALL.map(|precision| rms(precision, 37, 768)));
        cases.push(Norm { residual: false, ..new(Precision::Bf16, 37, 768) });
        cases.push(Norm { in_place: true, gap: 8, ..new(Precision::Bf16, 37, 768) });
        cases.push(Norm { weight: false, bias: false, ..new(Precision::Bf16, 37, 768) });
        cases.push(Norm { dropout: Some(0.25), weights: Precision::F32, ..new(Precision::Bf16, 37, 768) });
        cases.push(Norm {
            dropout: Some(0.25),
            in_place: true,
            bias: true,
            gap: 3,
            ..rms(Precision::F16, 9, 1027)
        });
        for (rows, width) in [
            (0, 8),
            (300, 1),
            (9, 33),
            (5, 1024),
            (5, 1025),
            (3, 4104),
            (2, 8193),
            (66, 16_392),
            (2, 65_536),
            (1, 131_072),
        ] {
            let gap = if width % 2 == 0 { 0 } else { 3 };
            cases.push(Norm { gap, residual: rows % 2 == 1, ..new(Precision::Bf16, rows, width) });
        }
        let backward = |case: &Norm| Norm { pass: Pass::Backward, ..case.clone() };
        let mut all: Vec<Norm> = cases.iter().cloned().chain(cases.iter().map(backward)).collect();
        for wanted in [[true, false], [false, true]] {
            all.push(Norm { wanted, ..Norm::layer(Pass::Backward, Precision::Bf16, 37, 768) });
        }
        all
    }

    /// The launches whose counts are held, of rows such as heads are normalised in: with so many that what each block reads and writes once, whatever its
    /// rows, is little beside them.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let (rows, width) = (12_288, 128);
        let layer = |pass| Norm::layer(pass, Precision::Bf16, rows, width);
        // Of which each is shared by blocks.
        let (many, wide) = (1024, 8200);
        let rms = |pass| Norm::rms(pass, Precision::Bf16, rows, width);
        // Four tensors; the statistics; weight and bias, or weight and the gradients.
        let bytes = |statistics: usize, vectors: usize| {
            2 * 4 * rows * width + 4 * statistics * rows + 2 * vectors * width
        };
        vec![
            Canonical::moving("layer_norm_forward", layer(Pass::Forward), bytes(2, 2)),
            Canonical::moving("layer_norm_backward", layer(Pass::Backward), bytes(2, 3)),
            Canonical::moving("rms_norm_forward", rms(Pass::Forward), bytes(1, 1)),
            Canonical::moving("rms_norm_backward", rms(Pass::Backward), bytes(1, 2)),
            Canonical::moving(
                "rms_norm_backward_wide",
                Norm::rms(Pass::Backward, Precision::F32, many, wide),
                4 * 4 * many * wide + 4 * many + 4 * 2 * wide,
            ),
        ]
    }

    fn forward(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Norm { precision, rows, width, eps, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let (x, residual) = (draw.vec(rows * width), draw.vec(rows * width));
        let (weight_values, bias_values) = self.parameters(&mut draw);
        let added = self.residual.then_some(&*residual);
        let dropped = self.dropped(&x);
        let expected = self.reference(&dropped, added, &weight_values, &bias_values);
        let rounded: Vec<f64> = dropped.iter().map(|x| precision.round(*x as f32).into()).collect();
        let plain = self.plain().forward(&rounded, added, &weight_values, &bias_values);

        let whole = Layout::contiguous(&[rows, width]);
        let x = trial.input("x", precision, &self.spaced(), &x)?;
        let weight = trial.vector("weight", self.weights, &weight_values)?;
        let bias = trial.vector("bias", self.weights, &bias_values)?;
        let residual = if self.residual && self.in_place {
            trial.input("sum", precision, &whole, &residual)?
        } else {
            trial.input("residual", precision, &whole, &residual)?
        };
        let sum = trial.output("sum", precision, &whole)?;
        let out = trial.output("out", precision, &whole)?;
        let mean = trial.output("mean", Precision::F32, &Layout::contiguous(&[rows]))?;
        let rstd = trial.output("rstd", Precision::F32, &Layout::contiguous(&[rows]))?;
        let sum = if self.in_place && self.residual { &residual } else { &sum };
        let writes_sum = self.residual || self.dropout.is_some();
        let plan = self.kernel().plan_forward(trial.stream().device())?;
        let args = NormForwardArgs {
            rows,
            eps,
            x: x.ptr(),
            x_stride: x.strides()[0],
            residual: given(&residual, self.residual),
            dropout: self.random(),
            weight: given(&weight, self.weight),
            bias: given(&bias, self.bias),
            sum: given(sum, writes_sum),
            out: out.ptr(),
            mean: given(&mean, self.layer),
            rstd: rstd.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        if writes_sum {
            trial.judge(Forward, sum, &plain.sum, &expected.sum)?;
        }
        trial.judge(Forward, &out, &plain.out, &expected.out)?;
        // The statistics are those of the sum as it is written.
        let written = if writes_sum { sum.download()? } else { rounded };
        let expected = self.reference(&written, None, &weight_values, &bias_values);
        let plain = self.plain().forward(&written, None, &weight_values, &bias_values);
        if self.layer {
            trial.judge_with(Forward, &mean, &plain.mean, &expected.mean, 1e-6)?;
        }
        trial.judge(Forward, &rstd, &plain.rstd, &expected.rstd)
    }

    fn backward(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Norm { precision, rows, width, wanted: [wants_rows, wants_sums], .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let [sum, dout, dsum] = [(); 3].map(|()| draw.vec(rows * width));
        let (weight, _) = self.parameters(&mut draw);
        let forward = self.reference(&sum, None, &weight, &weight);
        let added = self.residual.then_some(&*dsum);
        let expected = self.reference_backward(&sum, &weight, &dout, added);
        let plain = self.plain().backward(&sum, &weight, &dout, added);

        let whole = Layout::contiguous(&[rows, width]);
        let in_place = self.in_place && self.residual;
        let has_dropout = self.dropout.is_some();
        let name = if has_dropout { "dresidual" } else { "dx" };
        let sum = trial.input("sum", precision, &self.spaced(), &sum)?;
        let dout = trial.input("dout", precision, &whole, &dout)?;
        let dsum = trial.input(if in_place { name } else { "dsum" }, precision, &whole, &dsum)?;
        let weight = trial.vector("weight", self.weights, &weight)?;
        let mean = trial.vector("mean", Precision::F32, &forward.mean)?;
        let rstd = trial.vector("rstd", Precision::F32, &forward.rstd)?;
        let total = trial.output(name, precision, &whole)?;
        let total = if in_place { &dsum } else { &total };
        let dropped = trial.output("dx", precision, &whole)?;
        let dweight = trial.output("dweight", self.weights, &Layout::contiguous(&[width]))?;
        let dbias = trial.output("dbias", self.weights, &Layout::contiguous(&[width]))?;
        let plan = self.kernel().plan_backward(trial.stream().device())?;
        let workspace = trial.workspace(plan.workspace_bytes(rows))?;
        let args = NormBackwardArgs {
            rows,
            dout: dout.ptr(),
            dsum: given(&dsum, self.residual),
            sum: sum.ptr(),
            sum_stride: sum.strides()[0],
            dropout: self.random(),
            weight: given(&weight, self.weight),
            mean: given(&mean, self.layer),
            rstd: rstd.ptr(),
            dx: given(if has_dropout { &dropped } else { total }, wants_rows),
            dresidual: given(total, has_dropout && wants_rows),
            dweight: given(&dweight, self.weight && wants_sums),
            dbias: given(&dbias, self.bias && wants_sums),
            workspace: workspace.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        // In two columns, and in one, the parts of the gradient cancel but for eps.
        let cancellation = 1e-6 * forward.rstd.iter().fold(0.0, |max: f64, rstd| max.max(*rstd));
        if wants_rows {
            trial.judge_with(Gradient, total, &plain.dx, &expected.dx, cancellation)?;
        }
        if let Some(dropout) = self.random().filter(|_| wants_rows) {
            let plain: Vec<f64> =
                self.dropped(&plain.dx).iter().map(|x| precision.round(*x as f32).into()).collect();
            let cancellation = dropout.scale() * cancellation;
            trial.judge_with(Gradient, &dropped, &plain, &self.dropped(&expected.dx), cancellation)?;
        }
        if self.weight && wants_sums {
            trial.judge(Gradient, &dweight, &plain.dweight, &expected.dweight)?;
        }
        if self.bias && wants_sums {
            trial.judge(Gradient, &dbias, &plain.dbias, &expected.dbias)?;
        }
        workspace.download()?; // nothing was written around it
        Ok(())
    }

    fn kernel(&self) -> Kernel {
        let new = if self.layer { Kernel::layer } else { Kernel::rms };
        new(self.precision.dtype(), self.width)
            .weight(self.weight)
            .bias(self.bias)
            .weight_dtype(self.weights.dtype())
            .dropout(self.dropout.is_some())
    }

    fn plain(&self) -> plain::Norm {
        let &Norm { layer, precision, weights, eps, .. } = self;
        plain::Norm { layer, precision, weights, eps: eps.into() }
    }

    fn reference(&self, x: &[f64], residual: Option<&[f64]>, weight: &[f64], bias: &[f64]) -> LayerNorm {
        let eps = self.eps.into();
        if self.layer {
            return reference::layer_norm(x, residual, weight, bias, eps);
        }
        let RmsNorm { sum, out, rstd } = reference::rms_norm(x, residual, weight, bias, eps);
        LayerNorm { sum, out, mean: vec![0.0; rstd.len()], rstd }
    }

    fn reference_backward(
        &self,
        sum: &[f64],
        weight: &[f64],
        dout: &[f64],
        dsum: Option<&[f64]>,
    ) -> NormGradients {
        let backward = if self.layer { reference::layer_norm_backward } else { reference::rms_norm_backward };
        backward(sum, weight, self.eps.into(), dout, dsum)
    }

    /// Weight and bias, drawn in the type of rows, which is one of theirs; 1 and 0 where there are none.
    fn parameters(&self, draw: &mut Draw) -> (Vec<f64>, Vec<f64>) {
        let (weight, bias) = (draw.vec(self.width), draw.vec(self.width));
        let or = |is_there: bool, values, default| if is_there { values } else { vec![default; self.width] };
        (or(self.weight, weight, 1.0), or(self.bias, bias, 0.0))
    }

    fn random(&self) -> Option<Dropout> {
        let random = Random { seed: self.seed, offset: 7 };
        self.dropout.map(|probability| Dropout { probability, random })
    }

    fn dropped(&self, x: &[f64]) -> Vec<f64> {
        match self.random() {
            Some(Dropout { probability, random }) => {
                let key = random.key();
                reference::dropout(x, [key as u32, (key >> 32) as u32], probability)
            }
            None => x.to_vec(),
        }
    }

    fn spaced(&self) -> Layout {
        Layout::strided(&[self.rows, self.width], &[(self.width + self.gap) as i64, 1])
    }
}

fn given(tensor: &View, is_there: bool) -> DevicePtr {
    if is_there { tensor.ptr() } else { DevicePtr::NULL }
}
