// Activations f and their derivatives, in f32, written so that the tail of negative x keeps its digits (1 + erf and
// 1 + tanh lose them).
//
//   GELU_TANH     x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))    Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2
//   GELU_ERF      x Φ(x), Φ the normal distribution function  there too
//   SILU          x / (1 + exp(-x))                           there too; Ramachandran et al. 2017, arXiv 1710.05941
//   RELU_SQUARED  max(x, 0)²                                  So et al. 2021, arXiv 2109.08668, section 4.1

#pragma once

// As in crates/kernels/src/activation/mod.rs.
enum Function { GELU_TANH, GELU_ERF, SILU, RELU_SQUARED };

// f(x) and f'(x). Where only one of them is used, the compiler leaves out the other.
struct Curve { float value, slope; };

constexpr float SQRT_2_OVER_PI = 0.79788456080286536f;

// Of f(x) = x s(u(x)), where s(u) = 1 / (1 + e) with e = exp(-u), and du = u'(x).
inline Curve sigmoid_curve(float x, float u, float du) {
    const float e = expf(fminf(-u, 80.0f));  // finite; what the bound changes is far below rounding
    const float s = 1.0f / (1.0f + e);
    return {x * s, s + x * (s * (e * s)) * du};
}

// FUNCTION, in constants.cuh, says which.
inline Curve curve(float x) {
    if constexpr (FUNCTION == GELU_TANH) {
        // 1/2 (1 + tanh(v)) = 1 / (1 + exp(-2v))
        const float u = 2.0f * SQRT_2_OVER_PI * (x + 0.044715f * x * x * x);
        return sigmoid_curve(x, u, 2.0f * SQRT_2_OVER_PI * (1.0f + 3.0f * 0.044715f * x * x));
    }
    if constexpr (FUNCTION == GELU_ERF) {
        const float normal = 0.5f * erfcf(-0.70710678118654752f * x);            // erfc(-x / √2) / 2
        const float density = 0.39894228040143268f * expf(-0.5f * x * x);        // 1 / √(2π)
        return {x * normal, normal + x * density};
    }
    if constexpr (FUNCTION == SILU) return sigmoid_curve(x, x, 1.0f);
    if constexpr (FUNCTION == RELU_SQUARED) {
        const float positive = fmaxf(x, 0.0f);
        return {positive * positive, 2.0f * positive};
    }
}
