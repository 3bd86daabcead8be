// Blocks that work together: a thread-block cluster (sm_90 and later), whose blocks run at the same time, wait for each
// other and reach each other's shared memory.

#pragma once

#include "common/memory.cuh"

// Before a kernel's name: each `blocks` blocks in a row of its grid are a cluster. Earlier architectures have none, and
// kernels for them are compiled with 1.
#if __CUDA_ARCH__ >= 900
#define CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)
#else
#define CLUSTER_OF(blocks)
#endif

// All threads of all blocks wait for each other, and see what the others have written to shared memory. The first has to
// come before a block reaches into another one's memory (it may not have begun yet), the last after (it may be over).
// PTX ISA: Parallel Synchronization and Communication Instructions: barrier.cluster.
__forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// This block's number in its cluster.
// PTX ISA: Special Registers: %cluster_ctarank.
__forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Writes to where block `rank` has what this block has at `to`.
// PTX ISA: Data Movement and Conversion Instructions: mapa, st.
template <class T> void store_in_cluster(T* to, unsigned rank, const T& x) {
    static_assert(sizeof(T) % 8 == 0, "8 bytes at a time");
#pragma unroll
    for (int i = 0; i < sizeof(T) / 8; ++i) {
        const uint2 piece = reinterpret_cast<const uint2*>(&x)[i];
        asm volatile(
            "{ .reg .u32 there; mapa.shared::cluster.u32 there, %0, %1; st.shared::cluster.v2.u32 [there], {%2, %3}; }"
            :: "r"(shared_address(to) + 8 * i), "r"(rank), "r"(piece.x), "r"(piece.y) : "memory");
    }
}

// Reads what block `rank` has where this block has `from`.
// PTX ISA: Data Movement and Conversion Instructions: mapa, ld.
__forceinline__ uint2 load_in_cluster(const uint2* from, unsigned rank) {
    uint2 x;
    asm volatile(
        "{ .reg .u32 there; mapa.shared::cluster.u32 there, %2, %3; ld.shared::cluster.v2.u32 {%0, %1}, [there]; }"
        : "=r"(x.x), "=r"(x.y) : "r"(shared_address(from)), "r"(rank) : "memory");
    return x;
}

// Every thread of a cluster of BLOCKS blocks finds in `parts` what each block gave; x is the block's own, the same in all
// of its threads. Not again to the same place before all have read it.
template <int BLOCKS, class T> void share_in_cluster(T (&parts)[BLOCKS], const T& x) {
    if (threadIdx.x < BLOCKS) store_in_cluster(&parts[cluster_rank()], threadIdx.x, x);
    cluster_wait();
}

template <int COUNT> float2 sum_in_order(const float2* values) {
    float2 sum = values[0];
#pragma unroll
    for (int i = 1; i < COUNT; ++i) sum = make_float2(sum.x + values[i].x, sum.y + values[i].y);
    return sum;
}

// Sums over the BLOCKS blocks of a cluster, added up in their order, for every thread of each; x is the block's own,
// the same in all of its threads. Two sums need no barrier between them: the blocks alternate between two places.
template <int BLOCKS> struct ClusterSum {
    float2 (*places)[BLOCKS];  // two, in shared memory
    int    turn = 0;

    float2 operator()(float2 x) {
        share_in_cluster(places[turn], x);
        const float2 sum = sum_in_order<BLOCKS>(places[turn]);
        turn ^= 1;
        return sum;
    }
};
