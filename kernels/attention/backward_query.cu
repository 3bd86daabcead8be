// Attention, backward, the gradient of q (Dao 2023, FlashAttention-2, arXiv 2307.08691, section 2.3.2):
//
//   probability      = exp(scale * q k^T - lse)                    (T, S) per batch and head, never in memory
//   dprobability     = dout v^T
//   dscore           = probability * (dprobability - delta)
//   dq               = scale * dscore k                            (B, T, H, HEAD_DIM)
//
// The algorithm there computes all three gradients in one pass over the scores, five matrix products, and adds up
// dq from many blocks with atomics, in whatever order they come. Here dq has a kernel of its own, and so have
// dk and dv (backward_key.cu): seven products, but every sum has one owner and one order, so the same bits
// come out every time, and no f32 copy of dq is needed.
//
// One block computes BLOCK_Q queries of one head, walking over the keys BLOCK_K at a time, in two stages: while
// it computes with one tile of K and V, the next arrives; in one stage where shared memory has room for no more. A warp
// owns whole rows, so dscore goes from one product to the next in registers. Sums and products accumulate in f32;
// dscore is rounded to Element before it multiplies k. Scores, dropout, masks, heads, documents and rows without a
// key are as in forward.cu. dq is overwritten.
//
// constants.cuh comes from Rust: Element, HEAD_DIM and VALUE_DIM (multiples of 8), those of mask.cuh and
// sequence.cuh, BLOCK_Q (rows of 16 per warp), BLOCK_K (a multiple of 16), WARPS, STAGES (1 or 2). Grid: as forward.cu.

#include "common/math.cuh"
#include "attention/inputs.cuh"
#include "attention/rows.cuh"
#include "attention/tile.cuh"

struct Params {
    Inputs               inputs;
    const Element*       dout;      // (B, T, H, VALUE_DIM)
    const RowStatistics* rows;      // (B, H, T), contiguous
    Element*             dq;        // (B, T, H, HEAD_DIM)
    Strides dout_strides, dq_strides;
};

constexpr int THREADS = WARPS * 32;
constexpr int ROWS = BLOCK_Q / (WARPS * 16);  // of 16 queries, per warp
constexpr int COLUMNS = BLOCK_K / 8;          // of 8 keys
constexpr int K_BYTES = tile_bytes<HEAD_DIM>(BLOCK_K), STAGE_BYTES = K_BYTES + tile_bytes<VALUE_DIM>(BLOCK_K);

// Starts copying K and V of one head's keys from `key` on.
__forceinline__ void copy_keys(SharedAddress stage, const Inputs& in, const Sequence& sequence, int kv_head, int key) {
    const int token = sequence.key + key, existing = sequence.S - key;
    copy_tile_async<HEAD_DIM, BLOCK_K, THREADS>(stage, at(in.k, in.k_strides, sequence.batch, token, kv_head),
                                                in.k_strides.token, existing);
    copy_tile_async<VALUE_DIM, BLOCK_K, THREADS>(stage + K_BYTES,
                                                 at(in.v, in.v_strides, sequence.batch, token, kv_head),
                                                 in.v_strides.token, existing);
}

extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_query(const __grid_constant__ Params p) {
    const Inputs& in = p.inputs;
    extern __shared__ __align__(1024) unsigned char shared[];
    const SharedAddress q_tile = shared_address(shared);
    const SharedAddress dout_tile = q_tile + tile_bytes<HEAD_DIM>(BLOCK_Q);
    const SharedAddress stages = dout_tile + tile_bytes<VALUE_DIM>(BLOCK_Q);  // of K, then V

    // The last queries see the most keys: they go first, so that what ends last is short.
    const int first_query = (CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * BLOCK_Q;
    const int head = blockIdx.y, kv_head = head / in.heads_per_kv;
    const Sequence sequence(in, blockIdx.z);
    if (DOCUMENTS && first_query >= sequence.T) return;
    const int queries = min(BLOCK_Q, sequence.T - first_query);
    const int warp_row = threadIdx.x / 32 * ROWS * 16;
    const float scale_log2 = SCORED ? 1 : in.scale * LOG2_E;

    const int token = sequence.query + first_query;
    const Element* q = at(in.q, in.q_strides, sequence.batch, token, head);
    const Element* dout = at(p.dout, p.dout_strides, sequence.batch, token, head);

    float lse_log2[ROWS][2], delta[ROWS][2];
    const RowStatistics* rows = p.rows + sequence.row(in, gridDim.y, head, first_query);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp_row + i * 16 + half * 8 + threadIdx.x % 32 / 4;
            const RowStatistics of_row = rows[min(row, queries - 1)];
            lse_log2[i][half] = of_row.lse_log2;
            delta[i][half] = of_row.delta;
        }
    }

    float dq[ROWS][HEAD_DIM / 8][4] = {};
    const Sight sight(in.mask, sequence, blockIdx.z);
    const KeyTiles tiles(in.mask, sight, blockIdx.z, head, first_query, queries);
    const Scorer scorer(in.scoring, sight, blockIdx.z, head);
    Tile tile;
    if (tiles.count > 0) {
        tile = tiles.at(0);
        copy_tile_async<HEAD_DIM, BLOCK_Q, THREADS>(q_tile, q, in.q_strides.token, queries);
        copy_tile_async<VALUE_DIM, BLOCK_Q, THREADS>(dout_tile, dout, p.dout_strides.token, queries);
        copy_keys(stages, in, sequence, kv_head, tile.first);
    }
    for (int n = 0; n < tiles.count; ++n) {
        const int key = tile.first;
        const Tile next = tiles.at(n + 1);
        const SharedAddress k_tile = stages + n % STAGES * STAGE_BYTES, v_tile = k_tile + K_BYTES;
        copy_wait_all();
        __syncthreads();  // this stage has arrived; the other is free
        if (STAGES == 2 && n + 1 < tiles.count) {
            copy_keys(stages + (n + 1) % 2 * STAGE_BYTES, in, sequence, kv_head, next.first);
        }

        float score[ROWS][COLUMNS][4] = {}, dscore[ROWS][COLUMNS][4] = {};
        multiply_transposed<HEAD_DIM>(score, q_tile + tile_bytes<HEAD_DIM>(warp_row), k_tile);
        float slope[ROWS][COLUMNS][4];
        if constexpr (SCORED) score_products<false>(score, slope, scorer, first_query + warp_row, key);
        if (tiles.cut(tile)) hide_keys(score, sight, first_query + warp_row, key);
        if (tile.asks) hide_by_expression<false>(score, scorer, first_query + warp_row, key);
        multiply_transposed<VALUE_DIM>(dscore, dout_tile + tile_bytes<VALUE_DIM>(warp_row), v_tile);
        if constexpr (DROPOUT) {
            const auto kept = Kept<ROWS, COLUMNS>::draw<false>(in.dropout, blockIdx.z * gridDim.y + head,
                                                               first_query + warp_row, key);
            drop(dscore, dscore, kept, in.dropout.keep_scale);
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float probability = exp2_approximate(score[i][j][e] * scale_log2 - lse_log2[i][e / 2]);
                    dscore[i][j][e] = probability * (dscore[i][j][e] - delta[i][e / 2]);
                    if constexpr (SLOPED) dscore[i][j][e] *= slope[i][j][e];
                }
            }
        }
        Operand<ROWS, COLUMNS> left;
        as_operand(left, dscore);
        multiply(dq, left, k_tile);
        if (STAGES == 1 && n + 1 < tiles.count) {
            __syncthreads();  // the only stage is free
            copy_keys(stages, in, sequence, kv_head, next.first);
        }
        tile = next;
    }

    scale_by(dq, in.scale);
    // Each warp read only its own rows of Q, and is done with them.
    store_rows(dq, shared + tile_bytes<HEAD_DIM>(warp_row),
               at(p.dq, p.dq_strides, sequence.batch, token + warp_row, head), p.dq_strides.token,
               queries - warp_row);
}
