//! Products of fragments: what `mma` and `wgmma` share.

use super::accumulator::Accumulator;
use super::block;
use super::element::{Bf16, Decode, Element, F16, Tf32};
use crate::simd::vectorised;

/// Blocks of 8 rows of a times blocks of 8 columns of b.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub a: Element,
    pub b: Element,
    pub c: Accumulator,
    pub d: Accumulator,
    /// Blocks of rows, at most 2.
    pub rows: usize,
    /// Blocks along k, at most 2.
    pub ks: usize,
    /// Whether the product is subtracted from c.
    pub negated: bool,
}

impl Product {
    /// `d = a * b + c`. The registers of b and d follow each other block of columns after block of columns. Missing
    /// registers are zeros.
    pub fn take(&self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        match self.a {
            Element::F16 => multiply::<F16, F16, 2>(self, F16, F16, a, b, c, d),
            Element::Bf16 => multiply::<Bf16, Bf16, 2>(self, Bf16, Bf16, a, b, c, d),
            Element::Tf32 => multiply::<Tf32, Tf32, 1>(self, Tf32, Tf32, a, b, c, d),
            // Rare enough to find out about the type of each element as it comes.
            Element::E4m3 | Element::E5m2 | Element::S8 | Element::U8 => {
                multiply::<Element, Element, 4>(self, self.a, self.b, a, b, c, d);
            }
            Element::S4 | Element::U4 => multiply::<Element, Element, 8>(self, self.a, self.b, a, b, c, d),
        }
    }
}

vectorised! {
    fn multiply<A: Decode, B: Decode; const P: usize>(
        product: &Product,
        a_type: A,
        b_type: B,
        a: &[[u32; 32]],
        b: &[[u32; 32]],
        c: &[[u32; 32]],
        d: &mut [[u32; 32]],
    ) {
        let Product { rows, ks, .. } = *product;
        let mut a_blocks = [[[0.0; 32]; P]; 4];
        for (block, register) in a_blocks.iter_mut().zip(a) {
            *block = block::unpack_a(a_type, register);
            if product.negated {
                for value in block.as_flattened_mut() {
                    *value = -*value;
                }
            }
        }
        let mut c = c.chunks_exact(product.c.registers_per_block());
        let columns = d.chunks_exact_mut(rows * product.d.registers_per_block());
        for (b, d) in b.chunks_exact(ks).zip(columns) {
            let mut b_blocks = [[[[0.0; 8]; P]; 4]; 2];
            for (block, register) in b_blocks.iter_mut().zip(b) {
                *block = block::unpack_b(b_type, register);
            }
            for (row, d) in d.chunks_exact_mut(product.d.registers_per_block()).enumerate() {
                let mut sums = product.c.load(c.next().unwrap_or_default());
                for (k, b) in b_blocks.iter().enumerate().take(ks) {
                    if let Some(a) = a_blocks.get(k * rows + row) {
                        block::add_product(a, b, &mut sums);
                    }
                }
                product.d.store(&sums, d);
            }
        }
    }
}
