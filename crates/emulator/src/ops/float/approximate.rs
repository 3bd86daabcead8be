//! rcp, sqrt, rsqrt, sin, cos, lg2, ex2, tanh of single and double precision.

use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::num::{approx, float32, float64};
use crate::ops::value::unary;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Type};

use super::{Flags, PLAIN, ROUNDED, full, unary32};

type Decoded = Result<Action, Unsupported>;

/// Takes `{.approx|.rnd}{.ftz}` and the type: whether it is approximate, the flags, the type.
fn form(i: &Instruction) -> Result<(bool, Flags, Type), Unsupported> {
    let mut modifiers = Modifiers::new(i);
    let approximate = modifiers.flag("approx");
    let flags = Flags::take(&mut modifiers);
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    match (approximate, flags.round) {
        (true, None) => Ok((true, flags.within(Flags { ftz: true, ..PLAIN })?, ty)),
        (false, Some(_)) => Ok((false, flags.within(Flags { ftz: true, ..ROUNDED })?, ty)),
        _ => Err("neither .approx nor a rounding mode, or both".into()),
    }
}

pub(super) fn rcp(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    match form(i)? {
        (true, flags, Type::F32) => unary32(decoder, i, flags, |a, _| approx::rcp(a)),
        (false, flags, Type::F32) => unary32(decoder, i, flags, float32::rcp),
        (true, Flags { ftz: true, .. }, Type::F64) => unary(decoder, i, approx::rcp_ftz_f64),
        (false, flags @ Flags { ftz: false, .. }, Type::F64) => {
            full::unary64(decoder, i, flags, float64::rcp)
        }
        _ => Err("this type with these modifiers".into()),
    }
}

pub(super) fn sqrt(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    match form(i)? {
        (true, flags, Type::F32) => unary32(decoder, i, flags, |a, _| approx::sqrt(a)),
        (false, flags, Type::F32) => unary32(decoder, i, flags, float32::sqrt),
        (false, flags @ Flags { ftz: false, .. }, Type::F64) => {
            full::unary64(decoder, i, flags, float64::sqrt)
        }
        _ => Err("this type with these modifiers".into()),
    }
}

pub(super) fn rsqrt(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    match form(i)? {
        (true, flags, Type::F32) => unary32(decoder, i, flags, |a, _| approx::rsqrt(a)),
        (true, Flags { ftz: true, .. }, Type::F64) => unary(decoder, i, approx::rsqrt_ftz_f64),
        (true, Flags { ftz: false, .. }, Type::F64) => unary(decoder, i, approx::rsqrt_f64),
        _ => Err("this type with these modifiers".into()),
    }
}

/// What exists in single precision alone.
pub(super) fn single(
    decoder: &mut Decoder,
    i: &Instruction,
    f: impl Fn(f32) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    match form(i)? {
        (true, flags, Type::F32) => unary32(decoder, i, flags, move |a, _| f(a)),
        _ => Err("this type with these modifiers".into()),
    }
}

pub(super) fn tanh(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    match form(i)? {
        (true, flags @ Flags { ftz: false, .. }, Type::F32) => {
            unary32(decoder, i, flags, |a, _| approx::tanh(a))
        }
        _ => Err("this type with these modifiers".into()),
    }
}
