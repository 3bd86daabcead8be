// Walking along a row of any width at any alignment.

#pragma once

#include "common/element.cuh"

template <int N> struct Count { static constexpr int value = N; };

// What every thread of a warp needs, read by its first lane. All 32 lanes must call.
template <class T> T load_for_warp(const T* address) {
    T value = T(0);
    if (threadIdx.x % 32 == 0) value = *address;
    return __shfl_sync(0xffffffffu, value, 0);
}

// The threads of a block call f(column, Count<N>()) so that every column of the row is covered once, N columns at a
// time: WIDE where that is a whole number of 16-byte accesses, 1 before the first such column and after the last. Which
// thread covers a column depends on THREADS, WIDE, the width and the row's address modulo 16 alone.
template <int THREADS, int WIDE = 8, class T, class F> void for_columns(const T* row, int width, F f) {
    const int past = reinterpret_cast<unsigned long long>(row) % 16 / sizeof(T);
    const int head = past == 0 ? 0 : 16 / sizeof(T) - past;
    const int body = width <= head ? head : head + (width - head) / WIDE * WIDE;
    for (int column = threadIdx.x; column < head && column < width; column += THREADS) f(column, Count<1>());
#pragma unroll 2
    for (int column = head + threadIdx.x * WIDE; column < body; column += THREADS * WIDE) f(column, Count<WIDE>());
    for (int column = body + threadIdx.x; column < width; column += THREADS) f(column, Count<1>());
}
