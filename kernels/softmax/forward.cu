// Softmax of each row, and its log-sum-exp:
//
//   lse[i] = log(sum over W of exp(x[i]))        (N)
//   out[i] = exp(x[i] - lse[i])                  (N, W)
//
// A row of -inf gives lse = -inf and out = 0; a NaN in a row makes all of it NaN.
//
// A row is one block's, or that of a cluster of SLICES blocks, which have a slice of its columns each. The first `held`
// columns of a block stay in shared memory between the two passes over them; what does not fit is read again. Statistics
// are f32, in the order of the slices, whether there are clusters or not. Outputs are overwritten; `out` may be `x` with the
// same stride.
//
// constants.cuh comes from Rust: Element, THREADS, SLICES, CLUSTER (SLICES or 1). Grid: N * CLUSTER.

#include "constants.cuh"
#include "common/row.cuh"
#include "common/slices.cuh"
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

extern "C" __global__ void CLUSTER_OF(CLUSTER) __launch_bounds__(THREADS)
softmax_forward(const __grid_constant__ Params p) {
    __shared__ Running shared_parts[SLICES];
    const long long row = blockIdx.x / CLUSTER;
    const Columns columns = columns_of_block<CLUSTER, WIDE>(p.width);
    const Element* x = p.x + row * p.stride + columns.first;
    Element* out = p.out + row * p.out_stride + columns.first;
    // Columns have the alignment there that they have in memory.
    const unsigned long long address = reinterpret_cast<unsigned long long>(x);
    Element* held = reinterpret_cast<Element*>(shared) + address % 16 / sizeof(Element);

    const auto parts = read_slices<CLUSTER, WIDE>(shared_parts, p.width, [&](const Columns& these) {
        Running running = {-infinity(), 0};
        for_columns<THREADS, WIDE>(x + these.first, these.count, [&](int i, auto n) {
            constexpr int N = decltype(n)::value;
            const int column = these.first + i;
            const Vec<Element, N> piece = load<N>(x + column);
            if (column < p.held) store_shared(held + column, piece);
            float values[N];
#pragma unroll
            for (int k = 0; k < N; ++k) values[k] = piece.get(k);
            running.see(values);
        });
        return over_block<THREADS>(running);
    });
    const float lse = together(parts.of).log_sum_exp();
    if (columns.first == 0 && threadIdx.x == 0 && p.lse != nullptr) p.lse[row] = lse;
    if (p.out == nullptr) return;

    const float shift = lse == -infinity() ? 0 : lse * LOG2_E;
    const auto store_softmax = [&](int column, auto n) {
        constexpr int N = decltype(n)::value;
        const Vec<Element, N> piece = column < p.held ? load<N>(held + column) : load<N>(x + column);
        float values[N];
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] = exp2_approximate(piece.get(k) * LOG2_E - shift);
        store(out + column, to_vec<Element>(values));
    };
    if ((address ^ reinterpret_cast<unsigned long long>(out)) % 16 == 0) {
        for_columns<THREADS, WIDE>(x, columns.count, store_softmax);
    } else {
        for (int column = threadIdx.x; column < columns.count; column += THREADS) store_softmax(column, Count<1>());
    }
}
