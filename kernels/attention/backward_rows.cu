// Attention, backward, first step: what the other steps need of each query (B, H, T):
//
//   delta    = sum(out * grad_out, over the head dim)    (Dao 2023, FlashAttention-2, algorithm 2, line 4)
//   lse_log2 = lse in base 2; +inf for a query that sees no key, so that its probabilities come out as 0
//
// 16 bytes of a row per thread. `rows` is overwritten. Sums are f32.
//
// constants.cuh comes from Rust: Element, HEAD_DIM, DOCUMENTS, THREADS. Grid: (ceil(T * HEAD_DIM / 8 / THREADS), H, B);
// with DOCUMENTS, T of the longest document, and the number of them for B.

#include "common/math.cuh"
#include "common/reduce.cuh"
#include "attention/rows.cuh"
#include "attention/sequence.cuh"
#include "attention/tile.cuh"

struct Params {
    const Element* out;       // (B, T, H, HEAD_DIM)
    const Element* grad_out;  // (B, T, H, HEAD_DIM)
    const float*   lse;       // (B, H, T), contiguous
    RowStatistics* rows;      // (B, H, T), contiguous
    Strides out_strides, grad_out_strides;
    Documents documents;
    int T, S;
};

extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_rows(const __grid_constant__ Params p) {
    constexpr int LANES = HEAD_DIM / 8;  // to a row
    const unsigned query = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    const int head = blockIdx.y;
    const Sequence sequence(p, blockIdx.z);
    const int column = threadIdx.x % LANES * 8;

    float delta = 0;
    if (query < sequence.T) {
        const unsigned token = sequence.query + query;
        const auto out = load8(at(p.out, p.out_strides, sequence.batch, token, head) + column);
        const auto grad_out = load8(at(p.grad_out, p.grad_out_strides, sequence.batch, token, head) + column);
#pragma unroll
        for (int i = 0; i < 8; ++i) delta += out.get(i) * grad_out.get(i);
    }
    delta = warp_sum<LANES>(delta);
    if (column == 0 && query < sequence.T) {
        const long long row = sequence.row(p, gridDim.y, head, query);
        const float lse = p.lse[row];
        p.rows[row] = {lse == -infinity() ? infinity() : lse * LOG2_E, delta};
    }
}
