//! Attention, forward and backward.
//!
//! Dimensions: `B` batch, `T` query tokens, `S` key tokens, `H` query heads, `Hkv` key heads, of which each serves
//! `H / Hkv` query heads, `D` head dim. Tensors are `(batch, token, head, D)` with any strides, as long as the `D`
//! elements of a head are contiguous and every head starts at a multiple of 16 bytes.
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::attention::{AttentionForward, AttentionForwardArgs, AttentionShape, Heads, Strides};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::cuda(0)?;
//! let stream = device.new_stream()?;
//! let plan = AttentionForward::new(Dtype::Bf16, 64).causal(true).plan(&device)?;
//!
//! let shape = AttentionShape { batch: 1, queries: 4096, keys: 4096, heads: 12, kv_heads: 12 };
//! let elements = shape.queries * shape.heads * 64;
//! let packed = stream.alloc(3 * elements * 2)?; // (B, T, 3, H, D), as one matrix product makes it
//! let [out, lse] = [stream.alloc(elements * 2)?, stream.alloc(shape.heads * shape.queries * 4)?];
//! let part = |i: i64| Heads {
//!     data: packed.ptr().offset(i * 12 * 64 * 2),
//!     strides: Strides { batch: 4096 * 3 * 12 * 64, token: 3 * 12 * 64, head: 64 },
//! };
//! let args = AttentionForwardArgs {
//!     shape,
//!     scale: 0.125,
//!     q: part(0),
//!     k: part(1),
//!     v: part(2),
//!     out: Heads { data: out.ptr(), strides: Strides::token_major(4096, 12, 64) },
//!     lse: lse.ptr(),
//! };
//! // SAFETY: all tensors lie within the allocations above, which outlive the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

mod arguments;
mod backward;
mod forward;
mod merge;
mod tuning;

use longhand_gpu::{Arch, Constants};

pub use arguments::{AttentionShape, Heads, Strides};
pub use backward::{AttentionBackward, AttentionBackwardArgs, AttentionBackwardPlan};
pub use forward::{AttentionForward, AttentionForwardArgs, AttentionForwardPlan};
pub(crate) use merge::variants as merge_variants;
pub use merge::{
    AttentionMerge, AttentionMergeArgs, AttentionMergeBackward, AttentionMergeBackwardArgs,
    AttentionMergeBackwardPlan, AttentionMergePlan, MAX_PARTS, PartialAttention,
};

use crate::source::cuda_files;
use crate::{Dtype, Error, Result, Variant};
use tuning::Tile;

/// The head dims there are kernels for.
pub const HEAD_DIMS: [usize; 2] = [64, 128];

const HEADERS: &[(&str, &str)] =
    cuda_files!["attention/mask.cuh", "attention/rows.cuh", "attention/tile.cuh"];

/// What all kernels of attention are specialised on.
#[derive(Clone, Copy, Debug)]
struct Kind {
    dtype: Dtype,
    head_dim: usize,
    causal: bool,
}

impl Kind {
    fn check(&self, operation: &'static str, arch: Arch) -> Result<()> {
        let Kind { dtype, head_dim, .. } = self;
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
        Ok(())
    }

    fn constants(&self) -> Constants {
        Constants::new().alias("Element", self.dtype.cuda_name()).int("HEAD_DIM", self.head_dim as i64)
    }

    fn tile_constants(&self, tile: Tile) -> Constants {
        self.constants()
            .bool("CAUSAL", self.causal)
            .int("BLOCK_Q", tile.block_q)
            .int("BLOCK_K", tile.block_k)
            .int("WARPS", tile.warps)
    }
}

/// Every kernel of attention for `arch`.
pub(crate) fn variants(arch: Arch) -> Vec<Variant> {
    let mut variants: Vec<Variant> = Vec::new();
    for dtype in [Dtype::Bf16, Dtype::F16] {
        for head_dim in HEAD_DIMS {
            for causal in [false, true] {
                let kind = Kind { dtype, head_dim, causal };
                let all = [forward::variant(kind, arch)].into_iter().chain(backward::variants(kind, arch));
                // The kernel that knows of no mask is the same for both.
                for variant in all {
                    if variants.iter().all(|known| known.program != variant.program) {
                        variants.push(variant);
                    }
                }
            }
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(dtype: Dtype, head_dim: usize, arch: &str) -> String {
        let kind = Kind { dtype, head_dim, causal: false };
        kind.check("attention forward", arch.parse().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_head_dim_without_a_kernel_is_an_error_that_lists_those_there_are() {
        let error = rejected(Dtype::Bf16, 80, "sm_80");
        assert_eq!(error, "attention forward: head dim is 80, it has to be 64 or 128");
    }

    #[test]
    fn f32_is_an_error_that_names_the_types_there_are() {
        let error = rejected(Dtype::F32, 64, "sm_80");
        assert_eq!(error, "attention forward: dtype is f32, it has to be bf16 or f16");
    }

    #[test]
    fn an_architecture_before_ampere_is_an_error() {
        let error = rejected(Dtype::F16, 64, "sm_75");
        assert_eq!(error, "attention forward: architecture is sm_75, it has to be sm_80 or later");
    }

    #[test]
    fn each_variant_is_listed_once() {
        for arch in Arch::TESTED {
            let variants = variants(arch);
            // Three kernels by dtype, head dim and mask; one by dtype and head dim.
            assert_eq!(variants.len(), 3 * 8 + 4);
            for (i, variant) in variants.iter().enumerate() {
                assert!(variants[..i].iter().all(|other| other.program != variant.program));
            }
        }
    }
}
