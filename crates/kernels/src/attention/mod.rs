//! Attention, forward and backward; and of new tokens over a cache, forward alone.
//!
//! Dimensions: `B` batch, `T` query tokens, `S` key tokens, `H` query heads, `Hkv` key heads, of which each serves
//! `H / Hkv` query heads, `D` head dim, `Dv` that of values. Tensors are `(batch, token, head, D)` with any strides, as long
//! as the `D` elements of a head are contiguous and every head starts at a multiple of 16 bytes.
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::attention::{
//!     Attention, AttentionForwardArgs, AttentionShape, Heads, Operands, Strides,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::cuda(0)?;
//! let stream = device.new_stream()?;
//! let attention = Attention::new(Dtype::Bf16, 64).causal(true).window(1024, None);
//! let plan = attention.forward(&device)?;
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
//!     operands: Operands::default(),
//! };
//! // SAFETY: all tensors lie within the allocations above, which outlive the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

mod arguments;
mod backward;
mod bias;
mod block_mask;
mod decode;
mod description;
mod dq;
mod expression;
mod forward;
mod merge;
mod operands;
mod path;
mod tuning;

use longhand_gpu::Arch;

pub use arguments::{AttentionShape, Heads, Strides};
pub use backward::{AttentionBackwardArgs, AttentionBackwardPlan};
pub use block_mask::{BlockKind, BlockMaskArgs, BlockMaskPlan, Blocks};
pub(crate) use decode::variants as decode_variants;
pub use decode::{AttentionDecode, AttentionDecodeArgs, AttentionDecodePlan, MAX_NEW_TOKENS};
pub use description::{Attention, dropout_word};
pub use expression::{Named, NamedType};
pub use forward::{AttentionForwardArgs, AttentionForwardPlan};
pub(crate) use merge::variants as merge_variants;
pub use merge::{
    AttentionMerge, AttentionMergeArgs, AttentionMergeBackward, AttentionMergeBackwardArgs,
    AttentionMergeBackwardPlan, AttentionMergePlan, MAX_PARTS, PartialAttention,
};
pub use operands::{Bias, Documents, Operands};

use crate::source::cuda_files;
use crate::{Dtype, Variant};

const HEADERS: &[(&str, &str)] = cuda_files![
    "attention/block_mask.cuh",
    "attention/dropout.cuh",
    "attention/dual.cuh",
    "attention/fragment.cuh",
    "attention/dq.cuh",
    "attention/inputs.cuh",
    "attention/mask.cuh",
    "attention/named.cuh",
    "attention/rows.cuh",
    "attention/score.cuh",
    "attention/sequence.cuh",
    "attention/tile.cuh",
];

/// Kernels of attention for `arch`: the head dims that are tuned, some of the others, each type, mask and feature.
pub(crate) fn variants(arch: Arch) -> Vec<Variant> {
    use Dtype::{Bf16, F16, F32};
    let causal = |dtype, head_dim| Attention::new(dtype, head_dim).causal(true);
    let mut described = vec![
        Attention::new(Bf16, 128),
        causal(Bf16, 64),
        causal(Bf16, 128),
        causal(Bf16, 256),
        causal(F16, 64),
        causal(F32, 64),
        causal(F32, 256),
        causal(Bf16, 8),
        causal(Bf16, 72),
        causal(Bf16, 192).value_dim(128),
        causal(Bf16, 64).atomic(true),
        causal(Bf16, 128).atomic(true),
        causal(Bf16, 256).atomic(true),
    ];
    for head_dim in [64, 128] {
        let scored = causal(Bf16, head_dim).alibi(true).sinks(true).dropout(0.1);
        described.push(scored.softcap(30.0));
        let masked = Attention::new(Bf16, head_dim).window(1, 1).prefix(true).documents(true);
        let named = masked.named("table", NamedType::Tensor(F32));
        described.push(named.mask("(q ^ k) % 3 != 0").score("score * table[h] - fabsf(score - 1)"));
    }
    let blocks = Blocks { per_head: true, ..Blocks::default() };
    let blocked = causal(Bf16, 128).mask("(q / 64 + k / 64 + h) % 3 != 0").blocks(blocks);
    described.push(blocked.clone());
    let biased =
        [64, 128].map(|head_dim| Attention::new(Bf16, head_dim).causal(true).bias(true).dropout(0.1));
    let mut variants: Vec<Variant> = biased.iter().map(bias::variant).collect();
    variants.push(backward::sinks_variant());
    variants.extend(block_mask::variants(&blocked));
    for attention in &described {
        let backward = backward::variants(attention, arch);
        // The kernel that knows of no mask is the same for many.
        for variant in std::iter::once(forward::variant(attention, arch)).chain(backward) {
            if variants.iter().all(|known| known.program != variant.program) {
                variants.push(variant);
            }
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variant_is_listed_once() {
        for arch in Arch::TESTED {
            let variants = variants(arch);
            assert!(variants.len() >= 3 * 15, "three kernels or more to each");
            for (i, variant) in variants.iter().enumerate() {
                assert!(variants[..i].iter().all(|other| other.program != variant.program));
            }
        }
    }
}
