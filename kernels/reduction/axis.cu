// Sum along an axis, times a factor (for a mean: one over the axis): out[o, i] = factor * sum over R of x[o, r, i].
// Overwritten; f32 sums, in an order that depends on the shape alone.
//
// Three entries: axis_sum_inner, where the axis is the innermost (I = 1): a block of THREADS adds up `stretch` elements of a
// row. axis_sum, where it is not: a block of 256 takes 32 * VECTOR columns of I and one part in `parts` of the rows, each
// of its 8 warps every eighth row of those. Where sums are few and long, there are several parts, whose sums
// axis_sum_finish adds in order.
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
    float*         partials;  // (parts, O, I); not used where there is one part
    long long      axis;    // R
    long long      inner;   // I
    long long      sums;    // O * I
    int            parts;
    int            stretch;  // elements of a part, where I = 1
    float          factor;
    int            _pad;
};

// Of sum number `index`, what this block has added up.
inline void finish(const Params& p, long long index, float sum) {
    if (p.parts == 1) p.out[index] = from_float<Element>(sum * p.factor);
    else p.partials[blockIdx.y * p.sums + index] = sum;
}

// Grid: (O; parts).
extern "C" __global__ void __launch_bounds__(THREADS)
axis_sum_inner(const __grid_constant__ Params p) {
    const long long first = static_cast<long long>(blockIdx.y) * p.stretch;
    const Element* row = p.x + blockIdx.x * p.axis + first;
    const long long left = p.axis - first;
    float sum = 0;
    for_columns<THREADS>(row, left < p.stretch ? static_cast<int>(left) : p.stretch, [&](int column, auto n) {
        const auto v = load<decltype(n)::value>(row + column);
#pragma unroll
        for (int k = 0; k < decltype(n)::value; ++k) sum += v.get(k);
    });
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) finish(p, blockIdx.x, sum);
}

// Grid: (O * (I / COLUMNS, rounded up); parts).
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
        for (long long row = blockIdx.y * WARPS + warp; row < p.axis; row += p.parts * WARPS) {
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
    finish(p, outer * p.inner + start + column, total);
}

// Grid: O * I / 32, rounded up; 256 threads.
extern "C" __global__ void __launch_bounds__(256)
axis_sum_finish(const __grid_constant__ Params p) {
    const long long index = blockIdx.x * 32ll + threadIdx.x % 32;
    const float sum = column_sum(p.partials, p.parts, p.sums, index);
    if (threadIdx.x < 32 && index < p.sums) p.out[index] = from_float<Element>(sum * p.factor);
}
