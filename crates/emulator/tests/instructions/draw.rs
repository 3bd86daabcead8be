//! Operands: bit patterns drawn so that what is rare happens.

use crate::exact::Format;
use crate::machine::Operands;

/// A generator of random numbers (Marsaglia 2003, "Xorshift RNGs").
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.bits() >> 8) % bound
    }

    /// Any bits, the borders between the kinds of numbers, or a number near 1: with few bits, whose sums and products
    /// meet ties and cancel, or with many.
    pub fn float(&mut self, format: Format) -> u64 {
        let (fraction, width) = (format.fraction, 1 + format.exponent + format.fraction);
        let all = u64::MAX >> (64 - width);
        let sign = (self.bits() & 1) << (width - 1);
        let exponents = (1u64 << format.exponent) - 1;
        let near = (exponents / 2 + self.below(9)).saturating_sub(4) << fraction;
        let mantissa = self.bits() & ((1 << fraction) - 1);
        match self.below(8) {
            0 | 1 => self.bits() & all,
            2 | 3 => {
                let borders = [0, 1 << fraction, (exponents / 2) << fraction, exponents << fraction];
                let border = borders[self.below(4) as usize];
                (border.wrapping_add(self.below(5)).wrapping_sub(2) & (all >> 1)) | sign
            }
            4 | 5 => sign | near | (mantissa >> (fraction / 2) << (fraction / 2)),
            _ => sign | near | mantissa,
        }
    }

    /// Any bits, small numbers, powers of two and their neighbours.
    pub fn integer(&mut self, bits: u32) -> u64 {
        let value = match self.below(4) {
            0 => self.below(9).wrapping_sub(4),
            1 => (1u64 << self.below(bits.into())).wrapping_add(self.below(3)).wrapping_sub(1),
            2 => self.bits() >> self.below(64),
            _ => self.bits(),
        };
        value & (u64::MAX >> (64 - bits))
    }
}

/// Triples of floats of a format. Operands are related now and then: equal, or opposite.
pub fn floats(format: Format, count: usize) -> Vec<Operands> {
    let width = 1 + format.exponent + format.fraction;
    let mut draw = Draw::new(count as u64 + u64::from(width));
    let triple = |_| {
        let mut triple = [0; 3].map(|_| draw.float(format));
        if draw.below(8) == 0 {
            triple[1] = triple[0] ^ (draw.bits() & 1) << (width - 1);
        }
        triple
    };
    (0..count).map(triple).collect()
}

/// Triples of pairs of floats of a format, one in the upper half of 32 bits or 64.
pub fn pairs(format: Format, count: usize) -> Vec<Operands> {
    let width = 1 + format.exponent + format.fraction;
    let halves = floats(format, 2 * count);
    let join = |pair: &[Operands; 2]| [0, 1, 2].map(|i| pair[0][i] | pair[1][i] << width);
    halves.as_chunks::<2>().0.iter().map(join).collect()
}

/// Triples of integers.
pub fn integers(bits: u32, count: usize) -> Vec<Operands> {
    let mut draw = Draw::new(count as u64 + u64::from(bits));
    (0..count).map(|_| [0; 3].map(|_| draw.integer(bits))).collect()
}
