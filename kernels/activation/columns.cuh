// How the threads of a block share (N, W) elements: a warp takes VECTOR * 32 neighbouring columns, and goes down rows
// (warp, warp + 8 * parts, ...) with what each column has one of in registers. 256 threads.
//
// constants.cuh: Element; VECTOR, the elements of 16 bytes if all rows are aligned, else 1; FUNCTION; GATED; HAS_BIAS.
// Grid: (W / (32 * VECTOR), rounded up; parts).

#pragma once

#include "activation/functions.cuh"
#include "common/element.cuh"

using Vector = Vec<Element, VECTOR>;

inline int warp() { return threadIdx.x / 32; }
inline int lane() { return threadIdx.x % 32; }
inline long long first_column() { return (blockIdx.x * 32ll + lane()) * VECTOR; }

// Calls f(row) for each of this warp's rows.
template <class F> void for_rows(long long rows, F f) {
#pragma unroll 2
    for (long long row = blockIdx.y * 8 + warp(); row < rows; row += gridDim.y * 8ll) f(row);
}

struct Numbers { float at[VECTOR]; };

template <class T> Numbers numbers(const T* from) {
    const Vec<T, VECTOR> v = load<VECTOR>(from);
    Numbers numbers;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) numbers.at[k] = v.get(k);
    return numbers;
}

// What each column has one of, read once by a block. All threads must call; `exists` tells whether there is this column.
inline Numbers bias_at(const Element* bias, long long column, bool exists) {
    Numbers all = {};
    if constexpr (HAS_BIAS) {
        __shared__ float shared[VECTOR][32];
        __syncthreads();  // an earlier call may still be reading
        if (warp() == 0 && exists) {
            all = numbers(bias + column);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) shared[k][lane()] = all.at[k];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) all.at[k] = exists ? shared[k][lane()] : 0;
    }
    return all;
}
