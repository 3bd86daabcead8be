// Gradient of softmax and of its log-sum-exp (forward.cu):
//
//   dx[i] = out[i] * (dout[i] - sum over W of out[i] * dout[i] + dlse[i])        (N, W)
//
// A row is one block's, or that of a cluster of SLICES blocks, which have a slice of its columns each. The first `held`
// columns of a block, of both, stay in shared memory between the two passes over them; what does not fit is read again.
// Sums are f32, in the order of the slices, whether there are clusters or not. Overwritten; `dx` may be `dout`.
//
// constants.cuh comes from Rust: Element, THREADS, SLICES, CLUSTER (SLICES or 1). Grid: N * CLUSTER.

#include "constants.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"
#include "common/slices.cuh"

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

extern "C" __global__ void CLUSTER_OF(CLUSTER) __launch_bounds__(THREADS)
softmax_backward(const __grid_constant__ Params p) {
    __shared__ float2 shared_parts[SLICES];
    const long long row = blockIdx.x / CLUSTER;
    const Columns columns = columns_of_block<CLUSTER, WIDE>(p.width);
    const long long start = row * p.width + columns.first;
    const Element* out = p.out + start;
    const Element* dout = p.dout + start;
    Element* dx = p.dx + start;
    const int past = reinterpret_cast<unsigned long long>(out) % 16 / sizeof(Element);
    Element* held_out = reinterpret_cast<Element*>(shared) + past;
    Element* held_dout = held_out + (p.held + WIDE - 1) / WIDE * WIDE + 2 * WIDE;

    // Calls f(column, what is there of out and of dout, Count<N>()).
    const auto for_pairs = [&](const Columns& these, bool again, auto f) {
        const auto each = [&](int i, auto n) {
            constexpr int N = decltype(n)::value;
            const int column = these.first + i;
            const bool held = again && column < p.held;
            const Vec<Element, N> y = held ? load<N>(held_out + column) : load<N>(out + column);
            Vec<Element, N> dy = {};
            if (p.dout != nullptr) dy = held ? load<N>(held_dout + column) : load<N>(dout + column);
            if (!again && column < p.held) {
                store_shared(held_out + column, y);
                store_shared(held_dout + column, dy);
            }
            f(column, y, dy, n);
        };
        if (p.aligned) {
            for_columns<THREADS, WIDE>(out + these.first, these.count, each);
        } else {
            for (int i = threadIdx.x; i < these.count; i += THREADS) each(i, Count<1>());
        }
    };

    float rest = p.dlse == nullptr ? 0.0f : load_for_warp(p.dlse + row);
    if (p.dout != nullptr) {
        const auto parts = read_slices<CLUSTER, WIDE>(shared_parts, p.width, [&](const Columns& these) {
            float dot = 0;
            for_pairs(these, false, [&](int, const auto& y, const auto& dy, auto n) {
#pragma unroll
                for (int k = 0; k < decltype(n)::value; ++k) dot += y.get(k) * dy.get(k);
            });
            return make_float2(block_sum<THREADS>(dot), 0);
        });
        rest -= sum_in_order<SLICES>(parts.of).x;
    }

    for_pairs({0, columns.count}, p.dout != nullptr, [&](int column, const auto& y, const auto& dy, auto n) {
        constexpr int N = decltype(n)::value;
        float values[N];
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] = y.get(k) * (dy.get(k) + rest);
        store(dx + column, to_vec<Element>(values));
    });
}
