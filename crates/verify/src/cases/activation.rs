//! Activations of a linear layer's output, with its bias, gated or not; forward and backward.

use super::Pass;
use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::activation::{
    Activation as Kernel, ActivationBackwardArgs, ActivationForwardArgs, Function, Rows,
};
use longhand_reference as reference;
use std::fmt;

/// One activation.
#[derive(Clone, Debug)]
pub struct Activation {
    /// Forward or backward.
    pub pass: Pass,
    /// What is computed.
    pub function: Function,
    /// Of all tensors.
    pub precision: Precision,
    /// Whether it is multiplied with a second input.
    pub gated: bool,
    /// Whether inputs have a bias.
    pub bias: bool,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Elements between the rows of each input: with `width` of them, inputs lie as halves of one tensor do.
    pub gap: usize,
    /// Whether the gradients overwrite the inputs.
    pub in_place: bool,
    /// Backward: whether the gradients of `x`, of `up`, and of the biases are wanted.
    pub wanted: [bool; 3],
    /// Of the inputs.
    pub seed: u64,
}

impl Case for Activation {
    fn operation(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "activation forward",
            Pass::Backward => "activation backward",
        }
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        match self.pass {
            Pass::Forward => self.forward(trial),
            Pass::Backward => self.backward(trial),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Activation { function, precision, rows, width, gap, .. } = self;
        write!(f, "{function:?} {precision} N{rows} W{width}")?;
        write!(f, "{}", if self.gated { " gated" } else { "" })?;
        write!(f, "{}", if self.bias { " with bias" } else { "" })?;
        write!(f, "{}", if self.in_place { " in place" } else { "" })?;
        for (name, wanted) in ["x", "up", "biases"].into_iter().zip(self.wanted) {
            write!(f, "{}", if wanted { String::new() } else { format!(" without that of {name}") })?;
        }
        if *gap > 0 { write!(f, " gap {gap}") } else { Ok(()) }
    }
}

/// What goes into an activation.
struct Inputs {
    x: Vec<f64>,
    up: Vec<f64>,
    bias: Vec<f64>,
    up_bias: Vec<f64>,
}

impl Activation {
    /// The cases that tell the most: each function on each type, gated and not, with and without bias; several blocks
    /// of rows and columns, halves, no rows, one element, no alignment.
    #[must_use]
    pub fn telling() -> Vec<Activation> {
        let new = |function, precision| Activation {
            pass: Pass::Forward,
            function,
            precision,
            gated: false,
            bias: false,
            rows: 19,
            width: 264,
            gap: 0,
            in_place: false,
            wanted: [true; 3],
            seed: 1,
        };
        let mut cases: Vec<Activation> = Vec::new();
        for (i, function) in Function::ALL.into_iter().enumerate() {
            for (j, precision) in Precision::ALL.into_iter().enumerate() {
                let gated = (i + j) % 2 == 0;
                cases.push(Activation { gated, bias: i % 2 == 0, ..new(function, precision) });
                cases.push(Activation {
                    gated: !gated,
                    gap: 264,
                    bias: i % 2 == 1,
                    ..new(function, precision)
                });
            }
        }
        let swiglu = Activation { gated: true, bias: true, ..new(Function::Silu, Precision::Bf16) };
        cases.push(Activation { in_place: true, ..swiglu });
        cases.push(Activation { rows: 0, ..swiglu });
        cases.push(Activation { rows: 1, width: 1, ..swiglu });
        cases.push(Activation { rows: 300, width: 67, gap: 3, ..swiglu });
        let backward = |case: &Activation| Activation { pass: Pass::Backward, ..case.clone() };
        let mut all: Vec<Activation> = cases.iter().cloned().chain(cases.iter().map(backward)).collect();
        for wanted in [[false, true, true], [true, false, true], [true, true, false]] {
            all.push(Activation { pass: Pass::Backward, wanted, ..swiglu });
        }
        all
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let (rows, width) = (2048, 512);
        let case = |pass, function, gated| Activation {
            pass,
            function,
            precision: Precision::Bf16,
            gated,
            bias: true,
            rows,
            width,
            gap: if gated { width } else { 0 },
            in_place: false,
            wanted: [true; 3],
            seed: 1,
        };
        let bytes = |matrices: usize, vectors: usize| 2 * width * (matrices * rows + vectors);
        let gelu = |pass| case(pass, Function::GeluTanh, false);
        let swiglu = |pass| case(pass, Function::Silu, true);
        vec![
            Canonical::moving("gelu_tanh", gelu(Pass::Forward), bytes(2, 1)),
            Canonical::moving("gelu_tanh_backward", gelu(Pass::Backward), bytes(3, 2)),
            Canonical::moving("swiglu", swiglu(Pass::Forward), bytes(3, 2)),
            Canonical::moving("swiglu_backward", swiglu(Pass::Backward), bytes(5, 4)),
        ]
    }

    fn forward(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Activation { precision, rows, width, .. } = self;
        let inputs = self.draw(&mut Draw::new(precision, self.seed));
        let (exact_x, exact_up) =
            (self.biased(&inputs.x, &inputs.bias), self.biased(&inputs.up, &inputs.up_bias));
        let expected = match self.gated {
            true => reference::gated(self.formula().0, &exact_x, &exact_up),
            false => self.formula().0(&exact_x),
        };
        let plain: Vec<f64> = (0..exact_x.len())
            .map(|i| {
                let value = self.round(plain::activation(self.function, self.round(exact_x[i] as f32)));
                self.round(if self.gated { value * self.round(exact_up[i] as f32) } else { value }).into()
            })
            .collect();

        let views = self.upload(trial, &inputs)?;
        let out = trial.output("out", precision, &Layout::contiguous(&[rows, width]))?;
        let plan = self.kernel().plan_forward(trial.stream().device())?;
        let args = ActivationForwardArgs {
            rows,
            width,
            x: rows_of(&views.x),
            up: if self.gated { rows_of(&views.up) } else { Rows::NONE },
            bias: given(&views.bias, self.bias),
            up_bias: given(&views.up_bias, self.gated && self.bias),
            out: out.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the download.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        trial.judge(Forward, &out, &plain, &expected)
    }

    fn backward(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Activation { function, precision, rows, width, gated, .. } = self;
        let [wants_x, wants_up, wants_biases] = self.wanted;
        let mut draw = Draw::new(precision, self.seed);
        let inputs = self.draw(&mut draw);
        let dout = draw.vec(rows * width);
        let (exact_x, exact_up) =
            (self.biased(&inputs.x, &inputs.bias), self.biased(&inputs.up, &inputs.up_bias));
        let (f, slope) = self.formula();
        let (expected_dx, expected_dup) = match gated {
            true => reference::gated_backward(f, slope, &exact_x, &exact_up, &dout),
            false => (slope(&exact_x, &dout), Vec::new()),
        };
        let (mut plain_dx, mut plain_dup) = (Vec::new(), Vec::new());
        for (i, dout) in dout.iter().enumerate() {
            let (x, up, dout) = (self.round(exact_x[i] as f32), self.round(exact_up[i] as f32), *dout as f32);
            let through = if gated { self.round(dout * up) } else { dout };
            plain_dx.push(f64::from(self.round(through * plain::activation_slope(function, x))));
            plain_dup.push(f64::from(self.round(dout * self.round(plain::activation(function, x)))));
        }

        let views = self.upload(trial, &inputs)?;
        let dout = trial.vector("dout", precision, &dout)?;
        let (dx, dup) =
            (trial.output("dx", precision, &self.spaced())?, trial.output("dup", precision, &self.spaced())?);
        let (dx, dup) = if self.in_place { (&views.x, &views.up) } else { (&dx, &dup) };
        let vector = Layout::contiguous(&[width]);
        let (dbias, dup_bias) =
            (trial.output("dbias", precision, &vector)?, trial.output("dup_bias", precision, &vector)?);
        let plan = self.kernel().plan_backward(trial.stream().device())?;
        let workspace = trial.workspace(plan.workspace_bytes(rows, width))?;
        let args = ActivationBackwardArgs {
            rows,
            width,
            dout: dout.ptr(),
            x: rows_of(&views.x),
            up: if gated { rows_of(&views.up) } else { Rows::NONE },
            bias: given(&views.bias, self.bias),
            up_bias: given(&views.up_bias, gated && self.bias),
            dx: if wants_x { rows_of(dx) } else { Rows::NONE },
            dup: if gated && wants_up { rows_of(dup) } else { Rows::NONE },
            dbias: given(&dbias, self.bias && wants_biases),
            dup_bias: given(&dup_bias, gated && self.bias && wants_biases),
            workspace: workspace.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        if wants_x {
            trial.judge(Gradient, dx, &plain_dx, &expected_dx)?;
        }
        if gated && wants_up {
            trial.judge(Gradient, dup, &plain_dup, &expected_dup)?;
        }
        if self.bias && wants_biases {
            trial.judge(Gradient, &dbias, &self.plain_sums(&plain_dx), &sums(&expected_dx, width))?;
        }
        if self.bias && gated && wants_biases {
            trial.judge(Gradient, &dup_bias, &self.plain_sums(&plain_dup), &sums(&expected_dup, width))?;
        }
        workspace.download()?; // nothing was written around it
        Ok(())
    }

    fn kernel(&self) -> Kernel {
        Kernel::new(self.function, self.precision.dtype()).gated(self.gated).bias(self.bias)
    }

    /// The function and its backward.
    #[allow(clippy::type_complexity)]
    fn formula(&self) -> (fn(&[f64]) -> Vec<f64>, fn(&[f64], &[f64]) -> Vec<f64>) {
        match self.function {
            Function::GeluTanh => (reference::gelu_tanh, reference::gelu_tanh_backward),
            Function::GeluErf => (reference::gelu_erf, reference::gelu_erf_backward),
            Function::Silu => (reference::silu, reference::silu_backward),
            Function::ReluSquared => (reference::relu_squared, reference::relu_squared_backward),
        }
    }

    /// Biases are zero where there are none.
    fn draw(&self, draw: &mut Draw) -> Inputs {
        let [x, up] = [(); 2].map(|()| draw.vec(self.rows * self.width));
        let mut vector = || if self.bias { draw.vec(self.width) } else { vec![0.0; self.width] };
        Inputs { x, up, bias: vector(), up_bias: vector() }
    }

    fn biased(&self, x: &[f64], bias: &[f64]) -> Vec<f64> {
        x.iter().enumerate().map(|(i, x)| x + bias[i % self.width]).collect()
    }

    fn round(&self, x: f32) -> f32 {
        self.precision.round(x)
    }

    /// In f32, row by row, rounded once.
    fn plain_sums(&self, x: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.width];
        x.iter().enumerate().for_each(|(i, x)| sums[i % self.width] += *x as f32);
        sums.into_iter().map(|sum| self.round(sum).into()).collect()
    }

    fn upload(&self, trial: &Trial, inputs: &Inputs) -> Result<Views, Error> {
        let precision = self.precision;
        let [x, up] = if self.in_place && self.pass == Pass::Backward { ["dx", "dup"] } else { ["x", "up"] };
        Ok(Views {
            x: trial.input(x, precision, &self.spaced(), &inputs.x)?,
            up: trial.input(up, precision, &self.spaced(), &inputs.up)?,
            bias: trial.vector("bias", precision, &inputs.bias)?,
            up_bias: trial.vector("up_bias", precision, &inputs.up_bias)?,
        })
    }

    fn spaced(&self) -> Layout {
        Layout::strided(&[self.rows, self.width], &[(self.width + self.gap) as i64, 1])
    }
}

struct Views {
    x: View,
    up: View,
    bias: View,
    up_bias: View,
}

/// Of each column.
fn sums(x: &[f64], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    x.iter().enumerate().for_each(|(i, x)| sums[i % width] += x);
    sums
}

fn rows_of(view: &View) -> Rows {
    Rows { data: view.ptr(), stride: view.strides()[0] }
}

fn given(view: &View, is_there: bool) -> DevicePtr {
    if is_there { view.ptr() } else { DevicePtr::NULL }
}
