// Tiles of attention: what forward and backward share.
//
// A tile is some rows (a multiple of 16) of Q, K, V, O or a gradient, HEAD_DIM elements each, in shared memory.
// It is stored as 16 x 16 fragments of 512 bytes, in the order in which `ldmatrix` reads them: fragment after
// fragment along the row; in a fragment first the left halves of its 16 rows, then the right halves, 16 bytes
// each. Addresses of fragments are then constants, the same for every lane but for where the lane's row lies.
// In the right half, rows r and r ^ 4 change places: so the halves of four rows cover all 32 banks, and so do
// eight rows of one half. Copies in, matrix loads and copies out have no bank conflicts.
//
// A warp's accumulators are `float acc[ROWS][COLUMNS][4]`: ROWS * 16 by COLUMNS * 8, in the layout of D in
// common/matrix.cuh.
//
// constants.cuh comes from Rust: Element (bf16 or f16), HEAD_DIM (a multiple of 64).

#pragma once

#include "common/element.cuh"
#include "common/matrix.cuh"
#include "common/memory.cuh"
#include "constants.cuh"

// Elements from one batch, token and head to the next. Within a head, elements are contiguous.
struct Strides {
    long long batch, token, head;
};

constexpr int FRAGMENT_BYTES = 512;
constexpr int HEAD_FRAGMENTS = HEAD_DIM / 16;  // along a row

constexpr int tile_bytes(int rows) { return rows * HEAD_DIM * 2; }

// Where a half row lies in its fragment.
inline int half_row_offset(int row, int half) { return half * 256 + (row ^ half * 4) * 16; }

// Where this lane's half row lies in a fragment, as `ldmatrix` wants it: its four 8 x 8 matrices are rows 0-7 and
// 8-15 of the left half, then of the right.
inline int lane_offset() { return half_row_offset(threadIdx.x % 16, threadIdx.x / 16 % 2); }

// How a block of THREADS moves whole rows in or out of a tile: a pass takes THREADS / 8 rows, 64 columns of them,
// 16 bytes per thread; a warp four rows of 128 bytes, so that global accesses are whole cache lines.
template <int THREADS>
struct Mover {
    static_assert(THREADS % 32 == 0 && HEAD_DIM % 64 == 0, "a pass is made of whole warps and of 64 columns");
    static constexpr int STEP = THREADS / 8;  // rows in a pass
    static int row() { return threadIdx.x % THREADS / 32 * 4 + threadIdx.x % 8 / 2; }
    static int column() { return threadIdx.x % 32 / 8 * 16 + threadIdx.x % 2 * 8; }
    // In the tile, of the thread's part in the pass over rows STEP * `pass` and columns 64 * `part` on.
    static int offset(int pass, int part) {
        const int row = pass * STEP + Mover::row();
        return (row / 16 * HEAD_FRAGMENTS + part * 4 + threadIdx.x % 32 / 8) * FRAGMENT_BYTES +
               half_row_offset(row % 16, threadIdx.x % 2);
    }
};

// Successive tiles of ROWS rows, copied from rows that lie `stride` elements apart by the THREADS of a block.
template <int ROWS, int THREADS>
struct TileStream {
    using Move = Mover<THREADS>;
    static_assert(ROWS % Move::STEP == 0, "whole passes");

    const Element* from;  // this thread's part of the next tile
    long long stride;

    TileStream(const Element* rows, long long stride)
        : from(rows + Move::row() * stride + Move::column()), stride(stride) {}

    // Starts copying the next tile. Rows from `existing` on are not read, and become zero.
    __forceinline__ void copy_next(SharedAddress tile, int existing) {
#pragma unroll
        for (int pass = 0; pass < ROWS / Move::STEP; ++pass) {
#pragma unroll
            for (int part = 0; part < HEAD_DIM / 64; ++part) {
                copy_async_16(tile + Move::offset(pass, part), from + part * 64, pass * Move::STEP + Move::row() < existing);
            }
            from += Move::STEP * stride;
        }
    }
};

// acc += A B^T over HEAD_DIM: A is ROWS * 16 rows of a tile, from `a` on; B is COLUMNS * 8 rows, from `b` on.
template <int ROWS, int COLUMNS>
__forceinline__ void multiply_transposed(float (&acc)[ROWS][COLUMNS][4], SharedAddress a, SharedAddress b) {
#pragma unroll
    for (int step = 0; step < HEAD_FRAGMENTS; ++step) {
        unsigned left[ROWS][4];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            load_matrix_x4(left[i], a + lane_offset() + (i * HEAD_FRAGMENTS + step) * FRAGMENT_BYTES);
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; j += 2) {
            unsigned right[4];
            load_matrix_x4(right, b + lane_offset() + (j / 2 * HEAD_FRAGMENTS + step) * FRAGMENT_BYTES);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                multiply_accumulate<Element>(acc[i][j], left[i], right[0], right[2]);
                multiply_accumulate<Element>(acc[i][j + 1], left[i], right[1], right[3]);
            }
        }
    }
}

// acc += A B: A is held in registers, ROWS * 16 by INNER * 16; B is INNER * 16 rows of a tile, from `b` on.
template <int ROWS, int INNER>
__forceinline__ void multiply(float (&acc)[ROWS][HEAD_DIM / 8][4], const unsigned (&a)[ROWS][INNER][4], SharedAddress b) {
#pragma unroll
    for (int inner = 0; inner < INNER; ++inner) {
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j += 2) {
            unsigned right[4];
            load_matrix_x4_transposed(right, b + lane_offset() + (inner * HEAD_FRAGMENTS + j / 2) * FRAGMENT_BYTES);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                multiply_accumulate<Element>(acc[i][j], a[i][inner], right[0], right[1]);
                multiply_accumulate<Element>(acc[i][j + 1], a[i][inner], right[2], right[3]);
            }
        }
    }
}

// An accumulator, rounded, as the A of another product: D's layout of two column blocks is A's layout of one.
template <int ROWS, int COLUMNS>
__forceinline__ void as_operand(unsigned (&a)[ROWS][COLUMNS / 2][4], const float (&acc)[ROWS][COLUMNS][4]) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            a[i][j / 2][j % 2 * 2 + 0] = pack<Element>(acc[i][j][0], acc[i][j][1]);
            a[i][j / 2][j % 2 * 2 + 1] = pack<Element>(acc[i][j][2], acc[i][j][3]);
        }
    }
}

// Writes a warp's accumulator, rounded, to `rows`, which lie `stride` elements apart; rows from `existing` on do
// not exist. `staging` is ROWS * 16 rows of a tile that no other warp uses: through it, rows leave 128 bytes at a time.
template <int ROWS>
__forceinline__ void store_rows(const float (&acc)[ROWS][HEAD_DIM / 8][4], unsigned char* staging, Element* rows,
                                long long stride, int existing) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; ++j) {
            unsigned char* fragment = staging + (i * HEAD_FRAGMENTS + j / 2) * FRAGMENT_BYTES;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                unsigned char* half_row = fragment + half_row_offset(half * 8 + lane / 4, j % 2);
                reinterpret_cast<unsigned*>(half_row)[lane % 4] =
                    pack<Element>(acc[i][j][half * 2], acc[i][j][half * 2 + 1]);
            }
        }
    }
    __syncwarp();
    using Move = Mover<32>;
#pragma unroll
    for (int pass = 0; pass < ROWS * 16 / Move::STEP; ++pass) {
        const int row = pass * Move::STEP + Move::row();
        if (row >= existing) break;
#pragma unroll
        for (int part = 0; part < HEAD_DIM / 64; ++part) {
            store8(rows + row * stride + Move::column() + part * 64,
                   *reinterpret_cast<const Vec8<Element>*>(staging + Move::offset(pass, part)));
        }
    }
}

template <int ROWS, int COLUMNS>
__forceinline__ void scale_by(float (&acc)[ROWS][COLUMNS][4], float factor) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) acc[i][j][e] *= factor;
        }
    }
}
