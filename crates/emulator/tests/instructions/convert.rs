//! cvt: every pair of types, every rounding.

use crate::draw::{Draw, floats, integers, pairs};
use crate::exact::{
    BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, F32, F64, Format, MODES, Mode, Number, Top, Value,
};
use crate::machine::{Case, Operands, case, check};

/// An integer type.
#[derive(Clone, Copy)]
struct Integer {
    name: &'static str,
    bits: u32,
    signed: bool,
}

const INTEGERS: [Integer; 8] = {
    const fn of(name: &'static str, bits: u32, signed: bool) -> Integer {
        Integer { name, bits, signed }
    }
    [
        of("u8", 8, false),
        of("u16", 16, false),
        of("u32", 32, false),
        of("u64", 64, false),
        of("s8", 8, true),
        of("s16", 16, true),
        of("s32", 32, true),
        of("s64", 64, true),
    ]
};

const FLOATS: [(&str, u32, Format); 4] =
    [("f16", 16, F16), ("bf16", 16, BF16), ("f32", 32, F32), ("f64", 64, F64)];

/// Rounding to an integer.
const INTEGRALS: [(&str, Mode); 4] =
    [("rni", Mode::Nearest), ("rzi", Mode::Zero), ("rmi", Mode::Down), ("rpi", Mode::Up)];

impl Integer {
    fn value(self, bits: u64) -> i128 {
        let shift = 128 - self.bits;
        if self.signed {
            (u128::from(bits) << shift) as i128 >> shift
        } else {
            (u128::from(bits) << shift >> shift) as i128
        }
    }

    fn clamp(self, value: i128) -> i128 {
        match self.signed {
            true => value.clamp(-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1),
            false => value.clamp(0, (1 << self.bits) - 1),
        }
    }

    /// The register that holds it: there is none of 8 bits here.
    fn register(self) -> u32 {
        self.bits.max(16)
    }

    /// What a register of its own or the next size holds: the value, extended.
    fn in_register(self, value: i128) -> u64 {
        let extended = self.value(value as u64);
        (extended as u128 & ((1 << self.register()) - 1)) as u64
    }
}

/// Bits of floats, of which some are near integers and the ends of integers' ranges.
fn floats_near_integers(format: Format) -> Vec<Operands> {
    let mut draw = Draw::new(format.fraction.into());
    let near = (0..1500).map(|_| {
        let bits = draw.below(66);
        let value =
            i128::from(draw.bits() >> draw.below(64)).min(1 << bits) * 2 + i128::from(draw.below(5)) - 2;
        let number =
            Number { exponent: -1, ..Number::integer(if draw.below(2) == 0 { value } else { -value }) };
        [format.round(number, Mode::Nearest), 0, 0]
    });
    near.chain(floats(format, 1500)).collect()
}

#[test]
fn integers_are_cut_extended_or_clamped() {
    for from in INTEGERS {
        let mut cases = Vec::new();
        for to in INTEGERS {
            let operands = format!(".{}.{} d{}, a{}", to.name, from.name, to.register(), from.register());
            cases.push(case(format!("cvt{operands}"), move |[a, ..]| to.in_register(from.value(a))));
            let expected = move |[a, ..]: Operands| to.in_register(to.clamp(from.value(a)));
            cases.push(case(format!("cvt.sat{operands}"), expected));
        }
        check(&cases, &integers(64, 500));
    }
}

#[test]
fn integers_become_floats_rounded_once() {
    for from in INTEGERS {
        let mut cases = Vec::new();
        for (name, width, to) in FLOATS {
            for (round, mode) in MODES {
                for sat in ["", ".sat"] {
                    let text =
                        format!("cvt.{round}{sat}.{name}.{} d{width}, a{}", from.name, from.register());
                    cases.push(case(text, move |[a, ..]| {
                        let result = to.round(Number::integer(from.value(a)), mode);
                        if sat.is_empty() { result } else { to.saturated(result) }
                    }));
                }
            }
        }
        check(&cases, &integers(64, 700));
    }
}

#[test]
fn floats_become_integers_rounded_and_clamped() {
    for (name, width, from) in FLOATS {
        let mut cases = Vec::new();
        for to in INTEGERS {
            for (round, mode) in INTEGRALS {
                for ftz in ["", ".ftz"] {
                    if !ftz.is_empty() && from != F32 {
                        continue;
                    }
                    let text = format!("cvt.{round}{ftz}.{}.{name} d{}, a{width}", to.name, to.register());
                    cases.push(case(text, move |[a, ..]| {
                        let a = a & (u64::MAX >> (64 - width));
                        let a = if ftz.is_empty() { a } else { from.flushed(a) };
                        let value = match from.value(a) {
                            Value::Finite(number) => to.clamp(number.integral(mode)),
                            Value::Infinite(negative) => {
                                to.clamp(if negative { -(1 << 100) } else { 1 << 100 })
                            }
                            // PTX ISA, cvt: 0, but the highest bit alone from .f64, or to 64 bits.
                            Value::Nan if from == F64 || to.bits == 64 => 1 << (to.bits - 1),
                            Value::Nan => 0,
                        };
                        to.in_register(value)
                    }));
                }
            }
        }
        check(&cases, &floats_near_integers(from));
    }
}

/// Between formats: what rounding makes of a value.
fn converted(to: Format, value: Value, mode: Mode) -> u64 {
    match value {
        Value::Nan => to.nan(),
        Value::Infinite(negative) => to.infinity() | if negative { to.sign() } else { 0 },
        Value::Finite(number) => to.round(number, mode),
    }
}

#[test]
fn floats_become_others_rounded_once_where_they_do_not_fit() {
    for (source, from_width, from) in FLOATS {
        let mut cases = Vec::new();
        for (target, width, to) in FLOATS {
            if from == to {
                continue;
            }
            let exact = to.exponent >= from.exponent && to.fraction >= from.fraction;
            let rounds: &[(&str, Mode)] = if exact { &[("", Mode::Nearest)] } else { &MODES };
            for &(round, mode) in rounds {
                for ftz in ["", ".ftz"] {
                    for sat in ["", ".sat"] {
                        if !ftz.is_empty() && from != F32 && to != F32 {
                            continue;
                        }
                        let dot = if round.is_empty() { "" } else { "." };
                        let text =
                            format!("cvt{dot}{round}{ftz}{sat}.{target}.{source} d{width}, a{from_width}");
                        let expected = move |[a, ..]: Operands| {
                            let flush = |format: Format, bits: u64| {
                                if format == F32 && !ftz.is_empty() { format.flushed(bits) } else { bits }
                            };
                            let a = flush(from, a & (u64::MAX >> (64 - from_width)));
                            let result = flush(to, converted(to, from.value(a), mode));
                            if sat.is_empty() { result } else { to.saturated(result) }
                        };
                        let case = case(text, expected);
                        cases.push(if to == F64 { case.any_nan(F64) } else { case });
                    }
                }
            }
        }
        check(&cases, &floats(from, 1500));
    }
}

#[test]
fn floats_become_integral_in_their_own_type() {
    for (name, width, format) in FLOATS {
        let mut cases = Vec::new();
        for (round, mode) in INTEGRALS {
            let text = format!("cvt.{round}.{name}.{name} d{width}, a{width}");
            let expected = move |[a, ..]: Operands| {
                let a = a & (u64::MAX >> (64 - width));
                match format.value(a) {
                    Value::Finite(number) if number.exponent < 0 => {
                        let integral = number.integral(mode);
                        format.round(Number { negative: number.negative, ..Number::integer(integral) }, mode)
                    }
                    Value::Nan => format.nan(),
                    _ => a,
                }
            };
            cases.push(case(text, expected).any_nan(format));
        }
        check(&cases, &floats_near_integers(format));
    }
}

/// What a value becomes in a format that has no infinity, or is not to have one.
fn finite(to: Format, value: Value, mode: Mode) -> u64 {
    match value {
        Value::Nan if to.top == Top::Numbers => to.largest(),
        Value::Nan => to.nan(),
        Value::Infinite(negative) => to.largest() | if negative { to.sign() } else { 0 },
        Value::Finite(number) => to.round_satfinite(number, mode),
    }
}

/// The formats of fewer than 16 bits, the register of two, and the bits from one to the other.
const SMALL: [(&str, Format, u32, u32); 5] = [
    ("e4m3x2", E4M3, 16, 8),
    ("e5m2x2", E5M2, 16, 8),
    ("e3m2x2", E3M2, 16, 8),
    ("e2m3x2", E2M3, 16, 8),
    ("e2m1x2", E2M1, 8, 4),
];

/// `.relu`: NaN stays, and so does what becomes of it.
fn rectified(relu: &str, value: Value) -> Value {
    let zero = Value::Finite(Number::integer(0));
    match value {
        Value::Infinite(true) if !relu.is_empty() => zero,
        Value::Finite(number) if number.negative && !relu.is_empty() => zero,
        other => other,
    }
}

#[test]
fn pairs_are_made_of_single_precision() {
    let mut cases = Vec::new();
    for relu in ["", ".relu"] {
        for (name, to, register, pitch) in SMALL {
            let text = format!("cvt.rn.satfinite{relu}.{name}.f32 d{register}, a32, b32");
            cases.push(case(text, move |[a, b, _]| {
                let [a, b] = [a, b].map(|it| finite(to, rectified(relu, F32.value(it)), Mode::Nearest));
                a << pitch | b
            }));
        }
        for (name, to) in [("f16x2", F16), ("bf16x2", BF16)] {
            for (round, mode) in [("rn", Mode::Nearest), ("rz", Mode::Zero)] {
                for satfinite in ["", ".satfinite"] {
                    let text = format!("cvt.{round}{relu}{satfinite}.{name}.f32 d32, a32, b32");
                    cases.push(case(text, move |[a, b, _]| {
                        let [a, b] = [a, b].map(|it| {
                            let value = rectified(relu, F32.value(it));
                            if satfinite.is_empty() {
                                converted(to, value, mode)
                            } else {
                                finite(to, value, mode)
                            }
                        });
                        a << 16 | b
                    }));
                    let name = name.trim_end_matches("x2");
                    let text = format!("cvt.{round}{relu}{satfinite}.{name}.f32 d16, a32");
                    cases.push(case(text, move |[a, ..]| {
                        let value = rectified(relu, F32.value(a));
                        if satfinite.is_empty() {
                            converted(to, value, mode)
                        } else {
                            finite(to, value, mode)
                        }
                    }));
                }
            }
        }
    }
    check(&cases, &floats(F32, 1500));
}

#[test]
fn pairs_of_halves_become_smaller_and_come_back() {
    let mut smaller: Vec<Case> = Vec::new();
    for relu in ["", ".relu"] {
        for (name, format, register, pitch) in SMALL {
            smaller.push(case(
                format!("cvt.rn.satfinite{relu}.{name}.f16x2 d{register}, a32"),
                move |[a, ..]| {
                    let [high, low] = [a >> 16 & 0xffff, a & 0xffff]
                        .map(|it| finite(format, rectified(relu, F16.value(it)), Mode::Nearest));
                    high << pitch | low
                },
            ));
            // Every pair of bits there is.
            let mask = 2 * format.sign() - 1;
            let every: Vec<Operands> = (0..1u64 << (2 * pitch))
                .filter(|it| (it & mask) | (it >> pitch & mask) << pitch == *it)
                .map(|it| [it, 0, 0])
                .collect();
            let back = case(format!("cvt.rn{relu}.f16x2.{name} d32, a{register}"), move |[a, ..]| {
                let [high, low] = [a >> pitch & mask, a & mask]
                    .map(|it| converted(F16, rectified(relu, format.value(it)), Mode::Nearest));
                high << 16 | low
            });
            check(&[back], &every);
        }
    }
    check(&smaller, &pairs(F16, 1500));
}

#[test]
fn tf32_is_single_precision_of_fewer_bits() {
    const TF32: Format = Format { exponent: 8, fraction: 10, top: Top::Ieee };
    let mut cases = Vec::new();
    for (round, mode) in [("rna", Mode::NearestAway), ("rn", Mode::Nearest), ("rz", Mode::Zero)] {
        for satfinite in ["", ".satfinite"] {
            cases.push(case(format!("cvt.{round}{satfinite}.tf32.f32 d32, a32"), move |[a, ..]| {
                match F32.value(a) {
                    Value::Nan => F32.nan(),
                    value if satfinite.is_empty() => converted(TF32, value, mode) << 13,
                    value => finite(TF32, value, mode) << 13,
                }
            }));
        }
    }
    check(&cases, &floats(F32, 3000));
}

#[test]
fn integers_are_clamped_and_packed() {
    let mut cases = Vec::new();
    for to in INTEGERS.into_iter().filter(|it| it.bits == 16) {
        cases.push(case(format!("cvt.pack.sat.{}.s32 d32, a32, b32", to.name), move |[a, b, _]| {
            let [a, b] = [a, b].map(|it| to.in_register(to.clamp(i128::from(it as i32))));
            a << 16 | b
        }));
    }
    for (name, bits, signed) in [
        ("u8", 8, false),
        ("s8", 8, true),
        ("u4", 4, false),
        ("s4", 4, true),
        ("u2", 2, false),
        ("s2", 2, true),
    ] {
        let to = Integer { name, bits, signed };
        cases.push(case(format!("cvt.pack.sat.{name}.s32.b32 d32, a32, b32, c32"), move |[a, b, c]| {
            let [a, b] = [a, b].map(|it| to.clamp(i128::from(it as i32)) as u64 & ((1 << bits) - 1));
            (c << (2 * bits) | a << bits | b) & 0xffff_ffff
        }));
    }
    check(&cases, &integers(32, 1500));
}
