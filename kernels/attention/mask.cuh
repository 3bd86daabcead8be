// Which keys a query sees: all S of them or, with CAUSAL, the keys s <= t + S - T.

#pragma once

#include "common/element.cuh"
#include "common/math.cuh"
#include "common/thread.cuh"
#include "constants.cuh"

// Keys that `query` (< T) sees: the first so many.
inline int visible_keys(int query, int T, int S) { return CAUSAL ? max(0, query + 1 - T + S) : S; }

// The first query that sees `key` (< S), where there are queries.
inline int first_query_seeing(int key, int T, int S) { return CAUSAL ? max(0, key - S + T) : 0; }

// The blocks of BLOCK_K keys that the queries [first, first + count) have to visit.
struct KeyBlocks {
    int visited;  // the first so many: some query sees some of their keys
    int full;     // the first so many: every query sees every one of their keys
};

inline KeyBlocks key_blocks(int first, int count, int T, int S) {
    const int some = visible_keys(first + count - 1, T, S);
    return {some / BLOCK_K + (some % BLOCK_K != 0), visible_keys(first, T, S) / BLOCK_K};
}

// Sets to -inf the scores of a warp that must not be: row i is query `first_query` + i, column j is key
// `first_key` + j. Unsigned, because it may wrap for queries from T on, of which nothing is kept.
template <int ROWS, int COLUMNS>
__forceinline__ void hide_keys(float (&score)[ROWS][COLUMNS][4], unsigned first_query, unsigned first_key,
                               unsigned T, unsigned S) {
    const int lane = thread_index() % 32;
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

// The same where CAUSAL and scores are transposed: row i is key `first_key` + i, column j is query `first_query` + j.
// Queries from T on and keys from S on, of which nothing is kept, may be hidden or not.
template <int ROWS, int COLUMNS>
__forceinline__ void hide_queries(float (&score)[ROWS][COLUMNS][4], unsigned first_query, unsigned first_key,
                                  unsigned T, unsigned S) {
    const int lane = thread_index() % 32;
    const unsigned hidden = first_key + lane / 4 - S + T - first_query - lane % 4 * 2;
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
