//! `kernels/embedding/`: lookup in a table of `V` rows of width `C`, for `N` ids.

mod backward;
mod forward;
mod sort;

pub use backward::{EmbeddingBackward, EmbeddingBackwardArgs, EmbeddingBackwardPlan};
pub use forward::{EmbeddingForward, EmbeddingForwardArgs, EmbeddingForwardPlan};

use crate::check::{Check, MAX_BLOCKS};
use crate::{Dtype, Result, Variant};

/// The sizes of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingShape {
    /// `V`, rows of the table, at most 2³¹ - 1.
    pub vocabulary: usize,
    /// `C`, elements of a row, at most 8,388,480 (65,535 blocks of 128).
    pub width: usize,
    /// `N`, ids, at most 2³¹ - 1.
    pub count: usize,
}

impl EmbeddingShape {
    fn check(self, check: Check) -> Result<()> {
        let EmbeddingShape { vocabulary, width, count } = self;
        check.size("vocabulary", vocabulary, 1, MAX_BLOCKS)?;
        check.size("width", width, 1, 65_535 * 128)?;
        check.size("count", count, 0, MAX_BLOCKS)
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    let of_dtype = |dtype| {
        let [partial, finish] = backward::variants(&EmbeddingBackward::new(dtype), 8);
        [forward::variant(dtype), partial, finish]
    };
    let of_bf16 = EmbeddingBackward::new(Dtype::Bf16);
    let unaligned = backward::variants(&of_bf16, 1);
    let accumulating = backward::variants(&of_bf16.accumulate(true), 8);
    let dtypes = [Dtype::F32, Dtype::Bf16, Dtype::F16];
    dtypes
        .into_iter()
        .flat_map(of_dtype)
        .chain(unaligned)
        .chain(accumulating)
        .chain(sort::variants())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_range_are_named() {
        let shape = EmbeddingShape { vocabulary: 50_257, width: 768, count: 0 };
        let check = Check("embedding forward");
        let message = |shape: EmbeddingShape| shape.check(check).unwrap_err().to_string();
        assert!(shape.check(check).is_ok());
        assert_eq!(
            message(EmbeddingShape { vocabulary: 0, ..shape }),
            "embedding forward: vocabulary is 0, it has to be 1 to 2147483647"
        );
        assert_eq!(
            message(EmbeddingShape { width: 8_388_481, ..shape }),
            "embedding forward: width is 8388481, it has to be 1 to 8388480"
        );
        assert_eq!(
            message(EmbeddingShape { count: 1 << 31, ..shape }),
            "embedding forward: count is 2147483648, it has to be 0 to 2147483647"
        );
    }
}
