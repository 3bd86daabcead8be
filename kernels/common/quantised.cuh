// Elements of 8 bits, of which some share a scale: value = element * scale.
//
//   int8   -127 to 127
//   e4m3   the floating-point type of 4 exponent and 3 mantissa bits without infinities (OCP 8-bit Floating Point
//          Specification): up to 448

#pragma once

#include "common/element.cuh"
#include "common/math.cuh"

struct int8 { signed char bits; };
struct e4m3 { unsigned char bits; };

// To the nearest, ties to even; beyond 448, 448.
// PTX ISA: Data Movement and Conversion Instructions: cvt (e4m3x2 from sm_89 on; before, the same in integers).
inline e4m3 cvt_e4m3_f32(float x) {
#if __CUDA_ARCH__ >= 890
    unsigned short pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
    return {static_cast<unsigned char>(pair)};
#else
    const unsigned sign = __float_as_uint(x) >> 24 & 0x80u;
    if (x != x) return {static_cast<unsigned char>(sign | 0x7fu)};
    const float size = fminf(fabsf(x), 448.0f);
    // Below 2^-6 steps are of 2^-9. From there on the code counts steps of 1/8 of a power of two, as the bits of f32 do.
    if (size < 0.015625f) return {static_cast<unsigned char>(sign | __float2int_rn(size * 512.0f))};
    const unsigned bits = __float_as_uint(size), rounded = bits + 0x7ffffu + (bits >> 20 & 1u);
    return {static_cast<unsigned char>(sign | ((rounded >> 20) - (120u << 3)))};
#endif
}

// The largest element, at which the largest value of a row goes; and the nearest element to x, which is at most that.
template <class Quantised> constexpr float largest_element();
template <> constexpr float largest_element<int8>() { return 127.0f; }
template <> constexpr float largest_element<e4m3>() { return 448.0f; }

template <class Quantised> Quantised quantize(float x);
template <> inline int8 quantize<int8>(float x) { return {static_cast<signed char>(__float2int_rn(x))}; }
template <> inline e4m3 quantize<e4m3>(float x) { return cvt_e4m3_f32(x); }

// Bytes LOW and HIGH of four elements, as a pair of Element (bf16 or f16), exactly, on every architecture; a NaN of e4m3
// comes out as 480.
template <class Element, class Quantised, int LOW, int HIGH> struct Dequantize;

template <class Element, int LOW, int HIGH> struct Dequantize<Element, int8, LOW, HIGH> {
    // As the last byte of the mantissa of 2^23, where the steps are of 1.
    template <int BYTE> static float single(unsigned shifted) {
        return __uint_as_float(__byte_perm(shifted, 0x4b000000u, 0x7540u | BYTE)) - 8388736.0f;
    }
    static unsigned pair(unsigned four) {
        const unsigned shifted = four ^ 0x80808080u;  // -128 is 0
        return pack<Element>(single<LOW>(shifted), single<HIGH>(shifted));
    }
};

// 2^x for each of a pair, by which e4m3's exponents are off when its bits are moved to where Element has its own.
template <class Element> unsigned times_bias(unsigned pair);
template <> inline unsigned times_bias<bf16>(unsigned pair) {  // 2^120
    unsigned product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(pair), "r"(0x7b807b80u), "r"(0x80008000u));
    return product;
}
template <> inline unsigned times_bias<f16>(unsigned pair) {  // 2^8
    unsigned product;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(pair), "r"(0x5c005c00u), "r"(0x80008000u));
    return product;
}
template <class Element> constexpr int MANTISSA_SHIFT = 0;
template <> constexpr int MANTISSA_SHIFT<bf16> = 4;  // of 7 bits, below the sign and an exponent of 8
template <> constexpr int MANTISSA_SHIFT<f16> = 1;   // of 10 bits, below the sign and an exponent of 5

template <class Element, int LOW, int HIGH> struct Dequantize<Element, e4m3, LOW, HIGH> {
    static unsigned pair(unsigned four) {
        const unsigned high_bytes = __byte_perm(four, 0, 0x0404u | LOW << 4 | HIGH << 12);
        const unsigned size = (high_bytes & 0x7f007f00u) >> MANTISSA_SHIFT<Element>;
        return times_bias<Element>(size | (high_bytes & 0x80008000u));
    }
};
