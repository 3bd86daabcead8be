// Rotary position embedding of N pairs of elements (Su et al. 2021, arXiv 2104.09864, eq. 34): see rope/rotate.cu.

#pragma once

#include "common/element.cuh"

// Of the angle by which a pair turns at `position`, exact to f32 at every position: whole turns are left out in f64.
inline void sine_and_cosine(double position, float frequency, float* sine, float* cosine) {
    constexpr double TURNS_PER_RADIAN = 0.15915494309189533577;
    const double turns = position * frequency * TURNS_PER_RADIAN;
    sincospif(2 * static_cast<float>(turns - rint(turns)), sine, cosine);
}

// What becomes of a and b: of elements i of both where halves turn together; INTERLEAVED, of the pairs (2i, 2i + 1) among
// the 2 * N that lie behind each other.
template <bool INTERLEAVED, class Element, int N>
void turn(const Vec<Element, N>& a, const Vec<Element, N>& b, const float (&cosine)[N], const float (&sine)[N],
          float (&turned_a)[N], float (&turned_b)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float x = !INTERLEAVED ? a.get(i) : 2 * i < N ? a.get(2 * i % N) : b.get(2 * i % N);
        const float y = !INTERLEAVED ? b.get(i) : 2 * i + 1 < N ? a.get((2 * i + 1) % N) : b.get((2 * i + 1) % N);
        const float turned_x = x * cosine[i] - y * sine[i], turned_y = x * sine[i] + y * cosine[i];
        if constexpr (INTERLEAVED) {
            (2 * i < N ? turned_a : turned_b)[2 * i % N] = turned_x;
            (2 * i + 1 < N ? turned_a : turned_b)[(2 * i + 1) % N] = turned_y;
        } else {
            turned_a[i] = turned_x;
            turned_b[i] = turned_y;
        }
    }
}
