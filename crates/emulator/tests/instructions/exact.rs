//! Floating-point formats by their definition, and exact arithmetic rounded once.

/// A format: bits of its exponent and of its fraction, below a sign.
#[derive(Clone, Copy, PartialEq)]
pub struct Format {
    pub exponent: u32,
    pub fraction: u32,
    /// What the largest exponent is for.
    pub top: Top,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Top {
    /// Infinities and NaN.
    Ieee,
    /// Numbers, but for all ones, which is NaN.
    NanOnly,
    /// Numbers.
    Numbers,
}

const fn format(exponent: u32, fraction: u32, top: Top) -> Format {
    Format { exponent, fraction, top }
}

pub const F64: Format = format(11, 52, Top::Ieee);
pub const F32: Format = format(8, 23, Top::Ieee);
pub const F16: Format = format(5, 10, Top::Ieee);
pub const BF16: Format = format(8, 7, Top::Ieee);
pub const E5M2: Format = format(5, 2, Top::Ieee);
pub const E4M3: Format = format(4, 3, Top::NanOnly);
pub const E3M2: Format = format(3, 2, Top::Numbers);
pub const E2M3: Format = format(2, 3, Top::Numbers);
pub const E2M1: Format = format(2, 1, Top::Numbers);

#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Nearest,
    /// Of a tie, away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

/// The rounding modifiers.
pub const MODES: [(&str, Mode); 4] =
    [("rn", Mode::Nearest), ("rz", Mode::Zero), ("rm", Mode::Down), ("rp", Mode::Up)];

impl Mode {
    /// Whether the magnitude becomes the next larger one: `half` is the first bit that is cut off, `rest` whether any
    /// after it is set.
    fn rounds_up(self, negative: bool, kept: u128, half: bool, rest: bool) -> bool {
        match self {
            Mode::Nearest => half && (rest || kept % 2 == 1),
            Mode::NearestAway => half,
            Mode::Zero => false,
            Mode::Down => negative && (half || rest),
            Mode::Up => !negative && (half || rest),
        }
    }
}

/// What bits stand for.
#[derive(Clone, Copy, PartialEq)]
pub enum Value {
    Nan,
    Infinite(bool),
    Finite(Number),
}

/// `(-1)^negative (mantissa + a bit, if inexact) 2^exponent`, where a bit is more than 0 and less than 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    pub negative: bool,
    /// Less than 2^127.
    pub mantissa: u128,
    pub exponent: i32,
    pub inexact: bool,
}

impl Number {
    pub fn new(negative: bool, mantissa: u128, exponent: i32) -> Number {
        Number { negative, mantissa, exponent, inexact: false }
    }

    pub fn integer(value: i128) -> Number {
        Number::new(value < 0, value.unsigned_abs(), 0)
    }

    /// The nearest integer as the mode says, or one far beyond 64 bits of its sign.
    pub fn integral(self, mode: Mode) -> i128 {
        let magnitude = if self.exponent > 60 {
            u128::from(!self.is_zero()) << 120
        } else if self.exponent >= 0 {
            self.mantissa << self.exponent
        } else {
            let shift = (-self.exponent).min(126) as u32;
            let (kept, half) = (self.mantissa >> shift, self.mantissa >> (shift - 1) & 1 == 1);
            let rest = self.mantissa & ((1 << (shift - 1)) - 1) != 0;
            kept + u128::from(mode.rounds_up(self.negative, kept, half, rest))
        };
        if self.negative { -(magnitude as i128) } else { magnitude as i128 }
    }

    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    pub fn negated(self) -> Number {
        Number { negative: !self.negative, ..self }
    }

    /// The same with bit 126 set; not of zero.
    fn normal(self) -> Number {
        let shift = self.mantissa.leading_zeros() - 1;
        Number { mantissa: self.mantissa << shift, exponent: self.exponent - shift as i32, ..self }
    }

    pub fn times(self, other: Number) -> Number {
        let (mantissa, exponent) = (self.mantissa * other.mantissa, self.exponent + other.exponent);
        Number::new(self.negative != other.negative, mantissa, exponent)
    }

    /// Their sum; of terms of at most 106 bits, so that what cancels is exact. Zeros are not special: see [`sum`].
    pub fn plus(self, other: Number) -> Number {
        if self.is_zero() || other.is_zero() {
            return if self.is_zero() { other } else { self };
        }
        let (mut large, mut small) = (self.normal(), other.normal());
        if (large.exponent, large.mantissa) < (small.exponent, small.mantissa) {
            (large, small) = (small, large);
        }
        // One bit of room for the carry.
        let shift = (large.exponent - small.exponent) as u32 + 1;
        let (kept, lost) = match shift {
            ..127 => (small.mantissa >> shift, small.mantissa << (128 - shift) != 0),
            _ => (0, true),
        };
        let half = large.mantissa >> 1;
        let mantissa = match large.negative == small.negative {
            true => half + kept,
            false => half - kept - u128::from(lost),
        };
        Number { negative: large.negative, mantissa, exponent: large.exponent + 1, inexact: lost }
    }

    /// A quotient to at least 70 bits; the divisor is not 0.
    pub fn over(self, other: Number) -> Number {
        let numerator = Number { mantissa: self.mantissa, ..self };
        if numerator.is_zero() {
            return Number::new(self.negative != other.negative, 0, 0);
        }
        let numerator = numerator.normal();
        Number {
            negative: self.negative != other.negative,
            mantissa: numerator.mantissa / other.mantissa,
            exponent: numerator.exponent - other.exponent,
            inexact: !numerator.mantissa.is_multiple_of(other.mantissa),
        }
    }

    /// The square root to at least 62 bits, of what is not negative.
    pub fn root(self) -> Number {
        if self.is_zero() {
            return self;
        }
        let mut square = self.normal();
        if square.exponent % 2 != 0 {
            square.mantissa >>= 1;
            square.exponent += 1;
        }
        let root = square.mantissa.isqrt();
        Number {
            mantissa: root,
            exponent: square.exponent / 2,
            inexact: root * root != square.mantissa,
            ..square
        }
    }
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    pub fn sign(self) -> u64 {
        1 << (self.exponent + self.fraction)
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    pub fn largest(self) -> u64 {
        match self.top {
            Top::Ieee => self.infinity() - 1,
            Top::NanOnly => self.sign() - 2,
            Top::Numbers => self.sign() - 1,
        }
    }

    /// The one NaN that operations give: all ones but the sign.
    pub fn nan(self) -> u64 {
        self.sign() - 1
    }

    pub fn value(self, bits: u64) -> Value {
        let negative = bits & self.sign() != 0;
        let magnitude = bits & (self.sign() - 1);
        if self.top == Top::Ieee && magnitude == self.infinity() {
            return Value::Infinite(negative);
        }
        if magnitude > self.largest() {
            return Value::Nan;
        }
        let (field, fraction) = (magnitude >> self.fraction, magnitude & ((1 << self.fraction) - 1));
        let leading = u64::from(field != 0) << self.fraction;
        let exponent = field.max(1) as i32 - self.bias() - self.fraction as i32;
        Value::Finite(Number::new(negative, (leading | fraction).into(), exponent))
    }

    /// Rounds once. What is too large becomes infinite or the largest finite number, as the mode says.
    pub fn round(self, number: Number, mode: Mode) -> u64 {
        let rounded = self.round_finite(number, mode);
        let (sign, magnitude) = (rounded & self.sign(), rounded & (self.sign() - 1));
        let to_infinity = match mode {
            Mode::Nearest | Mode::NearestAway => true,
            Mode::Zero => false,
            Mode::Down => number.negative,
            Mode::Up => !number.negative,
        };
        if magnitude <= self.largest() {
            rounded
        } else {
            sign | if to_infinity { self.infinity() } else { self.largest() }
        }
    }

    /// `.satfinite`: what is too large becomes the largest finite number.
    pub fn round_satfinite(self, number: Number, mode: Mode) -> u64 {
        let rounded = self.round_finite(number, mode);
        (rounded & self.sign()) | (rounded & (self.sign() - 1)).min(self.largest())
    }

    /// Rounds to a number of the format, or, as if that followed in its order, to one that is too large for it.
    fn round_finite(self, number: Number, mode: Mode) -> u64 {
        let sign = if number.negative { self.sign() } else { 0 };
        if number.is_zero() {
            return sign;
        }
        let highest = 127 - number.mantissa.leading_zeros() as i32 + number.exponent;
        let last = highest.max(1 - self.bias()) - self.fraction as i32;
        let shift = last - number.exponent;
        let (kept, half, rest) = if shift <= 0 {
            (number.mantissa << -shift, false, number.inexact)
        } else if shift > 127 {
            (0, false, true)
        } else {
            let half = 1 << (shift - 1);
            let rest = number.mantissa & (half - 1) != 0 || number.inexact;
            (number.mantissa >> shift, number.mantissa & half != 0, rest)
        };
        let up = mode.rounds_up(number.negative, kept, half, rest);
        let field = (last + self.fraction as i32 + self.bias() - 1) as u64;
        let magnitude = u128::from(field) << self.fraction;
        let magnitude = magnitude + kept + u128::from(up);
        sign | magnitude.min(u128::from(self.sign() - 1)) as u64
    }

    pub fn is_nan(self, bits: u64) -> bool {
        self.value(bits) == Value::Nan
    }

    /// A subnormal number becomes a zero of its sign.
    pub fn flushed(self, bits: u64) -> u64 {
        if bits & self.infinity() == 0 { bits & self.sign() } else { bits }
    }

    /// `.sat`: within 0 and 1, and NaN becomes 0.
    pub fn saturated(self, bits: u64) -> u64 {
        let one = (self.bias() as u64) << self.fraction;
        if self.is_nan(bits) || bits & self.sign() != 0 { 0 } else { bits.min(one) }
    }

    /// `.relu`: what is negative becomes 0, and NaN stays.
    pub fn rectified(self, bits: u64) -> u64 {
        if bits & self.sign() != 0 && !self.is_nan(bits) { 0 } else { bits }
    }
}

/// `a * b + c`, of which `b` may be one and `c` zero of the product's sign, rounded once.
pub fn multiplied(format: Format, [a, b, c]: [Value; 3], mode: Mode) -> u64 {
    let infinite = |negative: bool| format.infinity() | if negative { format.sign() } else { 0 };
    let product = match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => return format.nan(),
        (Value::Finite(a), Value::Finite(b)) => Value::Finite(a.times(b)),
        (Value::Finite(a), Value::Infinite(n)) | (Value::Infinite(n), Value::Finite(a)) => {
            if a.is_zero() {
                return format.nan();
            }
            Value::Infinite(a.negative != n)
        }
        (Value::Infinite(a), Value::Infinite(b)) => Value::Infinite(a != b),
    };
    match (product, c) {
        (Value::Nan, _) | (_, Value::Nan) => format.nan(),
        (Value::Infinite(a), Value::Infinite(b)) if a != b => format.nan(),
        (Value::Infinite(negative), _) | (_, Value::Infinite(negative)) => infinite(negative),
        (Value::Finite(a), Value::Finite(b)) => format.round(sum(a, b, mode), mode),
    }
}

/// A sum, with the sign that a zero has: that of both terms, else minus only when rounding down.
pub fn sum(a: Number, b: Number, mode: Mode) -> Number {
    let sum = a.plus(b);
    let same = a.negative == b.negative;
    if !sum.is_zero() || sum.inexact {
        sum
    } else {
        Number::new(if same { a.negative } else { mode == Mode::Down }, 0, 0)
    }
}

pub const ONE: Value = Value::Finite(Number { negative: false, mantissa: 1, exponent: 0, inexact: false });

/// The zero that added to a product changes nothing, not even its sign.
pub fn neutral(a: Value, b: Value) -> Value {
    let negative = |value| match value {
        Value::Finite(Number { negative, .. }) | Value::Infinite(negative) => negative,
        Value::Nan => false,
    };
    Value::Finite(Number::new(negative(a) != negative(b), 0, 0))
}

/// `a / b`, rounded once.
pub fn divided(format: Format, a: Value, b: Value, mode: Mode) -> u64 {
    let signed = |magnitude: u64, negative: bool| magnitude | if negative { format.sign() } else { 0 };
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) | (Value::Infinite(_), Value::Infinite(_)) => format.nan(),
        (Value::Infinite(a), Value::Finite(b)) => signed(format.infinity(), a != b.negative),
        (Value::Finite(a), Value::Infinite(b)) => signed(0, a.negative != b),
        (Value::Finite(a), Value::Finite(b)) => match (a.is_zero(), b.is_zero()) {
            (true, true) => format.nan(),
            (false, true) => signed(format.infinity(), a.negative != b.negative),
            _ => format.round(a.over(b), mode),
        },
    }
}

/// The square root, rounded once.
pub fn root(format: Format, a: Value, mode: Mode) -> u64 {
    match a {
        Value::Infinite(false) => format.infinity(),
        Value::Finite(a) if !a.negative || a.is_zero() => format.round(a.root(), mode),
        _ => format.nan(),
    }
}
