// One step of AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2) for any number of tensors:
//
//   g = gradient * gradient_scale
//   p = p - lr * weight_decay * p
//   m = beta1 * m + (1 - beta1) * g
//   v = beta2 * v + (1 - beta2) * g²
//   p = p - lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
//
// Parameters are Element, gradients are Gradient, m and v are f32, and so is the arithmetic. With MASTER, p lives in an
// f32 master copy, and the parameter is that rounded; without, an update smaller than half a rounding step of a 16-bit
// parameter is lost. p, m and v (and the master) are updated in place, each element by one thread: deterministic.
//
// Two entries, launched one after the other:
//   adamw_advance  one thread: step += 1, and the two corrections that depend on it, in f64 (1 - 0.999^1 has lost four
//                  digits in f32). Being a launch of its own, it is done before any block of adamw_step reads them.
//   adamw_step     one block per chunk
// Step and learning rate lie in device memory: the same launch, captured in a graph, serves every step.
//
// constants.cuh comes from Rust: Element, Gradient, MASTER, CHUNK (a multiple of 8), THREADS.

#include "constants.cuh"
#include "common/chunks.cuh"
#include "common/element.cuh"

struct State {
    long long step;           // how many have been taken
    float     learning_rate;  // the caller's to write
    float     correction1;    // 1 / (1 - beta1^step)
    float     correction2;    // 1 / sqrt(1 - beta2^step)
};

struct Tensor {
    Element*  parameter;
    float*    master;  // null without MASTER
    float*    m;
    float*    v;
    long long count;
    float     weight_decay;
};

struct AdvanceParams {
    State* state;
    double beta1;
    double beta2;
};

struct Params {
    const State*           state;
    const Tensor*          tensors;
    const Gradient* const* gradients;       // one for each tensor
    const Chunk*           chunks;          // one for each block
    const float*           gradient_scale;  // one number; or null, for 1
    float                  rest1;           // 1 - beta1
    float                  rest2;           // 1 - beta2
    float                  eps;
};

extern "C" __global__ void __launch_bounds__(1)
adamw_advance(const __grid_constant__ AdvanceParams p) {
    const long long step = ++p.state->step;
    p.state->correction1 = static_cast<float>(1 / (1 - pow(p.beta1, static_cast<double>(step))));
    p.state->correction2 = static_cast<float>(1 / sqrt(1 - pow(p.beta2, static_cast<double>(step))));
}

struct Factors {
    float gradient_scale, decay, step_size, rest1, rest2, correction2, eps;
};

// Updates the N elements from i on.
template <int N> void update(const Tensor& t, const Gradient* gradient, long long i, const Factors& f) {
    const Vec<Gradient, N> g = load<N>(gradient + i);
    const Vec<float, N> m = load<N>(t.m + i), v = load<N>(t.v + i);
    float new_p[N], new_m[N], new_v[N];
    if constexpr (MASTER) {
        const Vec<float, N> p = load<N>(t.master + i);
#pragma unroll
        for (int k = 0; k < N; ++k) new_p[k] = p.get(k);
    } else {
        const Vec<Element, N> p = load<N>(t.parameter + i);
#pragma unroll
        for (int k = 0; k < N; ++k) new_p[k] = p.get(k);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
        const float scaled = g.get(k) * f.gradient_scale;
        new_m[k] = m.get(k) + f.rest1 * (scaled - m.get(k));
        new_v[k] = v.get(k) + f.rest2 * (scaled * scaled - v.get(k));
        new_p[k] = new_p[k] * f.decay - f.step_size * new_m[k] / (sqrtf(new_v[k]) * f.correction2 + f.eps);
    }
    store(t.m + i, to_vec<float>(new_m));
    store(t.v + i, to_vec<float>(new_v));
    if constexpr (MASTER) store(t.master + i, to_vec<float>(new_p));
    store(t.parameter + i, to_vec<Element>(new_p));
}

bool is_aligned(const void* p) { return reinterpret_cast<unsigned long long>(p) % 16 == 0; }

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_step(const __grid_constant__ Params p) {
    const Chunk chunk = p.chunks[blockIdx.x];
    const Tensor t = p.tensors[chunk.tensor];
    const Gradient* gradient = p.gradients[chunk.tensor];
    const float lr = p.state->learning_rate;
    const Factors factors = {
        p.gradient_scale ? *p.gradient_scale : 1.0f, 1.0f - lr * t.weight_decay, lr * p.state->correction1,
        p.rest1, p.rest2, p.state->correction2, p.eps,
    };
    const long long start = static_cast<long long>(chunk.index) * CHUNK;
    const int count = t.count - start < CHUNK ? t.count - start : CHUNK;

    const bool aligned = is_aligned(t.parameter) && is_aligned(gradient) && is_aligned(t.master) &&
                         is_aligned(t.m) && is_aligned(t.v);
    const int vectors = aligned ? count / 8 : 0;
    for (int i = threadIdx.x; i < vectors; i += THREADS) update<8>(t, gradient, start + i * 8, factors);
    for (int i = vectors * 8 + threadIdx.x; i < count; i += THREADS) update<1>(t, gradient, start + i, factors);
}
