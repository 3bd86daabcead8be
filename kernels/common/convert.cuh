// The conversion instructions between f32 and the 16-bit floating-point types (PTX ISA, "Data Movement and
// Conversion Instructions: cvt"). All round to nearest even. sm_80 and later.

#pragma once

inline unsigned short cvt_bf16_f32(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

inline unsigned short cvt_f16_f32(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

inline float cvt_f32_f16(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// Two values at once; `low` goes to the low half, which is the lower address.
inline unsigned cvt_bf16x2_f32(float low, float high) {
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

inline unsigned cvt_f16x2_f32(float low, float high) {
    unsigned bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
