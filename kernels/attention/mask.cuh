// Which keys a query sees: a range [begin, end) of them, which moves right as queries do. Query t has its own place
// at key t + S - T: so the last query is at the last key.
//
//   otherwise     all S keys
//   CAUSAL        those up to its place
//   WINDOW        those from `left` before its place to `right` after it
//   PREFIX        the first `prefix` keys of a batch as well, whatever the query's place; not those left of the window
//
// The user's own mask comes on top of these: score.cuh. With BLOCK_MASK, only blocks that it lists are visited, and in
// those that are full the user's mask is not asked: block_mask.cuh.
//
// constants.cuh comes from Rust: CAUSAL, WINDOW, PREFIX, MASK_EXPRESSION, BLOCK_Q, BLOCK_K, those of block_mask.cuh.

#pragma once

#include "attention/block_mask.cuh"
#include "attention/sequence.cuh"
#include "common/element.cuh"
#include "common/math.cuh"
#include "common/thread.cuh"
#include "constants.cuh"

// In Params.
struct Mask {
    int        left, right;
    const int* prefix;  // (B)
    BlockMask  blocks;
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

// A tile of BLOCK_K keys, or of BLOCK_Q queries, that a block of threads computes with.
struct Tile {
    int  first;
    bool asks;  // whether the user's mask hides some of it
};

// The tiles of keys that some query of [first, first + count) sees some of, from left to right; with BLOCK_MASK, those
// in the blocks that it lists.
struct KeyTiles {
    int first, count;
    int full_begin, full_end;  // keys that every query sees, but for the user's mask
    BlockList list;

    KeyTiles(const Mask& mask, const Sight& sight, int batch, int head, int first_query, int queries) {
        const int last_query = first_query + queries - 1;
        full_begin = sight.begin(last_query);
        full_end = sight.end(first_query);
        if constexpr (BLOCK_MASK) {
            list = BlockList::of_queries(mask.blocks, batch, head, first_query / MASK_BLOCK);
            first = 0;
            count = list.tiles<BLOCK_K>(sight.S);
        } else {
            const int end = sight.end(last_query);
            first = sight.begin(first_query) / BLOCK_K;
            count = max(0, end / BLOCK_K + (end % BLOCK_K != 0) - first);
        }
    }

    // The n-th, or the last.
    Tile at(int n) const {
        if constexpr (BLOCK_MASK) {
            const auto [key, partial] = list.tile<BLOCK_K>(min(n, count - 1));
            return {key, MASK_EXPRESSION && partial};
        }
        return {(first + n) * BLOCK_K, MASK_EXPRESSION};
    }

    // Whether some query does not see some key of it, whatever the user's mask.
    bool cut(Tile tile) const { return (WINDOW && tile.first < full_begin) || tile.first > full_end - BLOCK_K; }
};

// A tile of queries of one of the heads that share keys.
struct QueryTile : Tile {
    int head;
    int n, count;  // it is the n-th of so many of this head
};

// The tiles of queries that see some key of [first, first + count), of one head after the other; with BLOCK_MASK, those
// in the blocks that it lists for each.
struct QueryTiles {
    const BlockMask& mask;
    int T, batch, first_head, heads;
    int key_block;             // of the block mask
    int first, count;          // without it, for every head
    int full_begin, full_end;  // queries that see every key, but for the user's mask

    QueryTiles(const Mask& mask, const Sight& sight, int batch, int first_head, int heads, int first_key, int keys)
        : mask(mask.blocks),
          T(sight.T),
          batch(batch),
          first_head(first_head),
          heads(heads),
          key_block(first_key / MASK_BLOCK) {
        const int last_key = first_key + keys - 1, end = sight.end_query(last_key);
        first = sight.first_query(first_key) / BLOCK_Q;
        count = max(0, end / BLOCK_Q + (end % BLOCK_Q != 0) - first);
        full_begin = sight.first_query(last_key);
        full_end = sight.end_query(first_key);
    }

    bool is_end(const QueryTile& tile) const { return tile.head >= heads; }

    // The first one of the heads from `head` on.
    QueryTile begin(int head = 0) const {
        if constexpr (BLOCK_MASK) {
            for (; head < heads; ++head) {
                const int count = of_head(head).tiles<BLOCK_Q>(T);
                if (count > 0) return at(head, 0, count);
            }
            return {{0, false}, heads, 0, 0};
        }
        return at(count > 0 ? head : heads, 0, count);
    }

    QueryTile after(const QueryTile& tile) const {
        return tile.n + 1 < tile.count ? at(tile.head, tile.n + 1, tile.count) : begin(tile.head + 1);
    }

    // Whether some query does not see some key of it, whatever the user's mask.
    bool cut(const QueryTile& tile) const {
        return tile.first < full_begin || (WINDOW && tile.first + min(BLOCK_Q, T - tile.first) > full_end);
    }

private:
    BlockList of_head(int head) const { return BlockList::of_keys(mask, batch, first_head + head, key_block); }

    QueryTile at(int head, int n, int count) const {
        if constexpr (BLOCK_MASK) {
            const auto [query, partial] = of_head(head).tile<BLOCK_Q>(n);
            return {{query, MASK_EXPRESSION && partial}, head, n, count};
        }
        return {{(first + n) * BLOCK_Q, MASK_EXPRESSION}, head, n, count};
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

// Sets to -inf the transposed scores of keys that do not exist: rows from `existing` on.
template <int ROWS, int COLUMNS>
__forceinline__ void hide_past_keys(float (&score)[ROWS][COLUMNS][4], int existing) {
    const int row = thread_index() % 32 / 4;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if (row + i * 16 + e / 2 * 8 < existing) continue;
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) score[i][j][e] = -infinity();
        }
    }
}
