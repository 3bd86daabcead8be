// The sum of exponentials of a row in one pass over it (Milakov & Gimelshein 2018, arXiv 1805.02867, algorithm 3).

#pragma once

#include "common/math.cuh"
#include "common/reduce.cuh"

// Of the numbers that a thread saw: the largest, and the sum of exp(x - maximum).
struct Running {
    float maximum = -infinity();
    float sum = 0;

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
};

// log(sum of exp(x)) over what the threads of a block saw; -inf where that is nothing but -inf. All threads must call.
template <int THREADS> float log_sum_exp(const Running& running) {
    const float maximum = block_max<THREADS>(running.maximum);
    const bool seen = running.maximum != -infinity();
    const float sum =
        block_sum<THREADS>(seen ? running.sum * exp2_approximate((running.maximum - maximum) * LOG2_E) : 0.0f);
    return maximum + logf(sum);
}
