//! The sum along an axis.

use crate::tolerance::Rule::Forward;
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial};
use longhand_kernels::reduction::{AxisSum as Kernel, AxisSumArgs};
use std::fmt;

/// One sum along the middle of three axes.
#[derive(Clone, Debug)]
pub struct AxisSum {
    /// Of the elements and of the sum.
    pub precision: Precision,
    /// Elements of the outer axis, of that which is summed over, and of the inner one.
    pub shape: [usize; 3],
    /// Elements that the input starts after an aligned address.
    pub shift: usize,
    /// What the sum is multiplied by.
    pub factor: f32,
    /// Of the elements.
    pub seed: u64,
}

impl Case for AxisSum {
    fn operation(&self) -> &'static str {
        "axis sum"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &AxisSum { precision, shape: [outer, axis, inner], factor, .. } = self;
        let values = Draw::new(precision, self.seed).vec(outer * axis * inner);
        let (mut expected, mut plain) = (vec![0.0; outer * inner], vec![0.0f32; outer * inner]);
        for (at, x) in values.iter().enumerate() {
            let sum = at / (axis * inner) * inner + at % inner;
            expected[sum] += x;
            plain[sum] += *x as f32;
        }
        expected.iter_mut().for_each(|sum| *sum *= f64::from(factor));
        let plain: Vec<f64> = plain.into_iter().map(|sum| precision.round(sum * factor).into()).collect();

        let x = trial.input("x", precision, &Layout::contiguous(&self.shape).shifted(self.shift), &values)?;
        let out = trial.output("out", precision, &Layout::contiguous(&[outer, inner]))?;
        let plan = Kernel::new(precision.dtype()).plan(trial.stream().device())?;
        let workspace = trial.workspace(plan.workspace_bytes(outer, axis, inner))?;
        let args = AxisSumArgs {
            outer,
            axis,
            inner,
            x: x.ptr(),
            factor,
            out: out.ptr(),
            workspace: workspace.ptr(),
        };
        // SAFETY: both tensors have the sizes that they are passed with, and live on beyond the download.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        workspace.download()?; // nothing was written around it
        trial.judge(Forward, &out, &plain, &expected)
    }
}

impl fmt::Display for AxisSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AxisSum { precision, shape: [outer, axis, inner], shift, .. } = self;
        write!(f, "{precision} O{outer} R{axis} I{inner}")?;
        if *shift > 0 { write!(f, " shifted") } else { Ok(()) }
    }
}

impl AxisSum {
    /// The cases that tell the most: each type along an inner axis, short and long, and along a middle one; axes without
    /// elements; sizes of no alignment.
    #[must_use]
    pub fn telling() -> Vec<AxisSum> {
        let new = |precision, shape| AxisSum { precision, shape, shift: 0, factor: 0.5, seed: 1 };
        let shapes = [[7, 100, 1], [3, 40_000, 1], [3, 165, 264]];
        let each = Precision::ALL.into_iter().flat_map(|precision| shapes.map(|shape| new(precision, shape)));
        let edges = [[4, 0, 3], [4, 0, 1], [0, 3, 3], [3, 3, 0], [2, 9, 33], [1, 1, 1]];
        let mut cases: Vec<AxisSum> = each.chain(edges.map(|shape| new(Precision::Bf16, shape))).collect();
        cases.push(AxisSum { shift: 3, ..new(Precision::Bf16, [5, 1027, 1]) });
        cases.push(AxisSum { shift: 1, ..new(Precision::F32, [2, 9, 40]) });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let case = |shape| AxisSum { precision: Precision::Bf16, shape, shift: 0, factor: 1.0, seed: 1 };
        vec![
            Canonical::moving("axis_sum_inner", case([64, 2048, 1]), 2 * (64 * 2048 + 64)),
            Canonical::moving("axis_sum", case([4, 128, 256]), 2 * (4 * 128 * 256 + 4 * 256)),
        ]
    }
}
