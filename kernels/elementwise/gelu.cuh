// GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2) and its derivative, in f32, written so that the tail of
// negative x keeps its digits (1 + erf and 1 + tanh lose them).

#pragma once

constexpr float SQRT_HALF = 0.70710678118654752f;
constexpr float SQRT_2_OVER_PI = 0.79788456080286536f;

// x Φ(x), with Φ the normal distribution function.
inline float normal(float x) { return 0.5f * erfcf(-SQRT_HALF * x); }

inline float gelu_erf(float x) { return x * normal(x); }

inline float gelu_erf_slope(float x) {
    const float density = 0.39894228040143268f * expf(-0.5f * x * x);  // 1 / √(2π)
    return normal(x) + x * density;
}

// The tanh approximation, GPT-2's: x/2 (1 + tanh(u)) = x / (1 + exp(-2u)), with u = √(2/π) (x + 0.044715 x³).
// The bound on the exponent keeps the exponential finite; what it changes is far below rounding.
inline float exp_minus_2u(float x) {
    return expf(fminf(-2.0f * SQRT_2_OVER_PI * (x + 0.044715f * x * x * x), 80.0f));
}

inline float gelu_tanh(float x) { return x / (1.0f + exp_minus_2u(x)); }

inline float gelu_tanh_slope(float x) {
    const float e = exp_minus_2u(x), s = 1.0f / (1.0f + e), du = SQRT_2_OVER_PI * (1.0f + 3.0f * 0.044715f * x * x);
    return s + x * 2.0f * (s * (e * s)) * du;
}
