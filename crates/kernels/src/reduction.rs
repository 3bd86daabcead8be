//! Sums: along an axis, over rows, over everything, and the norm of all gradients.

mod axis;
mod columns;
mod norm;
mod sum;

pub use axis::{AxisSum, AxisSumArgs, AxisSumPlan};
pub use columns::{ColumnSum, ColumnSumArgs, ColumnSumPlan};
pub use norm::{GradientNorm, GradientNormArgs, GradientNormPlan};
pub use sum::{Sum, SumArgs, SumPlan};

use crate::{Dtype, Variant};

pub(crate) fn variants() -> Vec<Variant> {
    let of_dtype = |dtype| {
        let columns = [columns::variants(dtype, 8), columns::variants(dtype, 1)].concat();
        [columns, sum::variants(dtype).to_vec(), norm::variants(dtype).to_vec()].concat()
    };
    [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().flat_map(of_dtype).chain(axis::variants()).collect()
}
