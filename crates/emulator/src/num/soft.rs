//! Double-precision arithmetic in integers, for the rounding modes that the host's unit does not offer.

use super::Round;

/// `±mantissa · 2^exponent`. Where the value is not exact, bit 0 of the mantissa is set, and stands for whatever lies
/// strictly between the two even neighbours; there are then far more bits above it than the result keeps.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

impl Exact {
    /// Of a finite value.
    pub fn new(x: f64) -> Exact {
        let bits = x.to_bits();
        let field = (bits >> 52) as i32 & 0x7ff;
        let fraction = bits & ((1 << 52) - 1);
        let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 };
        Exact { negative: bits >> 63 != 0, mantissa: mantissa.into(), exponent: field.max(1) - 1075 }
    }

    /// Of an integer.
    pub fn integer(x: u64, negative: bool) -> Exact {
        Exact { negative, mantissa: x.into(), exponent: 0 }
    }

    /// With bit 125 as the mantissa's first one; of a value that is not zero.
    fn normalised(self) -> Exact {
        let shift = self.mantissa.leading_zeros() - 2;
        Exact { mantissa: self.mantissa << shift, exponent: self.exponent - shift as i32, ..self }
    }

    /// `self · other`, each of at most 53 bits.
    pub fn mul(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative ^ other.negative,
            mantissa: self.mantissa * other.mantissa,
            exponent: self.exponent + other.exponent,
        }
    }

    /// `self + other`, each of at most 106 bits; `round` decides the sign of a zero.
    pub fn add(self, other: Exact, round: Round) -> Exact {
        if self.mantissa == 0 && other.mantissa == 0 {
            let negative = if round == Round::Rm {
                self.negative | other.negative
            } else {
                self.negative & other.negative
            };
            return Exact { negative, ..self };
        }
        if self.mantissa == 0 {
            return other;
        }
        if other.mantissa == 0 {
            return self;
        }
        let (x, y) = (self.normalised(), other.normalised());
        let (large, small) =
            if (x.exponent, x.mantissa) >= (y.exponent, y.mantissa) { (x, y) } else { (y, x) };
        // What is shifted out is inexact only if the exponents differ by 20 or more, and then little cancels.
        let shift = (large.exponent - small.exponent).min(127);
        let shifted = small.mantissa >> shift;
        let lost = shifted << shift != small.mantissa;
        let aligned = shifted | u128::from(lost);
        if large.negative == small.negative {
            let sum = large.mantissa + aligned;
            return Exact { mantissa: sum >> 1 | (sum & 1), exponent: large.exponent + 1, ..large };
        }
        let mantissa = large.mantissa - aligned;
        let negative = if mantissa == 0 { round == Round::Rm } else { large.negative };
        Exact { negative, mantissa, ..large }
    }

    /// `self / other`, neither of them zero, each of at most 53 bits.
    pub fn div(self, other: Exact) -> Exact {
        let (x, y) = (self.normalised(), other.normalised());
        let divisor = y.mantissa >> 73;
        let quotient = x.mantissa / divisor;
        let lost = x.mantissa % divisor != 0;
        Exact {
            negative: x.negative ^ y.negative,
            mantissa: quotient | u128::from(lost),
            exponent: x.exponent - y.exponent - 73,
        }
    }

    /// The root of a positive value.
    pub fn sqrt(self) -> Exact {
        let x = self.normalised();
        let odd = x.exponent & 1;
        let square = x.mantissa << odd;
        let root = square.isqrt();
        let lost = root * root != square;
        Exact { negative: false, mantissa: root | u128::from(lost), exponent: (x.exponent - odd) / 2 }
    }

    /// Rounded once.
    pub fn round(self, round: Round) -> f64 {
        let sign = u64::from(self.negative) << 63;
        if self.mantissa == 0 {
            return f64::from_bits(sign);
        }
        let x = self.normalised();
        let unit = (x.exponent + 73).max(-1074);
        let shift = (unit - x.exponent).min(127);
        let kept = x.mantissa >> shift;
        let rest = x.mantissa - (kept << shift);
        let grows = round.grows(x.negative, kept & 1 == 1, rest, 1 << (shift - 1));
        // A mantissa that grows to 2^53 carries into the exponent, as does a subnormal one that becomes normal.
        let magnitude = kept as u64 + u64::from(grows) + (((unit + 1074) as u64) << 52);
        let infinity = f64::INFINITY.to_bits();
        let bounded = match (magnitude >= infinity, round.overflows_to_infinity(x.negative)) {
            (false, _) => magnitude,
            (true, true) => infinity,
            (true, false) => infinity - 1,
        };
        f64::from_bits(sign | bounded)
    }
}
