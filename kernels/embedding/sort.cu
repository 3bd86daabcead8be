// Sorts the positions 0 ... N - 1 by their ids; equal ids stay in the order of their positions. Radix sort, the least
// significant digit first (Knuth 1998, The Art of Computer Programming 3, section 5.2.5, algorithm R), one pass for each 8
// bits of V, three launches each:
//
//   sort_count    one block per TILE: counts[digit][tile] = how often the digit occurs there
//   sort_scan     one block per digit: counts[digit][tile] becomes the sum over earlier tiles, totals[digit] that over all
//   sort_scatter  one block per TILE: moves each id and its position to where they belong
//
// An id that is not below V, and that of padding, count as V: they come last. Outputs are overwritten. Atomic additions,
// in sort_count, are of integers: deterministic.
//
// constants.cuh comes from Rust: THREADS, a multiple of 256; ROUNDS. TILE = THREADS * ROUNDS.

#include "constants.cuh"
#include "common/reduce.cuh"

struct Params {
    const unsigned* ids;        // (N), in the first pass; null in the others
    const unsigned* from_ids;   // (N), in the others
    const unsigned* from_positions;
    unsigned*       to_ids;     // (N)
    unsigned*       to_positions;
    unsigned*       counts;     // (256, tiles)
    unsigned*       totals;     // (256)
    long long       count;      // N
    long long       tiles;
    unsigned        vocabulary; // V
    unsigned        padding;    // an id; V or more for none
    int             shift;      // of the digit, in bits
};

constexpr int DIGITS = 256, WARPS = THREADS / 32, TILE = THREADS * ROUNDS;
constexpr int NO_DIGIT = DIGITS;  // past the end

inline unsigned id_at(const Params& p, long long i) {
    if (!p.ids) return p.from_ids[i];
    const unsigned id = p.ids[i];
    return id < p.vocabulary && id != p.padding ? id : p.vocabulary;
}

inline int digit_of(const Params& p, unsigned id) { return id >> p.shift & DIGITS - 1; }

extern "C" __global__ void __launch_bounds__(THREADS)
sort_count(const __grid_constant__ Params p) {
    __shared__ unsigned counts[DIGITS];
    for (int digit = threadIdx.x; digit < DIGITS; digit += THREADS) counts[digit] = 0;
    __syncthreads();
    const long long start = static_cast<long long>(blockIdx.x) * TILE;
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const long long i = start + round * THREADS + threadIdx.x;
        if (i < p.count) atomicAdd(&counts[digit_of(p, id_at(p, i))], 1u);
    }
    __syncthreads();
    for (int digit = threadIdx.x; digit < DIGITS; digit += THREADS)
        p.counts[digit * p.tiles + blockIdx.x] = counts[digit];
}

// The sum of x over the threads before this one; `total` becomes that over all. All threads must call.
inline unsigned sum_before(unsigned x, unsigned& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned up_to = x;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const unsigned other = __shfl_up_sync(0xffffffffu, up_to, distance);
        if (lane >= distance) up_to += other;
    }
    __shared__ unsigned by_warp[WARPS];
    __syncthreads();  // an earlier call may still be reading
    if (lane == 31) by_warp[warp] = up_to;
    __syncthreads();
    unsigned before = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        if (w < warp) before += by_warp[w];
        total += by_warp[w];
    }
    return before + up_to - x;
}

extern "C" __global__ void __launch_bounds__(THREADS)
sort_scan(const __grid_constant__ Params p) {
    unsigned* counts = p.counts + blockIdx.x * p.tiles;
    unsigned before = 0;
    for (long long start = 0; start < p.tiles; start += THREADS) {
        const long long tile = start + threadIdx.x;
        unsigned total;
        const unsigned sum = sum_before(tile < p.tiles ? counts[tile] : 0, total);
        if (tile < p.tiles) counts[tile] = before + sum;
        before += total;
    }
    if (threadIdx.x == 0) p.totals[blockIdx.x] = before;
}

// The lanes of this warp, all of which call, with the same digit.
inline unsigned same_digit(int digit) { return __match_any_sync(0xffffffffu, digit); }

// A warp takes 32 * ROUNDS neighbours, so that its items, and the warps, are in order.
extern "C" __global__ void __launch_bounds__(THREADS)
sort_scatter(const __grid_constant__ Params p) {
    __shared__ unsigned places[WARPS][DIGITS + 1];  // first how many of a digit a warp has, then where its next goes
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long long first = static_cast<long long>(blockIdx.x) * TILE + warp * (32 * ROUNDS) + lane;
    unsigned ids[ROUNDS];
    for (int digit = lane; digit < DIGITS; digit += 32) places[warp][digit] = 0;
    __syncwarp();
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const long long i = first + round * 32;
        if (i < p.count) ids[round] = id_at(p, i);
        const int digit = i < p.count ? digit_of(p, ids[round]) : NO_DIGIT;
        const unsigned same = same_digit(digit);
        if (digit != NO_DIGIT && lane == __ffs(same) - 1) places[warp][digit] += __popc(same);
        __syncwarp();
    }
    unsigned unused;
    const unsigned digit_total = threadIdx.x < DIGITS ? p.totals[threadIdx.x] : 0;
    unsigned place = sum_before(digit_total, unused);  // of the digit's first; also a barrier after the counting
    if (threadIdx.x < DIGITS) {
        place += p.counts[threadIdx.x * p.tiles + blockIdx.x];
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const unsigned count = places[w][threadIdx.x];
            places[w][threadIdx.x] = place;
            place += count;
        }
    }
    __syncthreads();
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const long long i = first + round * 32;
        const int digit = i < p.count ? digit_of(p, ids[round]) : NO_DIGIT;
        const unsigned same = same_digit(digit);
        if (digit != NO_DIGIT) {
            const unsigned to = places[warp][digit] + __popc(same & (1u << lane) - 1);
            p.to_ids[to] = ids[round];
            p.to_positions[to] = p.ids ? static_cast<unsigned>(i) : p.from_positions[i];
        }
        __syncwarp();  // all have read the place
        if (digit != NO_DIGIT && lane == __ffs(same) - 1) places[warp][digit] += __popc(same);
        __syncwarp();
    }
}
