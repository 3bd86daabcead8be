// The sum of exponentials of a row in one pass over it (Milakov & Gimelshein 2018, arXiv 1805.02867, algorithm 3).

#pragma once

#include "common/math.cuh"
#include "common/reduce.cuh"

// Of the numbers that a thread saw: the largest, and the sum of exp(x - maximum). At first {-infinity(), 0}.
struct Running {
    float maximum;
    float sum;

    template <int N> void see(const float (&x)[N]) {
        float largest = maximum;
#pragma unroll
        for (int k = 0; k < N; ++k) largest = fmaxf(largest, x[k]);
        if (largest == -infinity()) return;
        const float shift = largest * LOG2_E;
        sum *= exp2_approximate(maximum * LOG2_E - shift);
        maximum = largest;
#pragma unroll
        for (int k = 0; k < N; ++k) sum += exp2_approximate(x[k] * LOG2_E - shift);
    }

    // The sum as it is relative to another maximum, which is at least as large.
    float sum_below(float maximum) const {
        const bool seen = this->maximum != -infinity();
        return seen ? sum * exp2_approximate((this->maximum - maximum) * LOG2_E) : 0.0f;
    }

    // log(sum of exp(x)); -inf where that is nothing but -inf.
    float log_sum_exp() const { return maximum + logf(sum); }
};

// What the threads of a block saw together. All of them must call.
template <int THREADS> Running over_block(const Running& running) {
    const float maximum = block_max<THREADS>(running.maximum);
    return {maximum, block_sum<THREADS>(running.sum_below(maximum))};
}

// What all of these saw together.
template <int N, class T> Running together(const T (&parts)[N]) {
    Running all = {-infinity(), 0};
#pragma unroll
    for (int i = 0; i < N; ++i) all.maximum = fmaxf(all.maximum, parts[i].maximum);
#pragma unroll
    for (int i = 0; i < N; ++i) all.sum += parts[i].sum_below(all.maximum);
    return all;
}
