// Sum of all elements, times a factor (1 / count for a mean): out = factor * sum of x. Overwritten; the order depends
// on the count alone. Partial sums are f32, their sum f64.
//
// Two entries: sum_partial, `parts` blocks; sum_finish, one block. constants.cuh comes from Rust: Element, THREADS.

#include "constants.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

struct Params {
    const Element* x;         // (count)
    float*         partials;  // (parts)
    Element*       out;       // one number
    long long      count;
    long long      parts;
    double         factor;
};

// A block takes every `parts`-th stretch of THREADS * 8 elements.
extern "C" __global__ void __launch_bounds__(THREADS)
sum_partial(const __grid_constant__ Params p) {
    constexpr int STRETCH = THREADS * 8;
    float sum = 0;
    for (long long start = blockIdx.x * static_cast<long long>(STRETCH); start < p.count; start += p.parts * STRETCH) {
        const int width = p.count - start < STRETCH ? p.count - start : STRETCH;
        const Element* x = p.x + start;
        for_columns<THREADS>(x, width, [&](int column, auto n) {
            const auto v = load<decltype(n)::value>(x + column);
#pragma unroll
            for (int k = 0; k < decltype(n)::value; ++k) sum += v.get(k);
        });
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) p.partials[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
sum_finish(const __grid_constant__ Params p) {
    double sum = 0;
    for (long long i = threadIdx.x; i < p.parts; i += THREADS) sum += p.partials[i];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) *p.out = from_float<Element>(static_cast<float>(sum * p.factor));
}
