// Attention, backward, the gradient of the sinks (H): a sink is the score of a key without a value, so
//
//   dsink     = -sum(exp(sink - lse) * delta, over all queries of the head)
//
// One block sums over a head, in one order, in f32. dsinks is overwritten.
//
// constants.cuh comes from Rust: THREADS. Grid: (H).

#include "common/math.cuh"
#include "common/reduce.cuh"
#include "attention/rows.cuh"
#include "constants.cuh"

struct Params {
    const RowStatistics* rows;        // (batches, H, T), contiguous
    const float*         sinks;       // (H)
    float*               dsinks;      // (H)
    long long T;
    int batches;
    int _pad;
};

extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_sinks(const __grid_constant__ Params p) {
    const float sink_log2 = p.sinks[blockIdx.x] * LOG2_E;
    float sum = 0;
    for (int batch = 0; batch < p.batches; ++batch) {
        const RowStatistics* rows = p.rows + (static_cast<long long>(batch) * gridDim.x + blockIdx.x) * p.T;
        for (long long query = threadIdx.x; query < p.T; query += THREADS) {
            sum -= exp2_approximate(sink_log2 - rows[query].lse_log2) * rows[query].delta;
        }
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) p.dsinks[blockIdx.x] = sum;
}
