//! `kernels/attention/backward_bias.cu`.

use longhand_gpu::{DevicePtr, Stream, params};

use super::arguments::Arguments;
use super::backward::AttentionBackwardArgs;
use super::operands::Inputs;
use super::tuning::Tile;
use super::{Attention, AttentionShape, Strides};
use crate::loaded::Loaded;
use crate::source::cuda_files;
use crate::{Result, Variant};

const ENTRY: &str = "attention_backward_bias";
/// Floats to a row of the sums in shared memory.
const PITCH: u32 = 40;

/// Little enough of everything for rows of Q and V together up to 1 KiB: what is summed over is all that there is to hide
/// latency. Half of it for the rows of f32 that are longer.
fn tile(attention: &Attention) -> Tile {
    match attention.widths().bytes().iter().sum() {
        ..=1024 => Tile { block_q: 64, block_k: 32, warps: 4, stages: 1 },
        1025.. => Tile { block_q: 32, block_k: 16, warps: 2, stages: 1 },
    }
}

params! {
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    struct Params {
        inputs: Inputs,
        dout: DevicePtr,
        rows: DevicePtr,
        dbias: DevicePtr,
        dout_strides: Strides,
        bias_strides: [i64; 4],
        sequences: i32,
        heads: i32,
        longest_T: i32,
        longest_S: i32,
    }
}

pub(super) fn variant(attention: &Attention) -> Variant {
    let [file] = cuda_files!["attention/backward_bias.cu"];
    let tile = tile(attention);
    let tiles: u32 = attention.widths().bytes().iter().sum::<u32>() * (tile.block_q + tile.block_k);
    let sums = tile.block_q * PITCH * 4;
    Variant {
        program: attention
            .program(*file, attention.tile_constants(tile))
            .params(Inputs::LAYOUT)
            .params(Params::LAYOUT),
        entry: ENTRY,
        threads: tile.threads(),
        // Q, dout, K and V; then the sums.
        shared_bytes: tiles.max(sums),
    }
}

/// # Safety
///
/// As [`super::AttentionBackwardPlan::launch`], after what writes `rows` on the same stream.
pub(super) unsafe fn launch(
    kernel: &Loaded,
    attention: &Attention,
    stream: &Stream,
    arguments: &Arguments,
    args: &AttentionBackwardArgs<'_>,
    rows: DevicePtr,
) -> Result<()> {
    let AttentionShape { batch, heads, .. } = args.shape;
    let [longest_queries, longest_keys] = args.operands.longest(attention, arguments);
    let params = Params {
        inputs: args.operands.inputs(attention, arguments, [&args.q, &args.k, &args.v], args.scale)?,
        dout: args.dout.data,
        rows,
        dbias: args.dbias.data,
        dout_strides: args.dout.strides,
        bias_strides: args.dbias.strides,
        sequences: batch as i32,
        heads: heads as i32,
        longest_T: longest_queries as i32,
        longest_S: longest_keys as i32,
    };
    let tile = tile(attention);
    // A dimension that is summed over has one part.
    let parts = |dim: usize, parts: u32| if args.dbias.strides[dim] == 0 { 1 } else { parts };
    let q_parts = parts(2, longest_queries.div_ceil(tile.block_q));
    let k_parts = parts(3, longest_keys.div_ceil(tile.block_k));
    let Some(blocks) = q_parts.checked_mul(k_parts).filter(|&blocks| blocks <= i32::MAX as u32) else {
        let was = format!("of {longest_queries} queries by {longest_keys} keys");
        return Err(arguments.error(
            "dbias",
            was,
            "of at most 2^31 blocks of 64 by 32 (32 by 16 where rows of f32 are long)",
        ));
    };
    let grid = [blocks, parts(1, heads as u32), parts(0, batch as u32)];
    // SAFETY: the caller answers for it.
    unsafe { kernel.launch(stream, grid, &params) }
}
