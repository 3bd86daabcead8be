// The keys and values of new tokens, written to a cache (see cache.cuh), keys turned on the way if ROTARY is not 0 (rotary
// position embedding: see rope/rotate.cu for the formula), and quantised if QUANTISED:
//
//   scale   = max |x| / largest element    (pages, tokens, Hkv)    over the elements x of a token's head
//   element = x / scale, to the nearest    (pages, tokens, Hkv, KEY_DIM or VALUE_DIM)
//
// Of the T tokens of sequence b, the first counts[b] are new; they become its last, so that it has lengths[b]: token t goes
// to place lengths[b] - counts[b] + t, which is its position, too. A place that the cache has not is not written. A head
// of zeros has scale 0; one with an element that is no number has a scale that is none, and elements 0.
//
// GROUP lanes share a head of a token, and keep it in registers: what is read is read once. A lane has VECTOR pairs, or
// VECTOR elements that do not turn, at a time. Sines and cosines are computed once for the heads of a token in a block.
//
// constants.cuh comes from Rust: Element, Cached (Element, int8 or e4m3), QUANTISED, KEY_DIM, VALUE_DIM, ROTARY (even),
// INTERLEAVED, PAGED, VECTOR (8 where all rows are 16-byte aligned, and ROTARY a multiple of 16, else 1), GROUP (a power
// of two up to 32), THREADS. Grid: (ceil(B * T * Hkv * GROUP / THREADS), 2: keys, values).

#include "kv_cache/cache.cuh"
#include "common/quantised.cuh"
#include "common/rotary.cuh"
#include "common/strides.cuh"

struct Params {
    const Element*  k;            // (B, T, Hkv, KEY_DIM)
    const Element*  v;            // (B, T, Hkv, VALUE_DIM)
    Cached*         k_cache;      // (pages, tokens, Hkv, KEY_DIM)
    Cached*         v_cache;      // (pages, tokens, Hkv, VALUE_DIM)
    float*          k_scales;     // (pages, tokens, Hkv); only if QUANTISED
    float*          v_scales;
    const unsigned* lengths;      // (B), or null where each is pages.tokens
    const unsigned* counts;       // (B), or null where all T are new
    const float*    frequencies;  // (ROTARY / 2), in radians per position
    Pages           pages;
    Strides         k_strides, v_strides;
    CacheStrides    k_cache_strides, v_cache_strides, k_scale_strides, v_scale_strides;
    long long       heads;  // B * T * Hkv
    int   T, kv_heads;
    float factor;  // on the elements that turn
};

using Vector = Vec<Element, VECTOR>;

constexpr int PAIRS = ROTARY / 2 / VECTOR;  // vectors of them
constexpr int GROUPS = THREADS / GROUP;     // of a block

// Of one token. Lanes that are neighbours read neighbours: no bank conflicts.
struct Angles {
    float cosine[VECTOR][PAIRS ? PAIRS : 1], sine[VECTOR][PAIRS ? PAIRS : 1];
};

// Of all tokens of a block, by all of its threads: each reads its frequency once for them all.
void set_angles(const Params& p, Angles* angles, const int* positions, int tokens) {
    for (int i = threadIdx.x; i < ROTARY / 2; i += THREADS) {
        const int unit = i % (PAIRS ? PAIRS : 1), element = i / (PAIRS ? PAIRS : 1);
        const float frequency = p.frequencies[unit * VECTOR + element];
        for (int token = 0; token < tokens; ++token) {
            float s, c;
            sine_and_cosine(positions[token], frequency, &s, &c);
            angles[token].cosine[element][unit] = c * p.factor;
            angles[token].sine[element][unit] = s * p.factor;
        }
    }
}

template <class Stored> void store_elements(Stored* to, const float (&x)[VECTOR], float inverse) {
    if constexpr (QUANTISED) {
        union {
            Stored elements[VECTOR];
            uint2  words;
        } packed;
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) packed.elements[i] = quantize<Stored>(x[i] * inverse);
        if constexpr (VECTOR == 8) {
            *reinterpret_cast<uint2*>(to) = packed.words;
        } else {
            *to = packed.elements[0];
        }
    } else {
        store(to, to_vec<Stored>(x));
    }
}

// One head of one token, of which TURNED elements turn by `angles`.
template <int DIM, int TURNED, class Stored>
void append(const Element* from, Stored* to, float* scale, const Angles& angles, int lane, bool exists) {
    constexpr int PAIRS = TURNED / 2 / VECTOR, UNITS = PAIRS + (DIM - TURNED) / VECTOR;
    constexpr int HELD = (UNITS + GROUP - 1) / GROUP;  // per lane
    float first[HELD][VECTOR], second[HELD][VECTOR];
    unsigned largest = 0;  // bits of |x|: a NaN is larger than any number
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        const int unit = i * GROUP + lane;
        if (unit >= UNITS || !exists) break;
        if (unit < PAIRS) {
            const int low = INTERLEAVED ? 2 * unit * VECTOR : unit * VECTOR;
            const Vector a = load<VECTOR>(from + low);
            const Vector b = load<VECTOR>(from + (INTERLEAVED ? low + VECTOR : low + TURNED / 2));
            float cosine[VECTOR], sine[VECTOR];
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) {
                cosine[e] = angles.cosine[e][unit];
                sine[e] = angles.sine[e][unit];
            }
            turn<INTERLEAVED>(a, b, cosine, sine, first[i], second[i]);
        } else {
            const Vector a = load<VECTOR>(from + TURNED + (unit - PAIRS) * VECTOR);
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) {
                first[i][e] = a.get(e);
                second[i][e] = 0;
            }
        }
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) {
            largest = max(largest, __float_as_uint(first[i][e]) & 0x7fffffffu);
            largest = max(largest, __float_as_uint(second[i][e]) & 0x7fffffffu);
        }
    }

    float inverse = 1;
    if constexpr (QUANTISED) {
#pragma unroll
        for (int other = GROUP / 2; other > 0; other /= 2) {
            largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, other));
        }
        const float size = __uint_as_float(largest);
        // Below, the inverse would be infinite, and all the elements that there are are as good as 0.
        inverse = size > 1e-30f && size < infinity() ? largest_element<Stored>() / size : 0;
        if (exists && lane == 0) *scale = size / largest_element<Stored>();
    }
    if (!exists) return;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        const int unit = i * GROUP + lane;
        if (unit >= UNITS) break;
        const int low = unit >= PAIRS ? TURNED + (unit - PAIRS) * VECTOR : INTERLEAVED ? 2 * unit * VECTOR : unit * VECTOR;
        store_elements(to + low, first[i], inverse);
        if (unit < PAIRS) store_elements(to + (INTERLEAVED ? low + VECTOR : low + TURNED / 2), second[i], inverse);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
kv_cache_append(const __grid_constant__ Params p) {
    __shared__ Angles angles[GROUPS];
    __shared__ int positions[GROUPS];
    const long long first = static_cast<long long>(blockIdx.x) * GROUPS;
    const int group = threadIdx.x / GROUP, lane = threadIdx.x % GROUP;
    // All lanes take part in exchanges: those without a head to write do another one, and write nothing.
    const long long index = min(first + group, p.heads - 1);
    const int head = index % p.kv_heads, t = index / p.kv_heads % p.T;
    const long long batch = index / p.kv_heads / p.T;
    const bool is_key = blockIdx.y == 0;

    // What is the same for the lanes of a head, one of them looks up. -1 where there is no place.
    int position = -1;
    long long row = -1, scale_row = -1;
    if (lane == 0 && first + group < p.heads) {
        const unsigned count = p.counts ? min(p.counts[batch], static_cast<unsigned>(p.T)) : p.T;
        const unsigned length = p.lengths ? p.lengths[batch] : p.pages.tokens;
        const long long place = static_cast<long long>(length) - count + t;
        if (t < static_cast<int>(count) && place >= 0 && place < p.pages.tokens) {
            position = place;
            const Slot slot(p.pages, batch, position);
            if (slot.exists) {
                row = slot.offset(is_key ? p.k_cache_strides : p.v_cache_strides, head);
                if (QUANTISED) scale_row = slot.offset(is_key ? p.k_scale_strides : p.v_scale_strides, head);
            }
        }
    }
    position = __shfl_sync(0xffffffffu, position, 0, GROUP);
    row = __shfl_sync(0xffffffffu, row, 0, GROUP);

    const Strides& strides = is_key ? p.k_strides : p.v_strides;
    const Element* from = at(is_key ? p.k : p.v, strides, batch, t, head);
    Cached* to = (is_key ? p.k_cache : p.v_cache) + row;
    float* scale = (is_key ? p.k_scales : p.v_scales) + scale_row;
    if (is_key) {
        // The heads of a token turn alike: the first of them in this block says how.
        const int slot = index / p.kv_heads - first / p.kv_heads;
        if constexpr (ROTARY > 0) {
            if (lane == 0 && first + group < p.heads && (head == 0 || group == 0)) positions[slot] = position;
            __syncthreads();
            set_angles(p, angles, positions, (min(first + GROUPS, p.heads) - 1) / p.kv_heads - first / p.kv_heads + 1);
            __syncthreads();
        }
        append<KEY_DIM, ROTARY>(from, to, scale, angles[slot], lane, row >= 0);
    } else {
        append<VALUE_DIM, 0>(from, to, scale, angles[0], lane, row >= 0);
    }
}
