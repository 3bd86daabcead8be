// Tiles of 16 rows, for one warp: 16 queries, or the keys or values of 16 tokens (see decode.cu).
//
// Rows of 16-bit elements lie in shared memory as 16 x 16 fragments (fragment.cuh), rows of 8-bit elements as 16 x 16
// blocks of 256 bytes, 16 bytes a row. A row that is no whole number of them is filled up with zeros. Copies in and matrix
// loads have no bank conflicts.
//
// In a product the order of what is summed over does not matter: with 8-bit keys, a lane takes four neighbouring elements
// of a key, one word, where the instruction would have two and two, 8 apart; the queries lie in that order too. And of two
// times 8 columns of values it gets those with even and those with odd numbers: four neighbours again.
//
// constants.cuh comes from Rust: Element, Cached, QUANTISED, HEAD_DIM, VALUE_DIM (multiples of 8), WARPS.

#pragma once

#include "attention/fragment.cuh"
#include "common/element.cuh"
#include "common/matrix.cuh"
#include "common/memory.cuh"
#include "common/quantised.cuh"
#include "constants.cuh"

constexpr int TILE = 16;  // rows

constexpr int VALUE_COLUMNS = fragments(VALUE_DIM) * 16;
constexpr int CACHED_BYTES = QUANTISED ? 256 : FRAGMENT_BYTES;  // of a fragment or block of the cache
constexpr int QUERY_TILE_BYTES = fragments(HEAD_DIM) * FRAGMENT_BYTES;
constexpr int KEY_TILE_BYTES = fragments(HEAD_DIM) * CACHED_BYTES;
constexpr int VALUE_TILE_BYTES = fragments(VALUE_DIM) * CACHED_BYTES;

// All threads of the block load the queries, of which `row_at(row)` is where each begins, or null for zeros.
template <class RowAt> __forceinline__ void load_queries(unsigned char* tile, RowAt row_at) {
    // Eight lanes take two halves of four rows.
    for (int item = threadIdx.x; item < TILE * 2 * fragments(HEAD_DIM); item += WARPS * 32) {
        const int part = item / 8, row = part % 4 * 4 + item % 8 / 2, fragment = part / 4, half = item % 2;
        const int column = fragment * 16 + half * 8;
        const Element* from = row_at(row);
        uint4 x = make_uint4(0, 0, 0, 0);
        if (from && column < HEAD_DIM) x = *reinterpret_cast<const uint4*>(from + column);
        unsigned char* to = tile + fragment * FRAGMENT_BYTES;
        if constexpr (QUANTISED) {
            *reinterpret_cast<uint2*>(to + half_row_offset(row, 0) + half * 8) = make_uint2(x.x, x.z);
            *reinterpret_cast<uint2*>(to + half_row_offset(row, 1) + half * 8) = make_uint2(x.y, x.w);
        } else {
            *reinterpret_cast<uint4*>(to + half_row_offset(row, half)) = x;
        }
    }
}

// A warp starts copying 16 rows of WIDTH elements. Lane `first_lane` + r knows where row r begins in `rows`; a row at -1
// is not read, and becomes zero.
template <int WIDTH>
__forceinline__ void copy_rows_async(SharedAddress tile, const Cached* rows, long long place, int first_lane) {
    const int lane = threadIdx.x % 32;
    constexpr int FRAGMENTS = fragments(WIDTH);
    constexpr int STEPS = QUANTISED ? (FRAGMENTS + 1) / 2 : FRAGMENTS;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        // Eight lanes take eight rows of a block, or two halves of four rows of a fragment; the next lanes what lies beside.
        const int part = step * 4 + lane / 8, fragment = part % FRAGMENTS, rows_before = part / FRAGMENTS;
        const int row = QUANTISED ? rows_before * 8 + lane % 8 : rows_before * 4 + lane % 8 / 2;
        const int half = QUANTISED ? 0 : lane % 2;
        const long long begin = __shfl_sync(0xffffffffu, place, first_lane + row % TILE);
        const int column = fragment * 16 + half * 8;
        const int elements = begin < 0 ? 0 : min(QUANTISED ? 16 : 8, WIDTH - column);
        const SharedAddress to = tile + fragment * CACHED_BYTES + (QUANTISED ? row * 16 : half_row_offset(row, half));
        if (row < TILE) {
            copy_async_up_to_16(to, elements > 0 ? rows + begin + column : rows,
                                max(0, elements) * static_cast<int>(sizeof(Cached)));
        }
    }
}

// score += Q K^T, of 16 queries and 16 keys, in two blocks of 8 keys.
template <class Stored>
__forceinline__ void multiply_keys(float (&score)[2][4], SharedAddress q_tile, SharedAddress k_tile) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < fragments(HEAD_DIM); ++step) {
        unsigned left[4], right[4];
        load_matrix_x4(left, q_tile + step * FRAGMENT_BYTES + half_row_offset(lane % 16, lane / 16));
        if constexpr (QUANTISED) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const unsigned four = load_shared(k_tile + step * CACHED_BYTES + j * 128 + lane * 4);
                right[j * 2] = Dequantize<Element, Stored, 0, 1>::pair(four);
                right[j * 2 + 1] = Dequantize<Element, Stored, 2, 3>::pair(four);
            }
        } else {
            load_matrix_x4(right, k_tile + step * CACHED_BYTES + half_row_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2));
        }
        multiply_accumulate<Element>(score[0], left, right[0], right[1]);
        multiply_accumulate<Element>(score[1], left, right[2], right[3]);
    }
}

// out += P V, of 16 queries and 16 values.
template <class Stored>
__forceinline__ void multiply_values(float (&out)[VALUE_COLUMNS / 8][4], const unsigned (&probability)[4],
                                     SharedAddress v_tile) {
    const int lane = threadIdx.x % 32;
    if constexpr (QUANTISED) {
        constexpr int BLOCKS = fragments(VALUE_DIM);
#pragma unroll
        for (int block = 0; block < BLOCKS; block += 2) {
            // Two blocks at a time: the last one alone twice.
            const int second = block + 1 < BLOCKS ? CACHED_BYTES : 0;
            unsigned fours[4];  // as pairs of bytes: of keys 0-7 and 8-15 of the first block, then of the second
            load_matrix_x4_transposed(fours, v_tile + block * CACHED_BYTES + lane % 16 * 16 + lane / 16 * second);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                if (block + i >= BLOCKS) continue;
                const unsigned low = fours[i * 2], high = fours[i * 2 + 1];
                multiply_accumulate<Element>(out[(block + i) * 2], probability,
                                             Dequantize<Element, Stored, 0, 2>::pair(low),
                                             Dequantize<Element, Stored, 0, 2>::pair(high));
                multiply_accumulate<Element>(out[(block + i) * 2 + 1], probability,
                                             Dequantize<Element, Stored, 1, 3>::pair(low),
                                             Dequantize<Element, Stored, 1, 3>::pair(high));
            }
        }
    } else {
#pragma unroll
        for (int j = 0; j < VALUE_COLUMNS / 8; j += 2) {
            unsigned right[4];
            load_matrix_x4_transposed(right, v_tile + j / 2 * CACHED_BYTES + half_row_offset(lane % 16, lane / 16));
            multiply_accumulate<Element>(out[j], probability, right[0], right[1]);
            multiply_accumulate<Element>(out[j + 1], probability, right[2], right[3]);
        }
    }
}

// Writes the lane's part of a row, `half` saying which of its two, in the order of its columns.
__forceinline__ void leave_row(float* row, const float (&out)[VALUE_COLUMNS / 8][4], int half) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < VALUE_COLUMNS / 8; j += 2) {
        const float a = out[j][half * 2], b = out[j][half * 2 + 1];
        const float c = out[j + 1][half * 2], d = out[j + 1][half * 2 + 1];
        if constexpr (QUANTISED) {
            *reinterpret_cast<float4*>(row + j * 8 + lane % 4 * 4) = make_float4(a, c, b, d);
        } else {
            *reinterpret_cast<float2*>(row + j * 8 + lane % 4 * 2) = make_float2(a, b);
            *reinterpret_cast<float2*>(row + j * 8 + 8 + lane % 4 * 2) = make_float2(c, d);
        }
    }
}
