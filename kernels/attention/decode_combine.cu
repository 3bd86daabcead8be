// Attention of a few new tokens, the parts of several splits merged (see decode.cu and merge.cu):
//
//   lse = ln(exp(sinks[h]) + sum(exp(lse_i), over the splits))     (B, H, T)
//   out = sum(exp(lse_i - lse) * out_i, over the splits)           (B, T, H, VALUE_DIM)
//
// A part with lse = -inf has no key there; its out is not read. Outputs are overwritten.
//
// GROUP lanes share a row: each weighs some of the parts for all of them.
//
// constants.cuh comes from Rust: Element, VALUE_DIM (a multiple of 8), GROUP (a power of two up to 32), THREADS.
// Grid: ceil(B * H * T * GROUP / THREADS).

#include "constants.cuh"
#include "common/element.cuh"
#include "common/math.cuh"
#include "common/reduce.cuh"
#include "common/strides.cuh"

struct Params {
    const float* partial_out;  // (splits, B, H, T, VALUE_DIM), contiguous
    const float* partial_lse;  // (splits, B, H, T)
    const float* sinks;        // (H), or null for none
    Element*     out;          // (B, T, H, VALUE_DIM)
    float*       lse;          // (B, H, T), contiguous
    Strides      out_strides;
    long long    rows;  // B * H * T
    int T, heads, splits;
};

constexpr int VECTORS = (VALUE_DIM + GROUP * 8 - 1) / (GROUP * 8);  // of 8 elements, per lane

extern "C" __global__ void __launch_bounds__(THREADS)
attention_decode_combine(const __grid_constant__ Params p) {
    const long long index = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) / GROUP;
    const int lane = threadIdx.x % GROUP;
    // All lanes take part in exchanges: those past the last row do that one again, and write nothing.
    const long long row = min(index, p.rows - 1);
    const int t = row % p.T, head = row / p.T % p.heads;
    const long long batch = row / p.T / p.heads;
    const float* lse = p.partial_lse + row;
    const float* partial_out = p.partial_out + row * VALUE_DIM;

    const float sink = p.sinks && lane == 0 ? p.sinks[head] : -infinity();
    float most = sink;
    for (int i = lane; i < p.splits; i += GROUP) most = fmaxf(most, lse[i * p.rows]);
    most = warp_max<GROUP>(most);
    const float reference = most == -infinity() ? 0 : most;

    float out[VECTORS][8] = {};
    float total = exp2_approximate((sink - reference) * LOG2_E);
    for (int first = 0; first < p.splits; first += GROUP) {
        const int mine = first + lane;
        const float weight = mine < p.splits ? exp2_approximate((lse[mine * p.rows] - reference) * LOG2_E) : 0;
        total += weight;
        for (int i = first; i < min(first + GROUP, p.splits); ++i) {
            const float of_part = __shfl_sync(0xffffffffu, weight, i - first, GROUP);
            if (of_part == 0) continue;
#pragma unroll
            for (int j = 0; j < VECTORS; ++j) {
                const int column = (j * GROUP + lane) * 8;
                if (column >= VALUE_DIM) break;
                const Vec8<float> x = load8(partial_out + i * p.rows * VALUE_DIM + column);
#pragma unroll
                for (int e = 0; e < 8; ++e) out[j][e] += of_part * x.get(e);
            }
        }
    }
    total = warp_sum<GROUP>(total);
    if (index >= p.rows) return;

    const float inverse = total == 0 ? 0 : 1 / total;
    Element* to = at(p.out, p.out_strides, batch, t, head);
#pragma unroll
    for (int j = 0; j < VECTORS; ++j) {
        const int column = (j * GROUP + lane) * 8;
        if (column >= VALUE_DIM) break;
#pragma unroll
        for (int e = 0; e < 8; ++e) out[j][e] *= inverse;
        store8(to + column, to_vec<Element>(out[j]));
    }
    if (lane == 0) p.lse[row] = reference + logf(total);
}
