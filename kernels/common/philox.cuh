// Random bits by position: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
// section 3.3). The same key and counter give the same four words on every device, in every tile, forward and backward.
//
// What a counter counts is up to the operation, and is written at the head of its kernel. For the elements of a
// tensor it is `element_bits`: element i, in row-major order, has word i % 4 of counter (i / 4, 0).

#pragma once

inline uint4 philox(unsigned long long key, uint4 counter) {
    unsigned k0 = static_cast<unsigned>(key), k1 = static_cast<unsigned>(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ k0, low1, high0 ^ counter.w ^ k1, low0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return counter;
}

// The words of elements 4 * quad to 4 * quad + 3.
inline uint4 element_bits(unsigned long long key, unsigned long long quad) {
    return philox(key, make_uint4(static_cast<unsigned>(quad), static_cast<unsigned>(quad >> 32), 0, 0));
}

// Dropout with probability p keeps an element where its word is at least p * 2^32: `drop_below` comes from Rust.
inline bool kept(unsigned word, unsigned drop_below) { return word >= drop_below; }
