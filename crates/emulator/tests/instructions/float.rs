//! f32, two f32 and f64.

use crate::draw::{floats, pairs};
use crate::exact::{F16, F32, F64, Format, MODES, Mode, ONE, Value, divided, multiplied, neutral, root};
use crate::machine::{Case, Operands, case, check};

/// What an operation gives of operands of a format, rounded to it.
type Exact = fn(Format, [Value; 3], Mode) -> u64;

pub fn add(format: Format, [a, b, _]: [Value; 3], mode: Mode) -> u64 {
    multiplied(format, [a, ONE, b], mode)
}

pub fn negative(value: Value) -> Value {
    match value {
        Value::Nan => Value::Nan,
        Value::Infinite(negative) => Value::Infinite(!negative),
        Value::Finite(number) => Value::Finite(number.negated()),
    }
}

pub fn sub(format: Format, [a, b, c]: [Value; 3], mode: Mode) -> u64 {
    add(format, [a, negative(b), c], mode)
}

pub fn mul(format: Format, [a, b, _]: [Value; 3], mode: Mode) -> u64 {
    multiplied(format, [a, b, neutral(a, b)], mode)
}

pub fn fma(format: Format, values: [Value; 3], mode: Mode) -> u64 {
    multiplied(format, values, mode)
}

fn div(format: Format, [a, b, _]: [Value; 3], mode: Mode) -> u64 {
    divided(format, a, b, mode)
}

fn rcp(format: Format, [a, ..]: [Value; 3], mode: Mode) -> u64 {
    divided(format, ONE, a, mode)
}

fn sqrt(format: Format, [a, ..]: [Value; 3], mode: Mode) -> u64 {
    root(format, a, mode)
}

const OPERATIONS: [(&str, usize, Exact); 8] = [
    ("add", 2, add),
    ("sub", 2, sub),
    ("mul", 2, mul),
    ("fma", 3, fma),
    ("mad", 3, fma),
    ("div", 2, div),
    ("rcp", 1, rcp),
    ("sqrt", 1, sqrt),
];

/// The operands as they are written.
pub fn list(count: usize, bits: u32) -> String {
    let names: Vec<String> = ["d", "a", "b", "c"][..=count].iter().map(|it| format!("{it}{bits}")).collect();
    names.join(", ")
}

#[test]
fn single_precision_is_exact_and_rounded_once() {
    let mut cases = Vec::new();
    for (name, count, exact) in OPERATIONS {
        for (round, mode) in MODES {
            for ftz in [false, true] {
                for sat in [false, true] {
                    if sat && matches!(name, "div" | "rcp" | "sqrt") {
                        continue;
                    }
                    let modifiers = [if ftz { ".ftz" } else { "" }, if sat { ".sat" } else { "" }].concat();
                    let text = format!("{name}.{round}{modifiers}.f32 {}", list(count, 32));
                    cases.push(case(text, move |operands| {
                        let flush = |bits: u64| if ftz { F32.flushed(bits) } else { bits };
                        let values = operands.map(|it| F32.value(flush(it)));
                        let result = flush(exact(F32, values, mode));
                        if sat { F32.saturated(result) } else { result }
                    }));
                }
            }
        }
    }
    for (name, exact) in [("add", add as Exact), ("sub", sub), ("mul", mul)] {
        let text = format!("{name}.f32 d32, a32, b32");
        cases.push(case(text, move |it| exact(F32, it.map(|it| F32.value(it)), Mode::Nearest)));
    }
    check(&cases, &floats(F32, 1500));
}

#[test]
fn double_precision_is_exact_and_rounded_once() {
    let mut cases = Vec::new();
    for (name, count, exact) in OPERATIONS {
        for (round, mode) in MODES {
            let text = format!("{name}.{round}.f64 {}", list(count, 64));
            let expected = move |it: Operands| exact(F64, it.map(|it| F64.value(it)), mode);
            cases.push(case(text, expected).any_nan(F64));
        }
    }
    check(&cases, &floats(F64, 1500));
}

/// Two results, of the lower and the upper halves of operands.
pub fn halves(operands: Operands, width: u32, f: impl Fn(Operands) -> u64) -> u64 {
    let mask = (1 << width) - 1;
    f(operands.map(|it| it & mask)) | f(operands.map(|it| it >> width & mask)) << width
}

#[test]
fn pairs_of_single_precision_are_two_operations() {
    let mut cases = Vec::new();
    for (name, count, exact) in [("add", 2, add as Exact), ("sub", 2, sub), ("mul", 2, mul), ("fma", 3, fma)]
    {
        for (round, mode) in MODES {
            for ftz in [false, true] {
                let modifier = if ftz { ".ftz" } else { "" };
                let text = format!("{name}.{round}{modifier}.f32x2 {}", list(count, 64));
                cases.push(case(text, move |operands| {
                    let flush = |bits: u64| if ftz { F32.flushed(bits) } else { bits };
                    halves(operands, 32, |it| flush(exact(F32, it.map(|it| F32.value(flush(it))), mode)))
                }));
            }
        }
    }
    check(&cases, &pairs(F32, 700));
}

/// The order of numbers, in which -0 comes before +0.
pub fn order(format: Format, bits: u64) -> i128 {
    let magnitude = i128::from(bits & (format.sign() - 1));
    if bits & format.sign() != 0 { -magnitude - 1 } else { magnitude }
}

/// `min` and `max`.
pub fn extreme(format: Format, max: bool, nan: bool, [a, b]: [u64; 2]) -> u64 {
    match (format.is_nan(a), format.is_nan(b)) {
        (true, true) => format.nan(),
        (true, _) | (_, true) if nan => format.nan(),
        (true, false) => b,
        (false, true) => a,
        _ if (order(format, a) > order(format, b)) == max => a,
        _ => b,
    }
}

#[test]
fn extremes_know_nan_zeros_and_signs() {
    let mut cases = Vec::new();
    for (name, max) in [("min", false), ("max", true)] {
        for nan in [false, true] {
            for ftz in [false, true] {
                let flush = move |bits: u64| if ftz { F32.flushed(bits) } else { bits };
                let modifiers = [if ftz { ".ftz" } else { "" }, if nan { ".NaN" } else { "" }].concat();
                cases.push(case(format!("{name}{modifiers}.f32 d32, a32, b32"), move |[a, b, _]| {
                    extreme(F32, max, nan, [a, b].map(flush))
                }));
                cases.push(case(format!("{name}{modifiers}.f32 d32, a32, b32, c32"), move |it| {
                    let [a, b, c] = it.map(flush);
                    extreme(F32, max, nan, [extreme(F32, max, nan, [a, b]), c])
                }));
                let text = format!("{name}{modifiers}.xorsign.abs.f32 d32, a32, b32");
                cases.push(case(text, move |[a, b, _]| {
                    let [x, y] = [a, b].map(|it| flush(it) & (F32.sign() - 1));
                    let result = extreme(F32, max, nan, [x, y]);
                    if F32.is_nan(result) { result } else { result | (a ^ b) & F32.sign() }
                }));
            }
        }
    }
    check(&cases, &floats(F32, 1500));
    let doubles = [("min", false), ("max", true)].map(|(name, max)| {
        let expected = move |[a, b, _]: Operands| extreme(F64, max, false, [a, b]);
        case(format!("{name}.f64 d64, a64, b64"), expected).any_nan(F64)
    });
    check(&doubles, &floats(F64, 1500));
}

#[test]
fn signs_and_kinds_are_those_of_the_bits() {
    type Holds = Box<dyn Fn(u64) -> bool>;
    fn tests(format: Format, bits: u32) -> Vec<Case> {
        let infinity = format.infinity();
        let of = move |x: u64| x & (format.sign() - 1);
        let kinds: [(&str, Holds); 6] = [
            ("finite", Box::new(move |x| of(x) < infinity)),
            ("infinite", Box::new(move |x| of(x) == infinity)),
            ("number", Box::new(move |x| of(x) <= infinity)),
            ("notanumber", Box::new(move |x| of(x) > infinity)),
            ("normal", Box::new(move |x| of(x) >= 1 << format.fraction && of(x) < infinity)),
            ("subnormal", Box::new(move |x| of(x) != 0 && of(x) < 1 << format.fraction)),
        ];
        let kinds = kinds.into_iter().map(|(name, holds)| {
            case(format!("testp.{name}.f{bits} p, a{bits}"), move |[a, ..]| holds(a).into())
        });
        let mut cases: Vec<Case> = kinds.collect();
        cases.push(
            case(format!("abs.f{bits} d{bits}, a{bits}"), move |[a, ..]| a & !format.sign()).any_nan(format),
        );
        cases.push(
            case(format!("neg.f{bits} d{bits}, a{bits}"), move |[a, ..]| a ^ format.sign()).any_nan(format),
        );
        // The sign of a, and the rest of b.
        cases.push(
            case(format!("copysign.f{bits} d{bits}, a{bits}, b{bits}"), move |[a, b, _]| {
                a & format.sign() | b & (format.sign() - 1)
            })
            .any_nan(format),
        );
        cases
    }
    let mut singles = tests(F32, 32);
    singles.push(case("abs.ftz.f32 d32, a32", |[a, ..]| F32.flushed(a) & !F32.sign()).any_nan(F32));
    singles.push(case("neg.ftz.f32 d32, a32", |[a, ..]| F32.flushed(a) ^ F32.sign()).any_nan(F32));
    check(&singles, &floats(F32, 1500));
    check(&tests(F64, 64), &floats(F64, 1500));
}

/// One operand of half precision, the other of single.
#[test]
fn mixed_precision_is_exact_and_rounded_once() {
    let mut cases = Vec::new();
    for (name, exact) in [("add", add as Exact), ("sub", sub)] {
        for (round, mode) in MODES {
            for sat in [false, true] {
                let modifier = if sat { ".sat" } else { "" };
                let text = format!("{name}.{round}{modifier}.f32.f16 d32, a16, b32");
                cases.push(case(text, move |[a, b, _]| {
                    let values = [F16.value(a & 0xffff), F32.value(b), ONE];
                    let result = exact(F32, values, mode);
                    if sat { F32.saturated(result) } else { result }
                }));
            }
        }
    }
    for (round, mode) in MODES {
        let text = format!("fma.{round}.f32.f16 d32, a16, b16, c32");
        cases.push(case(text, move |[a, b, c]| {
            fma(F32, [F16.value(a & 0xffff), F16.value(b & 0xffff), F32.value(c)], mode)
        }));
    }
    let singles = floats(F32, 1500);
    let mixed: Vec<Operands> =
        floats(F16, 1500).iter().zip(&singles).map(|(half, single)| [half[0], half[1], single[2]]).collect();
    let swapped: Vec<Operands> = mixed.iter().map(|[a, _, c]| [*a, *c, *c]).collect();
    let (two, three) = cases.split_at(16);
    check(two, &swapped);
    check(three, &mixed);
}
