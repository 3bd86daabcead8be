// Attention, forward (Dao 2023, FlashAttention-2, arXiv 2307.08691, algorithm 1):
//
//   score = scale * q k^T                       (T, S) per batch and head, never in memory; more of it: score.cuh
//   out   = softmax(score, over keys) v         (B, T, H, VALUE_DIM)
//   lse   = log(sum(exp(score), over keys))     (B, H, T), natural logarithm, kept for backward
//
// Which keys a query sees: mask.cuh. One that sees none has out = 0 and lse = -inf. H / Hkv query heads share one key
// and value head. With DROPOUT, out is of the probabilities that are kept, over 1 - probability. With DOCUMENTS, B is 1
// and sequences lie behind each other: sequence.cuh. Outputs are overwritten.
//
// One block computes BLOCK_Q queries of one head, walking over the keys BLOCK_K at a time; a warp owns whole
// rows, so the softmax needs no shared memory, and the probabilities go from one product to the next in
// registers. K and V have a tile each: V arrives during Q K^T, the next K during the softmax and P V.
// Sums and products accumulate in f32; probabilities are rounded to Element before they multiply V.
//
// A row's probabilities are exp2(score - reference), in base 2. The reference is the row's maximum as of the last
// time that the maximum outgrew it by more than SLACK: rescaling what was summed so far is then rare, and
// 2^SLACK times the number of keys is far from the limits of f32, 2^SLACK from those of f16. The exact maximum
// would give the same result but for rounding (of the same size).
//
// constants.cuh comes from Rust: Element, HEAD_DIM and VALUE_DIM (multiples of 8), those of dropout.cuh, mask.cuh,
// score.cuh and sequence.cuh, BLOCK_Q (rows of 16 per warp), BLOCK_K (a multiple of 16), WARPS. Grid: (ceil(T /
// BLOCK_Q), H, B); with DOCUMENTS, T of the longest document, and the number of them for B.

#include "common/math.cuh"
#include "common/reduce.cuh"
#include "attention/inputs.cuh"
#include "attention/tile.cuh"

struct Params {
    Inputs   inputs;
    Element* out;  // (B, T, H, VALUE_DIM)
    float*   lse;  // (B, H, T), contiguous
    Strides  out_strides;
    float    scale_log2;  // scale * log2(e)
};

constexpr int THREADS = WARPS * 32;
// As many as the compiler likes (0); but one, for whose tiles there is shared memory for no more: told so, the compiler
// does not spill to fit in more.
constexpr int BLOCKS = HEAD_DIM > 128 || VALUE_DIM > 128 ? 1 : 0;
constexpr int ROWS = BLOCK_Q / (WARPS * 16);  // of 16 queries, per warp
constexpr int COLUMNS = BLOCK_K / 8;          // of 8 keys
constexpr float SLACK = 8;
constexpr int Q_BYTES = tile_bytes<(HEAD_DIM > VALUE_DIM ? HEAD_DIM : VALUE_DIM)>(BLOCK_Q);  // of out, too, at the end

using Scores = float[ROWS][COLUMNS][4];
using Output = float[ROWS][VALUE_DIM / 8][4];

// What the softmax remembers of this lane's rows: rows lane / 4 and lane / 4 + 8 of each 16.
struct Softmax {
    float reference[ROWS][2];  // in base 2; -inf before the first visible key
    float sum[ROWS][2];        // of this lane's columns only
};

// Turns scores (not yet scaled) into probabilities relative to the reference, moving the reference, and with it
// what `out` and `state.sum` hold so far, where the maximum has outgrown it.
__forceinline__ void softmax_step(Scores& score, Output& out, Softmax& state, float scale_log2) {
    float maximum[ROWS][2];
    bool outgrown = false;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float m = -infinity();
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) m = fmaxf(m, fmaxf(score[i][j][half * 2], score[i][j][half * 2 + 1]));
            maximum[i][half] = warp_max<4>(m) * scale_log2;
            outgrown |= maximum[i][half] > state.reference[i][half] + SLACK;
        }
    }

    if (__any_sync(0xffffffffu, outgrown)) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float& reference = state.reference[i][half];
                const float next = maximum[i][half] > reference + SLACK ? maximum[i][half] : reference;
                const float factor = next == reference ? 1 : exp2_approximate(reference - next);
                reference = next;
                state.sum[i][half] *= factor;
#pragma unroll
                for (int j = 0; j < VALUE_DIM / 8; ++j) {
                    out[i][j][half * 2] *= factor;
                    out[i][j][half * 2 + 1] *= factor;
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            // A row with no visible key so far has only scores of -inf: their probabilities are 0.
            const float reference = state.reference[i][half] == -infinity() ? 0 : state.reference[i][half];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
                for (int k = half * 2; k < half * 2 + 2; ++k) {
                    score[i][j][k] = exp2_approximate(score[i][j][k] * scale_log2 - reference);
                    state.sum[i][half] += score[i][j][k];
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_forward(const __grid_constant__ Params p) {
    const Inputs& in = p.inputs;
    extern __shared__ __align__(1024) unsigned char shared[];
    const SharedAddress q_tile = shared_address(shared);
    const SharedAddress k_tile = q_tile + Q_BYTES;
    const SharedAddress v_tile = k_tile + tile_bytes<HEAD_DIM>(BLOCK_K);

    // The last queries see the most keys: they go first, so that what ends last is short.
    const int first_query = (CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * BLOCK_Q;
    const int head = blockIdx.y, kv_head = head / in.heads_per_kv;
    const Sequence sequence(in, blockIdx.z);
    if (DOCUMENTS && first_query >= sequence.T) return;
    const int queries = min(BLOCK_Q, sequence.T - first_query);
    const int warp_row = threadIdx.x / 32 * ROWS * 16;

    const Element* q = at(in.q, in.q_strides, sequence.batch, sequence.query + first_query, head);
    const Element* k = at(in.k, in.k_strides, sequence.batch, sequence.key, kv_head);
    const Element* v = at(in.v, in.v_strides, sequence.batch, sequence.key, kv_head);

    Output out = {};
    Softmax state;
    // A sink is a key that each row has seen before, in one of its lanes.
    const float sink = SINKS ? in.scoring.sinks[head] * LOG2_E : -infinity();
    const float seen = SINKS && sink != -infinity() && thread_index() % 4 == 0 ? 1 : 0;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        state.reference[i][0] = state.reference[i][1] = sink;
        state.sum[i][0] = state.sum[i][1] = seen;
    }

    const Sight sight(in.mask, sequence, blockIdx.z);
    const KeyTiles tiles(in.mask, sight, blockIdx.z, head, first_query, queries);
    const Scorer scorer(in.scoring, sight, blockIdx.z, head);
    Tile tile;
    if (tiles.count > 0) {
        tile = tiles.at(0);
        copy_tile_async<HEAD_DIM, BLOCK_Q, THREADS>(q_tile, q, in.q_strides.token, queries);
        copy_tile_async<HEAD_DIM, BLOCK_K, THREADS>(k_tile, k + tile.first * in.k_strides.token, in.k_strides.token,
                                                    sight.S - tile.first);
    }
    for (int n = 0; n < tiles.count; ++n) {
        const int key = tile.first;
        const Tile next = tiles.at(n + 1);
        copy_wait_all();
        __syncthreads();  // K has arrived; V's tile is free
        copy_tile_async<VALUE_DIM, BLOCK_K, THREADS>(v_tile, v + key * in.v_strides.token, in.v_strides.token,
                                                     sight.S - key);
        Scores score = {};
        multiply_transposed<HEAD_DIM>(score, q_tile + tile_bytes<HEAD_DIM>(warp_row), k_tile);

        copy_wait_all();
        __syncthreads();  // V has arrived; K's tile is free
        if (n + 1 < tiles.count) {
            copy_tile_async<HEAD_DIM, BLOCK_K, THREADS>(k_tile, k + next.first * in.k_strides.token, in.k_strides.token,
                                                        sight.S - next.first);
        }
        if constexpr (SCORED) {
            Scores slope;
            score_products<false>(score, slope, scorer, first_query + warp_row, key);
        }
        if (tiles.cut(tile)) hide_keys(score, sight, first_query + warp_row, key);
        if (tile.asks) hide_by_expression<false>(score, scorer, first_query + warp_row, key);
        softmax_step(score, out, state, SCORED ? 1 : p.scale_log2);
        if constexpr (DROPOUT) {
            const auto kept = Kept<ROWS, COLUMNS>::draw<false>(in.dropout, blockIdx.z * gridDim.y + head,
                                                               first_query + warp_row, key);
            drop(score, score, kept, 1);
        }
        Operand<ROWS, COLUMNS> probability;
        as_operand(probability, score);
        multiply(out, probability, v_tile);
        tile = next;
    }

    const int lane = thread_index() % 32;
    float* lse = p.lse + sequence.row(in, gridDim.y, head, first_query);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = warp_sum<4>(state.sum[i][half]);
            const int row = warp_row + i * 16 + half * 8 + lane / 4;
            if (lane % 4 == 0 && row < queries) lse[row] = state.reference[i][half] * LN_2 + logf(sum);
            const float inverse = (sum == 0 ? 0 : reciprocal_approximate(sum)) * (DROPOUT ? in.dropout.keep_scale : 1);
#pragma unroll
            for (int j = 0; j < VALUE_DIM / 8; ++j) {
                out[i][j][half * 2] *= inverse;
                out[i][j][half * 2 + 1] *= inverse;
            }
        }
    }
    // Each warp read only its own rows of Q, and is done with them. Rows of out that are longer reach into others'.
    if constexpr (VALUE_DIM > HEAD_DIM) __syncthreads();
    store_rows(out, shared + tile_bytes<VALUE_DIM>(warp_row),
               at(p.out, p.out_strides, sequence.batch, sequence.query + first_query + warp_row, head),
               p.out_strides.token, queries - warp_row);
}
