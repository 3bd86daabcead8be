//! `wgmma.mma_async` (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions").
//!
//! A warpgroup multiplies a of 64 rows by b of n columns; its warp `w` holds the rows `16 w` to `16 w + 15` of a and d,
//! in registers laid out as those of `mma`: of a four, of d those of each 8 columns in turn. Along k both have 32 bytes.
//! Sums are taken as in [`super::mma`].

mod descriptor;

pub use descriptor::{Descriptor, Major, Swizzle};

use std::ops::Range;

use super::accumulator::Accumulator;
use super::element::Element;
use super::ldmatrix::{Form, Matrices, Row};
use super::product::Product;

/// The shape `.m64n..k..` and the types of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    n: usize,
    a: Element,
    b: Element,
    d: Accumulator,
    /// Whether a or b, and not both, is negated (`imm-scale-a`, `imm-scale-b`).
    pub negated: bool,
}

impl Shape {
    /// None where the instruction set has no such shape with these types.
    #[must_use]
    pub fn new(n: usize, k: usize, a: Element, b: Element, d: Accumulator) -> Option<Self> {
        use Element::{Bf16, E4m3, E5m2, F16, S8, Tf32, U8};
        let types = match (a, b) {
            (F16, F16) | (E4m3 | E5m2, E4m3 | E5m2) => matches!(d, Accumulator::F16 | Accumulator::F32),
            (Bf16, Bf16) | (Tf32, Tf32) => d == Accumulator::F32,
            (S8 | U8, S8 | U8) => matches!(d, Accumulator::S32 | Accumulator::S32Satfinite),
            _ => false,
        };
        let columns =
            if a.is_integer() { n.is_multiple_of(16) || n == 8 || n == 24 } else { n.is_multiple_of(8) };
        let known = types && columns && (8..=256).contains(&n) && k * a.bits() == 256;
        known.then_some(Shape { n, a, b, d, negated: false })
    }

    /// Columns of b and d.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Registers of each warp that hold d.
    #[must_use]
    pub fn d_registers(&self) -> usize {
        self.n / 4 * self.d.registers_per_block()
    }

    /// Multiplications and additions of the whole warpgroup.
    #[must_use]
    pub fn products(&self) -> u64 {
        (64 * self.n * 256 / self.a.bits()) as u64
    }
}

/// The registers of one warp that a is, if it lies in shared memory. `read` gives the 16 bytes at an address.
pub fn a_registers(
    descriptor: &Descriptor,
    major: Major,
    warp: u32,
    read: impl Fn(u32) -> Row,
) -> [[u32; 32]; 4] {
    let mut registers = [[0; 32]; 4];
    for (index, register) in (0..).zip(&mut registers) {
        *register = fetch(descriptor, major, 2 * warp + index % 2, index / 2, &read);
    }
    registers
}

/// The matrix b, of `n` columns, as registers: two for each 8 columns.
pub fn b_registers(
    descriptor: &Descriptor,
    major: Major,
    n: usize,
    read: impl Fn(u32) -> Row,
) -> Vec<[u32; 32]> {
    (0..n as u32 / 4).map(|index| fetch(descriptor, major, index / 2, index % 2, &read)).collect()
}

/// The addresses of the units of 16 bytes that some blocks, of 8 rows of a or 8 columns of b, lie in.
pub fn addresses(descriptor: Descriptor, major: Major, blocks: Range<u32>) -> impl Iterator<Item = u32> {
    let units = move |block| (0..16).map(move |i| descriptor.unit(major, block, i / 8, i % 8));
    blocks.flat_map(units)
}

/// 8 rows, and 16 bytes along k.
fn fetch(
    descriptor: &Descriptor,
    major: Major,
    block: u32,
    unit: u32,
    read: &impl Fn(u32) -> Row,
) -> [u32; 32] {
    let rows: [Row; 8] = std::array::from_fn(|i| read(descriptor.unit(major, block, unit, i as u32)));
    let form = if major == Major::K { Form::M8n8 } else { Form::M8n8Trans };
    let mut register = [[0; 32]];
    Matrices { form, count: 1 }.load(&rows, &mut register);
    register[0]
}

/// One warp's `d = a * b + c`; `c` is empty where `scale-d` is false. Of registers that are missing, zeros are taken.
pub fn wgmma(shape: &Shape, a: &[[u32; 32]; 4], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
    let Shape { a: a_type, b: b_type, d: d_type, negated, .. } = *shape;
    let product = Product { a: a_type, b: b_type, c: d_type, d: d_type, rows: 2, ks: 2, negated };
    product.take(a, b, c, d);
}

#[cfg(test)]
mod tests;
