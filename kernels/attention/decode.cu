// Attention of a few new tokens over a cache of keys and values (Dao et al. 2023, "Flash-Decoding for long-context
// inference"), forward only:
//
//   product = scale * q k^T, per key times its k_scale                     (T, S) per batch and head, never in memory
//   score   = what becomes of it (score.cuh), of the visible keys (mask.cuh)
//   lse     = ln(sum(exp(score)))                                          (B, H, T), -inf without any
//   out     = sum(exp(score - lse) * v), v per key times its v_scale       (B, T, H, VALUE_DIM), 0 without any
//
// Sequence b has S = lengths[b] keys, the last T of which are those of the queries. Keys and values are in `Cached`:
// Element, or int8 or e4m3 with a scale for every token of every head. Keys on a page that the cache has not are read as
// zeros.
//
// The T queries of the H / Hkv heads that share a key head are rows of one tile of 16, so that keys and values are read
// once for all of them; more than 16 rows take more blocks. The keys of a sequence are split over gridDim.x blocks: with
// one, the block writes out and lse; with more, each writes its part in f32, and decode_combine.cu merges them. A part
// without keys has lse = -inf, and out as it was.
//
// Within a block each warp walks over every WARPS-th tile of 16 keys by itself, with STAGES tiles of its own in shared
// memory: while it computes with one, the next arrive, and no warp waits for another until the end, when their results
// are merged in a fixed order. Outputs are overwritten. Products accumulate in f32; probabilities are rounded to Element
// before they multiply.
//
// constants.cuh comes from Rust: Element (bf16 or f16), Cached, QUANTISED, HEAD_DIM, VALUE_DIM (multiples of 8), PAGED,
// WARPS, STAGES, and those of score.cuh, with BLOCK_Q = BLOCK_K = 16. Grid: (splits, Hkv * row blocks, B).

#include "attention/decode_tile.cuh"
#include "attention/score.cuh"
#include "common/math.cuh"
#include "common/reduce.cuh"
#include "common/strides.cuh"
#include "kv_cache/cache.cuh"

struct Params {
    const Element*  q;            // (B, T, H, HEAD_DIM)
    const Cached*   k;            // the cache, (pages, tokens, Hkv, HEAD_DIM)
    const Cached*   v;            // (pages, tokens, Hkv, VALUE_DIM)
    const float*    k_scales;     // (pages, tokens, Hkv); only if QUANTISED
    const float*    v_scales;
    const unsigned* lengths;      // (B), at most S; or null where all are S
    Element*        out;          // (B, T, H, VALUE_DIM)
    float*          lse;          // (B, H, T), contiguous
    float*          partial_out;  // (splits, B, H, T, VALUE_DIM), contiguous; where there are several splits
    float*          partial_lse;  // (splits, B, H, T)
    Pages           pages;
    Strides         q_strides, out_strides;
    CacheStrides    k_strides, v_strides, k_scale_strides, v_scale_strides;
    Mask            mask;
    Scoring         scoring;
    int T, S;
    int kv_heads, heads_per_kv;  // Hkv, H / Hkv
};

constexpr int THREADS = WARPS * 32;
constexpr int STAGE_BYTES = KEY_TILE_BYTES + VALUE_TILE_BYTES + (QUANTISED ? 2 * TILE * sizeof(float) : 0);
// Floats from row to row of what warps exchange: four rows at a time are written 32 bytes each, or two rows 64 bytes.
constexpr int PITCH = VALUE_COLUMNS | (QUANTISED ? 16 : 8);
// A probability times the scale of a value may be too small for f16. So many times that, it is near the probability times
// the value.
constexpr float VALUE_GAIN = QUANTISED ? 64 : 1;

// What row `row` of the tile is. Past the last query, it is the last, and does not exist.
struct Query {
    bool exists;
    int  head, t;

    Query(const Params& p, int kv_head, int row) {
        const int last = p.heads_per_kv * p.T - 1;
        exists = row <= last;
        head = kv_head * p.heads_per_kv + min(row, last) / p.T;
        t = min(row, last) % p.T;
    }
};

// A lane's part of a tile to come: where key (lanes 0-15) or value (lanes 16-31) of one token lies. -1 for none.
struct Place {
    long long row, scale;
};

// `token` may be past `end` by so much that it is past 2^31.
__forceinline__ Place locate(const Params& p, long long batch, int kv_head, unsigned token, int end) {
    if (token >= static_cast<unsigned>(end)) return {-1, -1};
    const Slot slot(p.pages, batch, token);
    if (!slot.exists) return {-1, -1};
    const bool is_key = threadIdx.x % 32 < TILE;
    return {slot.offset(is_key ? p.k_strides : p.v_strides, kv_head),
            QUANTISED ? slot.offset(is_key ? p.k_scale_strides : p.v_scale_strides, kv_head) : 0};
}

// Starts copying the 16 keys and values of a tile, and their scales.
__forceinline__ void copy_tiles(const Params& p, SharedAddress stage, const Place& place) {
    copy_rows_async<HEAD_DIM>(stage, p.k, place.row, 0);
    copy_rows_async<VALUE_DIM>(stage + KEY_TILE_BYTES, p.v, place.row, TILE);
    if constexpr (QUANTISED) {
        const int lane = threadIdx.x % 32;
        const float* scales = lane < TILE ? p.k_scales : p.v_scales;
        const bool exists = place.scale >= 0;
        copy_async_4(stage + KEY_TILE_BYTES + VALUE_TILE_BYTES + lane * sizeof(float),
                     exists ? scales + place.scale : scales, exists);
    }
}

// What the softmax remembers of this lane's rows: rows lane / 4 and lane / 4 + 8.
struct Softmax {
    float largest[2] = {-infinity(), -infinity()};  // score, in base 2
    float sum[2] = {0, 0};                          // of this lane's columns only
};

using Scores = float[2][4];
using Output = float[VALUE_COLUMNS / 8][4];

// Turns scores in base 2 into probabilities relative to the largest so far, to which it moves what `out` and `state.sum`
// hold.
__forceinline__ void softmax_step(Scores& score, Output& out, Softmax& state) {
    float most[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float* row = &score[0][half * 2];
        const float* right = &score[1][half * 2];
        most[half] = warp_max<4>(fmaxf(fmaxf(row[0], row[1]), fmaxf(right[0], right[1])));
    }
    // After the first few tiles the largest score seldom grows.
    if (__any_sync(0xffffffffu, most[0] > state.largest[0] || most[1] > state.largest[1])) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float grown = fmaxf(most[half], state.largest[half]);
            const float factor = state.largest[half] == -infinity() ? 0 : exp2_approximate(state.largest[half] - grown);
            state.largest[half] = grown;
            state.sum[half] *= factor;
#pragma unroll
            for (int j = 0; j < VALUE_COLUMNS / 8; ++j) {
                out[j][half * 2] *= factor;
                out[j][half * 2 + 1] *= factor;
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        // A row with no visible key so far has only scores of -inf: their probabilities are 0.
        const float reference = state.largest[half] == -infinity() ? 0 : state.largest[half];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int e = half * 2; e < half * 2 + 2; ++e) {
                score[j][e] = exp2_approximate(score[j][e] - reference);
                state.sum[half] += score[j][e];
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
attention_decode(const __grid_constant__ Params p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ float2 statistics[WARPS][TILE];  // of each row: largest score, and sum

    const int split = blockIdx.x, splits = gridDim.x;
    const int kv_head = blockIdx.y % p.kv_heads, first_row = blockIdx.y / p.kv_heads * TILE;
    const long long batch = blockIdx.z;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    Sequence sequence(p, blockIdx.z);
    if (p.lengths) sequence.S = min(p.lengths[batch], static_cast<unsigned>(p.S));
    const Sight sight(p.mask, sequence, blockIdx.z);

    // The keys that some query sees, in tiles, of which this block has its share.
    const int first_key = sight.begin(0) / TILE * TILE;
    const int tiles = (sequence.S - first_key + TILE - 1) / TILE;
    const int share = (tiles + splits - 1) / splits;
    const int first_tile = min(tiles, split * share), last_tile = min(tiles, first_tile + share);
    const int end = min(sequence.S, first_key + last_tile * TILE);

    load_queries(shared, [&](int row) -> const Element* {
        const Query query(p, kv_head, first_row + row);
        if (!query.exists) return nullptr;
        return at(p.q, p.q_strides, batch, query.t, query.head);
    });
    __syncthreads();
    const SharedAddress q_tile = shared_address(shared);
    const SharedAddress stages = q_tile + QUERY_TILE_BYTES + warp * STAGES * STAGE_BYTES;
    const float* scales = reinterpret_cast<const float*>(shared + QUERY_TILE_BYTES + warp * STAGES * STAGE_BYTES +
                                                         KEY_TILE_BYTES + VALUE_TILE_BYTES);

    const Query query[2] = {{p, kv_head, first_row + lane / 4}, {p, kv_head, first_row + 8 + lane / 4}};
    const Scorer scorer[2] = {{p.scoring, sight, static_cast<int>(batch), query[0].head},
                              {p.scoring, sight, static_cast<int>(batch), query[1].head}};
    const int visible_from[2] = {sight.begin(query[0].t), sight.begin(query[1].t)};
    const int visible_to[2] = {sight.end(query[0].t), sight.end(query[1].t)};

    const auto token_of = [&](unsigned step) {
        return first_key + (first_tile + warp + step * WARPS) * TILE + lane % TILE;
    };
    Place next = locate(p, batch, kv_head, token_of(0), end);
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) {
        copy_tiles(p, stages + step * STAGE_BYTES, next);
        copy_commit();
        next = locate(p, batch, kv_head, token_of(step + 1), end);
    }
    Output out = {};
    Softmax state;
    int stage = 0;
    for (int step = 0; first_tile + warp + step * WARPS < last_tile; ++step) {
        copy_wait_group<STAGES - 2>();
        __syncwarp();  // this stage has arrived; the one before is free
        copy_tiles(p, stages + (stage == 0 ? STAGES - 1 : stage - 1) * STAGE_BYTES, next);
        copy_commit();
        next = locate(p, batch, kv_head, token_of(step + STAGES), end);

        const SharedAddress k_tile = stages + stage * STAGE_BYTES, v_tile = k_tile + KEY_TILE_BYTES;
        const float* k_scale = scales + stage * (STAGE_BYTES / 4);
        const float* v_scale = k_scale + TILE;
        stage = stage + 1 == STAGES ? 0 : stage + 1;

        Scores score = {};
        multiply_keys<Cached>(score, q_tile, k_tile);
        const int first = first_key + (first_tile + warp + step * WARPS) * TILE;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int half = e / 2, column = j * 8 + lane % 4 * 2 + e % 2, key = first + column;
                const int known = min(key, sequence.S - 1);  // whose place the user's expressions may look up
                float x = score[j][e] * p.scoring.scale;
                if constexpr (QUANTISED) x *= k_scale[column];
                if constexpr (SCORED) x = scorer[half].score(x, query[half].t, known).value;
                bool sees = key >= visible_from[half] && key < visible_to[half];
                if constexpr (MASK_EXPRESSION) sees = sees && scorer[half].sees(query[half].t, known);
                score[j][e] = sees ? x * LOG2_E : -infinity();
            }
        }
        softmax_step(score, out, state);
        unsigned probability[4];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if constexpr (QUANTISED) {
#pragma unroll
                for (int e = 0; e < 4; ++e) score[j][e] *= v_scale[j * 8 + lane % 4 * 2 + e % 2] * VALUE_GAIN;
            }
            probability[j * 2] = pack<Element>(score[j][0], score[j][1]);
            probability[j * 2 + 1] = pack<Element>(score[j][2], score[j][3]);
        }
        multiply_values<Cached>(out, probability, v_tile);
    }

    // Every warp is done with its stages: there they leave their results for each other.
    copy_wait_all();
    __syncthreads();
    float* exchange = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = half * 8 + lane / 4;
        const float total = warp_sum<4>(state.sum[half]);
        if (lane % 4 == 0) statistics[warp][row] = make_float2(state.largest[half], total);
        leave_row(exchange + (warp * TILE + row) * PITCH, out, half);
    }
    __syncthreads();
    for (int item = threadIdx.x; item < TILE * (VALUE_DIM / 8); item += THREADS) {
        const int row = item / (VALUE_DIM / 8), column = item % (VALUE_DIM / 8) * 8;
        const Query query(p, kv_head, first_row + row);
        if (!query.exists) break;
        // With several splits, the sink is for the one that merges them.
        const float sink = SINKS && splits == 1 ? p.scoring.sinks[query.head] * LOG2_E : -infinity();
        float most = sink, values[8] = {};
#pragma unroll
        for (int w = 0; w < WARPS; ++w) most = fmaxf(most, statistics[w][row].x);
        const float reference = most == -infinity() ? 0 : most;
        float total = exp2_approximate(sink - reference);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float weight = exp2_approximate(statistics[w][row].x - reference);
            total += weight * statistics[w][row].y;
            const float4* from = reinterpret_cast<const float4*>(exchange + (w * TILE + row) * PITCH + column);
            const float4 low = from[0], high = from[1];
            const float of_warp[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int e = 0; e < 8; ++e) values[e] += weight * of_warp[e];
        }
        const float inverse = total == 0 ? 0 : 1 / (total * VALUE_GAIN);
#pragma unroll
        for (int e = 0; e < 8; ++e) values[e] *= inverse;
        const float lse = reference * LN_2 + logf(total);
        const long long heads = static_cast<long long>(p.kv_heads) * p.heads_per_kv;
        const long long index = (batch * heads + query.head) * p.T + query.t;
        if (splits == 1) {
            Element* out = at(p.out, p.out_strides, batch, query.t, query.head);
            store(out + column, to_vec<Element>(values));
            if (column == 0) p.lse[index] = lse;
        } else {
            const long long part = split * gridDim.z * heads * p.T + index;
            if (total != 0) store(p.partial_out + part * VALUE_DIM + column, to_vec<float>(values));
            if (column == 0) p.partial_lse[part] = lse;
        }
    }
}
