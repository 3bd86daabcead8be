// Which keys a query sees: a range [begin, end) of them, which moves right as queries do. Query t has its own place
// at key t + S - T: so the last query is at the last key.
//
//   otherwise     all S keys
//   CAUSAL        those up to its place
//   WINDOW        those from `left` before its place to `right` after it
//   PREFIX        the first `prefix` keys of a batch as well, whatever the query's place; not those left of the window
//
// The user's own mask comes on top of these: score.cuh.
//
// constants.cuh comes from Rust: CAUSAL, WINDOW, PREFIX, MASK_EXPRESSION, BLOCK_Q, BLOCK_K.

#pragma once

#include "attention/sequence.cuh"
#include "common/element.cuh"
#include "common/math.cuh"
#include "common/thread.cuh"
#include "constants.cuh"

// In Params.
struct Mask {
    int        left, right;
    const int* prefix;  // (B)
};

struct Sight {
    int T, S;
    int left, right;  // at most S and T, which keeps sums within an int
    int prefix;

    Sight(const Mask& mask, const Sequence& sequence, int index)
        : T(sequence.T),
          S(sequence.S),
          left(min(mask.left, S)),
          right(CAUSAL ? 0 : min(mask.right, T)),
          prefix(PREFIX ? min(mask.prefix[index], S) : 0) {}

    // The keys that `query` (< T) sees.
    int begin(int query) const { return WINDOW ? max(0, query - T + (S - left)) : 0; }
    int end(int query) const {
        if constexpr (!CAUSAL && !WINDOW) return S;
        const int end = CAUSAL ? max(0, query + 1 - T + S) : max(0, S + min(0, query + 1 - T + right));
        return PREFIX ? max(end, prefix) : end;
    }

    // The queries that see `key` (< S).
    int first_query(int key) const {
        if constexpr (!CAUSAL && !WINDOW) return 0;
        return PREFIX && key < prefix ? 0 : max(0, key - S + (T - right));
    }
    int end_query(int key) const { return WINDOW ? max(0, T + min(0, key + 1 - S + left)) : T; }
};

// The blocks of BLOCK_K keys that some query of [first, first + count) sees some of.
struct KeyBlocks {
    int first, count;
    int full_first, full_end;  // of which every query sees every key

    KeyBlocks(const Sight& sight, int first_query, int queries) {
        const int last_query = first_query + queries - 1;
        const int end = sight.end(last_query);
        first = sight.begin(first_query) / BLOCK_K;
        count = max(0, end / BLOCK_K + (end % BLOCK_K != 0) - first);
        const int begin = sight.begin(last_query);
        full_first = begin / BLOCK_K + (begin % BLOCK_K != 0);
        full_end = sight.end(first_query) / BLOCK_K;
    }

    // Of the n-th one.
    int key(int n) const { return (first + n) * BLOCK_K; }
    bool masked(int n) const {
        return MASK_EXPRESSION || (WINDOW && first + n < full_first) || first + n >= full_end;
    }
};

// The blocks of BLOCK_Q queries that see some key of [first, first + count).
struct QueryBlocks {
    int first, end;
    int full_first, full_end;  // queries that see every key

    QueryBlocks(const Sight& sight, int first_key, int keys) {
        const int last_key = first_key + keys - 1;
        const int end_query = sight.end_query(last_key);
        first = sight.first_query(first_key) / BLOCK_Q;
        end = end_query / BLOCK_Q + (end_query % BLOCK_Q != 0);
        full_first = sight.first_query(last_key);
        full_end = sight.end_query(first_key);
    }

    bool masked(int block, int T) const {
        const int query = block * BLOCK_Q;
        return MASK_EXPRESSION || query < full_first || (WINDOW && query + min(BLOCK_Q, T - query) > full_end);
    }
};

// Sets to -inf the scores of a warp that must not be: row i is query `first_query` + i, column j is key
// `first_key` + j. Of queries from T on nothing is kept: they may be hidden or not.
template <int ROWS, int COLUMNS>
__forceinline__ void hide_keys(float (&score)[ROWS][COLUMNS][4], const Sight& sight, unsigned first_query,
                               unsigned first_key) {
    const int lane = thread_index() % 32;
    if constexpr (WINDOW || PREFIX) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int query = min(first_query + lane / 4 + i * 16 + half * 8, sight.T - 1u);
                const int column = first_key + lane % 4 * 2;
                const int begin = sight.begin(query) - column, end = sight.end(query) - column;
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) {
                    if (j * 8 + 0 < begin || j * 8 + 0 >= end) score[i][j][half * 2 + 0] = -infinity();
                    if (j * 8 + 1 < begin || j * 8 + 1 >= end) score[i][j][half * 2 + 1] = -infinity();
                }
            }
        }
    } else {
        // Unsigned, because it may wrap for queries from T on.
        const unsigned T = sight.T, S = sight.S;
        const unsigned visible = (CAUSAL ? first_query + lane / 4 + 1 - T + S : S) - first_key - lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int end = static_cast<int>(visible + (CAUSAL ? i * 16 + half * 8 : 0));
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) {
                    if (j * 8 + 0 >= end) score[i][j][half * 2 + 0] = -infinity();
                    if (j * 8 + 1 >= end) score[i][j][half * 2 + 1] = -infinity();
                }
            }
        }
    }
}

// The same where scores are transposed: row i is key `first_key` + i, column j is query `first_query` + j. Queries
// from T on and keys from S on, of which nothing is kept, may be hidden or not.
template <int ROWS, int COLUMNS>
__forceinline__ void hide_queries(float (&score)[ROWS][COLUMNS][4], const Sight& sight, unsigned first_query,
                                  unsigned first_key) {
    const int lane = thread_index() % 32;
    if constexpr (!CAUSAL && !WINDOW && !PREFIX) return;
    if constexpr (WINDOW || PREFIX) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int key = min(first_key + lane / 4 + i * 16 + half * 8, sight.S - 1u);
                const int column = first_query + lane % 4 * 2;
                const int begin = sight.first_query(key) - column, end = sight.end_query(key) - column;
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) {
                    if (j * 8 + 0 < begin || j * 8 + 0 >= end) score[i][j][half * 2 + 0] = -infinity();
                    if (j * 8 + 1 < begin || j * 8 + 1 >= end) score[i][j][half * 2 + 1] = -infinity();
                }
            }
        }
    } else {
        const unsigned hidden = first_key + lane / 4 - sight.S + sight.T - first_query - lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int begin = static_cast<int>(hidden + i * 16 + half * 8);
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) {
                    if (j * 8 + 0 < begin) score[i][j][half * 2 + 0] = -infinity();
                    if (j * 8 + 1 < begin) score[i][j][half * 2 + 1] = -infinity();
                }
            }
        }
    }
}
