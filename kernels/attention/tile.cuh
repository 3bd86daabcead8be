// Tiles of attention: what forward and backward share.
//
// A tile is some rows (a multiple of 16) of Q, K, V, O or a gradient, WIDTH elements each (a multiple of 8), in shared
// memory, as fragments (fragment.cuh). Addresses of fragments are then constants, the same for every lane but for where the
// lane's row lies. Copies in, loads and copies out have no bank conflicts.
//
// A warp's accumulators are `float acc[ROWS][COLUMNS][4]`: ROWS * 16 by COLUMNS * 8, in the layout of D in
// common/matrix.cuh.
//
// constants.cuh comes from Rust: Element (bf16, f16 or float).

#pragma once

#include "attention/fragment.cuh"
#include "common/element.cuh"
#include "common/matrix.cuh"
#include "common/memory.cuh"
#include "common/strides.cuh"
#include "common/thread.cuh"
#include "constants.cuh"

constexpr int CHUNK = 16 / sizeof(Element);  // elements of half a fragment's row, which move together

template <int WIDTH>
constexpr int tile_bytes(int rows) { return rows * fragments(WIDTH) * (FRAGMENT_BYTES / 16); }

// Where the half row lies in a fragment whose address this lane gives to `ldmatrix`, so that what comes back is
// - the A of a product, or its B where that is transposed on the way: rows 0-7 and 8-15 of the left half, then of the
//   right;
inline int lane_offset() { return half_row_offset(threadIdx.x % 16, threadIdx.x / 16 % 2); }
// - its B as it lies: left and right half of rows 0-7, then of rows 8-15.
inline int lane_offset_b() { return half_row_offset(threadIdx.x % 8 + threadIdx.x / 16 % 2 * 8, threadIdx.x / 8 % 2); }
// Where f32 element (2 c + odd, g) lies, for lane 4 g + c: B transposed, in the order of rows of as_operand().
inline int lane_offset_f32(int odd) {
    const int column = threadIdx.x % 32 / 4;
    return half_row_offset(threadIdx.x % 4 * 2 + odd, column / 4) + column % 4 * 4;
}

// How `threads` threads move whole rows in or out of a tile: a pass takes threads / 8 rows, four fragments of them,
// 16 bytes per thread; a warp four rows of 128 bytes, so that global accesses are whole cache lines.
constexpr int PART_COLUMNS = 4 * FRAGMENT_COLUMNS;

template <int WIDTH>
struct Mover {
    static constexpr int PARTS = (WIDTH + PART_COLUMNS - 1) / PART_COLUMNS;  // passes to a row
    int row;  // in a pass
    int fragment, half;

    explicit Mover(unsigned thread)
        : row(thread / 32 * 4 + thread % 8 / 2), fragment(thread % 32 / 8), half(thread % 2) {}

    int column(int part) const { return part * PART_COLUMNS + fragment * FRAGMENT_COLUMNS + half * CHUNK; }

    // Whether this thread's part of a pass lies in a row; whether it lies in a tile, where a row ends with a fragment.
    bool in_row(int part) const { return (part + 1) * PART_COLUMNS <= WIDTH || column(part) < WIDTH; }
    bool in_tile(int part) const {
        return (part + 1) * PART_COLUMNS <= WIDTH || part * 4 + fragment < fragments(WIDTH);
    }

    // Where this thread's part of the pass from row `first` on lies in the tile.
    int offset(int first, int part) const {
        return ((first + row) / 16 * fragments(WIDTH) + part * 4 + fragment) * FRAGMENT_BYTES +
               half_row_offset((first + row) % 16, half);
    }
};

// Starts copying a tile of ROWS rows, by the THREADS of a block, from rows that lie `stride` elements apart. Rows from
// `existing` on are not read, and become zero.
template <int WIDTH, int ROWS, int THREADS>
__forceinline__ void copy_tile_async(SharedAddress tile, const Element* rows, long long stride, int existing) {
    constexpr int STEP = THREADS / 8;  // rows in a pass
    static_assert(THREADS % 32 == 0 && ROWS % 16 == 0 && WIDTH % 8 == 0, "whole fragments");
    const Mover<WIDTH> mover(static_cast<unsigned>(thread_index()) % THREADS);
    const Element* from = rows + mover.row * stride + mover.column(0);
#pragma unroll
    for (int row = 0; row < ROWS; row += STEP) {
#pragma unroll
        for (int part = 0; part < mover.PARTS; ++part) {
            if (!mover.in_tile(part) || (row + STEP > ROWS && row + mover.row >= ROWS)) continue;
            copy_async_16(tile + mover.offset(row, part), from + part * PART_COLUMNS,
                          row + mover.row < existing && mover.in_row(part));
        }
        from += STEP * stride;
    }
}

// acc += A B^T over WIDTH: A is ROWS * 16 rows of a tile, from `a` on; B is COLUMNS * 8 rows, from `b` on.
template <int WIDTH, int ROWS, int COLUMNS>
__forceinline__ void multiply_transposed(float (&acc)[ROWS][COLUMNS][4], SharedAddress a, SharedAddress b) {
    // Products of f32 are so many instructions that unrolling them gains nothing and takes the compiler long.
    constexpr int UNROLLED = sizeof(Element) == 4 ? 1 : fragments(WIDTH);
#pragma unroll UNROLLED
    for (int step = 0; step < fragments(WIDTH); ++step) {
        unsigned left[ROWS][4];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            load_matrix_x4(left[i], a + lane_offset() + (i * fragments(WIDTH) + step) * FRAGMENT_BYTES);
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; j += 2) {
            unsigned right[4];
            load_matrix_x4(right, b + lane_offset_b() + (j / 2 * fragments(WIDTH) + step) * FRAGMENT_BYTES);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                multiply_accumulate<Element>(acc[i][j], left[i], right[0], right[1]);
                multiply_accumulate<Element>(acc[i][j + 1], left[i], right[2], right[3]);
            }
        }
    }
}

// A warp's accumulator as the A of another product.
template <int ROWS, int COLUMNS>
using Operand = unsigned[ROWS][COLUMNS * 8 / FRAGMENT_COLUMNS][4];

// Rounds an accumulator. For 16 bits, D's layout of two column blocks is A's layout of one. For f32, A's columns c and
// c + 4 are D's 2 c and 2 c + 1: a product may add up in any order, as long as B's rows are in the same.
template <int ROWS, int COLUMNS>
__forceinline__ void as_operand(Operand<ROWS, COLUMNS>& a, const float (&acc)[ROWS][COLUMNS][4]) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            if constexpr (sizeof(Element) == 4) {
#pragma unroll
                for (int e = 0; e < 4; ++e) a[i][j][e] = __float_as_uint(acc[i][j][e / 2 + e % 2 * 2]);
            } else {
                a[i][j / 2][j % 2 * 2 + 0] = pack<Element>(acc[i][j][0], acc[i][j][1]);
                a[i][j / 2][j % 2 * 2 + 1] = pack<Element>(acc[i][j][2], acc[i][j][3]);
            }
        }
    }
}

// The B of a product that adds up along the rows of a tile: a fragment of it, at `fragment`, whose rows are those of step
// `inner`.
__forceinline__ void load_rows_as_b(unsigned (&b)[4], SharedAddress fragment, int inner) {
    if constexpr (sizeof(Element) == 4) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) b[odd] = load_shared(fragment + lane_offset_f32(odd) + inner % 2 * 128);
    } else {
        load_matrix_x4_transposed(b, fragment + lane_offset());
    }
}

// acc += A B of one fragment of B, to the columns from `j` on.
template <int ROWS, int COLUMNS>
__forceinline__ void multiply_fragment(float (&acc)[ROWS][COLUMNS][4], int j, const unsigned (&a)[4], int i,
                                       const unsigned (&b)[4]) {
    multiply_accumulate<Element>(acc[i][j], a, b[0], b[1]);
    if constexpr (sizeof(Element) == 2) {
        if (j + 1 < COLUMNS) multiply_accumulate<Element>(acc[i][j + 1], a, b[2], b[3]);
    }
}

// acc += A B: A is held in registers, ROWS * 16 by INNER fragments; B is as many rows of a tile COLUMNS * 8 wide, from
// `b` on.
template <int ROWS, int COLUMNS, int INNER>
__forceinline__ void multiply(float (&acc)[ROWS][COLUMNS][4], const unsigned (&a)[ROWS][INNER][4], SharedAddress b) {
    constexpr int WIDTH = COLUMNS * 8;
#pragma unroll
    for (int inner = 0; inner < INNER; ++inner) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j += FRAGMENT_COLUMNS / 8) {
            unsigned right[4];
            const int fragment = inner * FRAGMENT_COLUMNS / 16 * fragments(WIDTH) + j * 8 / FRAGMENT_COLUMNS;
            load_rows_as_b(right, b + fragment * FRAGMENT_BYTES, inner);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) multiply_fragment(acc, j, a[i][inner], i, right);
        }
    }
}

// acc += A^T B over INNER rows of two tiles: A is A_WIDTH wide, of which ROWS * 16 columns from `a` on; B is B_WIDTH wide,
// of which COLUMNS * 8 columns, whole fragments, from `b` on.
template <int A_WIDTH, int B_WIDTH, int INNER, int ROWS, int COLUMNS>
__forceinline__ void multiply_left_transposed(float (&acc)[ROWS][COLUMNS][4], SharedAddress a, SharedAddress b) {
    static_assert(COLUMNS * 8 % FRAGMENT_COLUMNS == 0, "whole fragments");
    constexpr int UNROLLED = sizeof(Element) == 4 ? 1 : INNER / FRAGMENT_COLUMNS;  // as in multiply_transposed()
#pragma unroll UNROLLED
    for (int inner = 0; inner < INNER / FRAGMENT_COLUMNS; ++inner) {
        const int rows = inner * FRAGMENT_COLUMNS / 16;  // of 16
        unsigned left[ROWS][4];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const SharedAddress fragment = a + (rows * fragments(A_WIDTH) + i * 16 / FRAGMENT_COLUMNS) * FRAGMENT_BYTES;
            if constexpr (sizeof(Element) == 4) {
                // Of the rows in the order of load_rows_as_b(): the even ones, then the odd ones.
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    unsigned even_odd[4];
                    load_rows_as_b(even_odd, fragment + half * FRAGMENT_BYTES, inner);
                    left[i][half] = even_odd[0];
                    left[i][half + 2] = even_odd[1];
                }
            } else {
                load_matrix_x4_transposed(left[i], fragment + lane_offset_b());
            }
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; j += FRAGMENT_COLUMNS / 8) {
            unsigned right[4];
            load_rows_as_b(right, b + (rows * fragments(B_WIDTH) + j * 8 / FRAGMENT_COLUMNS) * FRAGMENT_BYTES, inner);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) multiply_fragment(acc, j, left[i], i, right);
        }
    }
}

// Writes a warp's accumulator, rounded, to ROWS * 16 rows of a tile COLUMNS * 8 wide, from `tile` on.
template <int ROWS, int COLUMNS>
__forceinline__ void store_tile(const float (&acc)[ROWS][COLUMNS][4], unsigned char* tile) {
    constexpr int WIDTH = COLUMNS * 8;
    const int lane = thread_index() % 32;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            unsigned char* fragment = tile + (i * fragments(WIDTH) + j * 8 / FRAGMENT_COLUMNS) * FRAGMENT_BYTES;
            const int right = sizeof(Element) == 4 ? lane % 4 / 2 : j % 2;
            const int pair = lane % (CHUNK / 2);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                unsigned char* half_row = fragment + half_row_offset(half * 8 + lane / 4, right);
                reinterpret_cast<Pair<Element>*>(half_row)[pair] =
                    pack<Element>(acc[i][j][half * 2], acc[i][j][half * 2 + 1]);
            }
        }
    }
}

// Writes a warp's accumulator, rounded, to `rows`, which lie `stride` elements apart; rows from `existing` on do
// not exist. `staging` is ROWS * 16 rows of a tile that no other warp uses: through it, rows leave 128 bytes at a time.
template <int ROWS, int COLUMNS>
__forceinline__ void store_rows(const float (&acc)[ROWS][COLUMNS][4], unsigned char* staging, Element* rows,
                                long long stride, int existing) {
    constexpr int WIDTH = COLUMNS * 8;
    __syncwarp();
    store_tile(acc, staging);
    __syncwarp();
    const Mover<WIDTH> mover(thread_index() % 32);
#pragma unroll
    for (int first = 0; first < ROWS * 16; first += 4) {
        const int row = first + mover.row;
        if (row >= existing) break;
#pragma unroll
        for (int part = 0; part < mover.PARTS; ++part) {
            if (!mover.in_row(part)) continue;
            store<CHUNK>(rows + row * stride + mover.column(part),
                         *reinterpret_cast<const Vec<Element, CHUNK>*>(staging + mover.offset(first, part)));
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
