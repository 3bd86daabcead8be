//! Integer arithmetic, against integers of 128 bits.

use crate::draw::integers;
use crate::machine::{Case, Operands, case, check};

/// An integer type of a register of its own size.
#[derive(Clone, Copy)]
struct Type {
    name: &'static str,
    bits: u32,
    signed: bool,
}

const TYPES: [Type; 6] = [
    Type { name: "u16", bits: 16, signed: false },
    Type { name: "s16", bits: 16, signed: true },
    Type { name: "u32", bits: 32, signed: false },
    Type { name: "s32", bits: 32, signed: true },
    Type { name: "u64", bits: 64, signed: false },
    Type { name: "s64", bits: 64, signed: true },
];

fn low(value: i128, bits: u32) -> u64 {
    (value as u128 & ((1 << bits) - 1)) as u64
}

impl Type {
    fn value(self, bits: u64) -> i128 {
        let shift = 128 - self.bits;
        if self.signed {
            (u128::from(bits) << shift) as i128 >> shift
        } else {
            (u128::from(bits) << shift >> shift) as i128
        }
    }

    fn clamp(self, value: i128) -> i128 {
        let (least, most) = match self.signed {
            true => (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1),
            false => (0, (1 << self.bits) - 1),
        };
        value.clamp(least, most)
    }

    /// `name.type d, a, ..`, which gives the low bits of what `f` does of the operands' values.
    fn case(self, name: &str, count: usize, f: impl Fn([i128; 3]) -> i128 + 'static) -> Case {
        let expected = move |it: Operands| low(f(it.map(|it| self.value(it))), self.bits);
        case(format!("{name}.{} {}", self.name, crate::float::list(count, self.bits)), expected)
    }
}

#[test]
fn results_are_the_low_bits_of_the_exact_ones() {
    for ty in TYPES {
        let high = move |product: i128| product >> ty.bits;
        let mut cases = vec![
            ty.case("add", 2, |[a, b, _]| a + b),
            ty.case("sub", 2, |[a, b, _]| a - b),
            ty.case("mul.lo", 2, |[a, b, _]| a.wrapping_mul(b)),
            ty.case("mad.lo", 3, |[a, b, c]| a.wrapping_mul(b).wrapping_add(c)),
            ty.case("min", 2, |[a, b, _]| a.min(b)),
            ty.case("max", 2, |[a, b, _]| a.max(b)),
            ty.case("sad", 3, |[a, b, c]| c + (a - b).abs()),
        ];
        if ty.signed {
            cases.push(ty.case("abs", 1, |[a, ..]| a.abs()));
            cases.push(ty.case("neg", 1, |[a, ..]| -a));
        }
        if ty.bits < 64 || ty.signed {
            cases.push(ty.case("mul.hi", 2, move |[a, b, _]| high(a * b)));
            cases.push(ty.case("mad.hi", 3, move |[a, b, c]| high(a * b) + c));
        } else {
            let high = |a: i128, b: i128| (a as u128).wrapping_mul(b as u128) >> 64;
            cases.push(ty.case("mul.hi", 2, move |[a, b, _]| high(a, b) as i128));
            cases.push(ty.case("mad.hi", 3, move |[a, b, c]| high(a, b) as i128 + c));
        }
        if ty.bits < 64 {
            let (wide, bits) = (2 * ty.bits, ty.bits);
            let values = move |it: Operands| it.map(|it| ty.value(it));
            cases.push(case(format!("mul.wide.{} d{wide}, a{bits}, b{bits}", ty.name), move |it| {
                let [a, b, _] = values(it);
                low(a * b, wide)
            }));
            cases.push(case(format!("mad.wide.{} d{wide}, a{bits}, b{bits}, c{wide}", ty.name), move |it| {
                let [a, b, _] = values(it);
                low(a * b + i128::from(it[2]), wide)
            }));
        }
        if ty.bits == 32 {
            cases.push(ty.case("add.sat", 2, move |[a, b, _]| ty.clamp(a + b)));
            cases.push(ty.case("sub.sat", 2, move |[a, b, _]| ty.clamp(a - b)));
            cases.push(ty.case("mul24.lo", 2, move |it| {
                let [a, b, _] = it.map(|it| short(it, 24, ty.signed));
                a * b
            }));
            cases.push(ty.case("mul24.hi", 2, move |it| {
                let [a, b, _] = it.map(|it| short(it, 24, ty.signed));
                (a * b) >> 16
            }));
            cases.push(ty.case("mad24.lo", 3, move |[a, b, c]| {
                let [a, b] = [a, b].map(|it| short(it, 24, ty.signed));
                a * b + c
            }));
        }
        if ty.name == "s32" {
            cases.push(ty.case("mad.hi.sat", 3, move |[a, b, c]| ty.clamp(high(a * b) + c)));
            cases.push(ty.case("min.relu", 2, |[a, b, _]| a.min(b).max(0)));
            cases.push(ty.case("max.relu", 2, |[a, b, _]| a.max(b).max(0)));
            cases.push(ty.case("mad24.hi.sat", 3, move |[a, b, c]| {
                let [a, b] = [a, b].map(|it| short(it, 24, true));
                ty.clamp(i128::from(((a * b) >> 16) as i32) + c)
            }));
        }
        // Of a divisor of 0 the result is not defined.
        let bits = ty.bits;
        for (name, remainder) in [("div", false), ("rem", true)] {
            let text =
                format!("or.b{bits} b{bits}, b{bits}, 1; {name}.{} d{bits}, a{bits}, b{bits}", ty.name);
            cases.push(case(text, move |[a, b, _]| {
                let (a, b) = (ty.value(a), ty.value(b | 1));
                low(if remainder { a % b } else { a / b }, bits)
            }));
        }
        check(&cases, &integers(bits, 1500));
    }
}

/// The low bits of a value, as a number of so many.
fn short(value: i128, bits: u32, signed: bool) -> i128 {
    let rest = value & ((1 << bits) - 1);
    if signed && rest >> (bits - 1) == 1 { rest - (1 << bits) } else { rest }
}

/// Of one half.
type Operation = fn(i128, i128) -> i128;

#[test]
fn pairs_of_16_bits_are_two_operations() {
    let mut cases = Vec::new();
    for ty in &TYPES[..2] {
        let ty = *ty;
        let operations: [(&str, Operation, bool); 6] = [
            ("add", |a, b| a + b, false),
            ("add.sat", |a, b| a + b, true),
            ("min", i128::min, false),
            ("max", i128::max, false),
            ("min.relu", |a, b| a.min(b).max(0), false),
            ("max.relu", |a, b| a.max(b).max(0), false),
        ];
        for (name, f, clamps) in operations {
            if name.ends_with("relu") && !ty.signed {
                continue;
            }
            cases.push(case(format!("{name}.{}x2 d32, a32, b32", ty.name), move |it| {
                crate::float::halves(it, 16, |[a, b, _]| {
                    let result = f(ty.value(a), ty.value(b));
                    low(if clamps { ty.clamp(result) } else { result }, 16)
                })
            }));
        }
    }
    check(&cases, &integers(32, 1500));
}

/// The carry is seen by what the next instruction makes of it.
#[test]
fn carries_and_borrows_go_from_one_instruction_to_the_next() {
    let mut cases = Vec::new();
    for (bits, zero) in [(32, "zero"), (64, "0")] {
        let [d, a, b, c] = ["d", "a", "b", "c"].map(|it| format!("{it}{bits}"));
        let wide = move |it: Operands| it.map(u128::from);
        // The sum of a and b in 2 n bits, of which c is added to the upper n.
        let add = format!("add.cc.u{bits} {d}, {a}, {b}; addc.u{bits} {d}, {c}, {zero}");
        cases.push(case(add, move |it| {
            let [a, b, c] = wide(it);
            low((((a + b) >> bits) + c) as i128, bits)
        }));
        let sub = format!("sub.cc.u{bits} {d}, {a}, {b}; subc.u{bits} {d}, {c}, {zero}");
        cases.push(case(sub, move |it| {
            let [a, b, c] = wide(it);
            low(c as i128 - i128::from(a < b), bits)
        }));
        let mad = format!("mad.lo.cc.u{bits} {d}, {a}, {b}, {c}; madc.hi.u{bits} {d}, {a}, {b}, {zero}");
        cases.push(case(mad, move |it| {
            let [a, b, c] = wide(it);
            low((a.wrapping_mul(b).wrapping_add(c) >> bits) as i128, bits)
        }));
        // addc.cc hands the carry on.
        let chain = format!(
            "add.cc.u{bits} {d}, {a}, {b}; addc.cc.u{bits} {d}, {c}, {a}; addc.u{bits} {d}, {zero}, {zero}"
        );
        cases.push(case(chain, move |it| {
            let [a, b, c] = wide(it);
            low(((((a + b) >> bits) + c + a) >> bits) as i128, bits)
        }));
    }
    check(&cases[..4], &integers(32, 1500));
    check(&cases[4..], &integers(64, 1500));
}

#[test]
fn dot_products_take_bytes_and_halves() {
    let mut cases = Vec::new();
    let part = |x: u64, i: u32, bits: u32, signed: bool| short(i128::from(x >> (i * bits)), bits, signed);
    for (a_name, a_signed) in [("u32", false), ("s32", true)] {
        for (b_name, b_signed) in [("u32", false), ("s32", true)] {
            let types = format!("{a_name}.{b_name} d32, a32, b32, c32");
            cases.push(case(format!("dp4a.{types}"), move |[a, b, c]| {
                let products = (0..4).map(|i| part(a, i, 8, a_signed) * part(b, i, 8, b_signed));
                low(products.sum::<i128>() + i128::from(c), 32)
            }));
            for (half, first) in [("lo", 0), ("hi", 2)] {
                cases.push(case(format!("dp2a.{half}.{types}"), move |[a, b, c]| {
                    let products = (0..2).map(|i| part(a, i, 16, a_signed) * part(b, first + i, 8, b_signed));
                    low(products.sum::<i128>() + i128::from(c), 32)
                }));
            }
        }
    }
    check(&cases, &integers(32, 1500));
}
