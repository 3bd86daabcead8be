// Attention, backward, first step: what the other steps need of each query (B, H, T):
//
//   delta    = sum(out * dout, over VALUE_DIM) - dlse            (Dao 2023, FlashAttention-2, algorithm 2, line 4)
//   lse_log2 = lse in base 2; +inf for a query that sees no key, so that its probabilities come out as 0
//
// LANES threads to a row, each of which takes 16 bytes at a time. `rows` is overwritten. Sums are f32.
//
// constants.cuh comes from Rust: Element, VALUE_DIM, DOCUMENTS, THREADS, LANES (a power of two). Grid: (ceil(T * LANES /
// THREADS), H, B); with DOCUMENTS, T of the longest document, and the number of them for B.

#include "common/math.cuh"
#include "common/reduce.cuh"
#include "attention/rows.cuh"
#include "attention/sequence.cuh"
#include "attention/tile.cuh"

struct Params {
    const Element* out;       // (B, T, H, VALUE_DIM)
    const Element* dout;      // (B, T, H, VALUE_DIM)
    const float*   lse;       // (B, H, T), contiguous
    const float*   dlse;      // (B, H, T), contiguous; null where nothing depends on the LSE
    RowStatistics* rows;      // (B, H, T), contiguous
    Strides out_strides, dout_strides;
    Documents documents;
    int T, S;
};

extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_rows(const __grid_constant__ Params p) {
    const unsigned query = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    const int head = blockIdx.y;
    const Sequence sequence(p, blockIdx.z);
    const int lane = threadIdx.x % LANES;

    float delta = 0;
    if (query < sequence.T) {
        const unsigned token = sequence.query + query;
        const Element* out_row = at(p.out, p.out_strides, sequence.batch, token, head);
        const Element* dout_row = at(p.dout, p.dout_strides, sequence.batch, token, head);
#pragma unroll
        for (int first = 0; first < VALUE_DIM; first += LANES * CHUNK) {
            const int column = first + lane * CHUNK;
            if (column >= VALUE_DIM) break;
            const auto out = load<CHUNK>(out_row + column), dout = load<CHUNK>(dout_row + column);
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) delta += out.get(i) * dout.get(i);
        }
    }
    delta = warp_sum<LANES>(delta);
    if (lane == 0 && query < sequence.T) {
        const long long row = sequence.row(p, gridDim.y, head, query);
        const float lse = p.lse[row];
        if (p.dlse != nullptr) delta -= p.dlse[row];
        p.rows[row] = {lse == -infinity() ? infinity() : lse * LOG2_E, delta};
    }
}
