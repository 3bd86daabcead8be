//! `mma.sync` (PTX ISA, "Warp-level Matrix Instructions: mma").
//!
//! # How close to the hardware
//!
//! Products of integers are exact, and so are their sums. Products of floats of at most 32 bits are exact too; here
//! their sum with c is taken in f64, in order of k, and rounded once to the accumulator's type, to the nearest even.
//!
//! A tensor core takes the terms of `L` products and the accumulator together: it shifts all to the largest exponent
//! among them, cuts off what is below `F` fractional bits, adds exactly, and cuts an f32 sum to 24 bits (an f16 sum is
//! rounded to the nearest even). Larger k go through several such steps (Fasi et al. 2021, "Numerical behavior of
//! NVIDIA tensor cores"; Xie et al. 2025, arXiv 2511.10909):
//!
//! | architecture | F | L: tf32 | f16, bf16 | e4m3, e5m2 |
//! |---|---|---|---|---|
//! | sm_80, sm_86 | 24 | 4 | 8 | |
//! | sm_89 | 24, and 13 for 8-bit floats | 4 | 8 | 16 |
//! | sm_90 | 25, and 13 for 8-bit floats in `wgmma` | 8 | 16 | 32 |
//! | sm_100, sm_120 | 25 | 8 | 16 | 32 |
//!
//! So the sums differ. With `T = |c| + sum |a b|`, no term and no intermediate sum exceeds `T` (but for roundings), each
//! of the `L + 1` terms of a step loses less than `2^-F T`, and the step's sum less than `2^-23 T`. An f32 result of
//! the hardware is thus within
//!
//! `k / L ((L + 1) 2^-F + 2^-23) T + 2^-23 T`
//!
//! of the one here, which the last term covers: for f16 and bf16 at k = 16, `12 * 2^-23 T` on sm_80 and
//! `6.25 * 2^-23 T` on sm_90. Where the 8-bit floats' sum is cut to 13 fractional bits, `2^-13` stands for `2^-23`.
//! f64 products are chains of fused multiplications and additions in order of k, here as there.

use super::accumulator::Accumulator;
use super::element::Element;
use super::product::Product;

/// The shape and types of an `mma`: the matrices a (m, k), b (k, 8), c and d (m, 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    m: usize,
    k: usize,
    a: Element,
    b: Element,
    c: Accumulator,
    d: Accumulator,
}

impl Shape {
    /// `.m16n8k..` or `.m8n8k..`, or None where the instruction set has no such shape with these types.
    #[must_use]
    pub fn new(m: usize, k: usize, a: Element, b: Element, c: Accumulator, d: Accumulator) -> Option<Self> {
        use Element::{Bf16, E4m3, E5m2, F16, S4, S8, Tf32, U4, U8};
        let ks: &[usize] = match (m, a, b) {
            (16, Tf32, Tf32) => &[4, 8],
            (16, F16, F16) | (16, Bf16, Bf16) => &[8, 16],
            (16, E4m3 | E5m2, E4m3 | E5m2) | (16, S8 | U8, S8 | U8) => &[16, 32],
            (16, S4 | U4, S4 | U4) => &[32, 64],
            (8, S8 | U8, S8 | U8) => &[16],
            (8, S4 | U4, S4 | U4) => &[32],
            _ => return None,
        };
        let accumulators: &[Accumulator] = match a {
            F16 | E4m3 | E5m2 => &[Accumulator::F16, Accumulator::F32],
            Bf16 | Tf32 => &[Accumulator::F32],
            S8 | U8 | S4 | U4 => &[Accumulator::S32, Accumulator::S32Satfinite],
        };
        let known = ks.contains(&k) && accumulators.contains(&c) && accumulators.contains(&d);
        known.then_some(Shape { m, k, a, b, c, d })
    }

    /// Registers of 32 bits that hold a.
    #[must_use]
    pub fn a_registers(&self) -> usize {
        self.m * self.k * self.a.bits() / 1024
    }

    /// Registers that hold b.
    #[must_use]
    pub fn b_registers(&self) -> usize {
        8 * self.k * self.b.bits() / 1024
    }

    /// Registers that hold c.
    #[must_use]
    pub fn c_registers(&self) -> usize {
        self.m / 8 * self.c.registers_per_block()
    }

    /// Registers that hold d.
    #[must_use]
    pub fn d_registers(&self) -> usize {
        self.m / 8 * self.d.registers_per_block()
    }

    /// Multiplications and additions of one warp's instruction.
    #[must_use]
    pub fn products(&self) -> u64 {
        (self.m * 8 * self.k) as u64
    }
}

/// `d = a * b + c`. Each slice has as many registers as the shape says; of further ones nothing is used, and missing
/// ones count as zeros.
pub fn mma(shape: &Shape, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
    let Shape { m, a: a_type, b: b_type, c: c_type, d: d_type, .. } = *shape;
    let (rows, ks) = (m / 8, shape.b_registers());
    let product = Product { a: a_type, b: b_type, c: c_type, d: d_type, rows, ks, negated: false };
    let of = |registers: &[[u32; 32]], count: usize| count.min(registers.len());
    let (a, b, c) = (&a[..of(a, shape.a_registers())], &b[..of(b, ks)], &c[..of(c, shape.c_registers())]);
    product.take(a, b, c, d);
}

#[cfg(test)]
#[path = "mma_tests.rs"]
mod tests;
