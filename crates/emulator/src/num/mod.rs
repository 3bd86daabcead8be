//! Arithmetic as PTX defines it, as pure functions over values and bits.
//!
//! Every function is exact: it returns the value that the PTX ISA demands, rounded once, and where the ISA leaves
//! freedom, always the same one on every host. An instruction is a composition: `add.rz.ftz.sat.f32` is
//! `sat(ftz(add(ftz(a), ftz(b), Round::Rz)))` of [`float32`].
//!
//! `f32` and `f64` travel as such; f16, bf16 and the smaller formats as their bits.

pub mod approx;
pub mod bits;
pub mod convert;
pub mod float32;
pub mod float64;
pub mod half;
pub mod int;
mod odd;
pub mod packed;
pub mod small;
mod soft;
mod trig;

/// How a result that has no exact representation is rounded (PTX ISA, "Rounding modifiers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    /// To nearest, ties to even.
    Rn,
    /// To nearest, ties away from zero.
    Rna,
    /// Towards zero.
    Rz,
    /// Towards negative infinity.
    Rm,
    /// Towards positive infinity.
    Rp,
}

impl Round {
    /// Whether a magnitude cut off after some bit grows by one there: `rest` is what was cut off, `half` half a unit.
    #[inline(always)]
    fn grows<T: Copy + PartialOrd + Default>(self, negative: bool, odd: bool, rest: T, half: T) -> bool {
        let inexact = rest > T::default();
        inexact
            & match self {
                Round::Rn => (rest > half) | ((rest == half) & odd),
                Round::Rna => rest >= half,
                Round::Rz => false,
                Round::Rm => negative,
                Round::Rp => !negative,
            }
    }

    /// Whether a magnitude too large for its format becomes infinite, not the largest finite one.
    #[inline(always)]
    fn overflows_to_infinity(self, negative: bool) -> bool {
        match self {
            Round::Rn | Round::Rna => true,
            Round::Rz => false,
            Round::Rm => negative,
            Round::Rp => !negative,
        }
    }
}

#[cfg(test)]
mod tests;
