//! Comparisons and selections.

use crate::draw::{floats, integers, pairs};
use crate::exact::{BF16, F16, F32, F64, Format};
use crate::float::order;
use crate::machine::{Case, Operands, case, check};

/// How two values stand to each other.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Less,
    Equal,
    Greater,
    /// One of them is NaN.
    Unordered,
}

type Holds = fn(Order) -> bool;
type Combine = fn(bool, bool) -> bool;

/// PTX ISA, "Comparisons Operations": of integers and floats.
const COMPARISONS: [(&str, Holds); 6] = [
    ("eq", |it| it == Order::Equal),
    ("ne", |it| matches!(it, Order::Less | Order::Greater)),
    ("lt", |it| it == Order::Less),
    ("le", |it| matches!(it, Order::Less | Order::Equal)),
    ("gt", |it| it == Order::Greater),
    ("ge", |it| matches!(it, Order::Greater | Order::Equal)),
];

/// Of floats: those that hold of NaN, and those that ask for it.
const UNORDERED: [(&str, Holds); 8] = [
    ("equ", |it| matches!(it, Order::Equal | Order::Unordered)),
    ("neu", |it| it != Order::Equal),
    ("ltu", |it| matches!(it, Order::Less | Order::Unordered)),
    ("leu", |it| it != Order::Greater),
    ("gtu", |it| matches!(it, Order::Greater | Order::Unordered)),
    ("geu", |it| it != Order::Less),
    ("num", |it| it != Order::Unordered),
    ("nan", |it| it == Order::Unordered),
];

fn compared(a: i128, b: i128) -> Order {
    match a.cmp(&b) {
        std::cmp::Ordering::Less => Order::Less,
        std::cmp::Ordering::Equal => Order::Equal,
        std::cmp::Ordering::Greater => Order::Greater,
    }
}

fn of_floats(format: Format, ftz: bool, [a, b]: [u64; 2]) -> Order {
    if format.is_nan(a) || format.is_nan(b) {
        return Order::Unordered;
    }
    let place = |bits: u64| {
        let bits = if ftz { format.flushed(bits) } else { bits };
        // Both zeros are the same.
        order(format, if bits == format.sign() { 0 } else { bits })
    };
    compared(place(a), place(b))
}

/// `setp` in all its forms, and `set`, of one type. `order` compares a and b.
fn cases(
    ty: &str,
    bits: u32,
    modifier: &str,
    comparisons: &[(&str, Holds)],
    order: impl Fn([u64; 2]) -> Order + Copy + 'static,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, holds) in comparisons {
        let test = move |it: Operands| holds(order([it[0], it[1]]));
        let operands = format!("a{bits}, b{bits}");
        cases.push(case(format!("setp.{name}{modifier}.{ty} p, {operands}"), move |it| test(it).into()));
        cases.push(case(
            format!("setp.{name}{modifier}.{ty} p|q, {operands}"),
            move |it| {
                if test(it) { 1 } else { 2 }
            },
        ));
        let combinations: [(&str, Combine); 3] =
            [("and", |t, c| t && c), ("or", |t, c| t || c), ("xor", |t, c| t != c)];
        for (combination, of) in combinations {
            for (written, negated) in [("s", false), ("!s", true)] {
                let text = format!("setp.{name}.{combination}{modifier}.{ty} p|q, {operands}, {written}");
                cases.push(case(text, move |it| {
                    let c = (it[2] & 1 == 1) != negated;
                    u64::from(of(test(it), c)) | u64::from(of(!test(it), c)) << 1
                }));
            }
        }
        for (target, width, truth) in [
            ("u32", 32, 0xffff_ffff),
            ("s32", 32, 0xffff_ffff),
            ("f32", 32, 0x3f80_0000),
            ("u16", 16, 0xffff),
            ("f16", 16, 0x3c00),
        ] {
            if width == 16 && bits > 16 {
                continue;
            }
            let text = format!("set.{name}{modifier}.{target}.{ty} d{width}, {operands}");
            cases.push(case(text, move |it| if test(it) { truth } else { 0 }));
            let text = format!("set.{name}.xor{modifier}.{target}.{ty} d{width}, {operands}, s");
            cases.push(case(text, move |it| if test(it) != (it[2] & 1 == 1) { truth } else { 0 }));
        }
    }
    cases
}

#[test]
fn integers_are_compared_as_their_type_says() {
    for bits in [16, 32, 64] {
        let signed = move |x: u64| i128::from((x << (64 - bits)) as i64 >> (64 - bits));
        let mut all =
            cases(&format!("s{bits}"), bits, "", &COMPARISONS, move |[a, b]| compared(signed(a), signed(b)));
        let unsigned = |[a, b]: [u64; 2]| compared(a.into(), b.into());
        all.extend(cases(&format!("u{bits}"), bits, "", &COMPARISONS, unsigned));
        all.extend(cases(&format!("b{bits}"), bits, "", &COMPARISONS[..2], unsigned));
        // lo, ls, hi and hs are lt, le, gt and ge of unsigned integers.
        let names = ["lo", "ls", "hi", "hs"];
        let named: Vec<(&str, Holds)> =
            names.iter().zip(&COMPARISONS[2..]).map(|(name, (_, holds))| (*name, *holds)).collect();
        all.extend(cases(&format!("u{bits}"), bits, "", &named, unsigned));
        check(&all, &integers(bits, 400));
    }
}

#[test]
fn floats_are_compared_with_nan_and_zeros_in_mind() {
    for (ty, bits, format) in [("f16", 16, F16), ("bf16", 16, BF16), ("f32", 32, F32), ("f64", 64, F64)] {
        for ftz in [false, true] {
            if ftz && !matches!(ty, "f16" | "f32") {
                continue;
            }
            let modifier = if ftz { ".ftz" } else { "" };
            let both = [&COMPARISONS[..], &UNORDERED[..]].concat();
            check(
                &cases(ty, bits, modifier, &both, move |it| of_floats(format, ftz, it)),
                &floats(format, 500),
            );
        }
    }
}

#[test]
fn pairs_of_halves_give_two_predicates() {
    for (ty, format) in [("f16x2", F16), ("bf16x2", BF16)] {
        let mut cases = Vec::new();
        for (name, holds) in [&COMPARISONS[..], &UNORDERED[..]].concat() {
            let tests = move |[a, b, _]: Operands| {
                [0, 16]
                    .map(|place| holds(of_floats(format, false, [a >> place & 0xffff, b >> place & 0xffff])))
            };
            cases.push(case(format!("setp.{name}.{ty} p|q, a32, b32"), move |it| {
                let [low, high] = tests(it);
                u64::from(low) | u64::from(high) << 1
            }));
            cases.push(case(format!("setp.{name}.and.{ty} p|q, a32, b32, s"), move |it| {
                let [low, high] = tests(it).map(|holds| holds && it[2] & 1 == 1);
                u64::from(low) | u64::from(high) << 1
            }));
            let one = if format == F16 { 0x3c00 } else { 0x3f80 };
            cases.push(case(format!("set.{name}.{ty}.{ty} d32, a32, b32"), move |it| {
                let [low, high] = tests(it).map(|holds| if holds { one } else { 0 });
                low | high << 16
            }));
        }
        check(&cases, &pairs(format, 500));
    }
}

#[test]
fn one_of_two_values_is_selected() {
    let mut cases = Vec::new();
    for (ty, bits) in [("u16", 16), ("s16", 16), ("s32", 32), ("f32", 32), ("u64", 64), ("f64", 64)] {
        let text = format!("selp.{ty} d{bits}, a{bits}, b{bits}, !s");
        cases.push(case(text, move |[a, b, c]| (if c & 1 == 1 { b } else { a }) & (u64::MAX >> (64 - bits))));
        if ty != "s16" {
            let text = format!("slct.{ty}.s32 d{bits}, a{bits}, b{bits}, c32");
            cases.push(case(text, move |[a, b, c]| {
                (if c as i32 >= 0 { a } else { b }) & (u64::MAX >> (64 - bits))
            }));
        }
    }
    check(&cases, &integers(64, 500));
    // A NaN chooses b, and -0 chooses a; a negative subnormal is one only without .ftz.
    let floating = ["", ".ftz"].map(|ftz| {
        case(format!("slct{ftz}.f32.f32 d32, a32, b32, c32"), move |[a, b, c]| {
            let c = if ftz.is_empty() { c } else { F32.flushed(c) };
            let chosen = !F32.is_nan(c) && (c & F32.sign() == 0 || c == F32.sign());
            if chosen { a } else { b }
        })
    });
    check(&floating, &floats(F32, 1500));
}
