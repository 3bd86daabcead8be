// Reductions across the lanes of a warp and the warps of a block. The order of the additions is fixed, so a sum has the
// same bits every time. Every thread gets the result, unless said otherwise.

#pragma once

#include "common/math.cuh"

// `WIDTH` neighbouring lanes (a power of two) reduce among themselves. All 32 lanes must call.
template <int WIDTH = 32, class T> T warp_sum(T x) {
#pragma unroll
    for (int lane = WIDTH / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

template <int WIDTH = 32> float warp_max(float x) {
#pragma unroll
    for (int lane = WIDTH / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Every lane of warp w gives the same x. Returns, in lane i of every warp, what warp i gave, and `rest` past the last.
template <int THREADS, class T> T share_by_warp(T x, T rest) {
    __shared__ T by_warp[THREADS / 32];
    __syncthreads();  // an earlier call may still be reading
    if (threadIdx.x % 32 == 0) by_warp[threadIdx.x / 32] = x;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    return lane < THREADS / 32 ? by_warp[lane] : rest;
}

// Over the `THREADS` threads of a one-dimensional block (a multiple of 32, at most 1024). All of them must call.
template <int THREADS, class T> T block_sum(T x) { return warp_sum(share_by_warp<THREADS>(warp_sum(x), T(0))); }

template <int THREADS> float block_max(float x) {
    return warp_max(share_by_warp<THREADS>(warp_max(x), -infinity()));
}

// Sum over the rows of `values` (rows, width) at one column, by a block of 256 threads of which each 32 in a row take
// 32 neighbouring columns. The first 32 threads get the result; columns past the width are not read. All threads must
// call.
inline float column_sum(const float* values, long long rows, long long width, long long column) {
    __shared__ float by_warp[8][32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum = 0;
    if (column < width) {
#pragma unroll 4
        for (long long row = warp; row < rows; row += 8) sum += values[row * width + column];
    }
    by_warp[warp][lane] = sum;
    __syncthreads();
    sum = by_warp[0][lane];
#pragma unroll
    for (int i = 1; i < 8; ++i) sum += by_warp[i][lane];
    return sum;
}
