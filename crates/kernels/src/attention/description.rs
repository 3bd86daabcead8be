//! Which attention.

use longhand_gpu::{Arch, Constants};

use super::HEAD_DIMS;
use super::tuning::{Step, Tile, tile};
use crate::{Dtype, Error, Result};

/// Scaled dot-product attention, said once for both passes: [`forward`](Attention::forward) and
/// [`backward`](Attention::backward) compile it for a device.
///
/// ```text
/// score = scale * q k^T
/// out   = softmax(score, over the keys that the query sees) v
/// ```
///
/// Masks restrict each other: a query sees the keys that all of them let it see. One that sees no key gets `out = 0`,
/// `lse = -inf` and gives no gradient.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    pub(super) dtype: Dtype,
    pub(super) head_dim: usize,
    pub(super) causal: bool,
    pub(super) left: Option<usize>,
    pub(super) right: Option<usize>,
    pub(super) prefix: bool,
    pub(super) documents: bool,
}

impl Attention {
    /// Attention in which every query sees every key. `dtype` is bf16 or f16; `head_dim` is one of
    /// [`HEAD_DIMS`].
    #[must_use]
    pub fn new(dtype: Dtype, head_dim: usize) -> Attention {
        Attention { dtype, head_dim, causal: false, left: None, right: None, prefix: false, documents: false }
    }

    /// Whether query `t` sees only the keys `s <= t + S - T`: the last query sees them all.
    #[must_use]
    pub fn causal(self, causal: bool) -> Attention {
        Attention { causal, ..self }
    }

    /// Query `t` sees only the keys `t + S - T - left <= s <= t + S - T + right` (sliding window; Beltagy et al. 2020,
    /// Longformer, arXiv 2004.05150): so many before its own place and so many after it, and all of a side that is `None`.
    #[must_use]
    pub fn window(self, left: impl Into<Option<usize>>, right: impl Into<Option<usize>>) -> Attention {
        Attention { left: left.into(), right: right.into(), ..self }
    }

    /// Whether every query sees the first so many keys of its batch, too, though they lie after its own place: as many as
    /// [`Operands::prefix`](super::Operands::prefix) says (prefix language model; Raffel et al. 2019, arXiv 1910.10683,
    /// section 3.2.1). The left side of a window holds for them as well.
    #[must_use]
    pub fn prefix(self, prefix: bool) -> Attention {
        Attention { prefix, ..self }
    }

    /// Whether each batch is one of many documents of different lengths, packed behind each other in tensors of one batch:
    /// `(1, all tokens, heads, D)`, see [`Operands::documents`](super::Operands::documents). Queries see the keys of their
    /// own document; masks begin anew in each. `lse` is `(H, all queries)`.
    #[must_use]
    pub fn documents(self, documents: bool) -> Attention {
        Attention { documents, ..self }
    }

    pub(super) fn check(&self, operation: &'static str, arch: Arch) -> Result<()> {
        let Attention { dtype, head_dim, .. } = self;
        if *dtype == Dtype::F32 {
            return Err(Error::argument(operation, "dtype", dtype, "bf16 or f16"));
        }
        if !HEAD_DIMS.contains(head_dim) {
            let supported = HEAD_DIMS.map(|dim| dim.to_string()).join(" or ");
            return Err(Error::argument(operation, "head dim", head_dim, supported));
        }
        if arch.number() < 80 {
            return Err(Error::argument(operation, "architecture", arch, "sm_80 or later"));
        }
        if self.prefix && !self.causal && self.right.is_none() {
            let expected =
                "of an attention that is causal or has a window with a right side: others see every key";
            return Err(Error::argument(operation, "prefix", "given", expected));
        }
        Ok(())
    }

    /// Whether the last queries see the most keys, and each those up to its own place.
    pub(super) fn is_causal(&self) -> bool {
        self.causal || self.right == Some(0)
    }

    fn is_window(&self) -> bool {
        self.left.is_some() || self.right.is_some() && !self.is_causal()
    }

    pub(super) fn tile(&self, step: Step, arch: Arch) -> Tile {
        let featured = self.is_window() || self.prefix || self.documents;
        tile(step, arch, self.head_dim, self.is_causal(), featured)
    }

    /// Of every kernel.
    pub(super) fn constants(&self) -> Constants {
        Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .int("HEAD_DIM", self.head_dim as i64)
            .bool("DOCUMENTS", self.documents)
    }

    /// Of those that walk over scores.
    pub(super) fn tile_constants(&self, tile: Tile) -> Constants {
        self.constants()
            .bool("CAUSAL", self.is_causal())
            .bool("WINDOW", self.is_window())
            .bool("PREFIX", self.prefix)
            .int("BLOCK_Q", tile.block_q)
            .int("BLOCK_K", tile.block_k)
            .int("WARPS", tile.warps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(attention: &Attention, arch: &str) -> String {
        attention.check("attention forward", arch.parse().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_head_dim_without_a_kernel_is_an_error_that_lists_those_there_are() {
        let error = rejected(&Attention::new(Dtype::Bf16, 80), "sm_80");
        assert_eq!(error, "attention forward: head dim is 80, it has to be 64 or 128");
    }

    #[test]
    fn f32_is_an_error_that_names_the_types_there_are() {
        let error = rejected(&Attention::new(Dtype::F32, 64), "sm_80");
        assert_eq!(error, "attention forward: dtype is f32, it has to be bf16 or f16");
    }

    #[test]
    fn an_architecture_before_ampere_is_an_error() {
        let error = rejected(&Attention::new(Dtype::F16, 64), "sm_75");
        assert_eq!(error, "attention forward: architecture is sm_75, it has to be sm_80 or later");
    }

    #[test]
    fn a_prefix_of_what_sees_every_key_anyway_is_an_error() {
        let full = Attention::new(Dtype::F16, 64).prefix(true);
        let error = rejected(&full, "sm_80");
        assert!(
            error.starts_with(
                "attention forward: prefix is given, it has to be of an attention that is causal"
            )
        );
        full.clone().causal(true).check("attention forward", "sm_80".parse().unwrap()).unwrap();
        full.window(None, 3).check("attention forward", "sm_80".parse().unwrap()).unwrap();
    }

    #[test]
    fn a_window_without_keys_to_the_right_is_causal() {
        let new = || Attention::new(Dtype::F16, 64);
        assert!(new().window(None, 0).is_causal() && !new().window(None, 0).is_window());
        assert!(new().causal(true).window(8, 5).is_causal() && new().causal(true).window(8, 5).is_window());
        assert!(!new().causal(true).window(None, 5).is_window());
        assert!(new().window(None, 5).is_window() && new().window(5, None).is_window());
    }
}
