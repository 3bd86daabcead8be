// A row in SLICES slices. A cluster of as many blocks has one each; where there are no clusters, CLUSTER is 1, and a block
// takes them one by one, so that sums over a row have the same bits.

#pragma once

#include "common/cluster.cuh"

// Columns of a row.
struct Columns { int first, count; };

// Slices begin with whole 16-byte accesses, of WIDE elements, if the row does.
template <int SLICES, int WIDE> Columns slice(int width, int number) {
    if constexpr (SLICES == 1) return {0, width};
    const int each = (width / SLICES / WIDE + 1) * WIDE;
    const long long first = 1ll * number * each, rest = max(width - first, 0ll);
    return {static_cast<int>(min(first, 1ll * width)), static_cast<int>(min(rest, 1ll * each))};
}

// The columns of this block, one of CLUSTER in a row that share a row.
template <int CLUSTER, int WIDE> Columns columns_of_block(int width) {
    return slice<CLUSTER, WIDE>(width, blockIdx.x % CLUSTER);
}

// One for each slice.
template <class T, int SLICES> struct Parts { T of[SLICES]; };

// What `read` finds in each slice, for every thread of each block: `read` gets columns, counted from the block's first,
// and gives a multiple of 8 bytes, the same to all threads. Once for each `shared`.
template <int CLUSTER, int WIDE, int SLICES, class T, class F>
Parts<T, SLICES> read_slices(T (&shared)[SLICES], int width, F read) {
    if constexpr (SLICES == 1) {
        return {{read(Columns{0, width})}};
    } else {
        if constexpr (CLUSTER > 1) {
            static_assert(CLUSTER == SLICES, "a slice for each block");
            cluster_wait();
            share_in_cluster(shared, read(Columns{0, columns_of_block<CLUSTER, WIDE>(width).count}));
        } else {
#pragma unroll 1
            for (int i = 0; i < SLICES; ++i) {
                const T part = read(slice<SLICES, WIDE>(width, i));
                if (threadIdx.x == 0) shared[i] = part;
            }
            __syncthreads();
        }
        Parts<T, SLICES> parts;
#pragma unroll
        for (int i = 0; i < SLICES; ++i) parts.of[i] = shared[i];
        return parts;
    }
}
