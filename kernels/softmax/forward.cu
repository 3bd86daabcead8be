// Softmax of each row, and its log-sum-exp:
//
//   lse[i] = log(sum over W of exp(x[i]))        (N)
//   out[i] = exp(x[i] - lse[i])                  (N, W)
//
// A row of -inf gives lse = -inf and out = 0; a NaN in a row makes all of it NaN. One block per row, whose first `held`
// columns stay in shared memory between the two passes over it, each element for the thread that brought it; what does not
// fit is read again. Statistics are f32. Outputs are overwritten; `out` may be `x` with the same stride.
//
// constants.cuh comes from Rust: Element, THREADS.

#include "constants.cuh"
#include "common/row.cuh"
#include "common/softmax.cuh"

constexpr int WIDE = 16 / sizeof(Element);

struct Params {
    const Element* x;    // (N, W), rows stride elements apart
    Element*       out;  // (N, W), rows out_stride elements apart, or null
    float*         lse;  // (N), or null
    long long      stride;
    long long      out_stride;
    int            width;  // W
    int            held;   // shared memory has room for as many elements and 2 * WIDE more
};

extern __shared__ uint4 shared[];

extern "C" __global__ void __launch_bounds__(THREADS)
softmax_forward(const __grid_constant__ Params p) {
    const long long row = blockIdx.x;
    const Element* x = p.x + row * p.stride;
    Element* out = p.out + row * p.out_stride;
    const unsigned long long address = reinterpret_cast<unsigned long long>(x);
    Element* held = reinterpret_cast<Element*>(shared) + address % 16 / sizeof(Element);

    Running running = {-infinity(), 0};
    for_columns<THREADS, WIDE>(x, p.width, [&](int column, auto n) {
        constexpr int N = decltype(n)::value;
        const Vec<Element, N> piece = load<N>(x + column);
        if (column < p.held) store_shared(held + column, piece);
        float values[N];
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] = piece.get(k);
        running.see(values);
    });
    const float lse = over_block<THREADS>(running).log_sum_exp();
    if (threadIdx.x == 0 && p.lse != nullptr) p.lse[row] = lse;
    if (p.out == nullptr) return;

    const float shift = lse == -infinity() ? 0 : lse * LOG2_E;
    const auto store_softmax = [&](int column, const auto& piece, auto n) {
        constexpr int N = decltype(n)::value;
        float values[N];
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] = exp2_approximate(piece.get(k) * LOG2_E - shift);
        store(out + column, to_vec<Element>(values));
    };
    if ((address ^ reinterpret_cast<unsigned long long>(out)) % 16 == 0) {
        for_columns<THREADS, WIDE>(x, p.width, [&](int column, auto n) {
            constexpr int N = decltype(n)::value;
            store_softmax(column, column < p.held ? load<N>(held + column) : load<N>(x + column), n);
        });
    } else {
        for (int column = threadIdx.x; column < p.width; column += THREADS) {
            store_softmax(column, load<1>(x + column), Count<1>());
        }
    }
}
