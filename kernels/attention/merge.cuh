// Merging partial results of attention: what forward and backward share.
//
// GROUP neighbouring lanes share a row, of which each takes VECTOR elements at a time. Blocks walk along the tokens of one
// head, of which the lse lie next to each other.
//
// constants.cuh comes from Rust: Element, HEAD_DIM, PARTS (2 to MAX_PARTS), MAX_PARTS, VECTOR (8 where all rows are 16-byte
// aligned, else 1), GROUP (a power of two up to 32), THREADS. Grid: (ceil(B * T * GROUP / THREADS), H).

#pragma once

#include "common/element.cuh"
#include "common/math.cuh"
#include "common/strides.cuh"
#include "constants.cuh"

constexpr int VECTORS = (HEAD_DIM + GROUP * VECTOR - 1) / (GROUP * VECTOR);  // per lane

// The result over some of the keys.
struct Part {
    const Element* out;  // (B, T, H, HEAD_DIM)
    const float*   lse;  // (B, H, T), contiguous; -inf where there is no key
    Strides        strides;
};

// Where a lane works. All lanes take part in exchanges: those past the last token do that one again, and write nothing.
struct Row {
    bool      exists;
    int       lane;  // of GROUP
    long long batch, token;
    int       head;
    long long index;  // in an lse

    Row(long long tokens, int T) : lane(threadIdx.x % GROUP), head(blockIdx.y) {
        const long long place = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) / GROUP;
        exists = place < tokens;
        const long long existing = exists ? place : tokens - 1;
        batch = existing / T;
        token = existing % T;
        index = (batch * gridDim.y + head) * T + token;
    }

    // Of the lane's vector j; at least HEAD_DIM where it has none.
    int column(int j) const { return (j * GROUP + lane) * VECTOR; }
};

// How much of the merged result each part is: exp(lse[i] - ln(sum(exp(lse)))), and 0 where no part has a key.
struct Weights {
    float of[PARTS];
    float lse;  // of the merged result
};

// One lane reads the lse, and hands them out.
inline Weights weigh(const Part (&parts)[MAX_PARTS], const Row& row) {
    Weights weights;
    float largest = -infinity();
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        const float lse = row.lane == 0 ? parts[i].lse[row.index] : 0;
        weights.of[i] = __shfl_sync(0xffffffffu, lse, 0, GROUP);
        largest = fmaxf(largest, weights.of[i]);
    }
    const float reference = largest == -infinity() ? 0 : largest;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        weights.of[i] = exp2_approximate((weights.of[i] - reference) * LOG2_E);
        sum += weights.of[i];
    }
    const float inverse = sum == 0 ? 0 : 1 / sum;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) weights.of[i] *= inverse;
    weights.lse = reference + logf(sum);
    return weights;
}
