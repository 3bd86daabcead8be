// The lists of a block mask (block_mask.cuh): for each row of `kinds`, how many blocks are not empty, and which, from
// left to right. Rows of queries give the lists by query; those by key come from the columns, taken as rows.
//
// A warp goes over one row, 32 blocks at a time. A kind that is none of the three counts as partial. lists is
// overwritten, each row as far as it goes.
//
// constants.cuh comes from Rust: WARPS, those of block_mask.cuh. Grid: (ceil(rows / WARPS), H or 1, B or 1).

#include "attention/block_mask.cuh"

struct Params {
    const unsigned char* kinds;  // (B or 1, H or 1, rows, columns)
    int*      lists;             // (B or 1, H or 1, rows, 1 + columns)
    long long row_stride, column_stride;  // of kinds, within a head
    int rows, columns;
};

extern "C" __global__ void __launch_bounds__(WARPS * 32)
attention_block_lists(const __grid_constant__ Params p) {
    const int lane = threadIdx.x % 32;
    const long long row = blockIdx.x * WARPS + threadIdx.x / 32, mask = blockIdx.z * gridDim.y + blockIdx.y;
    if (row >= p.rows) return;
    const unsigned char* kinds = p.kinds + mask * p.rows * p.columns + row * p.row_stride;
    int* list = p.lists + (mask * p.rows + row) * (1LL + p.columns);

    int count = 0;
    for (int first = 0; first < p.columns; first += 32) {
        const int column = first + lane;
        const unsigned char kind = column < p.columns ? kinds[column * p.column_stride] : EMPTY;
        const unsigned visited = __ballot_sync(0xffffffffu, kind != EMPTY);
        if (kind != EMPTY) list[1 + count + __popc(visited & ((1u << lane) - 1))] = 2 * column + (kind != FULL);
        count += __popc(visited);
    }
    if (lane == 0) list[0] = count;
}
