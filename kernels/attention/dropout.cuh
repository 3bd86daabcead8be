// Dropout of probabilities (Vaswani et al. 2017, arXiv 1706.03762, section 5.4), by position (common/philox.cuh): with
//
//   patch(n) = n / 16 * 8 + n % 8       which brings n and n + 8 together, as an accumulator holds them
//
// the probability of query q and key k, of head h of H in sequence b, has word q / 8 % 2 * 2 + k / 8 % 2 of counter
// (patch(q), patch(k), b * H + h, 0). So the four words of a counter belong to one lane, whether its rows are queries
// or keys.
//
// constants.cuh comes from Rust: DROPOUT.

#pragma once

#include "common/philox.cuh"
#include "common/thread.cuh"
#include "constants.cuh"

// In Params.
struct Dropout {
    unsigned long long key;
    unsigned drop_below;
    float    keep_scale;  // 1 / (1 - probability)
};

// Which of a warp's probabilities are kept: a bit for each of this lane's.
template <int ROWS, int COLUMNS> struct Kept {
    unsigned bits[ROWS][(COLUMNS + 7) / 8];

    bool get(int i, int j, int e) const { return bits[i][j / 8] >> (j % 8 * 4 + e) & 1; }

    // Row 0 is query `first_query` and column 0 key `first_key`, multiples of 16; the other way round where TRANSPOSED.
    // `head` is b * H + h.
    template <bool TRANSPOSED>
    static __forceinline__ Kept draw(const Dropout& dropout, unsigned head, unsigned first_query, unsigned first_key) {
        static_assert(COLUMNS % 2 == 0, "columns in pairs of 8");
        const unsigned lane = thread_index() % 32;
        const unsigned row = (TRANSPOSED ? first_key : first_query) / 2 + lane / 4;
        const unsigned column = (TRANSPOSED ? first_query : first_key) / 2 + lane % 4 * 2;
        Kept kept = {};
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < COLUMNS; j += 2) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const unsigned of_row = row + i * 8, of_column = column + j * 4 + e;
                    const uint4 words = philox(dropout.key, TRANSPOSED ? make_uint4(of_column, of_row, head, 0)
                                                                       : make_uint4(of_row, of_column, head, 0));
                    // Of row and row + 8, by column and column + 8.
                    const unsigned low_high = TRANSPOSED ? words.z : words.y, high_low = TRANSPOSED ? words.y : words.z;
                    kept.set(i, j, e, words.x >= dropout.drop_below);
                    kept.set(i, j + 1, e, low_high >= dropout.drop_below);
                    kept.set(i, j, e + 2, high_low >= dropout.drop_below);
                    kept.set(i, j + 1, e + 2, words.w >= dropout.drop_below);
                }
            }
        }
        return kept;
    }

    void set(int i, int j, int e, bool is_kept) { bits[i][j / 8] |= static_cast<unsigned>(is_kept) << (j % 8 * 4 + e); }
};

// Probabilities, or their gradients, of which those that are dropped become 0 and the others are multiplied. `to` may be
// `from`.
template <int ROWS, int COLUMNS>
__forceinline__ void drop(float (&to)[ROWS][COLUMNS][4], const float (&from)[ROWS][COLUMNS][4],
                          const Kept<ROWS, COLUMNS>& kept, float keep_scale) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) to[i][j][e] = kept.get(i, j, e) ? from[i][j][e] * keep_scale : 0;
        }
    }
}
