// The sequence that a block works on: batch blockIdx.z or, with DOCUMENTS, one of the documents that lie packed behind
// each other in the only batch there is.
//
// constants.cuh comes from Rust: DOCUMENTS.

#pragma once

#include "constants.cuh"

// In Params. Document d has the queries queries[d] to queries[d + 1] - 1 and the keys keys[d] to keys[d + 1] - 1.
struct Documents {
    const int* queries;  // (documents + 1), not decreasing
    const int* keys;     // (documents + 1), not decreasing
};

struct Sequence {
    long long batch;
    int T, S;
    int query, key;  // where it begins

    // T and S of Params are the sizes of the tensors.
    template <class Params>
    Sequence(const Params& p, int index) : batch(DOCUMENTS ? 0 : index), T(p.T), S(p.S), query(0), key(0) {
        if constexpr (DOCUMENTS) {
            query = p.documents.queries[index];
            key = p.documents.keys[index];
            T = p.documents.queries[index + 1] - query;
            S = p.documents.keys[index + 1] - key;
        }
    }

    // Where what is kept of each query (B, H, T of Params) lies for one of this sequence.
    template <class Params>
    long long row(const Params& p, int heads, int head, int of_query) const {
        return (batch * heads + head) * p.T + query + of_query;
    }
};
