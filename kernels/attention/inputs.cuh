// What every kernel that walks over scores is given, forward and backward.

#pragma once

#include "attention/dropout.cuh"
#include "attention/mask.cuh"
#include "attention/score.cuh"
#include "attention/sequence.cuh"
#include "common/strides.cuh"
#include "constants.cuh"

struct Inputs {
    const Element* q;  // (B, T, H, HEAD_DIM)
    const Element* k;  // (B, S, Hkv, HEAD_DIM)
    const Element* v;  // (B, S, Hkv, VALUE_DIM)
    Strides   q_strides, k_strides, v_strides;
    Mask      mask;
    Documents documents;
    Scoring   scoring;
    Dropout   dropout;
    int   T, S;
    int   heads_per_kv;  // H / Hkv
    float scale;         // of products
};
