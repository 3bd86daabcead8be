//! f16 and bf16, one and two.

use crate::draw::{floats, pairs};
use crate::exact::{BF16, F16, Format, Mode, Value};
use crate::float::{add, extreme, fma, halves, list, mul, sub};
use crate::machine::{Case, Operands, case, check};

type Exact = fn(Format, [Value; 3], Mode) -> u64;

/// A case of one value and one of two, each of which gives what `f` does of its operands.
fn both(
    text: &str,
    format: Format,
    count: usize,
    f: impl Fn(Operands) -> u64 + Clone + 'static,
) -> [Case; 2] {
    let name = if format == F16 { "f16" } else { "bf16" };
    let pair = f.clone();
    [
        case(format!("{text}.{name} {}", list(count, 16)), f),
        case(format!("{text}.{name}x2 {}", list(count, 32)), move |it| halves(it, 16, &pair)),
    ]
}

/// Checks cases that alternate between one value and two.
fn check_both(format: Format, cases: Vec<Case>) {
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for (index, case) in cases.into_iter().enumerate() {
        if index % 2 == 0 { ones.push(case) } else { twos.push(case) }
    }
    check(&ones, &floats(format, 1500));
    check(&twos, &pairs(format, 700));
}

#[test]
fn half_precision_is_exact_and_rounded_once() {
    let operations: [(&str, usize, Exact); 4] =
        [("add", 2, add), ("sub", 2, sub), ("mul", 2, mul), ("fma", 3, fma)];
    let mut cases = Vec::new();
    for (name, count, exact) in operations {
        for round in ["", ".rn"] {
            if name == "fma" && round.is_empty() {
                continue;
            }
            for ftz in [false, true] {
                for last in ["", ".sat", ".relu"] {
                    if last == ".relu" && name != "fma" {
                        continue;
                    }
                    let text = [name, round, if ftz { ".ftz" } else { "" }, last].concat();
                    cases.extend(both(&text, F16, count, move |operands| {
                        let flush = |bits: u64| if ftz { F16.flushed(bits) } else { bits };
                        let values = operands.map(|it| F16.value(flush(it)));
                        let result = flush(exact(F16, values, Mode::Nearest));
                        match last {
                            ".sat" => F16.saturated(result),
                            ".relu" => F16.rectified(result),
                            _ => result,
                        }
                    }));
                }
            }
        }
    }
    check_both(F16, cases);
}

#[test]
fn bfloat_is_exact_and_rounded_once() {
    let operations: [(&str, usize, Exact); 6] = [
        ("add", 2, add),
        ("add.rn", 2, add),
        ("sub", 2, sub),
        ("mul", 2, mul),
        ("fma.rn", 3, fma),
        ("fma.rn.relu", 3, fma),
    ];
    let mut cases = Vec::new();
    for (name, count, exact) in operations {
        let relu = name.ends_with("relu");
        cases.extend(both(name, BF16, count, move |operands| {
            let result = exact(BF16, operands.map(|it| BF16.value(it)), Mode::Nearest);
            if relu { BF16.rectified(result) } else { result }
        }));
    }
    check_both(BF16, cases);
}

#[test]
fn extremes_and_signs_of_halves() {
    for format in [F16, BF16] {
        let mut cases = Vec::new();
        for (name, max) in [("min", false), ("max", true)] {
            for (modifier, nan) in [("", false), (".NaN", true)] {
                cases.extend(both(&format!("{name}{modifier}"), format, 2, move |[a, b, _]| {
                    extreme(format, max, nan, [a, b])
                }));
                let text = format!("{name}{modifier}.xorsign.abs");
                cases.extend(both(&text, format, 2, move |[a, b, _]| {
                    let result = extreme(format, max, nan, [a, b].map(|it| it & (format.sign() - 1)));
                    if format.is_nan(result) { result } else { result | (a ^ b) & format.sign() }
                }));
            }
        }
        let nan = move |it: u64, bits: u64| if format.is_nan(it) { format.nan() } else { bits };
        cases.extend(both("abs", format, 1, move |[a, ..]| nan(a, a & !format.sign())));
        cases.extend(both("neg", format, 1, move |[a, ..]| nan(a, a ^ format.sign())));
        check_both(format, cases);
    }
}
