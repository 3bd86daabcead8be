// Cross-entropy of softmax, in nats, of each row of logits (Bishop 2006, eq. 4.108), and with GRADIENT its gradient in
// the same pass (eq. 4.109):
//
//   z          = logits[i], or with SOFTCAP softcap * tanh(logits[i] / softcap)                               (V)
//   lse[i]     = log(sum over V of exp(z))                                                                    (N)
//   loss[i]    = lse[i] - (1 - smoothing) * z[targets[i]] - smoothing * mean(z) + z_loss * lse[i]²            (N)
//   dlogits[i] = factor * dz * ((1 + 2 z_loss lse[i]) * exp(z - lse[i]) - (1 - smoothing) * onehot(targets[i])
//                               - smoothing / V)                                                              (N, V)
//
// with dz = 1 - (z / softcap)², or 1, and factor = scale * *dmean * *share. Label smoothing is that of Szegedy et al.
// 2016 (arXiv 1512.00567, section 7), the z-loss that of Chowdhery et al. 2022 (arXiv 2204.02311, section 5), the
// softcap that of Gemma 2 (arXiv 2408.00118, section 2).
//
// A row whose target is IGNORE is not read: loss, lse and gradient are 0. Where a target is neither below V nor IGNORE,
// nothing is read either, and all three are NaN, so that the mean and the norm of the gradient show it.
//
// A row is one block's, or that of a cluster of SLICES blocks, which have a slice of its columns each. With GRADIENT the
// first `held` columns of a block stay in shared memory between the two passes over them; what does not fit is read again.
// Statistics are f32, in the order of the slices, whether there are clusters or not. Outputs are overwritten; `dlogits` may
// be `logits` with the same stride.
//
// constants.cuh comes from Rust: Element, THREADS, SLICES, CLUSTER (SLICES or 1), GRADIENT, SOFTCAP.
// Grid: N * CLUSTER.

#include "constants.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"
#include "common/slices.cuh"
#include "common/softmax.cuh"

constexpr unsigned IGNORE = 0xffffffffu;
constexpr int WIDE = 16 / sizeof(Element);

struct Params {
    const Element*  logits;   // (N, V), rows stride elements apart
    const unsigned* targets;  // (N)
    float*          loss;     // (N), or null
    float*          lse;      // (N), or null
    Element*        dlogits;  // (N, V), rows dlogits_stride elements apart
    const float*    dmean;    // one number: the gradient of the mean, or null for 1
    const float*    share;    // one number: the share of a row in the mean, or null for 1
    long long       stride;
    long long       dlogits_stride;
    int             vocabulary;  // V
    int             held;        // shared memory has room for as many elements and 2 * WIDE more
    float           scale;
    float           smoothing;
    float           z_loss;
    float           softcap;
};

float capped(const Params& p, float logit) { return SOFTCAP ? p.softcap * tanhf(logit / p.softcap) : logit; }

// Of some columns.
struct Part : Running {
    float total;  // of z
    float unused;
};

// Every logit of the columns gets the same gradient.
void fill(Element* dlogits, int count, float value) {
    for_columns<THREADS, WIDE>(dlogits, count, [&](int column, auto n) {
        float d[decltype(n)::value];
#pragma unroll
        for (float& each : d) each = value;
        store(dlogits + column, to_vec<Element>(d));
    });
}

extern __shared__ uint4 shared[];

// Two blocks on a multiprocessor: one row arrives while the other leaves. With 1024 threads, tanhf takes the registers of
// both.
extern "C" __global__ void CLUSTER_OF(CLUSTER) __launch_bounds__(THREADS, SOFTCAP && SLICES == 1 ? 1 : 2)
cross_entropy_rows(const __grid_constant__ Params p) {
    __shared__ Part shared_parts[SLICES];
    const long long row = blockIdx.x / CLUSTER;
    const Columns columns = columns_of_block<CLUSTER, WIDE>(p.vocabulary);
    const bool writes_row = columns.first == 0 && threadIdx.x == 0;
    const Element* logits = p.logits + row * p.stride + columns.first;
    Element* dlogits = p.dlogits + row * p.dlogits_stride + columns.first;
    const unsigned target = load_for_warp(p.targets + row);
    if (target >= p.vocabulary) {
        const float value = target == IGNORE ? 0.0f : not_a_number();
        if (writes_row && p.loss != nullptr) p.loss[row] = value;
        if (writes_row && p.lse != nullptr) p.lse[row] = value;
        if constexpr (GRADIENT) fill(dlogits, columns.count, value);
        return;
    }

    // Columns have the alignment there that they have in memory.
    const unsigned long long address = reinterpret_cast<unsigned long long>(logits);
    Element* held = reinterpret_cast<Element*>(shared) + address % 16 / sizeof(Element);
    const float z_target = writes_row ? capped(p, to_float(logits[target])) : 0;  // before it is overwritten

    const auto parts = read_slices<CLUSTER, WIDE>(shared_parts, p.vocabulary, [&](const Columns& these) {
        Running running = {-infinity(), 0};
        float total = 0;
        for_columns<THREADS, WIDE>(logits + these.first, these.count, [&](int i, auto n) {
            constexpr int N = decltype(n)::value;
            const int column = these.first + i;
            const Vec<Element, N> x = load<N>(logits + column);
            if (GRADIENT && column < p.held) store_shared(held + column, x);
            float z[N];
#pragma unroll
            for (int k = 0; k < N; ++k) {
                z[k] = capped(p, x.get(k));
                total += z[k];
            }
            running.see(z);
        });
        if (p.loss != nullptr && p.smoothing > 0) total = block_sum<THREADS>(total);
        return Part{over_block<THREADS>(running), total};
    });
    const float lse = together(parts.of).log_sum_exp();

    if (writes_row && p.loss != nullptr) {
        float loss = lse - (1 - p.smoothing) * z_target + p.z_loss * lse * lse;
        if (p.smoothing > 0) {
            float total = 0;
            for (const Part& part : parts.of) total += part.total;
            loss -= p.smoothing * (total / p.vocabulary);
        }
        p.loss[row] = loss;
    }
    if (writes_row && p.lse != nullptr) p.lse[row] = lse;

    if constexpr (GRADIENT) {
        float factor = p.scale;
        if (p.dmean != nullptr) factor *= load_for_warp(p.dmean);
        if (p.share != nullptr) factor *= load_for_warp(p.share);
        const float shift = lse * LOG2_E, of_probability = 1 + 2 * p.z_loss * lse, of_target = 1 - p.smoothing;
        const float of_each = p.smoothing / p.vocabulary;
        const unsigned target_here = target - columns.first;
        const auto store_gradient = [&](int column, const auto& x, auto n) {
            constexpr int N = decltype(n)::value;
            float d[N];
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const float z = capped(p, x.get(k));
                d[k] = of_probability * exp2_approximate(z * LOG2_E - shift) - of_each;
                if (column + k == target_here) d[k] -= of_target;
                d[k] *= factor;
                if (SOFTCAP) d[k] *= 1 - (z / p.softcap) * (z / p.softcap);
            }
            store(dlogits + column, to_vec<Element>(d));
        };
        const auto again = [&](int column, auto n) {
            constexpr int N = decltype(n)::value;
            store_gradient(column, column < p.held ? load<N>(held + column) : load<N>(logits + column), n);
        };
        if ((address ^ reinterpret_cast<unsigned long long>(dlogits)) % 16 == 0) {
            for_columns<THREADS, WIDE>(logits, columns.count, again);
        } else {
            for (int column = threadIdx.x; column < columns.count; column += THREADS) again(column, Count<1>());
        }
    }
}
