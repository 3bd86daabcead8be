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
#include "common/thread.cuh"
#include "constants.cuh"

// Elements from one batch, token and head to the next. Within a head, elements are contiguous.
struct Strides {
    long long batch, token, head;
};

template <class T>
T* at(T* tensor, const Strides& strides, long long batch, long long token, long long head) {
    return tensor + batch * strides.batch + token * strides.token + head * strides.head;
}

constexpr int FRAGMENT_BYTES = 512;
constexpr int HEAD_FRAGMENTS = HEAD_DIM / 16;  // along a row

constexpr int tile_bytes(int rows) { return rows * HEAD_DIM * 2; }

// Where a half row lies in its fragment.
inline int half_row_offset(int row, int half) { return half * 256 + (row ^ half * 4) * 16; }

// Where the half row lies in a fragment whose address this lane gives to `ldmatrix`, so that what comes back is
// - the A of a product, or its B where that is transposed on the way: rows 0-7 and 8-15 of the left half, then of the
//   right;
inline int lane_offset() { return half_row_offset(threadIdx.x % 16, threadIdx.x / 16 % 2); }
// - its B as it lies: left and right half of rows 0-7, then of rows 8-15.
inline int lane_offset_b() { return half_row_offset(threadIdx.x % 8 + threadIdx.x / 16 % 2 * 8, threadIdx.x / 8 % 2); }

// How `threads` threads move whole rows in or out of a tile: a pass takes threads / 8 rows, 64 columns of them,
// 16 bytes per thread; a warp four rows of 128 bytes, so that global accesses are whole cache lines.
struct Mover {
    int row;       // in a pass
    int column;    // of 64
    int fragment;  // of the 4 that 64 columns are

    explicit Mover(unsigned thread)
        : row(thread / 32 * 4 + thread % 8 / 2),
          column(thread % 32 / 8 * 16 + thread % 2 * 8),
          fragment(thread % 32 / 8) {}

    // Where the thread's part of the pass from row `first` on lies in the tile, in columns 64 * `part` on.
    int offset(int first, int part) const {
        return ((first + row) / 16 * HEAD_FRAGMENTS + part * 4 + fragment) * FRAGMENT_BYTES +
               half_row_offset((first + row) % 16, column / 8 % 2);
    }
};

// Starts copying a tile of ROWS rows, by the THREADS of a block, from rows that lie `stride` elements apart. Rows from
// `existing` on are not read, and become zero.
template <int ROWS, int THREADS>
__forceinline__ void copy_tile_async(SharedAddress tile, const Element* rows, long long stride, int existing) {
    constexpr int STEP = THREADS / 8;  // rows in a pass
    static_assert(THREADS % 32 == 0 && HEAD_DIM % 64 == 0 && ROWS % STEP == 0, "whole passes");
    const Mover mover(static_cast<unsigned>(thread_index()) % THREADS);
    const Element* from = rows + mover.row * stride + mover.column;
#pragma unroll
    for (int row = 0; row < ROWS; row += STEP) {
#pragma unroll
        for (int part = 0; part < HEAD_DIM / 64; ++part) {
            copy_async_16(tile + mover.offset(row, part), from + part * 64, row + mover.row < existing);
        }
        from += STEP * stride;
    }
}

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
            load_matrix_x4(right, b + lane_offset_b() + (j / 2 * HEAD_FRAGMENTS + step) * FRAGMENT_BYTES);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                multiply_accumulate<Element>(acc[i][j], left[i], right[0], right[1]);
                multiply_accumulate<Element>(acc[i][j + 1], left[i], right[2], right[3]);
            }
        }
    }
}

// acc += A B: A is held in registers, ROWS * 16 by INNER * 16; B is INNER * 16 rows of a tile, from `b` on.
template <int ROWS, int INNER>
__forceinline__ void multiply(float (&acc)[ROWS][HEAD_DIM / 8][4], const unsigned (&a)[ROWS][INNER][4],
                              SharedAddress b) {
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
    const int lane = thread_index() % 32;
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
    const Mover mover(lane);
#pragma unroll
    for (int first = 0; first < ROWS * 16; first += 4) {
        const int row = first + mover.row;
        if (row >= existing) break;
#pragma unroll
        for (int part = 0; part < HEAD_DIM / 64; ++part) {
            store8(rows + row * stride + mover.column + part * 64,
                   *reinterpret_cast<const Vec8<Element>*>(staging + mover.offset(first, part)));
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
