//! Softmax and log-sum-exp of rows, forward and backward.

use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::softmax::{SoftmaxArgs, SoftmaxBackward, SoftmaxBackwardArgs, SoftmaxForward};
use longhand_reference as reference;
use std::fmt;

/// One matrix.
#[derive(Clone, Debug)]
pub struct Softmax {
    /// Of all tensors.
    pub precision: Precision,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Elements between the rows of the input.
    pub gap: usize,
    /// Elements that the gradient of the output starts after an aligned address.
    pub shift: usize,
    /// Whether outputs overwrite inputs.
    pub in_place: bool,
    /// Which gradients there are: of the softmax, and of the log-sum-exp.
    pub gradients: (bool, bool),
    /// Of the inputs.
    pub seed: u64,
}

impl Case for Softmax {
    fn operation(&self) -> &'static str {
        "softmax"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Softmax { precision, rows, width, gap, shift, in_place, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let [x_values, dout_values] = [(); 2].map(|()| draw.vec(rows * width));
        let dlse_values = Draw::new(Precision::F32, self.seed).vec(rows);
        let stride = (width + gap) as i64;
        let strided = Layout::strided(&[rows, width], &[stride, 1]);
        let contiguous = Layout::contiguous(&[rows, width]);
        let (layout, out_stride) = if in_place { (&strided, stride) } else { (&contiguous, width as i64) };

        let x = trial.input(if in_place { "out" } else { "x" }, precision, &strided, &x_values)?;
        let out = trial.output("out", precision, layout)?;
        let out = if in_place { &x } else { &out };
        let lse = trial.output("lse", Precision::F32, &Layout::contiguous(&[rows]))?;
        let plan = SoftmaxForward::new(precision.dtype(), width).plan(trial.stream().device())?;
        let args = SoftmaxArgs { rows, x: x.ptr(), stride, out: out.ptr(), out_stride, lse: lse.ptr() };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        let exact = reference::softmax(&x_values, width);
        let plain = plain::softmax(precision, &x_values, width);
        trial.judge(Forward, out, &plain.out, &exact.out)?;
        trial.judge(Forward, &lse, &plain.lse, &exact.lse)?;

        // From the rounded softmax, which is what is kept.
        let out_values = &plain.out;
        let (of_out, of_lse) = self.gradients;
        let dout_values = if of_out { dout_values } else { vec![0.0; rows * width] };
        let dlse_values = if of_lse { dlse_values } else { vec![0.0; rows] };
        let out = trial.input("softmax", precision, &contiguous, out_values)?;
        let layout = contiguous.clone().shifted(shift);
        let dout = trial.input(if in_place { "dx" } else { "dout" }, precision, &layout, &dout_values)?;
        let dlse = trial.vector("dlse", Precision::F32, &dlse_values)?;
        let dx = trial.output("dx", precision, &contiguous)?;
        let dx = if in_place && of_out { &dout } else { &dx };
        let null_unless = |exists: bool, data: DevicePtr| if exists { data } else { DevicePtr::NULL };
        let args = SoftmaxBackwardArgs {
            rows,
            out: out.ptr(),
            dout: null_unless(of_out, dout.ptr()),
            dlse: null_unless(of_lse, dlse.ptr()),
            dx: dx.ptr(),
        };
        let plan = SoftmaxBackward::new(precision.dtype(), width).plan(trial.stream().device())?;
        // SAFETY: as above.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        let expected = reference::softmax_backward(out_values, width, &dout_values, &dlse_values);
        let plain = plain::softmax_backward(precision, out_values, width, &dout_values, &dlse_values);
        // What is subtracted is a sum of as many terms of either sign.
        trial.judge_with(Gradient, dx, &plain, &expected, 1e-6)
    }
}

impl fmt::Display for Softmax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Softmax { precision, rows, width, gap, shift, in_place, gradients, .. } = self;
        write!(f, "{precision} N{rows} W{width}")?;
        write!(f, "{}", if *in_place { " in place" } else { "" })?;
        f.write_str(match gradients {
            (true, true) => " of softmax and LSE",
            (true, false) => "",
            (false, true) => " of LSE",
            (false, false) => " of nothing",
        })?;
        write!(f, "{}", if *shift > 0 { " shifted" } else { "" })?;
        if *gap > 0 { write!(f, " gap {gap}") } else { Ok(()) }
    }
}

impl Softmax {
    /// The cases that tell the most: each type at a width of no alignment, the smallest and none, outputs in place,
    /// rows that no block holds, and one that no cluster of blocks does.
    #[must_use]
    pub fn telling() -> Vec<Softmax> {
        let mut cases: Vec<Softmax> = Precision::ALL.map(|precision| new(precision, 20, 1001)).into();
        cases.extend([(9, 1), (0, 8), (3, 8192)].map(|(rows, width)| new(Precision::Bf16, rows, width)));
        cases.push(Softmax { in_place: true, gap: 3, ..new(Precision::Bf16, 7, 300) });
        cases.push(Softmax { shift: 1, ..new(Precision::F16, 5, 515) });
        cases.push(Softmax { gradients: (false, true), ..new(Precision::Bf16, 5, 515) });
        cases.push(new(Precision::F32, 2, 70_001));
        cases.push(Softmax { in_place: true, gap: 3, ..new(Precision::Bf16, 2, 60_003) });
        cases.push(Softmax { shift: 1, ..new(Precision::F16, 1, 58_000) });
        cases.push(new(Precision::F32, 1, 300_001));
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let case =
            |precision, rows, width| Softmax { gradients: (true, false), ..new(precision, rows, width) };
        // Forward reads one matrix and writes one, backward reads two and writes one.
        vec![
            Canonical::moving("softmax", case(Precision::Bf16, 8, 8192), 5 * 2 * 8 * 8192),
            Canonical::moving("softmax_long", case(Precision::F32, 1, 131_072), 5 * 4 * 131_072),
        ]
    }
}

fn new(precision: Precision, rows: usize, width: usize) -> Softmax {
    let gradients = (true, true);
    Softmax { precision, rows, width, gap: 0, shift: 0, in_place: false, gradients, seed: 1 }
}
