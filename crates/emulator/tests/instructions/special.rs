//! The approximate functions: within what the PTX ISA grants them, of functions of the standard library.

use crate::draw::{floats, pairs};
use crate::exact::{BF16, F16, F32, F64, Format, Number, Value};
use crate::machine::{Operands, run};

/// A finite number, as it is in double precision.
fn double(format: Format, bits: u64) -> f64 {
    match format.value(bits) {
        Value::Nan => f64::NAN,
        Value::Infinite(negative) => {
            if negative {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }
        }
        Value::Finite(Number { negative, mantissa, exponent, .. }) => {
            let magnitude = mantissa as f64 * 2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2);
            if negative { -magnitude } else { magnitude }
        }
    }
}

/// How far a result may be from the exact one.
#[derive(Clone, Copy)]
enum Bound {
    Relative(f64),
    Absolute(f64),
}

/// Whether a result is the exact one within a bound, and half the last bit of its format. NaN, infinities and zeros
/// have to be there, with their sign.
fn is_near(format: Format, result: u64, exact: f64, bound: Bound) -> bool {
    let found = double(format, result);
    let smallest = double(format, 1);
    let largest = double(format, format.largest());
    if exact.is_nan() || found.is_nan() {
        return exact.is_nan() && result == format.nan();
    }
    if exact.is_infinite() || exact == 0.0 {
        return found == exact && found.is_sign_negative() == exact.is_sign_negative();
    }
    if found.is_infinite() {
        return found.is_sign_negative() == exact.is_sign_negative() && exact.abs() > largest;
    }
    let allowed = match bound {
        Bound::Relative(bound) => bound * exact.abs(),
        Bound::Absolute(bound) => bound,
    };
    (found - exact).abs() <= allowed.max(smallest)
}

/// An instruction of a and b, the exact function, and what it may be off.
type Approximate = (&'static str, fn([f64; 2]) -> f64, Bound);

fn ulps(format: Format, count: f64) -> Bound {
    Bound::Relative(count * 2f64.powi(-(format.fraction as i32)))
}

#[test]
fn functions_of_single_precision_are_within_their_bounds() {
    let one_ulp = ulps(F32, 1.0);
    let functions: [Approximate; 8] = [
        ("ex2.approx.f32 d32, a32", |[a, _]| a.exp2(), ulps(F32, 2.0)),
        ("rcp.approx.f32 d32, a32", |[a, _]| 1.0 / a, one_ulp),
        ("sqrt.approx.f32 d32, a32", |[a, _]| a.sqrt(), Bound::Relative(2f64.powi(-23))),
        ("rsqrt.approx.f32 d32, a32", |[a, _]| 1.0 / a.sqrt(), Bound::Relative(2f64.powf(-22.9))),
        ("tanh.approx.f32 d32, a32", |[a, _]| a.tanh(), Bound::Relative(2f64.powi(-11))),
        ("div.full.f32 d32, a32, b32", |[a, b]| a / b, ulps(F32, 2.0)),
        ("div.approx.f32 d32, a32, b32", |[a, b]| a / b, ulps(F32, 2.0)),
        ("lg2.approx.f32 d32, a32", |[a, _]| a.log2(), Bound::Relative(2f64.powi(-22))),
    ];
    // Of larger divisors `div.approx` may give 0, and `div.full` is near for those in [2^-126, 2^126].
    let large = |b: f64| !(2f64.powi(-126)..=2f64.powi(126)).contains(&b.abs()) && b != 0.0;
    let operands = floats(F32, 3000);
    let texts = functions.map(|(text, ..)| text);
    for ((text, exact, bound), results) in functions.into_iter().zip(run(&texts, &operands)) {
        for ([a, b, _], result) in operands.iter().zip(results) {
            let values = [double(F32, *a), double(F32, *b)];
            if text.starts_with("div") && large(values[1]) {
                continue;
            }
            let expected = exact(values);
            let near = is_near(F32, result, expected, bound);
            assert!(near, "{text} of {values:?} is {:e}, not {expected:e}", double(F32, result));
        }
    }
}

#[test]
fn sines_and_cosines_are_within_their_bounds() {
    let texts = ["sin.approx.f32 d32, a32", "cos.approx.f32 d32, a32", "sin.approx.ftz.f32 d32, a32"];
    let operands = floats(F32, 3000);
    let results = run(&texts, &operands);
    for (index, [a, ..]) in operands.iter().enumerate() {
        let x = double(F32, *a);
        let [sine, cosine, flushed] = [0, 1, 2].map(|text| results[text][index]);
        if !x.is_finite() {
            assert!(F32.is_nan(sine) && F32.is_nan(cosine), "of {x}");
            continue;
        }
        let bound = match x.abs() {
            small if small <= 2.0 * std::f64::consts::PI => 2f64.powf(-20.5),
            medium if medium <= 100.0 * std::f64::consts::PI => 2f64.powf(-14.7),
            _ => 2.0,
        };
        assert!((double(F32, sine) - x.sin()).abs() <= bound, "sin {x:e}");
        assert!((double(F32, cosine) - x.cos()).abs() <= bound, "cos {x:e}");
        if F32.flushed(*a) != *a {
            assert_eq!(flushed, *a & F32.sign(), "sin of a subnormal number that is flushed");
        }
    }
}

#[test]
fn flushing_takes_and_gives_no_subnormal_numbers() {
    let names = ["ex2.approx", "rcp.approx", "sqrt.approx", "rsqrt.approx", "lg2.approx"];
    let texts: Vec<String> =
        names.iter().flat_map(|it| ["", ".ftz"].map(|ftz| format!("{it}{ftz}.f32 d32, a32"))).collect();
    let texts: Vec<&str> = texts.iter().map(|it| &**it).collect();
    let operands = floats(F32, 3000);
    let flushed: Vec<Operands> = operands.iter().map(|it| it.map(|bits| F32.flushed(bits))).collect();
    let (with, without) = (run(&texts, &operands), run(&texts, &flushed));
    for pair in 0..names.len() {
        for (index, result) in with[2 * pair + 1].iter().enumerate() {
            let expected = F32.flushed(without[2 * pair][index]);
            assert_eq!(*result, expected, "{} of {:#x}", texts[2 * pair + 1], operands[index][0]);
        }
    }
}

#[test]
fn functions_of_halves_are_within_their_bounds() {
    let exp2: fn(f64) -> f64 = f64::exp2;
    for (text, format, exact, bound) in [
        ("ex2.approx.f16", F16, exp2, Bound::Relative(2f64.powf(-9.9))),
        ("ex2.approx.ftz.bf16", BF16, exp2, Bound::Relative(2f64.powi(-7))),
        ("tanh.approx.f16", F16, f64::tanh, Bound::Absolute(2f64.powf(-10.987))),
        ("tanh.approx.bf16", BF16, f64::tanh, Bound::Absolute(2f64.powi(-8))),
    ] {
        let ftz = text.contains("ftz");
        let flush = |bits: u64| if ftz { format.flushed(bits) } else { bits };
        let single = format!("{text} d16, a16");
        let operands = floats(format, 3000);
        let results = &run(&[&single], &operands)[0];
        for ([a, ..], result) in operands.iter().zip(results) {
            let value = double(format, flush(*a));
            let expected = exact(value);
            let below = ftz && expected.abs() < 2f64.powi(-126) && *result & (format.sign() - 1) == 0;
            assert!(below || is_near(format, *result, expected, bound), "{text} of {value:e} is {result:#x}");
        }
        // Two are as one is, twice.
        let both = pairs(format, 1500);
        let apart: Vec<Operands> =
            both.iter().flat_map(|[a, ..]| [[a & 0xffff, 0, 0], [a >> 16, 0, 0]]).collect();
        let ones = &run(&[&single], &apart)[0];
        let twos = &run(&[&format!("{text}x2 d32, a32")], &both)[0];
        let joined: Vec<u64> = ones.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 16).collect();
        assert_eq!(&joined, twos, "{text}x2");
    }
}

/// Only the upper half of the result counts, and of the operand.
#[test]
fn coarse_reciprocals_of_double_precision_have_20_bits() {
    let texts = ["rcp.approx.ftz.f64 d64, a64", "rsqrt.approx.ftz.f64 d64, a64"];
    let operands = floats(F64, 3000);
    let results = run(&texts, &operands);
    for (index, [a, ..]) in operands.iter().enumerate() {
        let x = f64::from_bits(F64.flushed(*a));
        for (results, exact) in results.iter().zip([1.0 / x, 1.0 / x.sqrt()]) {
            let found = f64::from_bits(results[index]);
            if exact.is_nan() || found.is_nan() {
                assert!(exact.is_nan() && found.is_nan(), "of {x:e}: {found:e}");
            } else if exact.is_normal() {
                assert!((found / exact - 1.0).abs() < 2f64.powi(-19), "of {x:e}: {found:e}");
                assert_eq!(results[index] as u32, 0, "of {x:e}");
            }
        }
    }
}
