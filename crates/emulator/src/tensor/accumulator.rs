//! The registers that sums come from and go to.

use super::block::Sums;
use super::element::{Decode, F16};

/// The type of the accumulators, c or d.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Accumulator {
    F16,
    F32,
    /// Wraps around.
    S32,
    /// `.satfinite`: clamps to the ends of the range.
    S32Satfinite,
}

impl Accumulator {
    /// Registers that hold 8 rows and 8 columns.
    #[must_use]
    pub fn registers_per_block(self) -> usize {
        if self == Accumulator::F16 { 1 } else { 2 }
    }

    /// The value of one sum.
    pub(super) fn value(self, bits: u32) -> f64 {
        match self {
            Accumulator::F16 => F16.value(bits),
            Accumulator::F32 => f64::from(f32::from_bits(bits)),
            Accumulator::S32 | Accumulator::S32Satfinite => f64::from(bits as i32),
        }
    }

    /// Rounds one sum, to the nearest even.
    pub(super) fn bits(self, sum: f64) -> u32 {
        match self {
            Accumulator::F16 => f16_bits(sum),
            Accumulator::F32 => f32_bits(sum),
            Accumulator::S32 => sum as i64 as u32,
            Accumulator::S32Satfinite => sum as i32 as u32,
        }
    }

    /// The sums that a block's registers hold: one of f16 pairs, or two; any other number holds zeros.
    #[inline(always)]
    pub(super) fn load(self, registers: &[[u32; 32]]) -> Sums {
        match (self, registers) {
            (Accumulator::F32, [even, odd]) => join(even, odd, |bits| f64::from(f32::from_bits(bits))),
            _ => self.load_rare(registers),
        }
    }

    #[inline(never)]
    fn load_rare(self, registers: &[[u32; 32]]) -> Sums {
        match (self, registers) {
            (Accumulator::F16, [pairs]) => join(pairs, &pairs.map(|pair| pair >> 16), |bits| F16.value(bits)),
            (Accumulator::S32 | Accumulator::S32Satfinite, [even, odd]) => {
                join(even, odd, |bits| f64::from(bits as i32))
            }
            _ => [[0.0; 8]; 8],
        }
    }

    /// Rounds the sums once, to the nearest even, into a block's registers.
    #[inline(always)]
    pub(super) fn store(self, sums: &Sums, registers: &mut [[u32; 32]]) {
        match (self, registers) {
            (Accumulator::F32, [even, odd]) => split(sums, even, odd, f32_bits),
            (_, registers) => self.store_rare(sums, registers),
        }
    }

    #[inline(never)]
    fn store_rare(self, sums: &Sums, registers: &mut [[u32; 32]]) {
        match (self, registers) {
            (Accumulator::F16, [pairs]) => {
                let mut odd = [0; 32];
                split(sums, pairs, &mut odd, f16_bits);
                for (pair, odd) in pairs.iter_mut().zip(odd) {
                    *pair |= odd << 16;
                }
            }
            (Accumulator::S32, [even, odd]) => split(sums, even, odd, |sum| sum as i64 as u32),
            (Accumulator::S32Satfinite, [even, odd]) => split(sums, even, odd, |sum| sum as i32 as u32),
            _ => {}
        }
    }
}

/// A row of [`Sums`] is what four lanes hold in the even columns' register, then what they hold in the odd columns'.
#[inline(always)]
fn join(even: &[u32; 32], odd: &[u32; 32], value: impl Fn(u32) -> f64) -> Sums {
    let mut sums = [[0.0; 8]; 8];
    for (g, row) in sums.iter_mut().enumerate() {
        for t in 0..4 {
            row[t] = value(even[4 * g + t]);
            row[4 + t] = value(odd[4 * g + t]);
        }
    }
    sums
}

#[inline(always)]
fn split(sums: &Sums, even: &mut [u32; 32], odd: &mut [u32; 32], bits: impl Fn(f64) -> u32) {
    for (g, row) in sums.iter().enumerate() {
        for t in 0..4 {
            even[4 * g + t] = bits(row[t]);
            odd[4 * g + t] = bits(row[4 + t]);
        }
    }
}

/// Tensor cores give this one NaN for every NaN.
#[inline(always)]
fn f32_bits(sum: f64) -> u32 {
    if sum.is_nan() { 0x7fff_ffff } else { (sum as f32).to_bits() }
}

/// As [`f32_bits`].
#[inline(always)]
fn f16_bits(sum: f64) -> u32 {
    // The distance of two neighbouring f16 around the sum; a power of two, so that dividing by it is exact.
    let exponent = ((sum.to_bits() >> 52 & 0x7ff) as i32 - 1023).clamp(-14, 16);
    let step = f64::from_bits(((1023 + exponent - 10) as u64) << 52);
    let rounded = (sum.abs() / step).round_ties_even() * step;
    let magnitude = if sum.is_nan() {
        0x7fff
    } else if rounded > 65504.0 {
        0x7c00
    } else if rounded < 2f64.powi(-14) {
        (rounded * 2f64.powi(24)) as u32
    } else {
        // The same bits as in f64, of another exponent bias.
        ((rounded.to_bits() >> 42) - ((1023 - 15) << 10)) as u32
    };
    let sign = if sum.is_nan() { 0 } else { (sum.to_bits() >> 48) as u32 & 0x8000 };
    sign | magnitude
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(bits: u16) -> f64 {
        half::f16::from_bits(bits).to_f64()
    }

    #[test]
    fn every_f16_is_its_own_rounding() {
        for bits in 0..=u16::MAX {
            let expected = if value(bits).is_nan() { 0x7fff } else { bits.into() };
            assert_eq!(f16_bits(value(bits)), expected);
        }
    }

    proptest! {
        /// Between two neighbours the nearer one is taken, and of a tie the even one.
        #[test]
        fn an_f16_is_rounded_to_the_nearest_even(bits in 0u16..0x7bff, part in 0.0..1.0f64) {
            let (low, high) = (value(bits), value(bits + 1));
            let middle = (low + high) / 2.0;
            prop_assert_eq!(f16_bits(middle), u32::from(bits + bits % 2));
            prop_assert_eq!(f16_bits(middle.next_down()), u32::from(bits));
            prop_assert_eq!(f16_bits(middle.next_up()), u32::from(bits + 1));
            let between = low + (high - low) * part;
            let nearest = if between - low < high - between { bits } else { bits + 1 };
            if between != middle {
                prop_assert_eq!(f16_bits(between), u32::from(nearest));
                prop_assert_eq!(f16_bits(-between), u32::from(nearest) | 0x8000);
            }
        }

        #[test]
        fn what_is_stored_and_loaded_again_is_the_same(bits in proptest::array::uniform32(any::<i32>())) {
            let registers = [bits.map(|bit| bit as u32), bits.map(|bit| !bit as u32)];
            let mut again = [[0; 32]; 2];
            for accumulator in [Accumulator::S32, Accumulator::S32Satfinite] {
                accumulator.store(&accumulator.load(&registers), &mut again);
                prop_assert_eq!(again, registers);
            }
        }
    }

    #[test]
    fn what_exceeds_f16_is_infinite_from_the_middle_of_the_next_step_on() {
        assert_eq!(f16_bits(65519.999), 0x7bff);
        assert_eq!(f16_bits(65520.0), 0x7c00);
        assert_eq!(f16_bits(-1e300), 0xfc00);
        assert_eq!(f16_bits(f64::NEG_INFINITY), 0xfc00);
        assert_eq!(f16_bits(-0.0), 0x8000);
        assert_eq!(f16_bits(-f64::NAN), 0x7fff);
        assert_eq!(f32_bits(-f64::NAN), 0x7fff_ffff);
    }
}
