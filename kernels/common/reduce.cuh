// Reductions across the lanes of a warp and the warps of a block. The order of the additions is fixed, so a sum has the
// same bits every time. Every thread gets the result.

#pragma once

// `WIDTH` neighbouring lanes (a power of two) reduce among themselves. All 32 lanes must call.
template <int WIDTH = 32> float warp_sum(float x) {
#pragma unroll
    for (int lane = WIDTH / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

template <int WIDTH = 32> float warp_max(float x) {
#pragma unroll
    for (int lane = WIDTH / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Sum over the `THREADS` threads of a one-dimensional block (a multiple of 32, at most 1024). All of them must call.
template <int THREADS> float block_sum(float x) {
    x = warp_sum(x);
    if constexpr (THREADS == 32) return x;

    __shared__ float by_warp[THREADS / 32];
    __syncthreads();  // an earlier call may still be reading
    if (threadIdx.x % 32 == 0) by_warp[threadIdx.x / 32] = x;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    return warp_sum(lane < THREADS / 32 ? by_warp[lane] : 0.0f);
}
