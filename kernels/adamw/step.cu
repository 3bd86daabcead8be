// One step of AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2) for any number of tensors:
//
//   g = gradient * gradient_scale
//   p = p - lr * weight_decay * p
//   m = beta1 * m + (1 - beta1) * g
//   v = beta2 * v + (1 - beta2) * g²
//   p = p - lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
//
// Parameters are Element, gradients are Gradient, the arithmetic is f32. How a parameter of 16 bits keeps updates that are
// smaller than half its rounding step is ROUNDING:
//   NEAREST     it does not: for f32
//   MASTER      p lives in an f32 copy; the parameter is that, rounded to nearest
//   STOCHASTIC  of bf16: p is rounded up with the probability of how far it is on the way (Gupta et al. 2015, arXiv
//               1502.02551, section 3): the mean is exact, and there is no copy. Element i of tensor t adds the upper
//               half of word i % 4 of Philox counter (i / 4, t) to the lower half of its f32. The key is that of the
//               step, so the bits depend neither on threads nor on which tensors are stepped together.
// m and v are f32; with EIGHT_BIT, they are codes of dynamic_map.cuh times a scale for each 256 neighbouring elements,
// their largest magnitude (which becomes 0 below 2^-120). The parameter is stepped by the exact m and v.
//
// p, m and v (scales, master) are updated in place, each by one thread or one warp: deterministic.
//
// Two entries, launched one after the other:
//   adamw_advance  one thread. Where the norm of the gradients is not finite, the step is not taken: skipped += 1, and
//                  adamw_step changes nothing. Else step += 1, and what depends on it: the corrections, in f64 (1 -
//                  0.999^1 has lost four digits in f32), and the key of the random bits. Being a launch of its own, it
//                  is done before any block of adamw_step reads them.
//   adamw_step     one block per chunk
// Step and learning rate lie in device memory: the same launches, captured in a graph, serve every step.
//
// constants.cuh comes from Rust: Element, Gradient, ROUNDING, EIGHT_BIT, CHUNK (a multiple of 256), THREADS.

#include "constants.cuh"
#include "common/chunks.cuh"
#include "common/element.cuh"
#include "common/philox.cuh"
#include "common/reduce.cuh"
#include "adamw/dynamic_map.cuh"

enum Rounding { NEAREST, MASTER, STOCHASTIC };  // as in crates/kernels/src/adamw.rs

struct State {
    long long          step;           // how many have been taken
    long long          skipped;        // how many have not
    float              learning_rate;  // the caller's to write
    float              correction1;    // 1 / (1 - beta1^step)
    float              correction2;    // 1 / sqrt(1 - beta2^step)
    int                taken;          // whether this step is
    unsigned long long key;            // of this step's random bits
};

struct Tensor {
    Element*  parameter;
    float*    master;   // null but with MASTER
    void*     m;        // float, or unsigned char with EIGHT_BIT
    void*     v;
    float*    m_scale;  // (count / 256, rounded up); null but with EIGHT_BIT
    float*    v_scale;
    long long count;
    float     weight_decay;
    unsigned  number;   // t, which of the optimizer's tensors this is
};

struct AdvanceParams {
    State*             state;
    const float*       norm;  // one number; or null: every step is taken
    double             beta1;
    double             beta2;
    unsigned long long seed;
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
    State& state = *p.state;
    state.taken = !p.norm || *p.norm < infinity();  // not for NaN
    if (!state.taken) {
        ++state.skipped;
        return;
    }
    const long long step = ++state.step;
    state.correction1 = static_cast<float>(1 / (1 - pow(p.beta1, static_cast<double>(step))));
    state.correction2 = static_cast<float>(1 / sqrt(1 - pow(p.beta2, static_cast<double>(step))));
    const uint4 words = element_bits(p.seed, step);
    state.key = static_cast<unsigned long long>(words.y) << 32 | words.x;
}

// What all threads of a block work with.
struct Work {
    Tensor             t;
    const Gradient*    gradient;
    unsigned long long key;
    float              gradient_scale, decay, step_size, rest1, rest2, correction2, eps;
};

// One element.
inline void update(float& p, float& m, float& v, float gradient, const Work& w) {
    const float g = gradient * w.gradient_scale;
    m += w.rest1 * (g - m);
    v += w.rest2 * (g * g - v);
    p = p * w.decay - w.step_size * m / (sqrtf(v) * w.correction2 + w.eps);
}

template <int N, class T> void read(float (&values)[N], const T* from) {
    const Vec<T, N> v = load<N>(from);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = v.get(k);
}

template <int N> void read_parameter(float (&p)[N], const Tensor& t, long long i) {
    if constexpr (ROUNDING == MASTER) read(p, t.master + i);
    else read(p, t.parameter + i);
}

// To a bf16, which the f32 then holds exactly.
inline float round_stochastically(float x, unsigned word) {
    const unsigned rounded = __float_as_uint(x) + (word >> 16) & 0xffff0000u;
    return x == x ? __uint_as_float(rounded) : x;
}

// The N elements from i on: 4, where i is a multiple of that, or 1.
template <int N> void write_parameter(float (&p)[N], const Work& w, long long i) {
    if constexpr (ROUNDING == MASTER) store(w.t.master + i, to_vec<float>(p));
    if constexpr (ROUNDING == STOCHASTIC) {
        const unsigned long long quad = i / 4;
        const uint4 words = philox(
            w.key, make_uint4(static_cast<unsigned>(quad), static_cast<unsigned>(quad >> 32), w.t.number, 0));
        const unsigned word[4] = {words.x, words.y, words.z, words.w};
        if constexpr (N == 4) {
#pragma unroll
            for (int k = 0; k < N; ++k) p[k] = round_stochastically(p[k], word[k]);
        } else {
            const int k = i % 4;
            p[0] = round_stochastically(p[0], k < 2 ? (k == 0 ? word[0] : word[1]) : (k == 2 ? word[2] : word[3]));
        }
    }
    store(w.t.parameter + i, to_vec<Element>(p));
}

// The N elements from i on.
template <int N> void step_elements(const Work& w, long long i) {
    float* m_at = static_cast<float*>(w.t.m) + i;
    float* v_at = static_cast<float*>(w.t.v) + i;
    float g[N], p[N], m[N], v[N];
    read(g, w.gradient + i);
    read_parameter(p, w.t, i);
    read(m, m_at);
    read(v, v_at);
#pragma unroll
    for (int k = 0; k < N; ++k) update(p[k], m[k], v[k], g[k], w);
    store(m_at, to_vec<float>(m));
    store(v_at, to_vec<float>(v));
    write_parameter(p, w, i);
}

template <bool SIGNED, int N> void read_codes(float (&values)[N], const unsigned char* from, float scale) {
    unsigned codes = N == 4 ? *reinterpret_cast<const unsigned*>(from) : *from;
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = scale * decode<SIGNED>(codes >> 8 * k & 255);
}

template <bool SIGNED, int N> void write_codes(unsigned char* to, const float (&values)[N], float scale) {
    unsigned codes = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) codes |= encode<SIGNED>(scale > 0 ? values[k] / scale : 0.0f) << 8 * k;
    if constexpr (N == 4) *reinterpret_cast<unsigned*>(to) = codes;
    else *to = codes;
}

// Of a warp's values. A scale that a quotient by it could not bear becomes 0.
template <int U, int N> float scale_of(const float (&values)[U][N]) {
    float largest = 0;
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
        for (int k = 0; k < N; ++k) largest = fmaxf(largest, fabsf(values[u][k]));
    largest = warp_max(largest);
    return largest < 7.52316384526264e-37f ? 0.0f : largest;  // 2^-120
}

// A warp steps the `count`, up to 256, elements from `start` on, N neighbours by a lane at a time. They share scales.
template <int N> void step_block(const Work& w, long long start, int count) {
    constexpr int U = 8 / N;
    const int lane = threadIdx.x % 32;
    const long long block = start / 256;
    unsigned char* m_at = static_cast<unsigned char*>(w.t.m) + start;
    unsigned char* v_at = static_cast<unsigned char*>(w.t.v) + start;
    const float m_scale = __shfl_sync(0xffffffffu, lane == 0 ? w.t.m_scale[block] : 0, 0);
    const float v_scale = __shfl_sync(0xffffffffu, lane == 0 ? w.t.v_scale[block] : 0, 0);
    float m[U][N] = {}, v[U][N] = {};
#pragma unroll
    for (int u = 0; u < U; ++u) {
        const int at = (u * 32 + lane) * N;
        if (at >= count) continue;
        float g[N], p[N];
        read(g, w.gradient + start + at);
        read_parameter(p, w.t, start + at);
        read_codes<true>(m[u], m_at + at, m_scale);
        read_codes<false>(v[u], v_at + at, v_scale);
#pragma unroll
        for (int k = 0; k < N; ++k) update(p[k], m[u][k], v[u][k], g[k], w);
        write_parameter(p, w, start + at);
    }
    const float new_m_scale = scale_of(m), new_v_scale = scale_of(v);
    if (lane == 0) {
        w.t.m_scale[block] = new_m_scale;
        w.t.v_scale[block] = new_v_scale;
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
        const int at = (u * 32 + lane) * N;
        if (at >= count) continue;
        write_codes<true>(m_at + at, m[u], new_m_scale);
        write_codes<false>(v_at + at, v[u], new_v_scale);
    }
}

inline bool is_aligned(const void* p) { return reinterpret_cast<unsigned long long>(p) % 16 == 0; }

inline bool is_aligned(const Work& w) {
    return is_aligned(w.t.parameter) && is_aligned(w.gradient) && is_aligned(w.t.master) && is_aligned(w.t.m) &&
           is_aligned(w.t.v);
}

inline Work prepare(const Params& p, Chunk chunk) {
    const State& s = *p.state;
    const Tensor& t = p.tensors[chunk.tensor];
    return {t, p.gradients[chunk.tensor], s.key, p.gradient_scale ? *p.gradient_scale : 1.0f,
            1.0f - s.learning_rate * t.weight_decay, s.learning_rate * s.correction1, p.rest1, p.rest2, s.correction2,
            p.eps};
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
adamw_step(const __grid_constant__ Params p) {
    __shared__ Work w;
    __shared__ long long start;
    if (!p.state->taken) return;
    if (threadIdx.x == 0) {
        const Chunk chunk = p.chunks[blockIdx.x];
        w = prepare(p, chunk);
        start = static_cast<long long>(chunk.index) * CHUNK;
    }
    __syncthreads();
    const long long left = w.t.count - start;
    const int count = left < CHUNK ? left : CHUNK;
    const bool aligned = is_aligned(w);

    if constexpr (EIGHT_BIT) {
        for (int i = threadIdx.x / 32 * 256; i < count; i += THREADS * 8) {
            if (aligned && i + 256 <= count) step_block<4>(w, start + i, 256);
            else step_block<1>(w, start + i, min(count - i, 256));
        }
    } else {
        const int quads = aligned ? count / 4 : 0;
#pragma unroll 2
        for (int i = threadIdx.x; i < quads; i += THREADS) step_elements<4>(w, start + i * 4);
        for (int i = quads * 4 + threadIdx.x; i < count; i += THREADS) step_elements<1>(w, start + i);
    }
}
