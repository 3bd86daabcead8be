// What the user's expressions call by name: numbers, and tensors that they index. Each has 8 bytes in Params.

#pragma once

#include "common/element.cuh"

constexpr int MAX_NAMED = 8;

using Named = unsigned long long[MAX_NAMED];

template <class T> struct NamedTensor {
    const T* data;
    float operator[](long long i) const { return to_float(data[i]); }
};

template <> struct NamedTensor<int> {
    const int* data;
    int operator[](long long i) const { return data[i]; }
};

template <class T> NamedTensor<T> named_tensor(unsigned long long slot) { return {reinterpret_cast<const T*>(slot)}; }
inline float named_float(unsigned long long slot) { return __uint_as_float(static_cast<unsigned>(slot)); }
inline long long named_integer(unsigned long long slot) { return static_cast<long long>(slot); }
