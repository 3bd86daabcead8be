// Warp-wide matrix instructions (sm_80 and later).
//
// Who holds what, with lane = 4 g + c (PTX ISA, "Matrix Fragments for mma.m16n8k16"); a register is two
// neighbouring elements of a row of A, or of a column of B:
//
//   A (16 x 16)  a[0]: row g,     columns 2c, 2c+1      a[1]: row g + 8, the same columns
//                a[2]: row g,     columns 2c+8, 2c+9    a[3]: row g + 8, the same columns
//   B (16 x 8)   b0: rows 2c, 2c+1 of column g          b1: rows 2c+8, 2c+9 of column g
//   D (16 x 8)   d[0], d[1]: row g, columns 2c, 2c+1    d[2], d[3]: row g + 8, the same columns
//
// With f32 elements, a register is one ("Matrix Fragments for mma.m16n8k8", .tf32):
//
//   A (16 x 8)   a[0]: row g, column c                  a[1]: row g + 8, the same column
//                a[2]: row g, column c + 4              a[3]: row g + 8, the same column
//   B (8 x 8)    b0: row c of column g                  b1: row c + 4 of column g

#pragma once

#include "common/element.cuh"
#include "common/memory.cuh"

// Loads four 8 x 8 matrices; lane 8 i + j gives the address of row j of matrix i (16 bytes, aligned to 16).
// In matrix i, which comes back in r[i], lane 4 g + c receives elements 2c, 2c+1 of row g.
// PTX ISA: Warp Level Matrix Multiply-Accumulate Instructions: ldmatrix.
__forceinline__ void load_matrix_x4(unsigned (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}

// The same, each matrix transposed: lane 4 g + c receives elements 2c, 2c+1 of column g.
// PTX ISA: Warp Level Matrix Multiply-Accumulate Instructions: ldmatrix.
__forceinline__ void load_matrix_x4_transposed(unsigned (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}

// d += A B, of 16-bit elements: A 16 x 16, B 16 x 8, products and sums in f32.
// PTX ISA: Warp Level Matrix Multiply-Accumulate Instructions: mma.
template <class Element>
__forceinline__ void multiply_accumulate(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
__forceinline__ void multiply_accumulate<bf16>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__forceinline__ void multiply_accumulate<f16>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// An f32 as the sum of two numbers of 11 significant bits, but for 2^-23 of it.
// PTX ISA: Data Movement and Conversion Instructions: cvt.
struct Tf32Pair {
    unsigned high, low;

    explicit Tf32Pair(unsigned x) {
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(high) : "f"(__uint_as_float(x)));
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(low) : "f"(__uint_as_float(x) - __uint_as_float(high)));
    }
};

// PTX ISA: Warp Level Matrix Multiply-Accumulate Instructions: mma.
__forceinline__ void multiply_accumulate_tf32(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += A B, of f32: A 16 x 8, B 8 x 8. Each factor is a high and a low part; all products but that of the low parts,
// which is beyond the precision of f32, are added up, the small ones first.
template <>
__forceinline__ void multiply_accumulate<float>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    unsigned high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const Tf32Pair parts(a[i]);
        high[i] = parts.high;
        low[i] = parts.low;
    }
    const Tf32Pair right0(b0), right1(b1);
    multiply_accumulate_tf32(d, low, right0.high, right1.high);
    multiply_accumulate_tf32(d, high, right0.low, right1.low);
    multiply_accumulate_tf32(d, high, right0.high, right1.high);
}
