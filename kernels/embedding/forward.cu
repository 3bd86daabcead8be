// Looks up rows of a table: out[i] = weight[ids[i]]. `out` is overwritten. An id that is not below V gives a row of
// NaN: reading outside the table would be worse, and nothing can be reported without waiting for the device.
//
// One block per row. constants.cuh comes from Rust: Element, THREADS.

#include "constants.cuh"
#include "common/element.cuh"

struct Params {
    const Element*  weight;  // (V, C), contiguous
    const unsigned* ids;     // (N)
    Element*        out;     // (N, C), contiguous
    long long       vocabulary;  // V
    int             width;       // C
    int             aligned;     // whether rows are 16-byte aligned and C is a multiple of 8
};

template <int N> void copy_row(const Params& p, unsigned id) {
    const Element* in = p.weight + static_cast<long long>(id) * p.width;
    Element* out = p.out + static_cast<long long>(blockIdx.x) * p.width;
    for (int column = threadIdx.x * N; column < p.width; column += THREADS * N) {
        if (id < p.vocabulary) {
            store(out + column, load<N>(in + column));
        } else {
            float nan[N];
#pragma unroll
            for (int k = 0; k < N; ++k) nan[k] = __uint_as_float(0x7fffffffu);
            store(out + column, to_vec<Element>(nan));
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
embedding_forward(const __grid_constant__ Params p) {
    const unsigned id = __shfl_sync(0xffffffffu, threadIdx.x % 32 == 0 ? p.ids[blockIdx.x] : 0, 0);
    if (p.aligned) copy_row<8>(p, id);
    else copy_row<1>(p, id);
}
