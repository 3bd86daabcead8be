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
// `draw`. What is kept is found without sorting: the smallest key that is kept is found DIGIT_BITS bits at a time, the
// highest first, each time from the sum of what counts for each value of them, in one pass over the row. Sums are integers,
// so the order in which atomics add does not matter.
//
// With a top_k of 1 nothing is drawn.
//
// A row that holds NaN or +inf, or nothing above -inf, gives NONE. tokens (N) is overwritten.
//
// A row is one block's, or that of a cluster of CLUSTER blocks, which have a slice of its columns each. The first `held`
// columns of a block stay in shared memory after the first pass; what does not fit is read again: once for each digit of
// top_k and of top_p (two of 16 bits, three of f32), and once to draw. A long row that is one block's (SLICES > CLUSTER)
// is read three times as a rule: in the second pass over digits, the tokens that the first has left are gathered in shared
// memory, and if there is room for them all, nothing else is looked at from then on.
//
// constants.cuh comes from Rust: Element, THREADS, SLICES, CLUSTER, MAX_GATHERED. Grid: N * CLUSTER.

#include "constants.cuh"
#include "common/element.cuh"
#include "common/philox.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"
#include "common/slices.cuh"

constexpr unsigned NONE = 0xffffffffu, ALL_LANES = 0xffffffffu;
constexpr int WIDE = 16 / sizeof(Element);
using Count64 = unsigned long long;

struct Params {
    const Element* logits;  // (N, V), rows stride elements apart
    unsigned*      tokens;  // (N)
    long long      stride;
    Count64        philox_key;
    Count64        top_p;                // in 2^-64; all ones keep everything
    int            vocabulary;           // V
    int            top_k;                // 1 to V
    int            held;                 // shared memory has room for as many elements and 2 * WIDE more
    float          inverse_temperature;  // 1 / temperature
};

template <class T> constexpr int UNUSED_BITS = 0;  // of an f32 that a T became: they are 0
template <> constexpr int UNUSED_BITS<bf16> = 16;
template <> constexpr int UNUSED_BITS<f16> = 13;
constexpr int UNUSED = UNUSED_BITS<Element>, KEY_BITS = 32 - UNUSED;

unsigned key_of(float x) {
    const unsigned bits = __float_as_uint(x + 0.0f);
    return (bits & 0x80000000u ? ~bits : bits | 0x80000000u) >> UNUSED;
}
float of_key(unsigned key) {
    const unsigned bits = key << UNUSED;
    return __uint_as_float(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits >> UNUSED << UNUSED);
}

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

// Threads of all blocks of a row wait for each other.
void wait_for_row() {
    if constexpr (CLUSTER > 1) cluster_wait();
    else __syncthreads();
}

// What the blocks of a row before this one gave, added up, and what all of them did; `own` is this block's, the same in all
// of its threads. Once for each `parts`.
struct OverBlocks { Count64 before, all; };
OverBlocks over_blocks(Count64 own, Count64 (&parts)[CLUSTER]) {
    if constexpr (CLUSTER == 1) return {0, own};
    share_in_cluster(parts, own);
    OverBlocks sums = {0, 0};
#pragma unroll
    for (int i = 0; i < CLUSTER; ++i) {
        if (i == cluster_rank()) sums.before = sums.all;
        sums.all += parts[i];
    }
    return sums;
}

extern __shared__ uint4 shared[];

// A block's columns of a row of logits, and where in shared memory they wait.
struct Row {
    Columns        columns;
    const Element* logits;
    Element*       waiting;  // with the alignment that it has in memory
    int            held;

    Row(const Params& p, long long row)
        : columns(columns_of_block<CLUSTER, WIDE>(p.vocabulary)),
          logits(p.logits + row * p.stride + columns.first),
          waiting(reinterpret_cast<Element*>(shared) + reinterpret_cast<Count64>(logits) % 16 / sizeof(Element)),
          held(p.held) {}

    float get(int column) const { return to_float(column < held ? waiting[column] : logits[column]); }

    // Calls f(column, logit) for each column, by the thread that brings it here in the first pass.
    template <bool FIRST = false, class F> void for_each(F f) const {
        for_columns<THREADS, WIDE>(logits, columns.count, [&](int column, auto n) {
            constexpr int N = decltype(n)::value;
            const bool is_held = column < held;
            const Vec<Element, N> piece = is_held && !FIRST ? load<N>(waiting + column) : load<N>(logits + column);
            if (is_held && FIRST) store_shared(waiting + column, piece);
#pragma unroll
            for (int k = 0; k < N; ++k) f(column + k, piece.get(k));
        });
    }
};

// Sums for each value of a digit. 64 bits, because weights go up to 2^32, from two of 32: shared memory has no addition of
// 64. Each block has those of its columns.
constexpr int DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS;
alignas(8) __shared__ unsigned low_sums[DIGITS], high_sums[DIGITS];

void add(unsigned digit, Count64 mass) {
    if (mass == 0) return;
    const unsigned low = static_cast<unsigned>(mass), old = atomicAdd(&low_sums[digit], low);
    const unsigned high = static_cast<unsigned>(mass >> 32) + (old + low < old);
    if (high != 0) atomicAdd(&high_sums[digit], high);
}

// Of two neighbouring digits, the first of which is even, over all blocks of the row.
struct TwoSums { Count64 smaller, larger; };
TwoSums sums_of(unsigned digit) {
    TwoSums sums = {0, 0};
#pragma unroll
    for (int rank = 0; rank < CLUSTER; ++rank) {
        const auto at = [&](const unsigned* sums) {
            const uint2* two = reinterpret_cast<const uint2*>(sums + digit);
            if constexpr (CLUSTER > 1) return load_in_cluster(two, rank);
            else return *two;
        };
        const uint2 low = at(low_sums), high = at(high_sums);
        sums.smaller += Count64(high.x) << 32 | low.x;
        sums.larger += Count64(high.y) << 32 | low.y;
    }
    return sums;
}

// The tokens of a row that can still be kept: at first all, then those that are gathered, in any order.
constexpr bool GATHERS = SLICES > CLUSTER;

struct Tokens {
    const Row& row;
    bool       gathered = false;  // the same in all threads

    struct List { float logits[MAX_GATHERED]; unsigned tokens[MAX_GATHERED], count; };
    static List& list() {
        __shared__ List list;
        return list;
    }

    // Calls f(token, logit) for each; gathers those with a key from `least` on, unless that is 0. All threads call `begin`
    // before, and `end` after, each with a barrier between.
    template <class F> void for_each(unsigned least, F f) const {
        if constexpr (GATHERS) {
            List& all = list();
            if (gathered) {
                for (unsigned i = threadIdx.x; i < all.count; i += THREADS) f(all.tokens[i], all.logits[i]);
                return;
            }
            bool has_room = least != 0;
            row.for_each([&](int column, float x) {
                if (has_room && key_of(x) >= least) {
                    const unsigned place = atomicAdd(&all.count, 1);
                    has_room = place < MAX_GATHERED;
                    if (has_room) {
                        all.logits[place] = x;
                        all.tokens[place] = column;
                    }
                }
                f(column, x);
            });
        } else {
            row.for_each(f);
        }
    }
    void begin() const {
        if (GATHERS && !gathered && threadIdx.x == 0) list().count = 0;
    }
    void end() {
        if constexpr (GATHERS) {
            const unsigned count = list().count;
            gathered |= count > 0 && count <= MAX_GATHERED;
        }
    }
};

struct Cut {
    unsigned key;
    Count64  above;   // the mass of larger keys
    Count64  needed;
};

// The largest key at which the mass of the keys that are no smaller reaches `needed(total)`, which is neither 0 nor more
// than the total. A token has `key_of_token(token, logit)`, of so many bits, and `mass(token, logit)`; key `key` has
// `more` beside. All threads of the row must call.
template <class Key, class Mass, class Needed>
Cut cut(Tokens& tokens, int key_bits, unsigned key, Count64 more, Key key_of_token, Mass mass, Needed needed) {
    static_assert(DIGITS == 2 * THREADS, "a thread has two values of a digit");
    __shared__ Cut found;
    Cut cut = {};
#pragma unroll 1
    for (int left = key_bits; left > 0;) {
        const int bits = min(DIGIT_BITS, left);
        left -= bits;
        const auto digit_of = [&](unsigned key) { return key >> left & ((1u << bits) - 1); };
        const auto counts = [&](unsigned key) { return Count64(key) >> (left + bits) == Count64(cut.key) >> (left + bits); };
        for (int i = threadIdx.x; i < DIGITS; i += THREADS) low_sums[i] = high_sums[i] = 0;
        tokens.begin();
        __syncthreads();
        tokens.for_each(cut.key, [&](int token, float x) {
            const unsigned of_token = key_of_token(token, x);
            if (counts(of_token)) add(digit_of(of_token), mass(token, x));
        });
        if (tokens.row.columns.first == 0 && threadIdx.x == 0 && counts(key)) add(digit_of(key), more);
        wait_for_row();
        tokens.end();
        // This thread's two values, the larger one first: sums are from the largest value down.
        const unsigned larger = DIGITS - 1 - 2 * threadIdx.x;
        const TwoSums sums = sums_of(larger - 1);
        const Count64 both = sums.larger + sums.smaller, before = cut.above + sum_before(both);
        if (left + bits == key_bits) cut.needed = needed(block_sum<THREADS>(both));
        if (before < cut.needed && cut.needed <= before + both) {
            const bool is_larger = cut.needed <= before + sums.larger;
            found = {cut.key | (is_larger ? larger : larger - 1) << left, is_larger ? before : before + sums.larger, cut.needed};
        }
        wait_for_row();
        cut = found;
    }
    return cut;
}

// Of some columns: the largest logit, -inf where there is none; +inf where the row gives no token.
struct alignas(8) Largest { float logit; };

// One block at a time: left to itself, ptxas makes room for two, and spills the 16-bit forms on sm_90a.
extern "C" __global__ void CLUSTER_OF(CLUSTER) __launch_bounds__(THREADS, 1)
sample(const __grid_constant__ Params p) {
    __shared__ unsigned token;
    __shared__ Largest shared_maxima[CLUSTER];
    __shared__ Count64 tokens[CLUSTER], ties_of_blocks[CLUSTER], sums_of_blocks[CLUSTER];
    const long long number = blockIdx.x / CLUSTER;
    const Row row(p, number);
    const bool writes_row = row.columns.first == 0 && threadIdx.x == 0;
    if (threadIdx.x == 0) token = NONE;

    unsigned largest = NONE;  // the first column of this thread that has it
    float own_maximum = -infinity();
    const auto maxima = read_slices<CLUSTER, WIDE>(shared_maxima, p.vocabulary, [&](const Columns&) {
        bool bad = false;
        row.for_each<true>([&](int column, float x) {
            bad |= !(x < infinity());
            if (x > own_maximum) {
                own_maximum = x;
                largest = column;
            }
        });
        const float maximum = block_max<THREADS>(own_maximum);
        return Largest{__syncthreads_or(bad) ? infinity() : maximum};
    });
    float maximum = -infinity();
    for (const Largest& of_block : maxima.of) maximum = fmaxf(maximum, of_block.logit);
    if (maximum == infinity() || maximum == -infinity()) {
        if (writes_row) p.tokens[number] = NONE;
        return;
    }
    if (p.top_k == 1) {
        if (own_maximum == maximum) atomicMin(&token, row.columns.first + largest);
        __syncthreads();
        unsigned smallest = token;
        if constexpr (CLUSTER > 1) {
            share_in_cluster(tokens, Count64(smallest));
            for (const Count64 of_block : tokens) smallest = min(smallest, static_cast<unsigned>(of_block));
        }
        if (writes_row) p.tokens[number] = smallest;
        return;
    }
    const auto weigh = [&](float x) { return weight(p, x, maximum); };

    // Kept are all keys above `least`, and the first `ties` tokens whose key it is. No token has key 0, which is a NaN.
    Tokens all{row};
    const auto by_logit = [](int, float x) { return key_of(x); };
    unsigned least = 0;
    Count64 ties = 0;
    if (p.top_k < p.vocabulary) {
        const auto one = [](int, float) { return Count64(1); };
        const Cut kept = cut(all, KEY_BITS, 0, 0, by_logit, one, [&](Count64) { return Count64(p.top_k); });
        least = kept.key;
        ties = kept.needed - kept.above;
    }
    if (p.top_p != ~0ull) {
        const auto mass = [&](int, float x) { return key_of(x) > least ? weigh(x) : 0; };
        const auto needed = [&](Count64 total) {
            return __umul64hi(total, p.top_p) + (total * p.top_p != 0);  // rounded up
        };
        const Count64 tied = ties == 0 ? 0 : ties * weigh(of_key(least));
        const Cut kept = cut(all, KEY_BITS, least, tied, by_logit, mass, needed);
        const Count64 each = weigh(of_key(kept.key));
        least = kept.key;
        ties = (kept.needed - kept.above + each - 1) / each;
    }
    const Count64 each = ties == 0 ? 0 : weigh(of_key(least));
    const uint4 words = philox(p.philox_key, make_uint4(number, 0, 0, 0));
    const auto draw_of = [&](Count64 total) { return __umul64hi(Count64(words.y) << 32 | words.x, total); };

    // Those that are gathered are in any order: the last tie, and then the token, are found as cuts are, with the smallest
    // token as the largest key.
    if (GATHERS && all.gathered) {
        const int bits = 32 - __clz(p.vocabulary - 1);
        const auto by_token = [&](int token, float) { return static_cast<unsigned>(p.vocabulary - 1 - token); };
        const auto is_tie = [&](int, float x) { return Count64(key_of(x) == least); };
        const unsigned last_tie = cut(all, bits, 0, 0, by_token, is_tie, [&](Count64) { return ties; }).key;
        const auto mass = [&](int token, float x) {
            const unsigned key = key_of(x);
            return key > least || (key == least && by_token(token, x) >= last_tie) ? weigh(x) : 0;
        };
        const Cut drawn = cut(all, bits, 0, 0, by_token, mass, [&](Count64 total) { return draw_of(total) + 1; });
        if (threadIdx.x == 0) p.tokens[number] = p.vocabulary - 1 - drawn.key;
        return;
    }

    // Now a warp takes neighbouring tokens, so that what is before it is what the warps before it have.
    constexpr int WARPS = THREADS / 32;
    const int lane = threadIdx.x % 32, count = row.columns.count;
    const long long stretch = ((count + WARPS - 1) / WARPS + 31) / 32 * 32;
    const int first = min(static_cast<long long>(count), threadIdx.x / 32 * stretch);
    const int end = min(static_cast<long long>(count), first + stretch);
    Count64 own_ties = 0, own = 0;
    for (int i = first + lane; i < end; i += 32) {
        const float x = row.get(i);
        const unsigned key = key_of(x);
        if (key > least) own += weigh(x);
        own_ties += key == least;
    }
    Count64 ties_before = __shfl_sync(ALL_LANES, sum_before(own_ties), 0);
    if constexpr (CLUSTER > 1) ties_before += over_blocks(block_sum<THREADS>(own_ties), ties_of_blocks).before;
    const Count64 left = ties > ties_before ? ties - ties_before : 0, tied = warp_sum(own_ties);
    own = warp_sum(own) + (left < tied ? left : tied) * each;
    const OverBlocks sums = over_blocks(block_sum<THREADS>(lane == 0 ? own : 0), sums_of_blocks);
    Count64 before = sums.before + __shfl_sync(ALL_LANES, sum_before(lane == 0 ? own : 0), 0);
    const Count64 draw = draw_of(sums.all);
    if (draw < before || draw >= before + own) return;
    for (int i = first + lane;; i += 32) {
        const float x = i < end ? row.get(i) : -infinity();
        const unsigned key = key_of(x), tied = __ballot_sync(ALL_LANES, i < end && key == least);
        Count64 upto = i < end && key > least ? weigh(x) : 0;
        if (tied >> lane & 1 && ties_before + __popc(tied & ((1u << lane) - 1)) < ties) upto = each;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const Count64 of_left = __shfl_up_sync(ALL_LANES, upto, step);
            if (lane >= step) upto += of_left;
        }
        const unsigned reached = __ballot_sync(ALL_LANES, draw < before + upto);
        if (reached != 0) {
            if (lane == __ffs(reached) - 1) p.tokens[number] = row.columns.first + i;
            return;
        }
        before += __shfl_sync(ALL_LANES, upto, 31);
        ties_before += __popc(tied);
    }
}
