// Attention, backward, the gradient of the bias, which is added to scores (score.cuh):
//
//   dbias     = probability * (dprobability - delta)          (B, H, T, S), summed over the dimensions of stride 0
//
// One block owns BLOCK_Q by BLOCK_K elements and goes over whatever is summed: sequences, heads, blocks of queries or of
// keys. It computes scores and dprobability anew, as backward_query.cu does, and sums in registers, in one order, in
// f32; so the same bits come out every time. Where a document ends before dbias does, the gradient is 0. dbias
// is overwritten.
//
// constants.cuh comes from Rust: as backward_query.cu. Grid: (blocks of queries * blocks of keys, H, B), each 1 where the
// stride is 0; with DOCUMENTS, the number of them for B.

#include "common/math.cuh"
#include "attention/inputs.cuh"
#include "attention/rows.cuh"
#include "attention/tile.cuh"

struct Params {
    Inputs               inputs;
    const Element*       dout;       // (B, T, H, VALUE_DIM)
    const RowStatistics* rows;       // (B, H, T), contiguous
    Element*             dbias;      // (B, H, T, S); with DOCUMENTS, as many of each as the longest has
    Strides     dout_strides;
    BiasStrides bias_strides;        // of dbias
    int sequences, heads;
    int longest_T, longest_S;        // of a sequence
};

constexpr int THREADS = WARPS * 32;
constexpr int ROWS = BLOCK_Q / (WARPS * 16);  // of 16 queries, per warp
constexpr int COLUMNS = BLOCK_K / 8;          // of 8 keys
constexpr int PITCH = 40;                     // floats from one row of the sums in shared memory to the next
static_assert(BLOCK_K <= PITCH, "a row fits");

// What is summed over, of `size`, where the block has part `own` otherwise.
struct Summed {
    int first, end;
    Summed(long long stride, int own, int size) : first(stride == 0 ? 0 : own), end(stride == 0 ? size : own + 1) {}
};

using Sums = float[ROWS][COLUMNS][4];

// Adds the gradients of the scores of one tile, whose user's mask is asked or not.
__forceinline__ void add_tile(Sums& sum, SharedAddress tiles, const Params& p, const Sequence& sequence,
                              const Sight& sight, const Scorer& scorer, int first_query, int first_key, bool asks) {
    const Inputs& in = p.inputs;
    const SharedAddress q_tile = tiles, dout_tile = q_tile + tile_bytes<HEAD_DIM>(BLOCK_Q);
    const SharedAddress k_tile = dout_tile + tile_bytes<VALUE_DIM>(BLOCK_Q);
    const SharedAddress v_tile = k_tile + tile_bytes<HEAD_DIM>(BLOCK_K);
    const int head = scorer.head, kv_head = head / in.heads_per_kv;
    const int queries = min(BLOCK_Q, sight.T - first_query), keys = sight.S - first_key;
    const int q_token = sequence.query + first_query, k_token = sequence.key + first_key;

    __syncthreads();  // the tiles are free
    copy_tile_async<HEAD_DIM, BLOCK_Q, THREADS>(q_tile, at(in.q, in.q_strides, sequence.batch, q_token, head),
                                                in.q_strides.token, queries);
    copy_tile_async<VALUE_DIM, BLOCK_Q, THREADS>(dout_tile,
                                                 at(p.dout, p.dout_strides, sequence.batch, q_token, head),
                                                 p.dout_strides.token, queries);
    copy_tile_async<HEAD_DIM, BLOCK_K, THREADS>(k_tile, at(in.k, in.k_strides, sequence.batch, k_token, kv_head),
                                                in.k_strides.token, keys);
    copy_tile_async<VALUE_DIM, BLOCK_K, THREADS>(v_tile, at(in.v, in.v_strides, sequence.batch, k_token, kv_head),
                                                 in.v_strides.token, keys);
    copy_wait_all();
    __syncthreads();  // they have arrived

    const int warp_row = threadIdx.x / 32 * ROWS * 16, query = first_query + warp_row;
    float score[ROWS][COLUMNS][4] = {}, dscore[ROWS][COLUMNS][4] = {}, slope[ROWS][COLUMNS][4];
    multiply_transposed<HEAD_DIM>(score, q_tile + tile_bytes<HEAD_DIM>(warp_row), k_tile);
    multiply_transposed<VALUE_DIM>(dscore, dout_tile + tile_bytes<VALUE_DIM>(warp_row), v_tile);
    score_products<false>(score, slope, scorer, query, first_key);
    hide_keys(score, sight, query, first_key);
    if (asks) hide_by_expression<false>(score, scorer, query, first_key);
    if constexpr (DROPOUT) {
        const unsigned of_head = scorer.batch * p.heads + head;
        const auto kept = Kept<ROWS, COLUMNS>::draw<false>(in.dropout, of_head, query, first_key);
        drop(dscore, dscore, kept, in.dropout.keep_scale);
    }
    const RowStatistics* rows = p.rows + sequence.row(in, p.heads, head, first_query);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp_row + i * 16 + half * 8 + threadIdx.x % 32 / 4;
            if (row >= queries) continue;
            const RowStatistics of_row = rows[row];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; ++e) {
                    const float probability = exp2_approximate(score[i][j][e] - of_row.lse_log2);
                    sum[i][j][e] += probability * (dscore[i][j][e] - of_row.delta);
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_bias(const __grid_constant__ Params p) {
    const Inputs& in = p.inputs;
    extern __shared__ __align__(1024) unsigned char shared[];
    const int q_blocks = (p.longest_T - 1) / BLOCK_Q + 1, k_blocks = (p.longest_S - 1) / BLOCK_K + 1;
    const int k_parts = p.bias_strides.key == 0 ? 1 : k_blocks;
    const int own_q = blockIdx.x / k_parts, own_k = blockIdx.x % k_parts;
    const Summed over_batch(p.bias_strides.batch, blockIdx.z, p.sequences);
    const Summed over_head(p.bias_strides.head, blockIdx.y, p.heads);
    const Summed over_q(p.bias_strides.query, own_q, q_blocks), over_k(p.bias_strides.key, own_k, k_blocks);

    Sums sum = {};
    for (int batch = over_batch.first; batch < over_batch.end; ++batch) {
        const Sequence sequence(in, batch);
        const Sight sight(in.mask, sequence, batch);
        for (int head = over_head.first; head < over_head.end; ++head) {
            const Scorer scorer(in.scoring, sight, batch, head);
            for (int q_block = over_q.first; q_block < over_q.end; ++q_block) {
                const int first_query = q_block * BLOCK_Q, last_query = min(first_query + BLOCK_Q, sight.T) - 1;
                if (first_query > last_query) break;
                const int begin = sight.begin(first_query), end = sight.end(last_query);
                for (int k_block = over_k.first; k_block < over_k.end; ++k_block) {
                    const int first_key = k_block * BLOCK_K;
                    if (first_key >= end || begin - first_key >= BLOCK_K) continue;
                    unsigned char kind = PARTIAL;
                    if constexpr (BLOCK_MASK) {
                        const auto list =
                            BlockList::of_queries(in.mask.blocks, batch, head, first_query / MASK_BLOCK);
                        kind = list.kind(first_key / MASK_BLOCK);
                    }
                    if (kind == EMPTY) continue;
                    const bool asks = MASK_EXPRESSION && kind == PARTIAL;
                    add_tile(sum, shared_address(shared), p, sequence, sight, scorer, first_query, first_key, asks);
                }
            }
        }
    }

    float* sums = reinterpret_cast<float*>(shared);
    const int warp_row = threadIdx.x / 32 * ROWS * 16, lane = threadIdx.x % 32;
    __syncthreads();  // the tiles are free
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp_row + i * 16 + half * 8 + lane / 4, column = j * 8 + lane % 4 * 2;
                // Rows that lie 40 floats apart: of four of them, eight bytes to a lane have no bank conflicts.
                const float2 pair = make_float2(sum[i][j][half * 2], sum[i][j][half * 2 + 1]);
                *reinterpret_cast<float2*>(sums + row * PITCH + column) = pair;
            }
        }
    }
    __syncthreads();
    const bool one_query = p.bias_strides.query == 0, one_key = p.bias_strides.key == 0;
    Element* dbias = p.dbias + blockIdx.z * p.bias_strides.batch + blockIdx.y * p.bias_strides.head;
    const int columns = one_key ? 1 : BLOCK_K, count = (one_query ? 1 : BLOCK_Q) * columns;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const int row = i / columns, column = i % columns;
        const int query = own_q * BLOCK_Q + row, key = own_k * BLOCK_K + column;
        if (query >= p.longest_T || key >= p.longest_S) continue;
        float total = 0;
        for (int r = row; r < (one_query ? BLOCK_Q : row + 1); ++r) {
            for (int c = column; c < (one_key ? BLOCK_K : column + 1); ++c) total += sums[r * PITCH + c];
        }
        dbias[query * p.bias_strides.query + key * p.bias_strides.key] = from_float<Element>(total);
    }
}
