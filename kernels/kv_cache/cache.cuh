// A cache of keys and values, (B, S, Hkv, HEAD_DIM): contiguous, or in pages of any number of tokens that lie anywhere,
// of which each sequence has a list.
//
// A page outside of the cache, or a token past the list, does not exist: it is never read and never written. In a
// contiguous cache each sequence is a page.
//
// constants.cuh comes from Rust: PAGED.

#pragma once

#include "constants.cuh"

struct CacheStrides { long long page, token, head; };

struct Pages {
    const int* table;   // (B, pages of a sequence) of page numbers, rows `stride` apart; only if PAGED
    long long  stride;
    int        count;   // pages of the cache
    int        tokens;  // that a sequence has room for
    unsigned   size;    // tokens of a page
    // token / size = token * magic >> shift, for every token below 2^31 (Hacker's Delight, 2nd edition, section 10-9).
    unsigned   magic;
    int        shift;
};

struct Slot {
    bool exists;
    int  page, token;  // the token in the page

    // Where `token` (not negative) of sequence `batch` lies.
    Slot(const Pages& pages, long long batch, int token) : exists(token < pages.tokens) {
        if constexpr (PAGED) {
            const unsigned index = static_cast<unsigned long long>(token) * pages.magic >> pages.shift;
            this->token = token - index * pages.size;
            page = exists ? pages.table[batch * pages.stride + index] : 0;
            exists = exists && page >= 0 && page < pages.count;
        } else {
            page = batch;
            this->token = token;
        }
    }

    long long offset(const CacheStrides& strides, long long head) const {
        return page * strides.page + token * strides.token + head * strides.head;
    }
};
