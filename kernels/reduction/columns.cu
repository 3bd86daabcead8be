// Sum over rows: out[c] = sum over N of x[n, c] (W); the gradient of a bias. Overwritten; f32 sums, in an order that
// depends on the shape alone.
//
// Two entries: column_sums_partial, where a block takes 32 * VECTOR columns and one part in `parts` of the rows, each
// of its 8 warps every eighth row of those; column_sums_finish, which adds the parts in order.
//
// constants.cuh comes from Rust: Element; VECTOR, 8 if W is a multiple of 8 and all rows are 16-byte aligned, else 1.

#include "constants.cuh"
#include "common/element.cuh"
#include "common/reduce.cuh"

constexpr int WARPS = 8, COLUMNS = 32 * VECTOR;
constexpr int PIECE = VECTOR < 4 ? VECTOR : 4;  // columns of a lane beside those of the next, in shared memory
constexpr int PITCH = 32 * PIECE + 16;          // from one piece of a lane to its next

// Where a column of a block lies there: without bank conflicts, whether lanes have neighbours or threads have columns.
int place(int column) {
    const int lane = column / VECTOR, k = column % VECTOR;
    return k / PIECE * PITCH + lane * PIECE + k % PIECE;
}

struct Params {
    const Element* x;         // (N, W), rows stride elements apart
    float*         partials;  // (parts, W)
    Element*       out;       // (W)
    long long      rows;      // N
    long long      stride;
    long long      width;     // W
    long long      parts;
};

// Grid: (W / COLUMNS, rounded up; parts).
extern "C" __global__ void __launch_bounds__(WARPS * 32)
column_sums_partial(const __grid_constant__ Params p) {
    __shared__ alignas(16) float by_warp[WARPS][VECTOR / PIECE * PITCH];
    const int warp = threadIdx.x / 32, first = threadIdx.x % 32 * VECTOR;
    const long long column = blockIdx.x * static_cast<long long>(COLUMNS) + first;
    float sum[VECTOR] = {};
    if (column < p.width) {
#pragma unroll 4
        for (long long row = blockIdx.y * static_cast<long long>(WARPS) + warp; row < p.rows; row += p.parts * WARPS) {
            const auto x = load<VECTOR>(p.x + row * p.stride + column);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) sum[k] += x.get(k);
        }
    }
#pragma unroll
    for (int k = 0; k < VECTOR; k += PIECE) {
        float piece[PIECE];
#pragma unroll
        for (int i = 0; i < PIECE; ++i) piece[i] = sum[k + i];
        store_shared(&by_warp[warp][place(first + k)], to_vec<float>(piece));
    }
    __syncthreads();

    const long long mine = blockIdx.x * static_cast<long long>(COLUMNS) + threadIdx.x;
    if (threadIdx.x >= COLUMNS || mine >= p.width) return;
    const int here = place(threadIdx.x);
    float total = by_warp[0][here];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) total += by_warp[w][here];
    p.partials[blockIdx.y * p.width + mine] = total;
}

// Grid: W / 32, rounded up.
extern "C" __global__ void __launch_bounds__(256)
column_sums_finish(const __grid_constant__ Params p) {
    const long long column = blockIdx.x * 32ll + threadIdx.x % 32;
    const float sum = column_sum(p.partials, p.parts, p.width, column);
    if (threadIdx.x < 32 && column < p.width) p.out[column] = from_float<Element>(sum);
}
