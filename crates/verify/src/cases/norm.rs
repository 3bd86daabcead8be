//! Layer norm of a residual sum, forward and backward.

use super::Pass;
use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::norm::{
    LayerNormBackward, LayerNormBackwardArgs, LayerNormForward, LayerNormForwardArgs,
};
use longhand_reference as reference;
use std::fmt;

/// One layer norm.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Forward or backward.
    pub pass: Pass,
    /// Of rows, weights and their gradients.
    pub precision: Precision,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Elements between the rows of the tensor that may have some.
    pub gap: usize,
    /// Whether there is a residual, or a gradient of the sum.
    pub residual: bool,
    /// Whether the sum overwrites the residual, or `dx` the gradient of the sum.
    pub in_place: bool,
    /// Added to the variance.
    pub eps: f32,
    /// Of the inputs.
    pub seed: u64,
}

impl Case for LayerNorm {
    fn operation(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "layer norm forward",
            Pass::Backward => "layer norm backward",
        }
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        match self.pass {
            Pass::Forward => self.forward(trial),
            Pass::Backward => self.backward(trial),
        }
    }
}

impl fmt::Display for LayerNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayerNorm { precision, rows, width, gap, .. } = self;
        write!(f, "{precision} N{rows} W{width}")?;
        write!(f, "{}", if self.residual { " residual" } else { "" })?;
        write!(f, "{}", if self.residual && self.in_place { " in place" } else { "" })?;
        if *gap > 0 { write!(f, " gap {gap}") } else { Ok(()) }
    }
}

impl LayerNorm {
    /// The cases that tell the most: for each type, a model's width; then the widths around what a warp, a block and
    /// its registers hold, with more rows than one block takes.
    #[must_use]
    pub fn telling() -> Vec<LayerNorm> {
        let new = |precision, rows, width| LayerNorm {
            pass: Pass::Forward,
            precision,
            rows,
            width,
            gap: 0,
            residual: true,
            in_place: false,
            eps: 1e-5,
            seed: 1,
        };
        let mut cases: Vec<LayerNorm> = Precision::ALL.map(|precision| new(precision, 37, 768)).into();
        cases.push(LayerNorm { residual: false, ..new(Precision::Bf16, 37, 768) });
        cases.push(LayerNorm { in_place: true, gap: 8, ..new(Precision::Bf16, 37, 768) });
        for (rows, width) in
            [(0, 8), (300, 1), (9, 33), (5, 1024), (5, 1025), (3, 4104), (2, 8193), (2, 16_392), (2, 65_536)]
        {
            let gap = if width % 2 == 0 { 0 } else { 3 };
            cases.push(LayerNorm { gap, residual: rows % 2 == 1, ..new(Precision::Bf16, rows, width) });
        }
        let backward = |case: &LayerNorm| LayerNorm { pass: Pass::Backward, ..case.clone() };
        cases.iter().cloned().chain(cases.iter().map(backward)).collect()
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let (rows, width) = (64, 768);
        let case = |pass| LayerNorm {
            pass,
            precision: Precision::Bf16,
            rows,
            width,
            gap: 0,
            residual: true,
            in_place: false,
            eps: 1e-5,
            seed: 1,
        };
        // Four tensors; mean and rstd; weight and bias, or weight and the gradients of both.
        let bytes = |vectors: usize| 2 * 4 * rows * width + 2 * 4 * rows + 2 * vectors * width;
        vec![
            Canonical::moving("layer_norm_forward", case(Pass::Forward), bytes(2)),
            Canonical::moving("layer_norm_backward", case(Pass::Backward), bytes(3)),
        ]
    }

    fn forward(&self, trial: &mut Trial) -> Result<(), Error> {
        let &LayerNorm { precision, rows, width, eps, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let (x, residual) = (draw.vec(rows * width), draw.vec(rows * width));
        let (weight_values, bias_values) = (draw.vec(width), draw.vec(width));
        let added = self.residual.then_some(&*residual);
        let expected = reference::layer_norm(&x, added, &weight_values, &bias_values, eps.into());
        let plain = plain::layer_norm(precision, &x, added, &weight_values, &bias_values, eps.into());

        let whole = Layout::contiguous(&[rows, width]);
        let x = trial.input("x", precision, &self.spaced(), &x)?;
        let weight = trial.vector("weight", precision, &weight_values)?;
        let bias = trial.vector("bias", precision, &bias_values)?;
        let residual = if self.residual && self.in_place {
            trial.input("sum", precision, &whole, &residual)?
        } else {
            trial.input("residual", precision, &whole, &residual)?
        };
        let sum = trial.output("sum", precision, &whole)?;
        let out = trial.output("out", precision, &whole)?;
        let mean = trial.output("mean", Precision::F32, &Layout::contiguous(&[rows]))?;
        let rstd = trial.output("rstd", Precision::F32, &Layout::contiguous(&[rows]))?;
        let sum = if self.in_place { &residual } else { &sum };
        let plan = LayerNormForward::new(precision.dtype(), width)?.plan(trial.stream().device())?;
        let args = LayerNormForwardArgs {
            rows,
            eps,
            x: x.ptr(),
            x_stride: x.strides()[0],
            residual: self.given(&residual),
            weight: weight.ptr(),
            bias: bias.ptr(),
            sum: self.given(sum),
            out: out.ptr(),
            mean: mean.ptr(),
            rstd: rstd.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        if self.residual {
            trial.judge(Forward, sum, &plain.sum, &expected.sum)?;
        }
        trial.judge(Forward, &out, &plain.out, &expected.out)?;
        // The statistics are those of the sum as it is written.
        let expected = reference::layer_norm(&plain.sum, None, &weight_values, &bias_values, eps.into());
        trial.judge_with(Forward, &mean, &plain.mean, &expected.mean, 1e-6)?;
        trial.judge(Forward, &rstd, &plain.rstd, &expected.rstd)
    }

    fn backward(&self, trial: &mut Trial) -> Result<(), Error> {
        let &LayerNorm { precision, rows, width, eps, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let [sum, dout, dsum] = [(); 3].map(|()| draw.vec(rows * width));
        let weight = draw.vec(width);
        let forward = reference::layer_norm(&sum, None, &weight, &weight, eps.into());
        let added = self.residual.then_some(&*dsum);
        let expected = reference::layer_norm_backward(&sum, &weight, eps.into(), &dout, added);
        let plain = plain::layer_norm_backward(precision, &sum, &weight, eps.into(), &dout, added);

        let whole = Layout::contiguous(&[rows, width]);
        let in_place = self.in_place && self.residual;
        let sum = trial.input("sum", precision, &self.spaced(), &sum)?;
        let dout = trial.input("dout", precision, &whole, &dout)?;
        let dsum = trial.input(if in_place { "dx" } else { "dsum" }, precision, &whole, &dsum)?;
        let weight = trial.vector("weight", precision, &weight)?;
        let mean = trial.vector("mean", Precision::F32, &forward.mean)?;
        let rstd = trial.vector("rstd", Precision::F32, &forward.rstd)?;
        let dx = trial.output("dx", precision, &whole)?;
        let dx = if in_place { &dsum } else { &dx };
        let dweight = trial.output("dweight", precision, &Layout::contiguous(&[width]))?;
        let dbias = trial.output("dbias", precision, &Layout::contiguous(&[width]))?;
        let plan = LayerNormBackward::new(precision.dtype(), width)?.plan(trial.stream().device())?;
        let workspace = trial.workspace(plan.workspace_bytes(rows))?;
        let args = LayerNormBackwardArgs {
            rows,
            dy: dout.ptr(),
            dr: self.given(&dsum),
            sum: sum.ptr(),
            sum_stride: sum.strides()[0],
            weight: weight.ptr(),
            mean: mean.ptr(),
            rstd: rstd.ptr(),
            dx: dx.ptr(),
            dweight: dweight.ptr(),
            dbias: dbias.ptr(),
            workspace: workspace.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        // In two columns, and in one, the parts of the gradient cancel but for eps.
        let largest_rstd = forward.rstd.iter().fold(0.0, |max: f64, rstd| max.max(*rstd));
        trial.judge_with(Gradient, dx, &plain.dx, &expected.dx, 1e-6 * largest_rstd)?;
        trial.judge(Gradient, &dweight, &plain.dweight, &expected.dweight)?;
        trial.judge(Gradient, &dbias, &plain.dbias, &expected.dbias)?;
        workspace.download()?; // nothing was written around it
        Ok(())
    }

    fn spaced(&self) -> Layout {
        Layout::strided(&[self.rows, self.width], &[(self.width + self.gap) as i64, 1])
    }

    /// What is there in half of the cases.
    fn given(&self, tensor: &View) -> DevicePtr {
        if self.residual { tensor.ptr() } else { DevicePtr::NULL }
    }
}
