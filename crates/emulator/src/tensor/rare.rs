//! Products that are rare: in double precision, of single bits, and of a sparse a. Matrices are put together element by
//! element, and every type goes the same way.
//!
//! Fragments follow the rule of [`super::block`], with registers of 64 bits where elements have so many. The sums are
//! those of [`super::mma`].

use super::accumulator::Accumulator;
use super::block::COLUMNS;
use super::element::Element;

/// What the lanes hold in one register.
type Register = [u64; 32];

/// Elements of 8 rows for each block, in order of k; of b, columns stand for rows. A register holds `per` elements,
/// which `element` takes out of its bits by their number.
fn rows<T: Clone + Default>(
    registers: &[Register],
    blocks: usize,
    per: usize,
    element: impl Fn(u64, usize) -> T,
) -> Vec<Vec<T>> {
    let length = registers.len() / blocks * 4 * per;
    let mut rows = vec![vec![T::default(); length]; 8 * blocks];
    for (index, register) in registers.iter().enumerate() {
        for (lane, bits) in register.iter().enumerate() {
            let row = &mut rows[lane / 4 + 8 * (index % blocks)];
            let first = (index / blocks * 4 + lane % 4) * per;
            for i in 0..per {
                row[first + i] = element(*bits, i);
            }
        }
    }
    rows
}

/// A row and a column of each lane's accumulators, of which each block of 8 rows has two registers.
fn places(blocks: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..2 * blocks).flat_map(|register| {
        (0..32).map(move |lane| (register, lane, lane / 4 + register / 2 * 8, lane % 4 * 2 + register % 2))
    })
}

/// `.f64`: fused multiplications and additions, in order of k. `blocks` are those of 8 rows.
pub fn double(blocks: usize, a: &[Register], b: &[Register], c: &[Register]) -> Vec<Register> {
    let value = |bits: u64, _: usize| f64::from_bits(bits);
    let (a, b) = (rows(a, blocks, 1, value), rows(b, 1, 1, value));
    let mut d = vec![[0; 32]; 2 * blocks];
    for (register, lane, row, column) in places(blocks) {
        let terms = a[row].iter().zip(&b[column]);
        let sum = terms.fold(f64::from_bits(c[register][lane]), |sum, (a, b)| a.mul_add(*b, sum));
        d[register][lane] = sum.to_bits();
    }
    d
}

/// How single bits are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bitwise {
    /// `.and.popc`
    And,
    /// `.xor.popc`
    Xor,
}

/// `.b1`: how many bits are set, added to c and wrapped around.
pub fn bits(of: Bitwise, blocks: usize, a: &[Register], b: &[Register], c: &[Register]) -> Vec<Register> {
    let word = |bits: u64, _: usize| bits as u32;
    let (a, b) = (rows(a, blocks, 1, word), rows(b, 1, 1, word));
    let mut d = vec![[0; 32]; 2 * blocks];
    for (register, lane, row, column) in places(blocks) {
        let terms = a[row].iter().zip(&b[column]).map(|(a, b)| match of {
            Bitwise::And => (a & b).count_ones(),
            Bitwise::Xor => (a ^ b).count_ones(),
        });
        d[register][lane] = u64::from((c[register][lane] as u32).wrapping_add(terms.sum()));
    }
    d
}

/// The shape and types of an `mma.sp`: a (16, k) of which one half is there, b (k, 8), c and d (16, 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sparse {
    pub k: usize,
    pub a: Element,
    pub b: Element,
    pub c: Accumulator,
    pub d: Accumulator,
}

impl Sparse {
    /// None where the instruction set has no such shape with these types.
    pub fn new(k: usize, a: Element, b: Element, c: Accumulator, d: Accumulator) -> Option<Sparse> {
        // As dense, of half as many elements of a.
        super::mma::Shape::new(16, k / 2, a, b, c, d).map(|_| Sparse { k, a, b, c, d })
    }

    pub fn a_registers(&self) -> usize {
        self.k * self.a.bits() / 128
    }

    pub fn b_registers(&self) -> usize {
        self.k * self.a.bits() / 128
    }

    /// How many values the sparsity selector has.
    pub fn selectors(&self) -> u64 {
        4 / self.metadata_lanes() as u64
    }

    /// Lanes of each four that hold metadata.
    fn metadata_lanes(&self) -> usize {
        16 * self.metadata_bits() / (8 * 32)
    }

    /// Of a row: four for each chunk.
    fn metadata_bits(&self) -> usize {
        4 * self.k / self.chunk()
    }

    /// Elements of a row of which half are there.
    fn chunk(&self) -> usize {
        match self.a.bits() {
            32 => 2,
            4 => 8,
            _ => 4,
        }
    }

    /// The metadata of a row. Where elements have 16 bits or more, a register holds 16 bits of row `g` and as many of
    /// row `g + 8`; else 32 bits of one row, the next lane's being of row `g + 8`.
    fn metadata(&self, registers: &[u32; 32], selector: usize, row: usize) -> u64 {
        let first = 4 * (row % 8) + selector * self.metadata_lanes();
        let lanes = &registers[first..][..self.metadata_lanes()];
        if self.a.bits() >= 16 {
            let half = |(i, bits): (usize, &u32)| u64::from(bits >> (row / 8 * 16) & 0xffff) << (16 * i);
            lanes.iter().enumerate().map(half).sum()
        } else {
            let of_row = lanes.iter().skip(row / 8).step_by(2);
            of_row.enumerate().map(|(i, bits)| u64::from(*bits) << (32 * i)).sum()
        }
    }

    /// The places along k of the elements of a row that are there. None where the metadata is none: a place twice, or
    /// of tf32 a half of an element.
    fn present(&self, metadata: u64) -> Option<Vec<usize>> {
        let chunk = self.chunk();
        let mut found = Vec::with_capacity(self.k / 2);
        for index in 0..self.k / chunk {
            let code = (metadata >> (4 * index) & 15) as usize;
            let (first, second, start) = (code & 3, code >> 2, index * chunk);
            match chunk {
                2 => found.push(
                    start
                        + usize::from(match code {
                            0b0100 => false,
                            0b1110 => true,
                            _ => return None,
                        }),
                ),
                _ if first == second => return None,
                4 => found.extend([start + first, start + second]),
                _ => found.extend([first, second].iter().flat_map(|i| [start + 2 * i, start + 2 * i + 1])),
            }
        }
        Some(found)
    }

    /// `d = a * b + c`; the row whose metadata is none where there is one.
    pub fn multiply(
        &self,
        a: &[Register],
        b: &[Register],
        c: &[[u32; 32]],
        metadata: &[u32; 32],
        selector: usize,
    ) -> Result<Vec<[u32; 32]>, usize> {
        let bits = self.a.bits();
        let (per, value) =
            (32 / bits, |of: Element| move |word: u64, i: usize| of.value((word >> (i * bits)) as u32));
        let (a, b) = (rows(a, 2, per, value(self.a)), rows(b, 1, per, value(self.b)));
        let mut d = vec![[0; 32]; 2 * self.d.registers_per_block()];
        let blocks = c
            .chunks_exact(self.c.registers_per_block())
            .zip(d.chunks_exact_mut(self.d.registers_per_block()));
        for (block, (c, d)) in blocks.enumerate() {
            let mut sums = self.c.load(c);
            for (g, sums) in sums.iter_mut().enumerate() {
                let row = 8 * block + g;
                let places = self.present(self.metadata(metadata, selector, row)).ok_or(row)?;
                for (sum, column) in sums.iter_mut().zip(COLUMNS) {
                    for (a, k) in a[row].iter().zip(&places) {
                        *sum += a * b[column][*k];
                    }
                }
            }
            self.d.store(&sums, d);
        }
        Ok(d)
    }
}
