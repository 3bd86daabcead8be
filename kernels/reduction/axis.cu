// Sum along an axis, times a factor (for a mean: one over the axis): out[o, i] = factor * sum over R of x[o, r, i].
// Overwritten; f32 sums, in an order that depends on the shape alone.
//
// Two entries: axis_sum_inner, where the axis is the innermost (I = 1): a block of THREADS adds up one row. axis_sum, where
// it is not: a block of 256 takes 32 * VECTOR columns of I, each of its 8 warps every eighth row.
//
// constants.cuh comes from Rust: Element; THREADS, of axis_sum_inner; VECTOR, 8 if I is a multiple of 8 and x and out are
// 16-byte aligned, else 1.

#include "constants.cuh"
#include "common/element.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

constexpr int WARPS = 8, COLUMNS = 32 * VECTOR;
constexpr int PITCH = 36;  // of sums in shared memory: 8 of the same lane, and 4 neighbouring lanes, are in banks of their own

struct Params {
    const Element* x;       // (O, R, I), contiguous
    Element*       out;     // (O, I), contiguous
    long long      axis;    // R; below 2^31 where I = 1
    long long      inner;   // I
    float          factor;
};

// Grid: O.
extern "C" __global__ void __launch_bounds__(THREADS)
axis_sum_inner(const __grid_constant__ Params p) {
    const Element* row = p.x + blockIdx.x * p.axis;
    float sum = 0;
    for_columns<THREADS>(row, static_cast<int>(p.axis), [&](int column, auto n) {
        const auto v = load<decltype(n)::value>(row + column);
#pragma unroll
        for (int k = 0; k < decltype(n)::value; ++k) sum += v.get(k);
    });
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) p.out[blockIdx.x] = from_float<Element>(sum * p.factor);
}

// Grid: O * (I / COLUMNS, rounded up).
extern "C" __global__ void __launch_bounds__(WARPS * 32)
axis_sum(const __grid_constant__ Params p) {
    __shared__ float by_warp[WARPS][VECTOR * PITCH];
    const long long across = (p.inner + COLUMNS - 1) / COLUMNS;
    const long long outer = blockIdx.x / across, start = blockIdx.x % across * COLUMNS;
    const int warp = threadIdx.x / 32, first = threadIdx.x % 32 * VECTOR;
    const Element* x = p.x + outer * p.axis * p.inner + start + first;
    float sum[VECTOR] = {};
    if (start + first < p.inner) {
#pragma unroll 4
        for (long long row = warp; row < p.axis; row += WARPS) {
            const auto v = load<VECTOR>(x + row * p.inner);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) sum[k] += v.get(k);
        }
    }
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) by_warp[warp][k * PITCH + threadIdx.x % 32] = sum[k];
    __syncthreads();

    const int column = threadIdx.x, place = column % VECTOR * PITCH + column / VECTOR;
    if (column >= COLUMNS || start + column >= p.inner) return;
    float total = by_warp[0][place];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) total += by_warp[w][place];
    p.out[outer * p.inner + start + column] = from_float<Element>(total * p.factor);
}
