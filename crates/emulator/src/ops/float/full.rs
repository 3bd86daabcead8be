//! Single and double precision by type and modifiers.

use crate::decode::{Decoder, Unsupported};
use crate::num::small::{Format, widen};
use crate::num::{Round, float32, float64};
use crate::program::Action;
use crate::ptx::ast::Instruction;

use super::{Flags, for_round};
use crate::ops::value::{binary, ternary, unary};

/// The smaller or the greater of two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extreme {
    Min,
    Max,
}

type Decoded = Result<Action, Unsupported>;

/// What `.ftz` and `.sat` do, as types: so that each combination is compiled apart.
pub(super) trait Mode: Copy + Send + Sync + 'static {
    fn operand(x: f32) -> f32;
    fn result(x: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(super) struct Set<const FTZ: bool, const SAT: bool>;

impl<const FTZ: bool, const SAT: bool> Mode for Set<FTZ, SAT> {
    #[inline(always)]
    fn operand(x: f32) -> f32 {
        if FTZ { float32::ftz(x) } else { x }
    }

    #[inline(always)]
    fn result(x: f32) -> f32 {
        let flushed = if FTZ { float32::ftz(x) } else { x };
        if SAT { float32::sat(flushed) } else { flushed }
    }
}

/// Evaluates an expression for each combination of `.ftz` and `.sat` apart, in which it is a type.
macro_rules! for_mode {
    ($flags:expr, $mode:ident, $body:expr) => {{
        match ($flags.ftz, $flags.sat) {
            (false, false) => {
                type $mode = Set<false, false>;
                $body
            }
            (true, false) => {
                type $mode = Set<true, false>;
                $body
            }
            (false, true) => {
                type $mode = Set<false, true>;
                $body
            }
            (true, true) => {
                type $mode = Set<true, true>;
                $body
            }
        }
    }};
}

/// `d = f(a)` with `.ftz` and `.sat`.
pub(crate) fn unary32(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f32) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_mode!(flags, M, unary(decoder, i, move |a: f32| M::result(f(M::operand(a)))))
}

/// `d = f(a, b)` with `.ftz` and `.sat`.
pub(super) fn binary32(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_mode!(flags, M, binary(decoder, i, move |a: f32, b: f32| M::result(f(M::operand(a), M::operand(b)))))
}

/// `d = f(a, b, c)` with `.ftz` and `.sat`.
fn ternary32(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f32, f32, f32) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_mode!(
        flags,
        M,
        ternary(decoder, i, move |a: f32, b: f32, c: f32| {
            M::result(f(M::operand(a), M::operand(b), M::operand(c)))
        })
    )
}

fn round(flags: Flags) -> Round {
    flags.round.unwrap_or(Round::Rn)
}

pub(super) fn add32(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, binary32(decoder, i, flags, |a, b| float32::add(a, b, R)))
}

pub(super) fn sub32(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, binary32(decoder, i, flags, |a, b| float32::sub(a, b, R)))
}

pub(super) fn mul32(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, binary32(decoder, i, flags, |a, b| float32::mul(a, b, R)))
}

pub(super) fn div32(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, binary32(decoder, i, flags, |a, b| float32::div(a, b, R)))
}

pub(super) fn fma32(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, ternary32(decoder, i, flags, |a, b, c| float32::fma(a, b, c, R)))
}

pub(super) fn rcp32(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, unary32(decoder, i, flags, |a| float32::rcp(a, R)))
}

pub(super) fn sqrt32(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, unary32(decoder, i, flags, |a| float32::sqrt(a, R)))
}

pub(super) fn add64(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, binary(decoder, i, |a: f64, b: f64| float64::add(a, b, R)))
}

pub(super) fn sub64(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, binary(decoder, i, |a: f64, b: f64| float64::sub(a, b, R)))
}

pub(super) fn mul64(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, binary(decoder, i, |a: f64, b: f64| float64::mul(a, b, R)))
}

pub(super) fn div64(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, binary(decoder, i, |a: f64, b: f64| float64::div(a, b, R)))
}

pub(super) fn fma64(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, ternary(decoder, i, |a: f64, b: f64, c: f64| float64::fma(a, b, c, R)))
}

pub(super) fn rcp64(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, unary(decoder, i, |a: f64| float64::rcp(a, R)))
}

pub(super) fn sqrt64(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(round(flags), R, unary(decoder, i, |a: f64| float64::sqrt(a, R)))
}

/// Two numbers of single precision in one register.
fn pair(x: u64) -> [f32; 2] {
    [f32::from_bits(x as u32), f32::from_bits((x >> 32) as u32)]
}

fn join(low: f32, high: f32) -> u64 {
    u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32
}

/// `.f32x2`: `f` on both, with `.ftz`.
pub(super) fn binary32x2(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f32, f32, Round) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_round!(
        round(flags),
        R,
        for_mode!(
            flags,
            M,
            binary(decoder, i, move |a: u64, b: u64| {
                let one = |a, b| M::result(f(M::operand(a), M::operand(b), R));
                let ([a0, a1], [b0, b1]) = (pair(a), pair(b));
                join(one(a0, b0), one(a1, b1))
            })
        )
    )
}

/// `fma.f32x2`
pub(super) fn fma32x2(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_round!(
        round(flags),
        R,
        for_mode!(
            flags,
            M,
            ternary(decoder, i, move |a: u64, b: u64, c: u64| {
                let one = |a, b, c| M::result(float32::fma(M::operand(a), M::operand(b), M::operand(c), R));
                let ([a0, a1], [b0, b1], [c0, c1]) = (pair(a), pair(b), pair(c));
                join(one(a0, b0, c0), one(a1, b1, c1))
            })
        )
    )
}

/// `add.f32.f16` and its like: the first operand is widened.
pub(crate) fn mixed(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    format: Format,
    f: impl Fn(f32, f32, Round) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_round!(
        round(flags),
        R,
        for_mode!(
            flags,
            M,
            binary(decoder, i, move |a: u16, c: f32| M::result(f(widen(a.into(), format), c, R)))
        )
    )
}

/// `fma.f32.f16` and its like: the factors are widened.
pub(crate) fn mixed_fma(decoder: &mut Decoder, i: &Instruction, flags: Flags, format: Format) -> Decoded {
    for_round!(
        round(flags),
        R,
        for_mode!(
            flags,
            M,
            ternary(decoder, i, move |a: u16, b: u16, c: f32| {
                M::result(float32::fma(widen(a.into(), format), widen(b.into(), format), c, R))
            })
        )
    )
}

/// `min` and `max` with `.NaN` and `.xorsign.abs`, of two operands.
pub(super) fn extreme32(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    (which, nan, xorsign): (Extreme, bool, bool),
) -> Decoded {
    use float32::{max, max_nan, min, min_nan, xorsign_abs};
    match (which, nan, xorsign) {
        (Extreme::Min, false, false) => binary32(decoder, i, flags, min),
        (Extreme::Max, false, false) => binary32(decoder, i, flags, max),
        (Extreme::Min, true, false) => binary32(decoder, i, flags, min_nan),
        (Extreme::Max, true, false) => binary32(decoder, i, flags, max_nan),
        (Extreme::Min, false, true) => binary32(decoder, i, flags, |a, b| xorsign_abs(a, b, min)),
        (Extreme::Max, false, true) => binary32(decoder, i, flags, |a, b| xorsign_abs(a, b, max)),
        (Extreme::Min, true, true) => binary32(decoder, i, flags, |a, b| xorsign_abs(a, b, min_nan)),
        (Extreme::Max, true, true) => binary32(decoder, i, flags, |a, b| xorsign_abs(a, b, max_nan)),
    }
}

/// `min` and `max` with `.NaN` and `.abs`, of three operands.
pub(super) fn extreme32_of_three(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    (which, nan, abs): (Extreme, bool, bool),
) -> Decoded {
    use float32::{max, max_nan, min, min_nan};
    let choose = match (which, nan) {
        (Extreme::Min, false) => min,
        (Extreme::Max, false) => max,
        (Extreme::Min, true) => min_nan,
        (Extreme::Max, true) => max_nan,
    };
    let magnitude = move |x: f32| if abs { x.abs() } else { x };
    ternary32(decoder, i, flags, move |a, b, c| choose(choose(magnitude(a), magnitude(b)), magnitude(c)))
}
