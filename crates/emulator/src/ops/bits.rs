//! Logic, shifts and bit fields (PTX ISA, "Logic and Shift Instructions", and the bit fields of "Integer Arithmetic
//! Instructions").

use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::lanes::{LANES, Lanes, map1, map2, map3};
use crate::num::bits::{self, Amount, Permutation};
use crate::num::int::Int;
use crate::ops::Form;
use crate::ops::integer::{for_type, only_type};
use crate::ops::value::{Value, binary, unary};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::simd::vectorised;

pub(crate) const FORMS: &[Form] = &[
    Form::integer("and", "and.type d, a, b; .type = .pred .b16 .b32 .b64", |d, i| logic(d, i, |a, b| a & b)),
    Form::integer("or", "or.type d, a, b; .type = .pred .b16 .b32 .b64", |d, i| logic(d, i, |a, b| a | b)),
    Form::integer("xor", "xor.type d, a, b; .type = .pred .b16 .b32 .b64", |d, i| logic(d, i, |a, b| a ^ b)),
    Form::integer("not", "not.type d, a; .type = .pred .b16 .b32 .b64", not),
    Form::integer("cnot", "cnot.type d, a; .type = .b16 .b32 .b64", cnot),
    Form::integer("lop3", "lop3.b32 d, a, b, c, table; lop3.or|.and.b32 d|p, a, b, c, table, q", lop3),
    Form::integer("shl", "shl.type d, a, b; .type = .b16 .b32 .b64", |d, i| shift(d, i, true)),
    Form::integer("shr", "shr.type d, a, b; .type = .b16 … .s64", |d, i| shift(d, i, false)),
    Form::integer("shf", "shf.l|.r.clamp|.wrap.b32 d, a, b, c", funnel),
    Form::integer("prmt", "prmt.b32{.f4e|.b4e|.rc8|.ecl|.ecr|.rc16} d, a, b, c", permute),
    Form::integer("bfe", "bfe.type d, a, b, c; .type = .u32 .u64 .s32 .s64", extract),
    Form::integer("bfi", "bfi.b32|.b64 f, a, b, c, d", insert),
    Form::integer("bfind", "bfind{.shiftamt}.type d, a; .type = .u32 .u64 .s32 .s64", find),
    Form::integer("fns", "fns.b32 d, mask, base, offset", fns),
    Form::integer("brev", "brev.b32|.b64 d, a", reverse),
    Form::integer("popc", "popc.b32|.b64 d, a", |d, i| count(d, i, u64::count_ones, 0)),
    Form::integer("clz", "clz.b32|.b64 d, a", |d, i| count(d, i, u64::leading_zeros, 32)),
    Form::integer("szext", "szext.clamp|.wrap.u32|.s32 d, a, b", extend),
    Form::integer("bmsk", "bmsk.clamp|.wrap.b32 d, a, b", mask),
];

fn logic(
    decoder: &mut Decoder,
    instruction: &Instruction,
    f: impl Fn(u64, u64) -> u64 + Copy + Send + Sync + 'static,
) -> Result<Action, Unsupported> {
    let ty = only_type(instruction)?;
    let operands = &instruction.operands[..];
    match ty {
        Type::Pred => {
            let [d, a, b] = operands else { return Err("operands".into()) };
            let (d, a, b) = (decoder.dst_pred(d)?, decoder.pred(a)?, decoder.pred(b)?);
            Ok(Action::run(move |cx| {
                let bits = f(cx.test(a).into(), cx.test(b).into());
                cx.set_pred(d, bits as u32);
                Ok(())
            }))
        }
        Type::B16 => binary::<u16, u16, u16>(decoder, instruction, move |a, b| f(a.into(), b.into()) as u16),
        Type::B32 => binary::<u32, u32, u32>(decoder, instruction, move |a, b| f(a.into(), b.into()) as u32),
        Type::B64 => binary::<u64, u64, u64>(decoder, instruction, f),
        other => Err(format!("type {other:?}")),
    }
}

fn not(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let operands = &instruction.operands[..];
    match only_type(instruction)? {
        Type::Pred => {
            let [d, a] = operands else { return Err("operands".into()) };
            let (d, a) = (decoder.dst_pred(d)?, decoder.pred(a)?);
            Ok(Action::run(move |cx| {
                let bits = !cx.test(a);
                cx.set_pred(d, bits);
                Ok(())
            }))
        }
        Type::B16 => unary::<u16, u16>(decoder, instruction, |a| !a),
        Type::B32 => unary::<u32, u32>(decoder, instruction, |a| !a),
        Type::B64 => unary::<u64, u64>(decoder, instruction, |a| !a),
        other => Err(format!("type {other:?}")),
    }
}

fn cnot(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let ty = only_type(instruction)?;
    match ty {
        Type::B16 => unary::<u16, u16>(decoder, instruction, |a| u16::from(a == 0)),
        Type::B32 => unary::<u32, u32>(decoder, instruction, |a| u32::from(a == 0)),
        Type::B64 => unary::<u64, u64>(decoder, instruction, |a| u64::from(a == 0)),
        other => Err(format!("type {other:?}")),
    }
}

fn table(operand: &Operand) -> Result<u8, Unsupported> {
    match operand {
        Operand::Integer(value) if *value < 256 => Ok(*value as u8),
        _ => Err("a table that is no constant from 0 to 255".into()),
    }
}

fn lop3(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let combines = modifiers.one_of(&[("or", true), ("and", false)]);
    modifiers.need("type", &[("b32", ())])?;
    modifiers.finish()?;
    let (d, p, rest) = match (&instruction.operands[..], combines) {
        ([d, rest @ ..], None) => (d, None, rest),
        ([Operand::Pair(d, p), rest @ .., q], Some(or)) => {
            (&**d, Some((decoder.dst_pred(p)?, decoder.pred(q)?, or)), rest)
        }
        _ => return Err("operands".into()),
    };
    let [a, b, c, lookup] = rest else { return Err("operands".into()) };
    let (d, lookup) = (decoder.dst32(d)?, table(lookup)?);
    let [a, b, c] = [a, b, c].map(|it| decoder.src32(it));
    let action = map3(d, a?, b?, c?, move |a, b, c| bits::lop3(a, b, c, lookup));
    if let Some((p, q, or)) = p {
        decoder.follow = Some(Action::run(move |cx| {
            let set = crate::lanes::test1(cx.get(d), |it: u32| it != 0);
            let q = cx.test(q);
            cx.set_pred(p, if or { set | q } else { set & q });
            Ok(())
        }));
    }
    Ok(action)
}

/// Shifts take their amount from a register of 32 bits whatever their type.
fn shift(decoder: &mut Decoder, instruction: &Instruction, left: bool) -> Result<Action, Unsupported> {
    let ty = only_type(instruction)?;
    let [d, a, b] = &instruction.operands[..] else { return Err("operands".into()) };
    let b = decoder.src32(b)?;
    for_type!(ty, T => {
        let (d, a) = (decoder.dst::<<T as Value>::Word>(d)?, decoder.src::<<T as Value>::Word>(a)?);
        Ok(if left {
            map2(d, a, b, |a, b: u32| Int::shl(T::of(a), b).word())
        } else {
            map2(d, a, b, |a, b: u32| Int::shr(T::of(a), b).word())
        })
    })
}

const AMOUNTS: [(&str, Amount); 2] = [("clamp", Amount::Clamp), ("wrap", Amount::Wrap)];

fn funnel(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let left = modifiers.need("direction", &[("l", true), ("r", false)])?;
    let amount = modifiers.need("mode", &AMOUNTS)?;
    modifiers.need("type", &[("b32", ())])?;
    modifiers.finish()?;
    let [d, a, b, c] = &instruction.operands[..] else { return Err("operands".into()) };
    let d = decoder.dst32(d)?;
    let [a, b, c] = [a, b, c].map(|it| decoder.src32(it));
    Ok(map3(
        d,
        a?,
        b?,
        c?,
        move |a, b, c| {
            if left { bits::shf_l(a, b, c, amount) } else { bits::shf_r(a, b, c, amount) }
        },
    ))
}

fn permute(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("type", &[("b32", ())])?;
    let modes = [
        ("f4e", Permutation::Forward4),
        ("b4e", Permutation::Backward4),
        ("rc8", Permutation::Replicate8),
        ("ecl", Permutation::EdgeClampLeft),
        ("ecr", Permutation::EdgeClampRight),
        ("rc16", Permutation::Replicate16),
    ];
    let mode = modifiers.one_of(&modes).unwrap_or(Permutation::Index);
    modifiers.finish()?;
    let [d, a, b, c] = &instruction.operands[..] else { return Err("operands".into()) };
    let d = decoder.dst32(d)?;
    let [a, b, c] = [a, b, c].map(|it| decoder.src32(it));
    let (a, b, c) = (a?, b?, c?);
    Ok(match mode {
        Permutation::Index => Action::run(move |cx| {
            let mut out = [0; LANES];
            permuted(cx.get(a), cx.get(b), cx.get(c), &mut out);
            cx.set(d, &out);
            Ok(())
        }),
        mode => map3(d, a, b, c, move |a, b, c| bits::prmt(a, b, c, mode)),
    })
}

vectorised! {
    /// `prmt` without a mode.
    fn permuted(a: &Lanes<u32>, b: &Lanes<u32>, c: &Lanes<u32>, out: &mut Lanes<u32>) {
        for lane in 0..LANES {
            out[lane] = bits::prmt(a[lane], b[lane], c[lane], Permutation::Index);
        }
    }
}

fn extract(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let ty = only_type(instruction)?;
    let [d, a, b, c] = &instruction.operands[..] else { return Err("operands".into()) };
    let (b, c) = (decoder.src32(b)?, decoder.src32(c)?);
    for_type!(ty, T => {
        let (d, a) = (decoder.dst::<<T as Value>::Word>(d)?, decoder.src::<<T as Value>::Word>(a)?);
        Ok(map3(d, a, b, c, |a, b: u32, c: u32| Int::bfe(T::of(a), b, c).word()))
    })
}

fn insert(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let ty = only_type(instruction)?;
    let [f, a, b, c, d] = &instruction.operands[..] else { return Err("operands".into()) };
    let (c, d) = (decoder.src32(c)?, decoder.src32(d)?);
    // Where and how much, in one register: three sources are the most that are mapped at once.
    let place = decoder.scratch32();
    let join = map2(place, c, d, |c: u32, d: u32| c & 0xFF | (d & 0xFF) << 8);
    let Action::Run(join) = join else { return Err("operands".into()) };
    let put = match ty {
        Type::B32 => {
            let (f, a, b) = (decoder.dst32(f)?, decoder.src32(a)?, decoder.src32(b)?);
            map3(f, a, b, place, |a: u32, b: u32, place: u32| bits::bfi32(a, b, place & 0xFF, place >> 8))
        }
        Type::B64 => {
            let (f, a, b) = (decoder.dst64(f)?, decoder.src64(a)?, decoder.src64(b)?);
            map3(f, a, b, place, |a: u64, b: u64, place: u32| bits::bfi64(a, b, place & 0xFF, place >> 8))
        }
        other => return Err(format!("type {other:?}")),
    };
    let Action::Run(put) = put else { return Err("operands".into()) };
    Ok(Action::run(move |cx| {
        join(cx)?;
        put(cx)
    }))
}

fn find(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let amount = modifiers.flag("shiftamt");
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let [d, a] = &instruction.operands[..] else { return Err("operands".into()) };
    let d = decoder.dst32(d)?;
    for_type!(ty, T => {
        let a = decoder.src::<<T as Value>::Word>(a)?;
        Ok(if amount {
            map1(d, a, |a| Int::bfind_shiftamt(T::of(a)))
        } else {
            map1(d, a, |a| Int::bfind(T::of(a)))
        })
    })
}

fn fns(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("type", &[("b32", ())])?;
    modifiers.finish()?;
    let [d, mask, base, offset] = &instruction.operands[..] else { return Err("operands".into()) };
    let d = decoder.dst32(d)?;
    let [mask, base, offset] = [mask, base, offset].map(|it| decoder.src32(it));
    Ok(map3(d, mask?, base?, offset?, |mask, base, offset: u32| bits::fns(mask, base, offset as i32)))
}

fn reverse(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    match only_type(instruction)? {
        Type::B32 => unary::<u32, u32>(decoder, instruction, u32::reverse_bits),
        Type::B64 => unary::<u64, u64>(decoder, instruction, u64::reverse_bits),
        other => Err(format!("type {other:?}")),
    }
}

/// Counts bits of 64; of 32 there are `extra` too many.
fn count(
    decoder: &mut Decoder,
    instruction: &Instruction,
    f: fn(u64) -> u32,
    extra: u32,
) -> Result<Action, Unsupported> {
    let ty = only_type(instruction)?;
    let [d, a] = &instruction.operands[..] else { return Err("operands".into()) };
    let d = decoder.dst32(d)?;
    match ty {
        Type::B32 => {
            let a = decoder.src32(a)?;
            Ok(map1(d, a, move |a: u32| f(a.into()) - extra))
        }
        Type::B64 => {
            let a = decoder.src64(a)?;
            Ok(map1(d, a, f))
        }
        other => Err(format!("type {other:?}")),
    }
}

fn extend(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let amount = modifiers.need("mode", &AMOUNTS)?;
    let signed = modifiers.need("type", &[("u32", false), ("s32", true)])?;
    modifiers.finish()?;
    binary::<u32, u32, u32>(decoder, instruction, move |a, b| bits::szext(a, b, amount, signed))
}

fn mask(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let amount = modifiers.need("mode", &AMOUNTS)?;
    modifiers.need("type", &[("b32", ())])?;
    modifiers.finish()?;
    binary::<u32, u32, u32>(decoder, instruction, move |a, b| bits::bmsk(a, b, amount))
}
