// Walking along a row of any width at any alignment.

#pragma once

#include "common/element.cuh"

template <int N> struct Count { static constexpr int value = N; };

// The threads of a block call f(column, Count<N>()) so that every column of the row is covered once, N columns at a
// time: 8 where that is a whole number of 16-byte accesses, 1 before the first such column and after the last.
template <int THREADS, class T, class F> void for_columns(const T* row, int width, F f) {
    const int past = reinterpret_cast<unsigned long long>(row) % 16 / sizeof(T);
    const int head = past == 0 ? 0 : 16 / sizeof(T) - past;
    const int body = width <= head ? head : head + (width - head) / 8 * 8;
    for (int column = threadIdx.x; column < head && column < width; column += THREADS) f(column, Count<1>());
#pragma unroll 2
    for (int column = head + threadIdx.x * 8; column < body; column += THREADS * 8) f(column, Count<8>());
    for (int column = body + threadIdx.x; column < width; column += THREADS) f(column, Count<1>());
}
