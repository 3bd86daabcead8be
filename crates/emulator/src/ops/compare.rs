//! Comparison and selection (PTX ISA, "Comparison and Selection Instructions", "Half Precision Comparison
//! Instructions").

use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::lanes::{LANE_BITS, LANES, Lanes, each1, each3, map3, test2};
use crate::machine::Context;
use crate::num::small::{F16, widen};
use crate::ops::Form;
use crate::ops::value::Value;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand, Type};

pub(crate) const FORMS: &[Form] = &[
    Form::compare(
        "setp",
        "setp.cmp{.and|.or|.xor}{.ftz}.type p{|q}, a, b{, c}; .type: integers, .f16{x2} .bf16{x2} .f32 .f64",
        setp,
    ),
    Form::compare("set", "set.cmp{.and|.or|.xor}{.ftz}.dtype.stype d, a, b{, c}", set),
    Form::compare("selp", "selp.type d, a, b, p", selp),
    Form::compare("slct", "slct{.ftz}.dtype.s32|.f32 d, a, b, c", slct),
];

/// A comparison. The unordered ones hold where an operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

const COMPARISONS: [(&str, Comparison); 18] = [
    ("eq", Comparison::Eq),
    ("ne", Comparison::Ne),
    ("lt", Comparison::Lt),
    ("le", Comparison::Le),
    ("gt", Comparison::Gt),
    ("ge", Comparison::Ge),
    ("lo", Comparison::Lt),
    ("ls", Comparison::Le),
    ("hi", Comparison::Gt),
    ("hs", Comparison::Ge),
    ("equ", Comparison::Equ),
    ("neu", Comparison::Neu),
    ("ltu", Comparison::Ltu),
    ("leu", Comparison::Leu),
    ("gtu", Comparison::Gtu),
    ("geu", Comparison::Geu),
    ("num", Comparison::Num),
    ("nan", Comparison::Nan),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Combination {
    And,
    Or,
    Xor,
}

const COMBINATIONS: [(&str, Combination); 3] =
    [("and", Combination::And), ("or", Combination::Or), ("xor", Combination::Xor)];

/// The lanes in which a comparison of two registers holds.
type Test = Box<dyn Fn(&Context) -> u32 + Send + Sync>;

/// The lanes in which a comparison of two values holds.
type Compare<T> = fn(&Lanes<T>, &Lanes<T>) -> u32;

/// What a word is before it is compared.
type Prepare = fn(&Lanes<u32>) -> Lanes<u32>;

/// A comparison of what `$value` makes of two words.
macro_rules! floats {
    ($comparison:expr, $value:expr) => {{
        macro_rules! test {
            ($x:ident, $y:ident => $holds:expr) => {
                |a, b| {
                    test2(a, b, |x, y| {
                        let ($x, $y) = ($value(x), $value(y));
                        $holds
                    })
                }
            };
        }
        match $comparison {
            Comparison::Eq => test!(a, b => a == b),
            Comparison::Ne => test!(a, b => (a < b) | (a > b)),
            Comparison::Lt => test!(a, b => a < b),
            Comparison::Le => test!(a, b => a <= b),
            Comparison::Gt => test!(a, b => a > b),
            Comparison::Ge => test!(a, b => a >= b),
            Comparison::Equ => test!(a, b => !((a < b) | (a > b))),
            Comparison::Neu => test!(a, b => a != b),
            Comparison::Ltu => test!(a, b => !(a >= b)),
            Comparison::Leu => test!(a, b => !(a > b)),
            Comparison::Gtu => test!(a, b => !(a <= b)),
            Comparison::Geu => test!(a, b => !(a < b)),
            Comparison::Num => test!(a, b => !a.is_nan() & !b.is_nan()),
            Comparison::Nan => test!(a, b => a.is_nan() | b.is_nan()),
        }
    }};
}

#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn floats32(comparison: Comparison) -> Compare<u32> {
    floats!(comparison, f32::from_bits)
}

#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn floats64(comparison: Comparison) -> Compare<u64> {
    floats!(comparison, f64::from_bits)
}

fn integers<T: Value + Ord>(comparison: Comparison) -> Result<Compare<T::Word>, Unsupported> {
    macro_rules! test {
        ($op:tt) => {
            |a, b| test2(a, b, |a, b| T::of(a) $op T::of(b))
        };
    }
    Ok(match comparison {
        Comparison::Eq => test!(==),
        Comparison::Ne => test!(!=),
        Comparison::Lt => test!(<),
        Comparison::Le => test!(<=),
        Comparison::Gt => test!(>),
        Comparison::Ge => test!(>=),
        other => return Err(format!("comparison {other:?} of integers")),
    })
}

/// The comparison of two operands: one test, or for packed halves one for the low and one for the high ones.
fn compared(
    decoder: &mut Decoder,
    comparison: Comparison,
    ftz: bool,
    ty: Type,
    a: &Operand,
    b: &Operand,
) -> Result<(Test, Option<Test>), Unsupported> {
    if ty.bytes() == 8 {
        let compare = match ty {
            _ if ftz => return Err(".ftz of 64 bits".into()),
            Type::F64 => floats64(comparison),
            Type::S64 => integers::<i64>(comparison)?,
            Type::U64 | Type::B64 => integers::<u64>(comparison)?,
            other => return Err(format!("type {other:?}")),
        };
        let (a, b) = (decoder.src64(a)?, decoder.src64(b)?);
        return Ok((Box::new(move |cx| compare(cx.get(a), cx.get(b))), None));
    }
    let (a, b) = (decoder.src32(a)?, decoder.src32(b)?);
    let prepared = |compare: Compare<u32>, prepare: Prepare| -> Test {
        Box::new(move |cx| compare(&prepare(cx.get(a)), &prepare(cx.get(b))))
    };
    let same = |compare: Compare<u32>| -> Test { Box::new(move |cx| compare(cx.get(a), cx.get(b))) };
    let float = |prepare| prepared(floats32(comparison), prepare);
    Ok(match (ty, ftz) {
        (Type::F32, false) => (same(floats32(comparison)), None),
        (Type::F32, true) => (float(flushed), None),
        (Type::F16, false) => (float(f16_low), None),
        (Type::F16, true) => (float(f16_low_flushed), None),
        (Type::Bf16, false) => (float(bf16_low), None),
        (Type::F16x2, false) => (float(f16_low), Some(float(f16_high))),
        (Type::F16x2, true) => (float(f16_low_flushed), Some(float(f16_high_flushed))),
        (Type::Bf16x2, false) => (float(bf16_low), Some(float(bf16_high))),
        (Type::U16 | Type::B16 | Type::U32 | Type::B32, false) => (same(integers::<u32>(comparison)?), None),
        (Type::S32, false) => (same(integers::<i32>(comparison)?), None),
        (Type::S16, false) => (prepared(integers::<i32>(comparison)?, extended), None),
        (other, _) => return Err(format!("type {other:?}{}", if ftz { " with .ftz" } else { "" })),
    })
}

macro_rules! prepare {
    ($($(#[$attribute:meta])* $name:ident = |$x:ident| $value:expr;)*) => {$(
        $(#[$attribute])*
        fn $name(words: &Lanes<u32>) -> Lanes<u32> {
            let mut out = [0; LANES];
            each1(words, &mut out, |$x: u32| $value);
            out
        }
    )*};
}

prepare! {
    /// Sign-extended from 16 bits.
    extended = |x| x as i16 as u32;
    flushed = |x| flush(x).to_bits();
    f16_low = |x| widen(x & 0xFFFF, F16).to_bits();
    f16_high = |x| widen(x >> 16, F16).to_bits();
    f16_low_flushed = |x| widen(flush_f16(x & 0xFFFF), F16).to_bits();
    f16_high_flushed = |x| widen(flush_f16(x >> 16), F16).to_bits();
    bf16_low = |x| x << 16;
    bf16_high = |x| x & 0xFFFF_0000;
}

/// Subnormal values count as zeros.
#[inline(always)]
fn flush(bits: u32) -> f32 {
    if bits & 0x7F80_0000 == 0 { 0.0 } else { f32::from_bits(bits) }
}

#[inline(always)]
fn flush_f16(bits: u32) -> u32 {
    if bits & 0x7C00 == 0 { 0 } else { bits }
}

fn combine(combination: Option<Combination>, test: u32, c: u32) -> u32 {
    match combination {
        None => test,
        Some(Combination::And) => test & c,
        Some(Combination::Or) => test | c,
        Some(Combination::Xor) => test ^ c,
    }
}

fn setp(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let comparison = modifiers.need("comparison", &COMPARISONS)?;
    let combination = modifiers.one_of(&COMBINATIONS);
    let ftz = modifiers.flag("ftz");
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let (target, a, b, c) = match (&instruction.operands[..], combination) {
        ([target, a, b], None) => (target, a, b, None),
        ([target, a, b, c], Some(_)) => (target, a, b, Some(decoder.pred(c)?)),
        _ => return Err("operands".into()),
    };
    let (p, q) = match target {
        Operand::Pair(p, q) => (decoder.dst_pred(p)?, Some(decoder.dst_pred(q)?)),
        p => (decoder.dst_pred(p)?, None),
    };
    let (low, high) = compared(decoder, comparison, ftz, ty, a, b)?;
    match (high, q, c) {
        (None, None, None) => Ok(Action::run(move |cx| {
            let bits = low(cx);
            cx.set_pred(p, bits);
            Ok(())
        })),
        (None, q, c) => Ok(Action::run(move |cx| {
            let test = low(cx);
            let c = c.map_or(0, |c| cx.test(c));
            cx.set_pred(p, combine(combination, test, c));
            if let Some(q) = q {
                cx.set_pred(q, combine(combination, !test, c));
            }
            Ok(())
        })),
        // Packed halves: p is of the low ones, q of the high ones.
        (Some(high), Some(q), c) => Ok(Action::run(move |cx| {
            let tests = [low(cx), high(cx)];
            let c = c.map_or(0, |c| cx.test(c));
            cx.set_pred(p, combine(combination, tests[0], c));
            cx.set_pred(q, combine(combination, tests[1], c));
            Ok(())
        })),
        (Some(_), None, _) => Err("one predicate for two halves".into()),
    }
}

/// What `set` writes for true: all ones, or 1.0 of a floating-point type.
fn truth(ty: Type) -> Result<u32, Unsupported> {
    match ty {
        Type::U32 | Type::S32 => Ok(u32::MAX),
        Type::U16 | Type::S16 => Ok(0xFFFF),
        Type::F32 => Ok(1.0f32.to_bits()),
        Type::F16 => Ok(0x3C00),
        Type::Bf16 => Ok(0x3F80),
        Type::F16x2 => Ok(0x3C00_3C00),
        Type::Bf16x2 => Ok(0x3F80_3F80),
        other => Err(format!("result of type {other:?}")),
    }
}

fn set(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let comparison = modifiers.need("comparison", &COMPARISONS)?;
    let combination = modifiers.one_of(&COMBINATIONS);
    let ftz = modifiers.flag("ftz");
    let truth = truth(modifiers.ty()?)?;
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let (d, a, b, c) = match (&instruction.operands[..], combination) {
        ([d, a, b], None) => (d, a, b, None),
        ([d, a, b, c], Some(_)) => (d, a, b, Some(decoder.pred(c)?)),
        _ => return Err("operands".into()),
    };
    let d = decoder.dst32(d)?;
    let (low, high) = compared(decoder, comparison, ftz, ty, a, b)?;
    Ok(Action::run(move |cx| {
        let c = c.map_or(0, |c| cx.test(c));
        let low = combine(combination, low(cx), c);
        let high = high.as_ref().map(|high| combine(combination, high(cx), c));
        let mut out = [0; LANES];
        for (lane, out) in out.iter_mut().enumerate() {
            let holds = |bits: u32| bits >> lane & 1 == 1;
            *out = match high {
                None => truth * u32::from(holds(low)),
                Some(high) => {
                    truth & ((0xFFFF * u32::from(holds(low))) | (0xFFFF_0000 * u32::from(holds(high))))
                }
            };
        }
        cx.set(d, &out);
        Ok(())
    }))
}

fn selp(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let ty = crate::ops::integer::only_type(instruction)?;
    let [d, a, b, p] = &instruction.operands[..] else { return Err("operands".into()) };
    let p = decoder.pred(p)?;
    match ty.bytes() {
        8 => {
            let (d, a, b) = (decoder.dst64(d)?, decoder.src64(a)?, decoder.src64(b)?);
            Ok(Action::run(move |cx| {
                let chosen = choose(cx.get(a), cx.get(b), cx.test(p));
                cx.set(d, &chosen);
                Ok(())
            }))
        }
        2 | 4 => {
            let (d, a, b) = (decoder.dst32(d)?, decoder.src32(a)?, decoder.src32(b)?);
            let mask = if ty.bytes() == 2 { 0xFFFF } else { u32::MAX };
            Ok(Action::run(move |cx| {
                let bits = cx.test(p);
                let mut chosen = [0; LANES];
                each3(cx.get(a), cx.get(b), &LANE_BITS, &mut chosen, |a, b, bit: u32| {
                    (if bits & bit == 0 { b } else { a }) & mask
                });
                cx.set(d, &chosen);
                Ok(())
            }))
        }
        _ => Err(format!("type {ty:?}")),
    }
}

#[inline(always)]
fn choose<T: Copy + Default>(a: &Lanes<T>, b: &Lanes<T>, bits: u32) -> Lanes<T> {
    let mut out = [T::default(); LANES];
    each3(a, b, &LANE_BITS, &mut out, |a, b, bit: u32| if bits & bit == 0 { b } else { a });
    out
}

fn slct(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let ftz = modifiers.flag("ftz");
    let ty = modifiers.ty()?;
    let by = modifiers.need("type of c", &[("s32", Type::S32), ("f32", Type::F32)])?;
    modifiers.finish()?;
    let [d, a, b, c] = &instruction.operands[..] else { return Err("operands".into()) };
    let c = decoder.src32(c)?;
    let first = move |c: u32| match by {
        Type::F32 if ftz => flush(c) >= 0.0,
        Type::F32 => f32::from_bits(c) >= 0.0,
        _ => c as i32 >= 0,
    };
    if ty.bytes() == 8 {
        let (d, a, b) = (decoder.dst64(d)?, decoder.src64(a)?, decoder.src64(b)?);
        return Ok(map3(d, a, b, c, move |a: u64, b: u64, c: u32| if first(c) { a } else { b }));
    }
    let (d, a, b) = (decoder.dst32(d)?, decoder.src32(a)?, decoder.src32(b)?);
    Ok(map3(d, a, b, c, move |a: u32, b: u32, c: u32| if first(c) { a } else { b }))
}
