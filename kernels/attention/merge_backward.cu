// Attention, merging partial results, backward (see merge.cu):
//
//   weight_i   = exp(lse_i - lse)
//   dot_i      = sum(dout * out_i, over the head dim)
//   dout_i     = weight_i * dout                                                  (B, T, H, HEAD_DIM)
//   dlse_i     = weight_i * (dlse + dot_i - sum(weight_j * dot_j, over j))        (B, H, T)
//
// A part with lse = -inf gets zeros, and its out is not read. Outputs are overwritten, but for those that are null, which
// nobody wants. Sums are f32, in one order.
//
// A lane keeps its part of dout in registers: what is read is read once. Constants and grid: see merge.cuh.

#include "attention/merge.cuh"
#include "common/reduce.cuh"

struct Gradient {
    Element* out;  // (B, T, H, HEAD_DIM); or null
    float*   lse;  // (B, H, T), contiguous; or null
    Strides  strides;
};

struct Params {
    Part           parts[MAX_PARTS];
    Gradient       dparts[MAX_PARTS];
    const Element* dout;      // (B, T, H, HEAD_DIM)
    const float*   dlse;      // (B, H, T), contiguous; null for zeros
    Strides        dout_strides;
    long long      tokens;  // B * T
    int            T;
};

using Vector = Vec<Element, VECTOR>;

extern "C" __global__ void __launch_bounds__(THREADS)
attention_merge_backward(const __grid_constant__ Params p) {
    const Row row(p.tokens, p.T);
    const Weights weights = weigh(p.parts, row);
    const Element* upstream = at(p.dout, p.dout_strides, row.batch, row.token, row.head);
    Vector grad[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; ++j) {
        const int column = row.column(j);
        if (column < HEAD_DIM) grad[j] = load<VECTOR>(upstream + column);
    }

    bool wants_lse = false;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) wants_lse |= p.dparts[i].lse != nullptr;
    float dot[PARTS], mean = 0;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        const Element* out = at(p.parts[i].out, p.parts[i].strides, row.batch, row.token, row.head);
        dot[i] = 0;
#pragma unroll
        for (int j = 0; j < VECTORS; ++j) {
            const int column = row.column(j);
            if (column >= HEAD_DIM || weights.of[i] == 0 || !wants_lse) continue;
            const Vector x = load<VECTOR>(out + column);
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) dot[i] += grad[j].get(e) * x.get(e);
        }
        dot[i] = warp_sum<GROUP>(dot[i]);
        mean += weights.of[i] * dot[i];
    }
    if (!row.exists) return;

    const float dlse = row.lane == 0 && p.dlse ? p.dlse[row.index] : 0;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        const Gradient& part = p.dparts[i];
        Element* to = at(part.out, part.strides, row.batch, row.token, row.head);
#pragma unroll
        for (int j = 0; j < VECTORS; ++j) {
            const int column = row.column(j);
            if (column >= HEAD_DIM || !part.out) continue;
            float values[VECTOR];
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) values[e] = weights.of[i] * grad[j].get(e);
            store(to + column, to_vec<Element>(values));
        }
        if (row.lane == 0 && part.lse) part.lse[row.index] = weights.of[i] * (dlse + dot[i] - mean);
    }
}
