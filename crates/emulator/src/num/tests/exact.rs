//! Exact values in fixed point, and what rounding makes of them by its definition.

use super::super::Round;
use std::cmp::Ordering;

/// The last bit weighs 2^-2148, as that of the product of two subnormal doubles; the first is the sign.
const WORDS: usize = 68;

/// A sum of products of doubles: two's complement, the lowest word first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Exact([u64; WORDS]);

/// A finite double's integer mantissa, and the power of two it is multiplied by.
fn parts(x: f64) -> (u64, i32) {
    let (field, fraction) = ((x.to_bits() >> 52) as i32 & 0x7ff, x.to_bits() & ((1 << 52) - 1));
    if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) }
}

impl Exact {
    pub fn new(x: f64) -> Exact {
        Exact::product(x, 1.0)
    }

    pub fn product(a: f64, b: f64) -> Exact {
        let ((m, e), (n, f)) = (parts(a), parts(b));
        let product = u128::from(m) * u128::from(n);
        let place = (e + f + 2148) as usize;
        let (word, bit) = (place / 64, place as u32 % 64);
        let above = if bit == 0 { 0 } else { product >> (128 - bit) };
        let mut words = [0; WORDS];
        words[word] = (product << bit) as u64;
        words[word + 1] = ((product << bit) >> 64) as u64;
        words[word + 2] = above as u64;
        if a.is_sign_negative() == b.is_sign_negative() { Exact(words) } else { Exact(words).negated() }
    }

    pub fn negated(self) -> Exact {
        let one = Exact(std::array::from_fn(|i| u64::from(i == 0)));
        Exact(self.0.map(|word| !word)).plus(one)
    }

    pub fn plus(self, other: Exact) -> Exact {
        let mut carry = false;
        Exact(std::array::from_fn(|i| {
            let (sum, first) = self.0[i].overflowing_add(other.0[i]);
            let (sum, second) = sum.overflowing_add(carry.into());
            carry = first | second;
            sum
        }))
    }

    pub fn is_negative(self) -> bool {
        self.0[WORDS - 1] >> 63 != 0
    }

    pub fn is_zero(self) -> bool {
        self.0 == [0; WORDS]
    }

    pub fn abs(self) -> Exact {
        if self.is_negative() { self.negated() } else { self }
    }
}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Exact) -> Option<Ordering> {
        let difference = self.plus(other.negated());
        Some(match (difference.is_negative(), difference.is_zero()) {
            (true, _) => Ordering::Less,
            (_, true) => Ordering::Equal,
            _ => Ordering::Greater,
        })
    }
}

/// The magnitudes of a format, in order: `value(infinity)` is what would follow the largest finite one.
pub struct Magnitudes<V: Fn(u64) -> f64> {
    pub value: V,
    pub infinity: u64,
}

/// The magnitude, by its place in the format, that a value not zero is rounded to. `magnitude(v)` compares its
/// magnitude with `v >= 0`; `guess` is a place not far from it.
pub fn rounded<V: Fn(u64) -> f64>(
    format: &Magnitudes<V>,
    negative: bool,
    magnitude: impl Fn(f64) -> Ordering,
    round: Round,
    guess: u64,
) -> u64 {
    let value = &format.value;
    let mut below = guess.min(format.infinity);
    while magnitude(value(below)) == Ordering::Less {
        assert!(guess - below < 3, "far below");
        below -= 1;
    }
    while below < format.infinity && magnitude(value(below + 1)) != Ordering::Less {
        assert!(below < guess + 3, "far above");
        below += 1;
    }
    if below < format.infinity && magnitude(value(below)) == Ordering::Equal {
        return below;
    }
    let above = match round {
        Round::Rz => false,
        Round::Rm => negative,
        Round::Rp => !negative,
        Round::Rn | Round::Rna if below == format.infinity => true,
        Round::Rn | Round::Rna => match magnitude((value(below) + value(below + 1)) / 2.0) {
            Ordering::Less => false,
            Ordering::Equal => round == Round::Rna || below % 2 == 1,
            Ordering::Greater => true,
        },
    };
    match (below == format.infinity, above) {
        (true, true) => below,
        (true, false) => below - 1,
        (false, _) => below + u64::from(above),
    }
}
