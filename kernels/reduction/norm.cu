// The norm of all gradients together, and the factor that clips it (Pascanu et al. 2013, arXiv 1211.5063, algorithm 1):
//
//   norm   = sqrt(sum over all elements of all tensors of x²)
//   factor = min(1, max_norm / (norm + 1e-6))
//
// Both stay on the device: the optimizer reads the factor there, and nobody waits. Overwritten; the order of the sum
// depends on the chunks alone. Partial sums are f32, their sum f64.
//
// Two entries: norm_partial, one block per chunk; norm_finish, one block.
// constants.cuh comes from Rust: Element, CHUNK (a multiple of 8), THREADS.

#include "constants.cuh"
#include "common/chunks.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

struct Params {
    const Element* const* tensors;   // one for each tensor
    const long long*      counts;    // one for each tensor
    const Chunk*          chunks;    // one for each block of norm_partial
    float*                partials;  // one for each chunk
    float*                norm;      // one number
    float*                factor;    // one number
    long long             parts;     // number of chunks
    float                 max_norm;
};

extern "C" __global__ void __launch_bounds__(THREADS)
norm_partial(const __grid_constant__ Params p) {
    const Chunk chunk = p.chunks[blockIdx.x];
    const long long start = static_cast<long long>(chunk.index) * CHUNK, left = p.counts[chunk.tensor] - start;
    const Element* x = p.tensors[chunk.tensor] + start;
    float squares = 0;
    for_columns<THREADS>(x, left < CHUNK ? left : CHUNK, [&](int column, auto n) {
        const auto v = load<decltype(n)::value>(x + column);
#pragma unroll
        for (int k = 0; k < decltype(n)::value; ++k) squares += v.get(k) * v.get(k);
    });
    squares = block_sum<THREADS>(squares);
    if (threadIdx.x == 0) p.partials[blockIdx.x] = squares;
}

extern "C" __global__ void __launch_bounds__(THREADS)
norm_finish(const __grid_constant__ Params p) {
    double squares = 0;
    for (long long i = threadIdx.x; i < p.parts; i += THREADS) squares += p.partials[i];
    const double norm = sqrt(block_sum<THREADS>(squares));
    if (threadIdx.x == 0) {
        *p.norm = static_cast<float>(norm);
        const double factor = p.max_norm / (norm + 1e-6);
        *p.factor = factor < 1 ? static_cast<float>(factor) : 1.0f;
    }
}
