// The gradient of q while blocks add to it (backward_key.cu with HAS_DQ), f32: tiles of 16 queries, which lie in memory as
// a warp holds them (the layout of D in common/matrix.cuh), so that it adds to 128 or 512 bytes side by side:
//
//   (B, H, tiles, HEAD_DIM / 8, 4 / ADDED, 32 lanes, ADDED)
//
// Documents have tiles of their own: number d from tile queries[d] / 16 + d on, which is behind the last one of number
// d - 1. They take T / 16 tiles, and one more for each document.
//
// constants.cuh comes from Rust: HEAD_DIM, DOCUMENTS, ADDED (as many floats as one instruction adds: 4 from sm_90 on, 1
// before).

#pragma once

#include "attention/sequence.cuh"
#include "common/atomic.cuh"
#include "common/thread.cuh"
#include "constants.cuh"

constexpr int DQ_BLOCK = 16 * 8;                             // floats of 16 queries by 8 columns
constexpr int DQ_TILE = HEAD_DIM / 8 * DQ_BLOCK;

// The tile of query `query` (a multiple of 16) of a sequence. The grid is (.., .., B) or, of documents, (.., .., documents).
template <class Params>
float* dq_tile(float* sums, const Params& p, const Sequence& sequence, int heads, int head, int query) {
    const long long tiles = DOCUMENTS ? p.T / 16 + gridDim.z : (p.T + 15ll) / 16;
    const long long first = DOCUMENTS ? sequence.query / 16 + blockIdx.z : 0;
    return sums + ((sequence.batch * heads + head) * tiles + first + query / 16) * DQ_TILE;
}

// Where element e of this lane lies, from its block on.
inline int dq_element(int e) { return (e / ADDED * 32 + thread_index() % 32) * ADDED + e % ADDED; }

inline void add_to_dq(float* block, const float (&x)[4]) {
    if constexpr (ADDED == 4) {
        add_global_4(block + dq_element(0), x[0], x[1], x[2], x[3]);
    } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) add_global(block + dq_element(e), x[e]);
    }
}
