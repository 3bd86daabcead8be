// One token for each row of logits: the most likely one, or one drawn from the softmax of logits / temperature, cut to
// the top_k most likely tokens and then to the fewest whose probabilities add up to top_p (Holtzman et al. 2020, arXiv
// 1904.09751, section 3.1). Of equal logits the smaller token counts as the more likely.
//
// Everything that decides is an integer, so the same logits, parameters and key give the same token on every device and
// on the CPU:
//
//   key(x)    = the bits of x, as an integer that orders as x does (-0 as 0)
//   weight(x) = floor(2^32 exp((x - max) / temperature)), with exp in f32, one rounding at a time and none fused
//   draw      = floor(r * total / 2^64), with r the first two words of Philox at counter (row, 0), total that of the weights
//               of the tokens that are kept
//
// and the token drawn is the first at which the sum of the weights of kept tokens, in the order of their numbers, exceeds
// `draw`. What is kept is found without sorting: the bits of the smallest key that is kept are found from the highest on,
// each by one pass over the row.
//
// With a top_k of 1 nothing is drawn.
//
// A row that holds NaN or +inf, or nothing above -inf, gives NONE. tokens (N) is overwritten. One block per row.
//
// constants.cuh comes from Rust: Element, THREADS.

#include "constants.cuh"
#include "common/element.cuh"
#include "common/philox.cuh"
#include "common/reduce.cuh"

constexpr unsigned NONE = 0xffffffffu;
constexpr int KEY_BITS = 8 * sizeof(Element);
using Count64 = unsigned long long;

struct Params {
    const Element* logits;  // (N, V), rows stride elements apart
    unsigned*      tokens;  // (N)
    long long      stride;
    Count64        philox_key;
    Count64        top_p;                // in 2^-64; all ones keep everything
    int            vocabulary;           // V
    int            top_k;                // 1 to V
    float          inverse_temperature;  // 1 / temperature
};

unsigned key_of(float x) {
    const unsigned bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
unsigned key_of(bf16 x) {
    const unsigned bits = x.bits == 0x8000u ? 0 : x.bits;
    return (bits & 0x8000u ? ~bits : bits | 0x8000u) & 0xffffu;
}
unsigned key_of(f16 x) { return key_of(bf16{x.bits}); }

// As `weight` in crates/kernels/src/sampling.rs, operation for operation.
Count64 weight(const Params& p, float logit, float maximum) {
    const float x = __fmul_rn(__fsub_rn(logit, maximum), p.inverse_temperature);
    if (x < -23.0f) return 0;
    const float shifted = __fadd_rn(__fmul_rn(x, LOG2_E), 12582912.0f);
    const float n = __fsub_rn(shifted, 12582912.0f);
    const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, -2.1219444e-4f));
    float e = 1.9875691e-4f;
    e = __fadd_rn(__fmul_rn(e, r), 1.3982e-3f);
    e = __fadd_rn(__fmul_rn(e, r), 8.333452e-3f);
    e = __fadd_rn(__fmul_rn(e, r), 4.1665796e-2f);
    e = __fadd_rn(__fmul_rn(e, r), 1.6666665e-1f);
    e = __fadd_rn(__fmul_rn(e, r), 0.5f);
    e = __fadd_rn(__fadd_rn(__fmul_rn(e, __fmul_rn(r, r)), r), 1.0f);
    const int exponent = static_cast<int>(__float_as_uint(shifted) - 0x4b400000u);
    // 2^(n + 32), exact.
    return __float2ull_rz(__fmul_rn(e, __uint_as_float(static_cast<unsigned>(exponent + 159) << 23)));
}

// The largest key at which `mass` of the keys that are no smaller reaches `needed`, if that of 0 does.
template <class Mass> unsigned threshold(Count64 needed, Mass mass) {
    unsigned found = 0;
#pragma unroll 1
    for (unsigned bit = 1u << (KEY_BITS - 1); bit != 0; bit >>= 1) {
        if (mass(found | bit) >= needed) found |= bit;
    }
    return found;
}

// What the threads before this one gave, added up.
Count64 sum_before(Count64 own) {
    __shared__ Count64 by_warp[THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Count64 upto = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const Count64 left = __shfl_up_sync(0xffffffffu, upto, step);
        if (lane >= step) upto += left;
    }
    __syncthreads();  // an earlier call may still be reading
    if (lane == 31) by_warp[warp] = upto;
    __syncthreads();
    for (int i = 0; i < warp; ++i) upto += by_warp[i];
    return upto - own;
}

extern "C" __global__ void __launch_bounds__(THREADS)
sample(const __grid_constant__ Params p) {
    const long long row = blockIdx.x;
    const Element* logits = p.logits + row * p.stride;
    __shared__ unsigned token;
    if (threadIdx.x == 0) token = NONE;

    float maximum = -infinity();
    bool bad = false;
    for (int i = threadIdx.x; i < p.vocabulary; i += THREADS) {
        const float x = to_float(logits[i]);
        bad |= !(x < infinity());
        maximum = fmaxf(maximum, x);
    }
    maximum = block_max<THREADS>(maximum);
    if (__syncthreads_or(bad) || maximum == -infinity()) {
        if (threadIdx.x == 0) p.tokens[row] = NONE;
        return;
    }

    if (p.top_k == 1) {
        for (int i = threadIdx.x; i < p.vocabulary; i += THREADS) {
            if (to_float(logits[i]) != maximum) continue;
            atomicMin(&token, static_cast<unsigned>(i));
            break;
        }
        __syncthreads();
        if (threadIdx.x == 0) p.tokens[row] = token;
        return;
    }

    // The sum of what `of` says of each token, by its key and its logit.
    const auto add_up = [&](auto of) {
        Count64 sum = 0;
        for (int i = threadIdx.x; i < p.vocabulary; i += THREADS) sum += of(key_of(logits[i]), logits[i]);
        return block_sum<THREADS>(sum);
    };
    const auto weigh = [&](Element x) { return weight(p, to_float(x), maximum); };

    // Kept are all keys above `least`, and the first `ties` tokens whose key it is.
    unsigned least = 0;
    Count64 ties = p.vocabulary;
    if (p.top_k < p.vocabulary) {
        least = threshold(p.top_k, [&](unsigned candidate) {
            return add_up([=](unsigned key, Element) { return Count64(key >= candidate); });
        });
        ties = p.top_k - add_up([=](unsigned key, Element) { return Count64(key > least); });
    }
    const auto above = [&](unsigned bound) {
        return add_up([&](unsigned key, Element x) { return key > bound ? weigh(x) : 0; });
    };
    const auto of_one = [&](unsigned key) {
        float x = -infinity();
        for (int i = threadIdx.x; i < p.vocabulary; i += THREADS) {
            if (key_of(logits[i]) == key) x = to_float(logits[i]);
        }
        return weight(p, block_max<THREADS>(x), maximum);
    };
    Count64 total = above(least) + (p.top_k < p.vocabulary ? ties * of_one(least) : 0);
    if (p.top_p != ~0ull) {
        const Count64 needed = __umul64hi(total, p.top_p) + (total * p.top_p != 0);  // rounded up
        const unsigned key = threshold(needed, [&](unsigned candidate) {
            if (candidate <= least) return total;
            return add_up([&](unsigned key, Element x) { return key >= candidate ? weigh(x) : 0; });
        });
        const Count64 rest = above(key), each = of_one(key);
        least = key;
        ties = (needed - rest + each - 1) / each;
        total = rest + ties * each;
    }

    // Now a thread takes neighbouring tokens, so that what is before it is what the threads before it have.
    const int stretch = (p.vocabulary + THREADS - 1) / THREADS;
    const int first = min(static_cast<long long>(p.vocabulary), static_cast<long long>(threadIdx.x) * stretch);
    const int end = min(p.vocabulary, first + stretch);
    Count64 own_ties = 0;
    for (int i = first; i < end; ++i) own_ties += key_of(logits[i]) == least;
    const Count64 ties_before = sum_before(own_ties);
    // Calls f(i, weight) for the kept tokens of this thread.
    const auto for_kept = [&](auto f) {
        Count64 seen = ties_before;
        for (int i = first; i < end; ++i) {
            const unsigned key = key_of(logits[i]);
            if (key > least || (key == least && seen++ < ties)) f(i, weigh(logits[i]));
        }
    };
    Count64 own = 0;
    for_kept([&](int, Count64 weight) { own += weight; });
    Count64 upto = sum_before(own);
    const uint4 words = philox(p.philox_key, make_uint4(static_cast<unsigned>(row), 0, 0, 0));
    const Count64 draw = __umul64hi(Count64(words.y) << 32 | words.x, total);
    if (draw >= upto && draw < upto + own) {
        for_kept([&](int i, Count64 weight) {
            if (draw >= upto && draw < upto + weight) token = i;
            upto += weight;
        });
    }
    __syncthreads();
    if (threadIdx.x == 0) p.tokens[row] = token;
}
