// The norm of all gradients together, and the factor that clips it (Pascanu et al. 2013, arXiv 1211.5063, algorithm 1):
//
//   norm   = sqrt(sum over all elements of all tensors of x²)
//   factor = min(1, max_norm / (norm + 1e-6))
//
// Both stay on the device: the optimizer reads them there, and nobody waits. The norm is finite exactly where every element
// is and no sum of squares leaves the range of f32 (an element of 1.8e19 does): one number for whether to take a step. The
// factor is 1 where the norm is not finite, or max_norm is infinite.
//
// Overwritten; the order of the sum depends on the chunks alone. Partial sums are f32, their sum f64.
//
// Two entries: norm_partial, one block per chunk, launched for each type of element, with a piece of the partials each;
// norm_finish, one block, once for all.
// constants.cuh comes from Rust: Element, CHUNK (a multiple of 8), THREADS.

#include "constants.cuh"
#include "common/chunks.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

struct Params {
    const Element* const* tensors;   // one for each tensor
    const long long*      counts;    // one for each tensor
    const Chunk*          chunks;    // one for each block
    float*                partials;  // one for each chunk
};

struct FinishParams {
    const float* partials;  // all of them
    long long    parts;     // their number
    float*       norm;      // one number
    float*       factor;    // one number
    float        max_norm;
};

extern "C" __global__ void __launch_bounds__(THREADS)
norm_partial(const __grid_constant__ Params p) {
    __shared__ const Element* x;
    __shared__ int count;
    if (threadIdx.x == 0) {
        const Chunk chunk = p.chunks[blockIdx.x];
        const long long start = static_cast<long long>(chunk.index) * CHUNK, left = p.counts[chunk.tensor] - start;
        x = p.tensors[chunk.tensor] + start;
        count = left < CHUNK ? left : CHUNK;
    }
    __syncthreads();
    float squares = 0;
    for_columns<THREADS>(x, count, [&](int column, auto n) {
        const auto v = load<decltype(n)::value>(x + column);
#pragma unroll
        for (int k = 0; k < decltype(n)::value; ++k) squares += v.get(k) * v.get(k);
    });
    squares = block_sum<THREADS>(squares);
    if (threadIdx.x == 0) p.partials[blockIdx.x] = squares;
}

extern "C" __global__ void __launch_bounds__(THREADS)
norm_finish(const __grid_constant__ FinishParams p) {
    double squares = 0;
    for (long long i = threadIdx.x; i < p.parts; i += THREADS) squares += p.partials[i];
    const double norm = sqrt(block_sum<THREADS>(squares));
    if (threadIdx.x == 0) {
        *p.norm = static_cast<float>(norm);
        const double factor = p.max_norm / (norm + 1e-6);
        *p.factor = norm < infinity() && factor < 1 ? static_cast<float>(factor) : 1.0f;
    }
}
