// The mean of the rows' losses (rows.cu), over the rows whose target is not IGNORE:
//
//   share = 1 / rows that are not ignored, 0 if all are
//   mean  = share * sum of loss (N)
//
// and what is computed before the gradient of the mean is known, and is a multiple of it:
//
//   x     = *factor * x            (count), in place; nothing is read or written where the factor is 1
//
// Entries: cross_entropy_share and cross_entropy_mean, one block each, in a fixed order; cross_entropy_scale, a thread
// for 8 elements. constants.cuh comes from Rust: Element (of x).

#include "constants.cuh"
#include "common/element.cuh"
#include "common/reduce.cuh"

constexpr unsigned IGNORE = 0xffffffffu;
constexpr int THREADS = 1024;

struct ShareParams {
    const unsigned* targets;  // (N)
    float*          share;    // one number
    long long       rows;     // N
};

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_share(const __grid_constant__ ShareParams p) {
    int counted = 0;
#pragma unroll 4
    for (long long i = threadIdx.x; i < p.rows; i += THREADS) counted += p.targets[i] != IGNORE;
    counted = block_sum<THREADS>(counted);
    if (threadIdx.x == 0) *p.share = counted > 0 ? 1.0f / counted : 0.0f;
}

struct MeanParams {
    const float* loss;   // (N)
    const float* share;  // one number
    float*       mean;   // one number
    long long    rows;   // N
};

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_mean(const __grid_constant__ MeanParams p) {
    float loss = 0;
#pragma unroll 4
    for (long long i = threadIdx.x; i < p.rows; i += THREADS) loss += p.loss[i];
    loss = block_sum<THREADS>(loss);
    if (threadIdx.x == 0) *p.mean = loss * *p.share;
}

struct ScaleParams {
    Element*     x;       // (count), aligned to 16 bytes
    const float* factor;  // one number
    long long    count;
};

template <int N> void scale(Element* x, float factor) {
    const Vec<Element, N> old = load<N>(x);
    float scaled[N];
#pragma unroll
    for (int k = 0; k < N; ++k) scaled[k] = factor * old.get(k);
    store(x, to_vec<Element>(scaled));
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_scale(const __grid_constant__ ScaleParams p) {
    const float factor = *p.factor;
    const long long i = (blockIdx.x * static_cast<long long>(THREADS) + threadIdx.x) * 8;
    if (factor == 1) return;
    if (i + 8 <= p.count) {
        scale<8>(p.x + i, factor);
    } else {
        for (long long k = i; k < p.count; ++k) scale<1>(p.x + k, factor);
    }
}
