// A block mask: in which blocks of MASK_BLOCK queries by MASK_BLOCK keys there is anything to compute (FlexAttention;
// Dong et al. 2024, arXiv 2412.05496). Written by block_kinds.cu and block_lists.cu, read by the kernels that walk over
// scores. Its memory grows with T / MASK_BLOCK * S / MASK_BLOCK.
//
// constants.cuh comes from Rust: BLOCK_MASK (whether there is one), MASK_BLOCK.

#pragma once

#include "constants.cuh"

// What a block is.
constexpr unsigned char EMPTY = 0;    // no query sees any key of it: nobody visits it
constexpr unsigned char PARTIAL = 1;  // the user's mask says which
constexpr unsigned char FULL = 2;     // the user's mask hides nothing

// In Params. A row of the lists is how many blocks follow, and these from left to right, as 2 * block + (whether it is
// partial).
struct BlockMask {
    const int* by_query;  // (B or 1, H or 1, query_blocks, 1 + key_blocks): the blocks of keys for each of queries
    const int* by_key;    // (B or 1, H or 1, key_blocks, 1 + query_blocks): the blocks of queries for each of keys
    int query_blocks, key_blocks;
    int batch, head;      // masks from one batch and head to the next; 0 where all have the same one
};

// A row of the lists.
struct BlockList {
    const int* row;

    BlockList() : row(nullptr) {}
    explicit BlockList(const int* row) : row(row) {}

    static BlockList of_queries(const BlockMask& mask, int batch, int head, int block) {
        const long long index = batch * mask.batch + head * mask.head;
        return BlockList(mask.by_query + (index * mask.query_blocks + block) * (1LL + mask.key_blocks));
    }
    static BlockList of_keys(const BlockMask& mask, int batch, int head, int block) {
        const long long index = batch * mask.batch + head * mask.head;
        return BlockList(mask.by_key + (index * mask.key_blocks + block) * (1LL + mask.query_blocks));
    }

    // Where a tile of the n-th block begins, and whether the block is partial.
    struct Place {
        int  token;
        bool partial;
    };

    // Blocks have whole tiles of TILE tokens, but for the last one, which ends with `tokens`.
    template <int TILE>
    int tiles(int tokens) const {
        static_assert(MASK_BLOCK % TILE == 0, "blocks of whole tiles");
        const int blocks = row[0];
        if (blocks == 0) return 0;
        const int rest = min(tokens - row[blocks] / 2 * MASK_BLOCK, MASK_BLOCK);
        return (blocks - 1) * (MASK_BLOCK / TILE) + (rest - 1) / TILE + 1;
    }

    template <int TILE>
    Place tile(unsigned n) const {
        constexpr unsigned PARTS = MASK_BLOCK / TILE;
        const int entry = row[1 + n / PARTS];
        return {entry / 2 * MASK_BLOCK + static_cast<int>(n % PARTS) * TILE, entry % 2 != 0};
    }

    unsigned char kind(int block) const {
        int first = 1, end = row[0] + 1;
        while (first < end) {
            const int middle = (first + end) / 2, entry = row[middle];
            if (entry / 2 == block) return entry % 2 != 0 ? PARTIAL : FULL;
            (entry / 2 < block ? first : end) = entry / 2 < block ? middle + 1 : middle;
        }
        return EMPTY;
    }
};
