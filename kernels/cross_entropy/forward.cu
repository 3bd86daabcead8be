// Cross-entropy of softmax (Bishop 2006, eq. 4.108), in nats:
//
//   lse[i]  = log(sum over V of exp(logits[i]))                          (N)
//   loss[i] = lse[i] - logits[i][targets[i]], 0 where targets[i] is IGNORE  (N)
//   mean    = sum of loss / rows that are not ignored, 0 if all are
//
// One pass over the logits: each thread keeps a running maximum and the sum relative to it (Milakov & Gimelshein 2018,
// arXiv 1805.02867, algorithm 3). Outputs are overwritten. A target that is neither below V nor IGNORE gives NaN.
//
// Two entries: cross_entropy_forward, one block per row; cross_entropy_mean, one block in all, fixed order.
// constants.cuh comes from Rust: Element, THREADS.

#include "constants.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

constexpr unsigned IGNORE = 0xffffffffu;

struct Params {
    const Element*  logits;   // (N, V), rows stride elements apart
    const unsigned* targets;  // (N)
    float*          loss;     // (N)
    float*          lse;      // (N)
    long long       stride;
    int             vocabulary;  // V
};

// sum over what was seen of exp(x - maximum)
struct Running {
    float maximum = -infinity();
    float sum = 0;

    template <int N> void see(const Vec<Element, N>& x) {
        float largest = maximum;
#pragma unroll
        for (int k = 0; k < N; ++k) largest = fmaxf(largest, x.get(k));
        if (largest == -infinity()) return;
        sum *= expf(maximum - largest);
        maximum = largest;
#pragma unroll
        for (int k = 0; k < N; ++k) sum += expf(x.get(k) - largest);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_forward(const __grid_constant__ Params p) {
    const long long row = blockIdx.x;
    const Element* logits = p.logits + row * p.stride;

    Running running;
    for_columns<THREADS>(logits, p.vocabulary, [&](int column, auto n) {
        running.see(load<decltype(n)::value>(logits + column));
    });
    const float maximum = block_max<THREADS>(running.maximum);
    const bool seen = running.maximum != -infinity();
    const float sum = block_sum<THREADS>(seen ? running.sum * expf(running.maximum - maximum) : 0.0f);

    if (threadIdx.x == 0) {
        const float lse = maximum + logf(sum);
        const unsigned target = p.targets[row];
        p.lse[row] = lse;
        if (target == IGNORE) p.loss[row] = 0;
        else if (target < p.vocabulary) p.loss[row] = lse - to_float(logits[target]);
        else p.loss[row] = __uint_as_float(0x7fffffffu);
    }
}

struct MeanParams {
    const float*    loss;     // (N)
    const unsigned* targets;  // (N)
    float*          mean;     // one number
    float*          share;    // one number: 1 / rows that are not ignored, 0 if all are; kept for backward
    long long       rows;     // N
};

extern "C" __global__ void __launch_bounds__(1024)
cross_entropy_mean(const __grid_constant__ MeanParams p) {
    float loss = 0, counted = 0;
    for (long long i = threadIdx.x; i < p.rows; i += 1024) {
        loss += p.loss[i];
        if (p.targets[i] != IGNORE) counted += 1;
    }
    loss = block_sum<1024>(loss);
    counted = block_sum<1024>(counted);
    if (threadIdx.x == 0) {
        const float share = counted > 0 ? 1.0f / counted : 0.0f;
        *p.mean = loss * share;
        *p.share = share;
    }
}
