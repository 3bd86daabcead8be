// Element types in memory, and how they become f32, in which all arithmetic is done.
//
//   float, bf16, f16      one element
//   Pair<T>               two neighbouring elements: one register of a 16-bit type (as mma operands want), else float2
//   Vec<T, N>             N neighbouring elements, moved by the widest access that N allows (16 bytes for Vec8)

#pragma once

#include "common/convert.cuh"

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
inline float to_float(f16 x) { return cvt_f32_f16(x.bits); }

template <class T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) { return {cvt_bf16_f32(x)}; }
template <> inline f16 from_float<f16>(float x) { return {cvt_f16_f32(x)}; }

template <class T> struct PairOf { using type = unsigned; };
template <> struct PairOf<float> { using type = float2; };
template <class T> using Pair = typename PairOf<T>::type;

template <class T> Pair<T> pack(float low, float high);
template <> inline float2 pack<float>(float low, float high) { return make_float2(low, high); }
template <> inline unsigned pack<bf16>(float low, float high) { return cvt_bf16x2_f32(low, high); }
template <> inline unsigned pack<f16>(float low, float high) { return cvt_f16x2_f32(low, high); }

template <class T> float2 unpack(Pair<T> pair);
template <> inline float2 unpack<float>(float2 pair) { return pair; }
template <> inline float2 unpack<bf16>(unsigned pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <> inline float2 unpack<f16>(unsigned pair) {
    return make_float2(cvt_f32_f16(pair & 0xffffu), cvt_f32_f16(pair >> 16));
}

// N is 1 or even. In a kernel that treats N generically, `load` and `store` convert to and from f32 as they go.
template <class T, int N> struct Vec {
    Pair<T> pair[N / 2];
    float get(int i) const { return i % 2 == 0 ? unpack<T>(pair[i / 2]).x : unpack<T>(pair[i / 2]).y; }
};
template <class T> struct Vec<T, 1> {
    T one;
    float get(int) const { return to_float(one); }
};
template <class T> using Vec8 = Vec<T, 8>;

template <class T, int N> Vec<T, N> to_vec(const float (&values)[N]) {
    Vec<T, N> v;
    if constexpr (N == 1) {
        v.one = from_float<T>(values[0]);
    } else {
#pragma unroll
        for (int i = 0; i < N / 2; ++i) v.pair[i] = pack<T>(values[2 * i], values[2 * i + 1]);
    }
    return v;
}

// The address must be aligned to min(16, N * sizeof(T)) bytes.
template <int N, class T> Vec<T, N> load(const T* address) {
    Vec<T, N> v;
    if constexpr (N * sizeof(T) % 16 == 0) {
#pragma unroll
        for (int i = 0; i < N * sizeof(T) / 16; ++i)
            reinterpret_cast<uint4*>(&v)[i] = reinterpret_cast<const uint4*>(address)[i];
    } else if constexpr (N * sizeof(T) == 8) {
        reinterpret_cast<uint2*>(&v)[0] = reinterpret_cast<const uint2*>(address)[0];
    } else {
        v = *reinterpret_cast<const Vec<T, N>*>(address);
    }
    return v;
}

// To global memory. As a store of uint4 the compiler takes it apart, and does not always put it together again.
// PTX ISA: Data Movement and Conversion Instructions: st.
inline void store_global_16(void* address, uint4 v) {
    asm volatile(
        "{ .reg .u64 global; cvta.to.global.u64 global, %0; st.global.v4.u32 [global], {%1, %2, %3, %4}; }"
        :: "l"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// To global memory; the address must be aligned to min(16, N * sizeof(T)) bytes.
template <int N, class T> void store(T* address, const Vec<T, N>& v) {
    if constexpr (N * sizeof(T) % 16 == 0) {
#pragma unroll
        for (int i = 0; i < N * sizeof(T) / 16; ++i)
            store_global_16(reinterpret_cast<uint4*>(address) + i, reinterpret_cast<const uint4*>(&v)[i]);
    } else if constexpr (N * sizeof(T) == 8) {
        reinterpret_cast<uint2*>(address)[0] = reinterpret_cast<const uint2*>(&v)[0];
    } else {
        *reinterpret_cast<Vec<T, N>*>(address) = v;
    }
}

// To shared memory, with the same alignment.
template <int N, class T> void store_shared(T* address, const Vec<T, N>& v) {
    if constexpr (N * sizeof(T) % 16 == 0) {
#pragma unroll
        for (int i = 0; i < N * sizeof(T) / 16; ++i)
            reinterpret_cast<uint4*>(address)[i] = reinterpret_cast<const uint4*>(&v)[i];
    } else {
        *reinterpret_cast<Vec<T, N>*>(address) = v;
    }
}

template <class T> Vec8<T> load8(const T* address) { return load<8>(address); }
template <class T> void store8(T* address, const Vec8<T>& v) { store<8>(address, v); }
