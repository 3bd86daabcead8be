// Attention, backward, the gradients of k and v (Dao 2023, FlashAttention-2, arXiv 2307.08691, section 2.3.2):
//
//   probability      = exp(scale * q k^T - lse)                    (T, S) per batch and head, never in memory
//   dprobability     = dout v^T
//   dscore           = probability * (dprobability - delta)
//   dv               = probability^T dout                          (B, S, Hkv, VALUE_DIM)
//   dk               = scale * dscore^T q                          (B, S, Hkv, HEAD_DIM)
//
// dk and dv of a head sum over the H / Hkv query heads that share it. Why the gradient of q has a kernel of
// its own: see backward_query.cu.
//
// One block computes BLOCK_K keys of one key and value head, walking over the queries of one query head after the
// other, BLOCK_Q at a time, in two stages: while it computes with one tile of Q and dout, the next arrives; in one
// stage where shared memory has room for no more. Scores are computed transposed, keys by queries, and a warp owns whole
// rows of them: so they go from one product to the next in registers. Sums and products accumulate in f32, in one order;
// probability and dscore are rounded to Element before they multiply. Scores, dropout, masks and documents are as in
// forward.cu. dk and dv are overwritten, those of HAS_DK and HAS_DV: where both together are too wide for a
// warp's registers, each has a launch.
//
// With HAS_DQ, the gradient of q is computed here as well, from the same dscore: five products instead of seven.
// Warps hand each other their keys' part of dscore through shared memory, share out the product with K among
// themselves, and add (+=) it to dq_sums with atomics, in whatever order blocks come: its last bits differ from run to
// run. What is gained: 7 / 5 of the products, which an extra barrier and 4 bytes of atomics for each element of dq and
// block of keys reduce, to 1.3 times or so. That is an expectation, which no GPU has confirmed yet.
//
// constants.cuh comes from Rust: Element, HEAD_DIM and VALUE_DIM (multiples of 8), HAS_DK, HAS_DV, HAS_DQ (with HAS_DK
// only), those of mask.cuh, sequence.cuh and dq.cuh, BLOCK_Q (a multiple of 16), BLOCK_K (rows of 16 per warp), WARPS,
// STAGES (1 or 2). Grid: (ceil(S / BLOCK_K), Hkv, B); with DOCUMENTS, S of the longest document, and the number of them
// for B.

#include "common/math.cuh"
#include "attention/dq.cuh"
#include "attention/inputs.cuh"
#include "attention/rows.cuh"
#include "attention/tile.cuh"

struct Params {
    Inputs               inputs;
    const Element*       dout;         // (B, T, H, VALUE_DIM)
    const RowStatistics* rows;         // (B, H, T), contiguous
    Element*             dk;           // (B, S, Hkv, HEAD_DIM)
    Element*             dv;           // (B, S, Hkv, VALUE_DIM)
    float*               dq_sums;      // as dq.cuh says; not yet times scale
    Strides dout_strides, dk_strides, dv_strides;
};

constexpr int THREADS = WARPS * 32;
constexpr int ROWS = BLOCK_K / (WARPS * 16);  // of 16 keys, per warp
constexpr int COLUMNS = BLOCK_Q / 8;          // of 8 queries
constexpr int Q_BYTES = tile_bytes<HEAD_DIM>(BLOCK_Q), TILES_BYTES = Q_BYTES + tile_bytes<VALUE_DIM>(BLOCK_Q);
constexpr int STAGE_BYTES = TILES_BYTES + BLOCK_Q * sizeof(RowStatistics);  // Q, dout, row statistics
constexpr int K_BYTES = tile_bytes<HEAD_DIM>(BLOCK_K), V_BYTES = tile_bytes<VALUE_DIM>(BLOCK_K);
static_assert(BLOCK_Q <= THREADS, "one thread copies one query's statistics");
static_assert(HAS_DK || !HAS_DQ, "dq takes what dk takes");

// How warps share dq of BLOCK_Q queries: 32 or 16 rows, and as many fragments along them as are left to each.
constexpr int Q_ROWS = BLOCK_Q >= 32 && BLOCK_Q / 16 * fragments(HEAD_DIM) >= 2 * WARPS ? 2 : 1;  // of 16
constexpr int ROW_WARPS = BLOCK_Q / 16 / Q_ROWS, COLUMN_WARPS = WARPS / ROW_WARPS;
constexpr int Q_FRAGMENTS = (fragments(HEAD_DIM) + COLUMN_WARPS - 1) / COLUMN_WARPS;
constexpr int Q_COLUMNS = Q_FRAGMENTS * FRAGMENT_COLUMNS / 8;  // of 8
static_assert(!HAS_DQ || WARPS % ROW_WARPS == 0, "each warp has a part");

// Starts copying Q, dout and the row statistics of one head's queries from `query` on.
__forceinline__ void copy_queries(SharedAddress stage, const Params& p, const Sequence& sequence, int head, int query) {
    const Inputs& in = p.inputs;
    const int token = sequence.query + query, existing = sequence.T - query;
    copy_tile_async<HEAD_DIM, BLOCK_Q, THREADS>(stage, at(in.q, in.q_strides, sequence.batch, token, head),
                                                in.q_strides.token, existing);
    copy_tile_async<VALUE_DIM, BLOCK_Q, THREADS>(stage + Q_BYTES,
                                                 at(p.dout, p.dout_strides, sequence.batch, token, head),
                                                 p.dout_strides.token, existing);
    const int row = thread_index();
    if (row < BLOCK_Q) {
        copy_async_8(stage + TILES_BYTES + row * sizeof(RowStatistics),
                     p.rows + sequence.row(in, gridDim.y * in.heads_per_kv, head, query) + row, row < existing);
    }
}

// Adds dscore K of one head's queries from `query` on: this warp's part of it.
__forceinline__ void add_dq(const Params& p, const Sequence& sequence, int heads, int head, int query,
                                SharedAddress dscore_tile, SharedAddress k_tile) {
    const int warp = thread_index() / 32;
    const int row = warp % ROW_WARPS * Q_ROWS, fragment = warp / ROW_WARPS * Q_FRAGMENTS;
    if (fragment >= fragments(HEAD_DIM)) return;
    float dq[Q_ROWS][Q_COLUMNS][4] = {};
    multiply_left_transposed<BLOCK_Q, HEAD_DIM, BLOCK_K>(
        dq, dscore_tile + row * (16 / FRAGMENT_COLUMNS) * FRAGMENT_BYTES, k_tile + fragment * FRAGMENT_BYTES);
    const int block = fragment * FRAGMENT_COLUMNS / 8;
#pragma unroll
    for (int i = 0; i < Q_ROWS; ++i) {
        const int first = query + (row + i) * 16;
        if (first >= sequence.T) break;
        float* tile = dq_tile(p.dq_sums, p.inputs, sequence, heads, head, first);
#pragma unroll
        for (int j = 0; j < Q_COLUMNS; ++j) {
            if (block + j < HEAD_DIM / 8) add_to_dq(tile + (block + j) * DQ_BLOCK, dq[i][j]);
        }
    }
}

// A block of eight warps has a multiprocessor for itself: told so, the compiler does not spill to fit in two.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_key(const __grid_constant__ Params p) {
    const Inputs& in = p.inputs;
    extern __shared__ __align__(1024) unsigned char shared[];
    const SharedAddress k_tile = shared_address(shared);
    const SharedAddress v_tile = k_tile + K_BYTES;
    const SharedAddress stages = v_tile + V_BYTES;
    unsigned char* dscores = shared + K_BYTES + V_BYTES + STAGES * STAGE_BYTES;  // keys by queries; with HAS_DQ

    const int first_key = blockIdx.x * BLOCK_K;
    const int kv_head = blockIdx.y, first_head = kv_head * in.heads_per_kv;
    const Sequence sequence(in, blockIdx.z);
    if (DOCUMENTS && first_key >= sequence.S) return;
    const int keys = min(BLOCK_K, sequence.S - first_key);
    const int warp_row = threadIdx.x / 32 * ROWS * 16;
    const float scale_log2 = SCORED ? 1 : in.scale * LOG2_E;

    const Sight sight(in.mask, sequence, blockIdx.z);
    const QueryTiles tiles(in.mask, sight, blockIdx.z, first_head, in.heads_per_kv, first_key, keys);
    const int token = sequence.key + first_key;

    float dk[ROWS][HEAD_DIM / 8][4] = {}, dv[ROWS][VALUE_DIM / 8][4] = {};
    QueryTile tile = tiles.begin();
    if (!tiles.is_end(tile)) {
        const Element* k = at(in.k, in.k_strides, sequence.batch, token, kv_head);
        const Element* v = at(in.v, in.v_strides, sequence.batch, token, kv_head);
        copy_tile_async<HEAD_DIM, BLOCK_K, THREADS>(k_tile, k, in.k_strides.token, keys);
        copy_tile_async<VALUE_DIM, BLOCK_K, THREADS>(v_tile, v, in.v_strides.token, keys);
        copy_queries(stages, p, sequence, first_head + tile.head, tile.first);
    }
    for (int stage = 0; !tiles.is_end(tile);) {
        const SharedAddress q_tile = stages + stage * STAGE_BYTES, dout_tile = q_tile + Q_BYTES;
        const float4* rows = reinterpret_cast<const float4*>(
            shared + K_BYTES + V_BYTES + stage * STAGE_BYTES + TILES_BYTES);
        const int query = tile.first, head = first_head + tile.head;
        const QueryTile next = tiles.after(tile);
        stage = (stage + 1) % STAGES;
        copy_wait_all();
        __syncthreads();  // this stage has arrived; the other is free
        if (STAGES == 2 && !tiles.is_end(next)) {
            copy_queries(stages + stage * STAGE_BYTES, p, sequence, first_head + next.head, next.first);
        }

        float score[ROWS][COLUMNS][4] = {}, dscore[ROWS][COLUMNS][4] = {};
        Operand<ROWS, COLUMNS> left;
        multiply_transposed<HEAD_DIM>(score, k_tile + tile_bytes<HEAD_DIM>(warp_row), q_tile);
        const Scorer scorer(in.scoring, sight, blockIdx.z, head);
        float slope[ROWS][COLUMNS][4];
        if constexpr (SCORED) score_products<true>(score, slope, scorer, query, first_key + warp_row);
        if (tiles.cut(tile)) hide_queries(score, sight, query, first_key + warp_row);
        if (tile.asks) hide_by_expression<true>(score, scorer, query, first_key + warp_row);
        if (HAS_DQ && keys < BLOCK_K) hide_past_keys(score, keys - warp_row);
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            // Of this lane's two columns. Queries from T on have q = 0, dout = 0 and delta = 0: they add 0.
            const float4 of_columns = rows[j * 4 + threadIdx.x % 4];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float lse_log2 = e % 2 == 0 ? of_columns.x : of_columns.z;
                    score[i][j][e] = exp2_approximate(score[i][j][e] * scale_log2 - lse_log2);
                }
            }
        }
        Kept<ROWS, COLUMNS> kept;
        if constexpr (DROPOUT) {
            const unsigned of_head = blockIdx.z * gridDim.y * in.heads_per_kv + head;
            kept = kept.template draw<true>(in.dropout, of_head, query, first_key + warp_row);
        }
        if constexpr (HAS_DV) {
            if constexpr (DROPOUT) {
                float remaining[ROWS][COLUMNS][4];
                drop(remaining, score, kept, 1);
                as_operand(left, remaining);
            } else {
                as_operand(left, score);
            }
            multiply(dv, left, dout_tile);
        }
        if constexpr (HAS_DK) {
            multiply_transposed<VALUE_DIM>(dscore, v_tile + tile_bytes<VALUE_DIM>(warp_row), dout_tile);
            if constexpr (DROPOUT) drop(dscore, dscore, kept, in.dropout.keep_scale);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const float4 of_columns = rows[j * 4 + threadIdx.x % 4];
#pragma unroll
                for (int i = 0; i < ROWS; ++i) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const float delta = e % 2 == 0 ? of_columns.y : of_columns.w;
                        dscore[i][j][e] = score[i][j][e] * (dscore[i][j][e] - delta);
                        if constexpr (SLOPED) dscore[i][j][e] *= slope[i][j][e];
                    }
                }
            }
            as_operand(left, dscore);
            multiply(dk, left, q_tile);
        }
        if constexpr (HAS_DQ) store_tile(dscore, dscores + tile_bytes<BLOCK_Q>(warp_row));
        const bool copies = STAGES == 1 && !tiles.is_end(next);
        if (HAS_DQ || copies) __syncthreads();  // dscore is there; the only stage is free
        if (copies) copy_queries(stages, p, sequence, first_head + next.head, next.first);
        if constexpr (HAS_DQ) {
            add_dq(p, sequence, gridDim.y * in.heads_per_kv, head, query, shared_address(dscores), k_tile);
        }
        tile = next;
    }

    // Each warp read only its own rows of K and V, but for dq, and is done with them.
    if constexpr (HAS_DQ) __syncthreads();
    if constexpr (HAS_DK) {
        scale_by(dk, in.scale);
        store_rows(dk, shared + tile_bytes<HEAD_DIM>(warp_row),
                   at(p.dk, p.dk_strides, sequence.batch, token + warp_row, kv_head), p.dk_strides.token,
                   keys - warp_row);
    }
    if constexpr (HAS_DV) {
        if constexpr (DROPOUT) scale_by(dv, in.dropout.keep_scale);
        store_rows(dv, shared + K_BYTES + tile_bytes<VALUE_DIM>(warp_row),
                   at(p.dv, p.dv_strides, sequence.batch, token + warp_row, kv_head), p.dv_strides.token,
                   keys - warp_row);
    }
}
