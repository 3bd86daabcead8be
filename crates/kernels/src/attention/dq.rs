//! The gradient of q while blocks add to it, and `kernels/attention/backward_convert.cu`.

use longhand_gpu::{DevicePtr, params};

use super::operands::DocumentsParams;
use super::{Attention, AttentionShape, HEADERS, Strides};
use crate::Variant;
use crate::source::{cuda_files, program};

/// Of a block, each with 16 queries.
pub(super) const WARPS: u32 = 2;

params! {
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    pub(super) struct Params {
        pub sums: DevicePtr,
        pub dq: DevicePtr,
        pub dq_strides: Strides,
        pub documents: DocumentsParams,
        pub T: i32,
        pub S: i32,
        pub scale: f32,
        pub _pad: i32,
    }
}

pub(super) fn variant(attention: &Attention, added: u32) -> Variant {
    let [file] = cuda_files!["attention/backward_convert.cu"];
    let constants = attention.constants().int("ADDED", added).int("WARPS", WARPS);
    Variant {
        program: program(*file, HEADERS, constants).params(Params::LAYOUT),
        entry: "attention_backward_convert",
        threads: WARPS * 32,
        shared_bytes: 0,
    }
}

/// Bytes of the sums: tiles of 16 queries, as `dq.cuh` says.
pub(super) fn sums_bytes(attention: &Attention, shape: &AttentionShape) -> usize {
    let AttentionShape { batch, queries, heads, .. } = *shape;
    let tiles = match attention.documents {
        true => (queries / 16).saturating_add(batch).saturating_mul(batch.min(1)),
        false => queries.div_ceil(16).saturating_mul(batch),
    };
    [heads, 16 * attention.head_dim * 4].into_iter().fold(tiles, usize::saturating_mul)
}
