// Numbers in 8 bits by the dynamic map of Dettmers et al. 2022 (arXiv 2110.02861, section 1.3), with the values that
// bitsandbytes and torchao have (their `create_dynamic_map`): 0, 1, and in each decade (10^(d-7), 10^(d-6)], d = 0 ... 6,
// the middles of P equal parts of it,
//
//   10^(d-6) * (0.1 + 0.9 * (j + 0.5) / P)      j = 0 ... P - 1
//
// Signed (first moments): P = 2^d, code 127 + k for the k-th magnitude, 127 - k for its negative; -1 has no code.
// Not signed (second moments): P = 2^(d+1), and the code is k. Magnitudes are numbered from 0, which is 0 itself, so
// that in decade d, k is P + j (P + j - 1 where not signed), and P is the power of two below: the map needs no table.

#pragma once

#include "common/math.cuh"

constexpr float LOG2_10 = 3.321928094887362348f;

template <bool SIGNED> float decode(unsigned code) {
    const int k = SIGNED ? abs(static_cast<int>(code) - 127) : static_cast<int>(code);
    const unsigned bits = __float_as_uint(static_cast<float>(SIGNED ? k : k + 1));  // P + j = 2^log2_p * (1 + j / P)
    const int log2_p = static_cast<int>(bits >> 23) - 127, decade = SIGNED ? log2_p : log2_p - 1;
    const float whole = __uint_as_float(bits & 0x7fffffu | 0x3f800000u) - 1;             // j / P
    const float half = __uint_as_float(static_cast<unsigned>(126 - log2_p) << 23);       // 0.5 / P
    const float part = decade == 7 ? 1 : exp2_approximate((decade - 6) * LOG2_10) * (0.1f + 0.9f * (whole + half));
    const float magnitude = k == 0 ? 0 : part;
    return SIGNED && code < 127 ? -magnitude : magnitude;
}

// The code of the value nearest to x, for |x| from 0 to 1.
template <bool SIGNED> unsigned encode(float x) {
    const float y = fabsf(x);
    const float rounded_up = ceilf(log2_approximate(y) * (1 / LOG2_10));  // -infinity for 0
    const int decade = static_cast<int>(fminf(fmaxf(rounded_up, -6), 0)) + 6;
    const int p = (SIGNED ? 1 : 2) << decade;
    // Where y lies in its decade, in parts. Below `first`, the last value of the decade below is nearer, or 0.
    const float place = (y * exp2_approximate((6 - decade) * LOG2_10) - 0.1f) * (p / 0.9f);
    const float first = decade == 0 ? 0.25f - p / 18.0f : 0.2f;
    int number = p + min(max(static_cast<int>(place), 0), p - 1);
    if (place < first) --number;
    if (decade == 6 && place >= p - 0.25f) ++number;  // nearer to 1 than to the last value
    if constexpr (!SIGNED) return number - 1;
    return x < 0 ? 127 - min(number, 127) : 127 + number;
}
