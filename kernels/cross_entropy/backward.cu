// Gradient of the mean cross-entropy (forward.cu; Bishop 2006, eq. 4.109):
//
//   dlogits[i] = dmean * share * (exp(logits[i] - lse[i]) - onehot(targets[i]))    (N, V), 0 where targets[i] is IGNORE
//
// Overwritten; `dlogits` may be `logits` with the same stride. One block per row.
// constants.cuh comes from Rust: Element, THREADS.

#include "constants.cuh"
#include "common/row.cuh"

constexpr unsigned IGNORE = 0xffffffffu;

struct Params {
    const Element*  logits;   // (N, V), rows stride elements apart
    const unsigned* targets;  // (N)
    const float*    lse;      // (N)
    const float*    dmean;    // one number: the gradient of the mean
    const float*    share;    // one number, from forward
    Element*        dlogits;  // (N, V), rows dlogits_stride elements apart
    long long       stride;
    long long       dlogits_stride;
    int             vocabulary;  // V
};

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_backward(const __grid_constant__ Params p) {
    const long long row = blockIdx.x;
    const Element* logits = p.logits + row * p.stride;
    Element* dlogits = p.dlogits + row * p.dlogits_stride;
    const unsigned target = p.targets[row];
    const float lse = p.lse[row];
    const float factor = target == IGNORE ? 0.0f : *p.dmean * *p.share;

    const auto gradient = [&](int column, auto n) {
        constexpr int N = decltype(n)::value;
        const Vec<Element, N> x = load<N>(logits + column);
        float d[N];
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float probability = expf(x.get(k) - lse);
            d[k] = target == IGNORE ? 0.0f : factor * (column + k == target ? probability - 1.0f : probability);
        }
        store(dlogits + column, to_vec<Element>(d));
    };
    const unsigned long long apart =
        reinterpret_cast<unsigned long long>(logits) ^ reinterpret_cast<unsigned long long>(dlogits);
    if (apart % 16 == 0) {
        for_columns<THREADS>(logits, p.vocabulary, gradient);
    } else {
        for (int column = threadIdx.x; column < p.vocabulary; column += THREADS) gradient(column, Count<1>());
    }
}
