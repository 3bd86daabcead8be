// Special functions in f32.

#pragma once

inline float infinity() { return __uint_as_float(0x7f800000u); }
inline float not_a_number() { return __uint_as_float(0x7fffffffu); }
constexpr float LN_2 = 0.693147180559945309f;
constexpr float LOG2_E = 1.442695040888963407f;

// 2^x, to 2 ulp; denormal results are 0.
// PTX ISA: Floating Point Instructions: ex2.
inline float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The logarithm to base 2, to an absolute 2^-22 between 0.5 and 2 and a relative one elsewhere; of 0, -infinity.
// PTX ISA: Floating Point Instructions: lg2.
inline float log2_approximate(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x, to 1 ulp.
// PTX ISA: Floating Point Instructions: rcp.
inline float reciprocal_approximate(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
