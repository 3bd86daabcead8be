// Attention, merging partial results: PARTS of them, over disjoint keys, into the one over all their keys (Ye et al.
// 2025, FlashInfer, arXiv 2501.01005, section 2.2):
//
//   lse = ln(sum(exp(lse_i), over the parts))             (B, H, T)
//   out = sum(exp(lse_i - lse) * out_i, over the parts)   (B, T, H, HEAD_DIM)
//
// A part with lse = -inf has no key there: it counts for nothing, and its out is not read. Where no part has a key, out
// is 0 and lse -inf. Outputs are overwritten. Sums are f32.
//
// Constants and grid: see merge.cuh.

#include "attention/merge.cuh"

struct Params {
    Part      parts[MAX_PARTS];
    Element*  out;  // (B, T, H, HEAD_DIM)
    float*    lse;  // (B, H, T), contiguous
    Strides   out_strides;
    long long tokens;  // B * T
    int       T;
};

extern "C" __global__ void __launch_bounds__(THREADS)
attention_merge(const __grid_constant__ Params p) {
    const Row row(p.tokens, p.T);
    const Weights weights = weigh(p.parts, row);
    if (!row.exists) return;
    float out[VECTORS][VECTOR] = {};
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        if (weights.of[i] == 0) continue;
        const Element* from = at(p.parts[i].out, p.parts[i].strides, row.batch, row.token, row.head);
#pragma unroll
        for (int j = 0; j < VECTORS; ++j) {
            const int column = row.column(j);
            if (column >= HEAD_DIM) continue;
            const Vec<Element, VECTOR> x = load<VECTOR>(from + column);
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) out[j][e] += weights.of[i] * x.get(e);
        }
    }
    Element* to = at(p.out, p.out_strides, row.batch, row.token, row.head);
#pragma unroll
    for (int j = 0; j < VECTORS; ++j) {
        const int column = row.column(j);
        if (column < HEAD_DIM) store(to + column, to_vec<Element>(out[j]));
    }
    if (row.lane == 0) p.lse[row.index] = weights.lse;
}
