//! The sum over rows.

use crate::tolerance::Rule::Gradient;
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial};
use longhand_kernels::reduction::{ColumnSum as Kernel, ColumnSumArgs};
use std::fmt;

/// One sum over rows.
#[derive(Clone, Debug)]
pub struct ColumnSum {
    /// Of the rows and of the sum.
    pub precision: Precision,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Elements between the rows.
    pub gap: usize,
    /// Of the rows.
    pub seed: u64,
}

impl Case for ColumnSum {
    fn operation(&self) -> &'static str {
        "column sum"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &ColumnSum { precision, rows, width, .. } = self;
        let values = Draw::new(precision, self.seed).vec(rows * width);
        let (mut expected, mut plain) = (vec![0.0; width], vec![0.0f32; width]);
        for row in values.chunks_exact(width.max(1)) {
            expected.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            plain.iter_mut().zip(row).for_each(|(sum, x)| *sum += *x as f32);
        }
        let plain: Vec<f64> = plain.into_iter().map(|sum| precision.round(sum).into()).collect();

        let layout = Layout::strided(&[rows, width], &[(width + self.gap) as i64, 1]);
        let x = trial.input("x", precision, &layout, &values)?;
        let out = trial.output("out", precision, &Layout::contiguous(&[width]))?;
        let plan = Kernel::new(precision.dtype()).plan(trial.stream().device())?;
        let workspace = trial.workspace(plan.workspace_bytes(rows, width))?;
        let args = ColumnSumArgs {
            rows,
            width,
            x: x.ptr(),
            stride: x.strides()[0],
            out: out.ptr(),
            workspace: workspace.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        workspace.download()?; // nothing was written around it
        trial.judge(Gradient, &out, &plain, &expected)
    }
}

impl fmt::Display for ColumnSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ColumnSum { precision, rows, width, gap, .. } = self;
        write!(f, "{precision} N{rows} W{width}")?;
        if *gap > 0 { write!(f, " gap {gap}") } else { Ok(()) }
    }
}

impl ColumnSum {
    /// The cases that tell the most: each type over several parts of the rows; more rows than the most parts take at
    /// once; none; sizes of no alignment.
    #[must_use]
    pub fn telling() -> Vec<ColumnSum> {
        let new = |precision, rows, width| ColumnSum { precision, rows, width, gap: 0, seed: 1 };
        let mut cases: Vec<ColumnSum> = Precision::ALL.map(|precision| new(precision, 200, 264)).into();
        cases.extend([(0, 40), (1, 1), (65, 257), (8300, 8)].map(|(n, w)| new(Precision::Bf16, n, w)));
        cases.push(ColumnSum { gap: 3, ..new(Precision::F32, 65, 64) });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let (rows, width) = (1024, 256);
        let case = ColumnSum { precision: Precision::Bf16, rows, width, gap: 0, seed: 1 };
        vec![Canonical::moving("column_sum", case, 2 * rows * width + 2 * width)]
    }
}
