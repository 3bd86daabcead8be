// Which keys a query sees: all S of them or, with CAUSAL, the keys s <= t + S - T.

#pragma once

#include "common/element.cuh"
#include "common/math.cuh"
#include "constants.cuh"

// Keys that `query` (< T) sees: the first so many.
inline int visible_keys(int query, int T, int S) { return CAUSAL ? max(0, query + 1 - T + S) : S; }

// The first query that sees `key` (< S); T where there is none.
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

// Sets to -inf the scores of a warp that its rows must not see: row i of the warp is query `first_query` + i (of
// `queries` that exist), column j is key `first_key` + j.
template <int ROWS, int COLUMNS>
__forceinline__ void hide_keys(float (&score)[ROWS][COLUMNS][4], int first_query, int queries, int first_key, int T, int S) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = min(i * 16 + half * 8 + lane / 4, queries - 1);
            const int visible = visible_keys(first_query + row, T, S) - first_key - lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                if (j * 8 + 0 >= visible) score[i][j][half * 2 + 0] = -infinity();
                if (j * 8 + 1 >= visible) score[i][j][half * 2 + 1] = -infinity();
            }
        }
    }
}
