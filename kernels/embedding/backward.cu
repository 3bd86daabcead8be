// Gradient of embedding lookup (forward.cu): dweight[v] = sum over the i with ids[i] = v of dout[i], for every v.
// Overwritten, zero where no id is v. Ids that are not below V are left out.
//
// Deterministic without sorting and without atomics: a block owns GROUP rows of the table and THREADS of their columns,
// looks through all ids in order, and adds what is its own, so every sum runs in the order of i. That reads the ids
// V / GROUP * C / THREADS times, from L2: for GPT-2's table, (50257, 768), 600 MB with 16,384 ids, a fraction of a
// millisecond on a large GPU. Past some 100,000 ids, sorting them would be faster.
//
// constants.cuh comes from Rust: Element; THREADS, a multiple of 32; GROUP. Grid: (V / GROUP, C / THREADS), rounded up.

#include "constants.cuh"
#include "common/element.cuh"

struct Params {
    const Element*  dout;     // (N, C), contiguous
    const unsigned* ids;      // (N)
    Element*        dweight;  // (V, C), contiguous
    long long       count;    // N
    int             vocabulary;  // V
    int             width;       // C
};

constexpr int WARPS = THREADS / 32;

extern "C" __global__ void __launch_bounds__(THREADS)
embedding_backward(const __grid_constant__ Params p) {
    __shared__ float sums[GROUP][THREADS];  // a thread uses its own column only
    __shared__ int found[THREADS], row_of[THREADS], found_by_warp[WARPS];

    const int first_row = blockIdx.x * GROUP, column = blockIdx.y * THREADS + threadIdx.x;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int row = 0; row < GROUP; ++row) sums[row][threadIdx.x] = 0;

    for (long long start = 0; start < p.count; start += THREADS) {
        const long long i = start + threadIdx.x;
        const unsigned row = i < p.count ? p.ids[i] - first_row : GROUP;  // wraps to a large number below first_row
        const unsigned mine = __ballot_sync(0xffffffffu, row < GROUP);
        if (!__syncthreads_or(mine != 0)) continue;

        if (lane == 0) found_by_warp[warp] = __popc(mine);
        __syncthreads();
        int place = __popc(mine & ((1u << lane) - 1)), total = 0;
        for (int w = 0; w < WARPS; ++w) {
            if (w < warp) place += found_by_warp[w];
            total += found_by_warp[w];
        }
        if (row < GROUP) {
            found[place] = threadIdx.x;
            row_of[place] = row;
        }
        __syncthreads();
        if (column < p.width) {
#pragma unroll 4
            for (int k = 0; k < total; ++k)
                sums[row_of[k]][threadIdx.x] += to_float(p.dout[(start + found[k]) * p.width + column]);
        }
    }
    if (column >= p.width) return;
#pragma unroll
    for (int row = 0; row < GROUP; ++row) {
        const long long id = first_row + row;
        if (id < p.vocabulary) p.dweight[id * p.width + column] = from_float<Element>(sums[row][threadIdx.x]);
    }
}
