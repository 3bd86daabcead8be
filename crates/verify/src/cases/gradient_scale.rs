//! A gradient times a number on the device.

use crate::tolerance::Rule::Exact;
use crate::{Case, Draw, Error, Layout, Precision, Trial};
use longhand_kernels::cross_entropy::GradientScale as Kernel;
use std::fmt;

/// One gradient.
#[derive(Clone, Debug)]
pub struct GradientScale {
    /// Of its elements.
    pub precision: Precision,
    /// How many there are.
    pub count: usize,
    /// What they are multiplied by.
    pub factor: f32,
    /// Of the elements.
    pub seed: u64,
}

impl Case for GradientScale {
    fn operation(&self) -> &'static str {
        "scale of a gradient"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &GradientScale { precision, count, factor, seed } = self;
        let values = Draw::new(precision, seed).vec(count);
        let x = trial.input("x", precision, &Layout::contiguous(&[count]), &values)?;
        let device_factor = trial.vector("factor", Precision::F32, &[factor.into()])?;
        let plan = Kernel::new(precision.dtype()).plan(trial.stream().device())?;
        // SAFETY: each tensor has the size that it is passed with, and lives on beyond the download.
        trial.launch(|stream| unsafe { plan.launch(stream, count, x.ptr(), device_factor.ptr()) })?;
        // One multiplication, rounded once or twice as the kernel's is.
        let expected: Vec<f64> = values.iter().map(|&x| precision.round(x as f32 * factor).into()).collect();
        trial.judge(Exact, &x, &expected, &expected)
    }
}

impl fmt::Display for GradientScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GradientScale { precision, count, factor, .. } = self;
        write!(f, "{precision} {count} elements times {factor}")
    }
}

impl GradientScale {
    /// The cases that tell the most: each type at a length of no alignment, a factor of 1, and no elements.
    #[must_use]
    pub fn telling() -> Vec<GradientScale> {
        let of = |(precision, count, factor)| GradientScale { precision, count, factor, seed: 1 };
        let [f32, bf16, f16] = Precision::ALL;
        [(f32, 8193, 0.3), (bf16, 8201, -1.7), (f16, 7, 3.0), (bf16, 100, 1.0), (f32, 0, 2.0)].map(of).into()
    }
}
