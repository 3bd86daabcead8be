// Gradient of softmax and of its log-sum-exp (forward.cu):
//
//   dx[i] = out[i] * (dout[i] - sum over W of out[i] * dout[i] + dlse[i])        (N, W)
//
// One block per row. The row's first `held` columns of both stay in shared memory between the two passes over them, each
// element for the thread that brought it; what does not fit is read again. Sums are f32. Overwritten; `dx` may be `dout`.
//
// constants.cuh comes from Rust: Element, THREADS.

#include "constants.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

constexpr int WIDE = 16 / sizeof(Element);

struct Params {
    const Element* out;   // (N, W), contiguous
    const Element* dout;  // (N, W), contiguous, or null for 0
    const float*   dlse;  // (N), or null for 0
    Element*       dx;    // (N, W), contiguous
    int            width;    // W
    int            held;     // shared memory has room for twice as many elements and 4 * WIDE more
    int            aligned;  // whether all of these start at the same address modulo 16
};

extern __shared__ uint4 shared[];

extern "C" __global__ void __launch_bounds__(THREADS)
softmax_backward(const __grid_constant__ Params p) {
    const long long start = blockIdx.x * static_cast<long long>(p.width);
    const Element* out = p.out + start;
    const Element* dout = p.dout + start;
    Element* dx = p.dx + start;
    const int past = reinterpret_cast<unsigned long long>(out) % 16 / sizeof(Element);
    Element* held_out = reinterpret_cast<Element*>(shared) + past;
    Element* held_dout = held_out + (p.held + WIDE - 1) / WIDE * WIDE + 2 * WIDE;

    // Calls f(column, what is there of out and of dout, Count<N>()).
    const auto for_pairs = [&](bool again, auto f) {
        if (p.aligned) {
            for_columns<THREADS, WIDE>(out, p.width, [&](int column, auto n) {
                constexpr int N = decltype(n)::value;
                const bool held = again && column < p.held;
                const Vec<Element, N> y = held ? load<N>(held_out + column) : load<N>(out + column);
                Vec<Element, N> dy = {};
                if (p.dout != nullptr) dy = held ? load<N>(held_dout + column) : load<N>(dout + column);
                if (!again && column < p.held) {
                    store_shared(held_out + column, y);
                    store_shared(held_dout + column, dy);
                }
                f(column, y, dy, n);
            });
        } else {
            for (int column = threadIdx.x; column < p.width; column += THREADS) {
                const Vec<Element, 1> dy = p.dout == nullptr ? Vec<Element, 1>{} : load<1>(dout + column);
                f(column, load<1>(out + column), dy, Count<1>());
            }
        }
    };

    float dot = 0;
    if (p.dout != nullptr) {
        for_pairs(false, [&](int, const auto& y, const auto& dy, auto n) {
#pragma unroll
            for (int k = 0; k < decltype(n)::value; ++k) dot += y.get(k) * dy.get(k);
        });
        dot = block_sum<THREADS>(dot);
    }
    const float rest = (p.dlse == nullptr ? 0.0f : load_for_warp(p.dlse + blockIdx.x)) - dot;

    const auto store_gradient = [&](int column, const auto& y, const auto& dy, auto n) {
        constexpr int N = decltype(n)::value;
        float values[N];
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] = y.get(k) * (dy.get(k) + rest);
        store(dx + column, to_vec<Element>(values));
    };
    for_pairs(p.dout != nullptr, store_gradient);
}
