//! Copies between two layouts.

use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial};
use longhand_kernels::elementwise::{Copy as Kernel, CopyArgs};
use std::fmt;

/// One copy from a permuted tensor with gaps to a contiguous one.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Of the elements, of 2 or 4 bytes; or of the halves of elements of 8 bytes.
    pub precision: Precision,
    /// Whether two numbers go as one element of 8 bytes. They are then f32.
    pub pairs: bool,
    /// Elements along each dimension, outermost first.
    pub shape: Vec<usize>,
    /// The dimensions in the order in which the source has them, outermost first.
    pub order: Vec<usize>,
    /// Elements left out after each row of the source's innermost dimension.
    pub gap: usize,
    /// Elements that both start after an aligned address.
    pub shift: usize,
    /// Of the elements.
    pub seed: u64,
}

impl Case for Copy {
    fn operation(&self) -> &'static str {
        "strided copy"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let numbers = if self.pairs { 2 } else { 1 };
        let source_strides = self.source_strides();
        let layout = |strides: &[i64]| {
            let strides: Vec<i64> = strides.iter().map(|stride| stride * numbers).chain([1]).collect();
            let shape = [&*self.shape, &[numbers as usize]].concat();
            Layout::strided(&shape, &strides).shifted(self.shift * numbers as usize)
        };
        let target_strides = Layout::contiguous(&self.shape).strides().to_vec();
        let source_layout = layout(&source_strides);
        let values = Draw::new(self.precision, self.seed).vec(source_layout.count());
        let source = trial.input("source", self.precision, &source_layout, &values)?;
        let target = trial.output("target", self.precision, &layout(&target_strides))?;
        let plan = Kernel::new().plan(trial.stream().device())?;
        let args = CopyArgs {
            element_bytes: self.precision.bytes() * numbers as usize,
            shape: &self.shape,
            source: source.ptr(),
            source_strides: &source_strides,
            target: target.ptr(),
            target_strides: &target_strides,
        };
        // SAFETY: both tensors have the shape and strides that they are passed with, and live on beyond the download.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        trial.judge_exact(&target, &values)
    }
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.precision.bytes() * if self.pairs { 2 } else { 1 };
        write!(f, "{bytes} bytes {} order {:?}", Layout::contiguous(&self.shape), self.order)?;
        if self.gap > 0 {
            write!(f, " gap {}", self.gap)?;
        }
        if self.shift > 0 { write!(f, " shifted") } else { Ok(()) }
    }
}

impl Copy {
    /// The cases that tell the most: a transposition of heads, as attention asks for, in every unit; elements one by one;
    /// as many dimensions as there may be; none.
    #[must_use]
    pub fn telling() -> Vec<Copy> {
        let heads = Copy {
            precision: Precision::Bf16,
            pairs: false,
            shape: vec![2, 5, 3, 64],
            order: vec![0, 2, 1, 3],
            gap: 0,
            shift: 0,
            seed: 1,
        };
        let transposed = Copy { shape: vec![33, 65], order: vec![1, 0], gap: 1, ..heads.clone() };
        vec![
            Copy { gap: 2, ..heads.clone() },
            Copy { gap: 4, ..heads.clone() },
            Copy { shift: 1, ..heads.clone() },
            Copy { precision: Precision::F32, ..transposed.clone() },
            Copy { precision: Precision::F32, pairs: true, ..transposed.clone() },
            transposed,
            Copy { shape: vec![3, 70, 2, 130], order: vec![2, 0, 3, 1], ..heads.clone() },
            Copy { shape: vec![2, 3, 2, 3, 2, 3], order: vec![5, 3, 1, 4, 2, 0], ..heads.clone() },
            Copy { shape: vec![4, 0], order: vec![0, 1], ..heads.clone() },
            heads,
        ]
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let case = Copy {
            precision: Precision::Bf16,
            pairs: false,
            shape: vec![2, 64, 4, 64],
            order: vec![0, 2, 1, 3],
            gap: 0,
            shift: 0,
            seed: 1,
        };
        let transposed = Copy { shape: vec![256, 192], order: vec![1, 0], ..case.clone() };
        vec![
            Canonical::moving("copy", case, 2 * 2 * 2 * 64 * 4 * 64),
            Canonical::moving("copy_transposed", transposed, 2 * 2 * 256 * 192),
        ]
    }

    /// Elements from one to the next along each dimension of the shape.
    fn source_strides(&self) -> Vec<i64> {
        let mut strides = vec![0; self.shape.len()];
        let mut reach = 1;
        for (i, &dimension) in self.order.iter().rev().enumerate() {
            strides[dimension] = reach as i64;
            reach *= self.shape[dimension].max(1);
            if i == 0 {
                reach += self.gap;
            }
        }
        strides
    }
}
