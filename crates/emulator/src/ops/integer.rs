//! Integer arithmetic (PTX ISA, "Integer Arithmetic Instructions", "Extended-Precision Integer Arithmetic
//! Instructions").

use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::lanes::{LANES, Reg, each3, map2, map3};
use crate::num::int::{self, Int};
use crate::num::packed;
use crate::ops::Form;
use crate::ops::value::{Value, binary, ternary, unary};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand, Type};

pub(crate) const FORMS: &[Form] = &[
    Form::integer(
        "add (integer)",
        "add{.sat}.type d, a, b; .type = .u16 .u32 .u64 .s16 .s32 .s64 .u16x2 .s16x2",
        add,
    ),
    Form::integer("sub (integer)", "sub{.sat}.type d, a, b; .type = .u16 .u32 .u64 .s16 .s32 .s64", sub),
    Form::integer("mul (integer)", "mul.hi|.lo|.wide.type d, a, b", mul),
    Form::integer(
        "mad (integer)",
        "mad.hi|.lo|.wide.type d, a, b, c; mad.hi.sat.s32; mad.hi|.lo.cc.type d, a, b, c",
        mad,
    ),
    Form::integer("madc", "madc.hi|.lo{.cc}.type d, a, b, c", madc),
    Form::integer("mul24", "mul24.hi|.lo.u32|.s32 d, a, b", |d, i| mul24(d, i, false)),
    Form::integer("mad24", "mad24.hi|.lo{.sat}.u32|.s32 d, a, b, c", |d, i| mul24(d, i, true)),
    Form::integer("add.cc", "add.cc.type d, a, b", |d, i| carried(d, i, Carried::Add { reads: false })),
    Form::integer("addc", "addc{.cc}.type d, a, b", |d, i| carried(d, i, Carried::Add { reads: true })),
    Form::integer("sub.cc", "sub.cc.type d, a, b", |d, i| carried(d, i, Carried::Sub { reads: false })),
    Form::integer("subc", "subc{.cc}.type d, a, b", |d, i| carried(d, i, Carried::Sub { reads: true })),
    Form::integer("sad", "sad.type d, a, b, c", sad),
    Form::integer("div (integer)", "div.type d, a, b", |d, i| each_type(d, i, Div)),
    Form::integer("rem", "rem.type d, a, b", |d, i| each_type(d, i, Rem)),
    Form::integer("abs (integer)", "abs.type d, a; .type = .s16 .s32 .s64", abs),
    Form::integer("neg (integer)", "neg.type d, a; .type = .s16 .s32 .s64", neg),
    Form::integer("min (integer)", "min{.relu}.type d, a, b; .type = .u16 … .s64 .u16x2 .s16x2", |d, i| {
        extreme(d, i, true)
    }),
    Form::integer("max (integer)", "max{.relu}.type d, a, b; .type = .u16 … .s64 .u16x2 .s16x2", |d, i| {
        extreme(d, i, false)
    }),
    Form::integer("dp4a", "dp4a.atype.btype d, a, b, c", |d, i| dot(d, i, false)),
    Form::integer("dp2a", "dp2a.lo|.hi.atype.btype d, a, b, c", |d, i| dot(d, i, true)),
];

/// An integer type, with the arithmetic that wraps around.
pub(crate) trait Typed: Value + Int + Send + Sync {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
}

macro_rules! typed {
    ($($type:ty)*) => {$(
        impl Typed for $type {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
        }
    )*};
}

typed! { u16 i16 u32 i32 u64 i64 }

/// Evaluates an expression with `$T` standing for the Rust type of an integer type of PTX.
macro_rules! for_type {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            Type::U16 | Type::B16 => {
                type $T = u16;
                $body
            }
            Type::S16 => {
                type $T = i16;
                $body
            }
            Type::U32 | Type::B32 => {
                type $T = u32;
                $body
            }
            Type::S32 => {
                type $T = i32;
                $body
            }
            Type::U64 | Type::B64 => {
                type $T = u64;
                $body
            }
            Type::S64 => {
                type $T = i64;
                $body
            }
            other => Err(format!("type {other:?}")),
        }
    };
}

pub(crate) use for_type;

/// Both halves of words.
fn packed(
    decoder: &mut Decoder,
    instruction: &Instruction,
    f: impl Fn(u16, u16) -> u16 + Copy + Send + Sync + 'static,
) -> Result<Action, Unsupported> {
    binary(decoder, instruction, move |a: u32, b: u32| packed::map2(a, b, f))
}

const PACKED: [(&str, bool); 2] = [("u16x2", false), ("s16x2", true)];

fn add(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let sat = modifiers.flag("sat");
    if let Some(signed) = modifiers.one_of(&PACKED) {
        modifiers.finish()?;
        return match (sat, signed) {
            (false, _) => packed(decoder, instruction, u16::wrapping_add),
            (true, false) => packed(decoder, instruction, u16::saturating_add),
            (true, true) => packed(decoder, instruction, |a, b| (a as i16).saturating_add(b as i16) as u16),
        };
    }
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    match (sat, ty) {
        (false, _) => for_type!(ty, T => binary::<T, T, T>(decoder, instruction, Typed::add)),
        (true, Type::S32) => binary::<i32, i32, i32>(decoder, instruction, i32::saturating_add),
        (true, Type::U32) => binary::<u32, u32, u32>(decoder, instruction, u32::saturating_add),
        (true, other) => Err(format!(".sat of {other:?}")),
    }
}

fn sub(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let sat = modifiers.flag("sat");
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    match (sat, ty) {
        (false, _) => for_type!(ty, T => binary::<T, T, T>(decoder, instruction, Typed::sub)),
        (true, Type::S32) => binary::<i32, i32, i32>(decoder, instruction, i32::saturating_sub),
        (true, Type::U32) => binary::<u32, u32, u32>(decoder, instruction, u32::saturating_sub),
        (true, other) => Err(format!(".sat of {other:?}")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Low,
    High,
    Wide,
}

const HALVES: [(&str, Half); 3] = [("lo", Half::Low), ("hi", Half::High), ("wide", Half::Wide)];

fn mul(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let half = modifiers.need("half of the product", &HALVES)?;
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let operands = &instruction.operands[..];
    match half {
        Half::Low => for_type!(ty, T => binary::<T, T, T>(decoder, instruction, Typed::mul)),
        Half::High => for_type!(ty, T => binary::<T, T, T>(decoder, instruction, Int::mul_hi)),
        Half::Wide => wide(decoder, ty, operands, false),
    }
}

/// Products of twice the width, and what is added to them.
fn wide(decoder: &mut Decoder, ty: Type, operands: &[Operand], adds: bool) -> Result<Action, Unsupported> {
    let (d, a, b, c) = match operands {
        [d, a, b] if !adds => (d, a, b, None),
        [d, a, b, c] if adds => (d, a, b, Some(c)),
        _ => return Err("operands".into()),
    };
    let (a, b) = (decoder.src32(a)?, decoder.src32(b)?);
    if matches!(ty, Type::U32 | Type::S32) {
        let d = decoder.dst64(d)?;
        let c = c.map(|c| decoder.src64(c)).transpose()?;
        return Ok(match (ty, c) {
            (Type::U32, None) => map2(d, a, b, |a: u32, b: u32| u64::from(a) * u64::from(b)),
            (Type::U32, Some(c)) => {
                map3(d, a, b, c, |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))
            }
            (_, None) => map2(d, a, b, signed_product),
            (_, Some(c)) => map3(d, a, b, c, |a: u32, b: u32, c: u64| signed_product(a, b).wrapping_add(c)),
        });
    }
    let d = decoder.dst32(d)?;
    let zero = decoder.constant32(0);
    let c = c.map_or(Ok(zero), |c| decoder.src32(c))?;
    match ty {
        Type::U16 => Ok(map3(d, a, b, c, |a: u32, b: u32, c: u32| {
            (a & 0xFFFF).wrapping_mul(b & 0xFFFF).wrapping_add(c)
        })),
        Type::S16 => Ok(map3(d, a, b, c, |a: u32, b: u32, c: u32| {
            (i32::from(a as i16) * i32::from(b as i16)).wrapping_add(c as i32) as u32
        })),
        other => Err(format!("type {other:?}")),
    }
}

#[inline(always)]
fn signed_product(a: u32, b: u32) -> u64 {
    (i64::from(a as i32) * i64::from(b as i32)) as u64
}

fn mad(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let half = modifiers.need("half of the product", &HALVES)?;
    let sat = modifiers.flag("sat");
    if modifiers.flag("cc") {
        return carried_product(decoder, instruction, modifiers, half, false, true);
    }
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let operands = &instruction.operands[..];
    match (half, sat, ty) {
        (Half::Low, false, _) => {
            for_type!(ty, T => ternary::<T, T, T, T>(decoder, instruction, |a, b, c| a.mul(b).add(c)))
        }
        (Half::High, false, _) => {
            for_type!(ty, T => ternary::<T, T, T, T>(decoder, instruction, |a, b, c| a.mul_hi(b).add(c)))
        }
        (Half::High, true, Type::S32) => {
            ternary::<i32, i32, i32, i32>(decoder, instruction, |a, b, c| a.mul_hi(b).saturating_add(c))
        }
        (Half::Wide, false, _) => wide(decoder, ty, operands, true),
        (_, true, other) => Err(format!(".sat of {other:?}")),
    }
}

fn madc(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let half = modifiers.need("half of the product", &HALVES[..2])?;
    let writes = modifiers.flag("cc");
    carried_product(decoder, instruction, modifiers, half, true, writes)
}

/// `mad.cc`, `madc`: a half of a product and what is added to it, with carry.
fn carried_product(
    decoder: &mut Decoder,
    instruction: &Instruction,
    mut modifiers: Modifiers,
    half: Half,
    reads: bool,
    writes: bool,
) -> Result<Action, Unsupported> {
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let [d, a, b, c] = &instruction.operands[..] else { return Err("operands".into()) };
    for_type!(ty, T => {
        let [a, b, c] = [a, b, c].map(|it| decoder.src::<<T as Value>::Word>(it));
        let (a, b, c, d) = (a?, b?, c?, decoder.dst::<<T as Value>::Word>(d)?);
        let carry = decoder.carry();
        Ok(Action::run(move |cx| {
            let mut sums = [(Default::default(), false); LANES];
            let carries = *cx.get(carry);
            each3(cx.get(a), cx.get(b), &std::array::from_fn(|lane| (cx.get(c)[lane], carries[lane])), &mut sums, |a, b, (c, carry)| {
                let (a, b) = (T::of(a), T::of(b));
                let product = if half == Half::High { a.mul_hi(b) } else { Typed::mul(a, b) };
                let (sum, out) = product.add_carry(T::of(c), reads && carry != 0);
                (sum.word(), out)
            });
            cx.set(d, &sums.map(|(sum, _)| sum));
            if writes {
                cx.set(carry, &sums.map(|(_, carry)| u32::from(carry)));
            }
            Ok(())
        }))
    })
}

#[derive(Clone, Copy)]
enum Carried {
    Add { reads: bool },
    Sub { reads: bool },
}

/// Sums and differences with carry. `add.cc` and `sub.cc` write the flag always, `addc` and `subc` with `.cc`.
fn carried(decoder: &mut Decoder, instruction: &Instruction, kind: Carried) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let writes = modifiers.flag("cc");
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let [d, a, b] = &instruction.operands[..] else { return Err("operands".into()) };
    for_type!(ty, T => {
        let (a, b) = (decoder.src::<<T as Value>::Word>(a)?, decoder.src::<<T as Value>::Word>(b)?);
        let d: Reg<<T as Value>::Word> = decoder.dst(d)?;
        let carry = decoder.carry();
        Ok(Action::run(move |cx| {
            let mut sums = [(Default::default(), false); LANES];
            each3(cx.get(a), cx.get(b), cx.get(carry), &mut sums, |a, b, carry| {
                let (a, b) = (T::of(a), T::of(b));
                let (sum, out) = match kind {
                    Carried::Add { reads } => a.add_carry(b, reads && carry != 0),
                    Carried::Sub { reads } => a.sub_borrow(b, reads && carry != 0),
                };
                (sum.word(), out)
            });
            cx.set(d, &sums.map(|(sum, _)| sum));
            if writes {
                cx.set(carry, &sums.map(|(_, carry)| u32::from(carry)));
            }
            Ok(())
        }))
    })
}

fn mul24(decoder: &mut Decoder, instruction: &Instruction, adds: bool) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let half = modifiers.need("half of the product", &HALVES[..2])?;
    let sat = adds && modifiers.flag("sat");
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let signed = match ty {
        Type::U32 => false,
        Type::S32 => true,
        other => return Err(format!("type {other:?}")),
    };
    let product =
        move |a: u32, b: u32| (int::mul24(a, b, signed) >> if half == Half::High { 16 } else { 0 }) as u32;
    match (adds, sat, half, signed) {
        (false, ..) => binary::<u32, u32, u32>(decoder, instruction, product),
        (true, false, ..) => {
            ternary::<u32, u32, u32, u32>(decoder, instruction, move |a, b, c| product(a, b).wrapping_add(c))
        }
        (true, true, Half::High, true) => {
            ternary::<i32, i32, i32, i32>(decoder, instruction, move |a, b, c| {
                (product(a as u32, b as u32) as i32).saturating_add(c)
            })
        }
        _ => Err(".sat of anything but .hi.s32".into()),
    }
}

fn sad(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let ty = only_type(instruction)?;
    for_type!(ty, T => ternary::<T, T, T, T>(decoder, instruction, Int::sad))
}

/// The one modifier of an instruction, its type.
pub(crate) fn only_type(instruction: &Instruction) -> Result<Type, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    Ok(ty)
}

/// A function of two integers of any type.
trait Binary: Copy + Send + Sync + 'static {
    fn of<T: Int>(self, a: T, b: T) -> T;
}

#[derive(Clone, Copy)]
struct Div;

#[derive(Clone, Copy)]
struct Rem;

impl Binary for Div {
    #[inline(always)]
    fn of<T: Int>(self, a: T, b: T) -> T {
        a.div(b)
    }
}

impl Binary for Rem {
    #[inline(always)]
    fn of<T: Int>(self, a: T, b: T) -> T {
        a.rem(b)
    }
}

fn each_type(
    decoder: &mut Decoder,
    instruction: &Instruction,
    f: impl Binary,
) -> Result<Action, Unsupported> {
    let ty = only_type(instruction)?;
    for_type!(ty, T => binary::<T, T, T>(decoder, instruction, move |a, b| f.of(a, b)))
}

fn abs(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    match only_type(instruction)? {
        Type::S16 => unary::<i16, i16>(decoder, instruction, i16::wrapping_abs),
        Type::S32 => unary::<i32, i32>(decoder, instruction, i32::wrapping_abs),
        Type::S64 => unary::<i64, i64>(decoder, instruction, i64::wrapping_abs),
        other => Err(format!("type {other:?}")),
    }
}

fn neg(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    match only_type(instruction)? {
        Type::S16 => unary::<i16, i16>(decoder, instruction, i16::wrapping_neg),
        Type::S32 => unary::<i32, i32>(decoder, instruction, i32::wrapping_neg),
        Type::S64 => unary::<i64, i64>(decoder, instruction, i64::wrapping_neg),
        other => Err(format!("type {other:?}")),
    }
}

fn extreme(decoder: &mut Decoder, instruction: &Instruction, least: bool) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let relu = modifiers.flag("relu");
    if let Some(signed) = modifiers.one_of(&PACKED) {
        modifiers.finish()?;
        let choose = move |a: u16, b: u16| {
            let less = if signed { (a as i16) < b as i16 } else { a < b };
            let chosen = if less == least { a } else { b };
            if relu && signed && (chosen as i16) < 0 { 0 } else { chosen }
        };
        return if relu && !signed {
            Err(".relu of .u16x2".into())
        } else {
            packed(decoder, instruction, choose)
        };
    }
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    match (relu, ty, least) {
        (false, _, true) => for_type!(ty, T => binary::<T, T, T>(decoder, instruction, Ord::min)),
        (false, _, false) => for_type!(ty, T => binary::<T, T, T>(decoder, instruction, Ord::max)),
        (true, Type::S32, true) => binary::<i32, i32, i32>(decoder, instruction, |a, b| a.min(b).max(0)),
        (true, Type::S32, false) => binary::<i32, i32, i32>(decoder, instruction, |a, b| a.max(b).max(0)),
        (true, other, _) => Err(format!(".relu of {other:?}")),
    }
}

fn dot(decoder: &mut Decoder, instruction: &Instruction, two: bool) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let high = two && modifiers.need("bytes of b", &[("lo", false), ("hi", true)])?;
    let types = [("u32", false), ("s32", true)];
    let a = modifiers.need("type of a", &types)?;
    let b = modifiers.need("type of b", &types)?;
    modifiers.finish()?;
    ternary::<u32, u32, u32, u32>(decoder, instruction, move |x, y, z| {
        if two { int::dp2a(x, y, z, a, b, high) } else { int::dp4a(x, y, z, a, b) }
    })
}
