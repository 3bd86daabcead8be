// What is multiplied, and which part of it a block computes.
//
// constants.cuh comes from Rust: Element, Output (Element or float).

#pragma once

#include "common/element.cuh"
#include "constants.cuh"

struct Params {
    const Element* a;     // (batch, M, K)
    const Element* b;     // (batch, K, N)
    const Output*  bias;  // (N), or null for none
    const Output*  c;     // (batch, M, N), row-major, or null for none; may be d
    Output*        d;     // (batch, M, N), row-major
    long long M, N, K;
    long long a_leading, b_leading, c_leading, d_leading;  // elements from row to row, or from column to column
    long long a_batch, b_batch, c_batch, d_batch;          // elements from one product of the batch to the next
    int a_aligned, b_aligned;  // whether all rows, or columns, start at multiples of 16 bytes
    int d_aligned;             // the same of d, and of c where there is one
};

struct Place {
    long long batch;
    long long row, column;  // of d, where the block's tile starts
};

// A block for each TILE x TILE tile of each product, along the rows of d first.
template <int TILE> Place place_of_block(const Params& p) {
    const long long across = (p.N + TILE - 1) / TILE, down = (p.M + TILE - 1) / TILE;
    const long long tile = blockIdx.x / across;
    return {tile / down, tile % down * TILE, blockIdx.x % across * TILE};
}
