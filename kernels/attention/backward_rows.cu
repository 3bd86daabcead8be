// Attention, backward, first step: what the other steps need of each query (B, H, T):
//
//   delta    = sum(out * grad_out, over the head dim)    (Dao 2023, FlashAttention-2, algorithm 2, line 4)
//   lse_log2 = lse in base 2; +inf for a query that sees no key, so that its probabilities come out as 0
//
// 16 bytes of a row per thread. `rows` is overwritten. Sums are f32.
//
// constants.cuh comes from Rust: Element, HEAD_DIM, THREADS. Grid: (ceil(T * HEAD_DIM / 8 / THREADS), H, B).

#include "common/math.cuh"
#include "common/reduce.cuh"
#include "attention/rows.cuh"
#include "attention/tile.cuh"

struct Params {
    const Element* out;       // (B, T, H, HEAD_DIM)
    const Element* grad_out;  // (B, T, H, HEAD_DIM)
    const float*   lse;       // (B, H, T), contiguous
    RowStatistics* rows;      // (B, H, T), contiguous
    Strides out_strides, grad_out_strides;
    int T;
};

extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_rows(const __grid_constant__ Params p) {
    constexpr int LANES = HEAD_DIM / 8;  // to a row
    const long long query = static_cast<long long>(blockIdx.x) * (THREADS / LANES) + threadIdx.x / LANES;
    const long long head = blockIdx.y, batch = blockIdx.z;
    const int column = threadIdx.x % LANES * 8;

    float delta = 0;
    if (query < p.T) {
        const auto out = load8(at(p.out, p.out_strides, batch, query, head) + column);
        const auto grad_out = load8(at(p.grad_out, p.grad_out_strides, batch, query, head) + column);
#pragma unroll
        for (int i = 0; i < 8; ++i) delta += out.get(i) * grad_out.get(i);
    }
    delta = warp_sum<LANES>(delta);
    if (column == 0 && query < p.T) {
        const long long row = (batch * gridDim.y + head) * p.T + query;
        const float lse = p.lse[row];
        p.rows[row] = {lse == -infinity() ? infinity() : lse * LOG2_E, delta};
    }
}
