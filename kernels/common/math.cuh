// Special functions in f32.

#pragma once

constexpr float INF = __builtin_huge_valf();
constexpr float LN_2 = 0.693147180559945309f;
constexpr float LOG2_E = 1.442695040888963407f;

// 2^x, to 2 ulp; denormal results are 0.
// PTX ISA: Floating Point Instructions: ex2.
inline float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
