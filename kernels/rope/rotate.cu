// Rotary position embedding (Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34) of queries and keys, in one launch:
//
//   angle      = position * frequency[i]                       i < ROTARY / 2
//   (x'_a, x'_b) = factor * (x_a cos - x_b sin, x_a sin + x_b cos)   a, b = 2i, 2i + 1 if INTERLEAVED, else i, i + ROTARY / 2
//
// of each head of q (B, T, H, HEAD_DIM) and of k (B, T, Hkv, HEAD_DIM); elements from ROTARY on are copied. Outputs are
// overwritten, and may be the inputs themselves. The frequencies and the factor are data: linear, NTK, YaRN, LongRoPE and
// llama3 scaling are tables. Backward is the same rotation by minus the angle (p.direction = -1), times the same factor.
//
// The angle is a product in f64, reduced to one turn there: in f32 it would be off by 0.06 at a position of a million.
// That is a few f64 operations for each pair of a token, not of a head: a thread has VECTOR pairs of one token, turns
// them in HEADS heads, and takes the next token's with the next threads.
//
// constants.cuh comes from Rust: Element, HEAD_DIM, ROTARY (even), INTERLEAVED, VECTOR (8 where all rows are 16-byte
// aligned and ROTARY a multiple of 16, else 1), HEADS, THREADS.
// Grid: (ceil(B * T * LANES / THREADS), ceil((H + Hkv) / HEADS)).

#include "constants.cuh"
#include "common/element.cuh"
#include "common/rotary.cuh"
#include "common/strides.cuh"

struct Params {
    const Element*  q;            // (B, T, H, HEAD_DIM)
    const Element*  k;            // (B, T, Hkv, HEAD_DIM)
    Element*        q_out;        // as q
    Element*        k_out;        // as k
    const unsigned* positions;    // (B, T), batches positions_stride apart
    const float*    frequencies;  // (ROTARY / 2), in radians per position
    Strides q_strides, k_strides, q_out_strides, k_out_strides;
    long long positions_stride;
    long long tokens;  // B * T
    int   T;
    int   q_heads, k_heads;  // H, Hkv
    float factor;
    float direction;  // 1 forward, -1 backward
};

using Vector = Vec<Element, VECTOR>;

constexpr int PAIR_LANES = ROTARY / 2 / VECTOR;
constexpr int LANES = PAIR_LANES + (HEAD_DIM - ROTARY) / VECTOR;

// Where a thread's token and head of one tensor begin, and where they go.
struct Head {
    const Element* from;
    Element*       to;
};

Head locate(const Params& p, long long batch, int t, int head) {
    const bool is_query = head < p.q_heads;
    const int index = is_query ? head : head - p.q_heads;
    const Strides from = is_query ? p.q_strides : p.k_strides, to = is_query ? p.q_out_strides : p.k_out_strides;
    return {at(is_query ? p.q : p.k, from, batch, t, index), at(is_query ? p.q_out : p.k_out, to, batch, t, index)};
}

void rotate(const Head& head, int lane, const float (&cosine)[VECTOR], const float (&sine)[VECTOR]) {
    const int first = INTERLEAVED ? 2 * lane * VECTOR : lane * VECTOR;
    const int second = INTERLEAVED ? first + VECTOR : first + ROTARY / 2;
    const Vector a = load<VECTOR>(head.from + first), b = load<VECTOR>(head.from + second);
    float low[VECTOR], high[VECTOR];
    turn<INTERLEAVED>(a, b, cosine, sine, low, high);
    store(head.to + first, to_vec<Element>(low));
    store(head.to + second, to_vec<Element>(high));
}

extern "C" __global__ void __launch_bounds__(THREADS)
rope_rotate(const __grid_constant__ Params p) {
    const long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    const long long token = index / LANES;
    const int lane = index % LANES;
    if (token >= p.tokens) return;
    const long long batch = token / p.T;
    const int t = token % p.T;
    const int first_head = blockIdx.y * HEADS, heads = min(HEADS, p.q_heads + p.k_heads - first_head);

    if (lane >= PAIR_LANES) {
        const int column = ROTARY + (lane - PAIR_LANES) * VECTOR;
        for (int i = 0; i < heads; ++i) {
            const Head head = locate(p, batch, t, first_head + i);
            if (head.to != head.from) store(head.to + column, load<VECTOR>(head.from + column));
        }
        return;
    }

    const double position = p.positions[batch * p.positions_stride + t];
    const Vec<float, VECTOR> frequency = load<VECTOR>(p.frequencies + lane * VECTOR);
    float cosine[VECTOR], sine[VECTOR];
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        sine_and_cosine(position, frequency.get(i), &sine[i], &cosine[i]);
        cosine[i] *= p.factor;
        sine[i] *= p.factor * p.direction;
    }
    for (int i = 0; i < heads; ++i) rotate(locate(p, batch, t, first_head + i), lane, cosine, sine);
}
