//! Single and double precision by type and modifiers.

use crate::decode::{Decoder, Unsupported};
use crate::num::small::{Format, widen};
use crate::num::{Round, float32};
use crate::program::Action;
use crate::ptx::ast::Instruction;

use super::{Flags, PLAIN, Rounding, for_round};
use crate::ops::value::{binary, ternary, unary};

/// The smaller or the greater of two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extreme {
    Min,
    Max,
}

type Decoded = Result<Action, Unsupported>;

/// What `.ftz`, `.sat` and the rounding mode do, as constants or as values.
pub(super) trait Mode: Copy + Send + Sync + 'static {
    fn flags(self) -> Flags;

    #[inline(always)]
    fn round(self) -> Round {
        self.flags().round.unwrap_or(Round::Rn)
    }

    #[inline(always)]
    fn operand(self, x: f32) -> f32 {
        if self.flags().ftz { float32::ftz(x) } else { x }
    }

    #[inline(always)]
    fn result(self, x: f32) -> f32 {
        let flushed = self.operand(x);
        if self.flags().sat { float32::sat(flushed) } else { flushed }
    }
}

/// To nearest, with or without `.ftz`.
#[derive(Clone, Copy)]
struct Common<const FTZ: bool>;

impl<const FTZ: bool> Mode for Common<FTZ> {
    #[inline(always)]
    fn flags(self) -> Flags {
        Flags { ftz: FTZ, ..PLAIN }
    }
}

impl Mode for Flags {
    #[inline(always)]
    fn flags(self) -> Flags {
        self
    }
}

/// Evaluates an expression for the common modes apart; the others share one version, which looks at its mode as it runs.
macro_rules! for_mode {
    ($flags:expr, $mode:ident, $body:expr) => {
        match $flags {
            Flags { round: None | Some(Round::Rn), ftz: false, sat: false, .. } => {
                let $mode = Common::<false>;
                $body
            }
            Flags { round: None | Some(Round::Rn), ftz: true, sat: false, .. } => {
                let $mode = Common::<true>;
                $body
            }
            $mode => $body,
        }
    };
}

/// `d = f(a, mode)` with `.ftz` and `.sat`.
pub(crate) fn unary32(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f32, Round) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_mode!(flags, m, unary(decoder, i, move |a: f32| m.result(f(m.operand(a), m.round()))))
}

/// `d = f(a, b, mode)` with `.ftz` and `.sat`.
pub(super) fn binary32(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f32, f32, Round) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_mode!(
        flags,
        m,
        binary(decoder, i, move |a: f32, b: f32| m.result(f(m.operand(a), m.operand(b), m.round())))
    )
}

/// `d = f(a, b, c, mode)` with `.ftz` and `.sat`.
pub(super) fn ternary32(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f32, f32, f32, Round) -> f32 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_mode!(
        flags,
        m,
        ternary(decoder, i, move |a: f32, b: f32, c: f32| {
            m.result(f(m.operand(a), m.operand(b), m.operand(c), m.round()))
        })
    )
}

fn round(flags: Flags) -> Round {
    flags.round.unwrap_or(Round::Rn)
}

/// `d = f(a, mode)`
pub(super) fn unary64(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f64, Round) -> f64 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_round!(round(flags), r, unary(decoder, i, move |a: f64| f(a, r.mode())))
}

/// `d = f(a, b, mode)`
pub(super) fn binary64(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f64, f64, Round) -> f64 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_round!(round(flags), r, binary(decoder, i, move |a: f64, b: f64| f(a, b, r.mode())))
}

/// `d = f(a, b, c, mode)`
pub(super) fn ternary64(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    f: impl Fn(f64, f64, f64, Round) -> f64 + Copy + Send + Sync + 'static,
) -> Decoded {
    for_round!(round(flags), r, ternary(decoder, i, move |a: f64, b: f64, c: f64| f(a, b, c, r.mode())))
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
    for_mode!(
        flags,
        m,
        binary(decoder, i, move |a: u64, b: u64| {
            let one = |a, b| m.result(f(m.operand(a), m.operand(b), m.round()));
            let ([a0, a1], [b0, b1]) = (pair(a), pair(b));
            join(one(a0, b0), one(a1, b1))
        })
    )
}

/// `fma.f32x2`
pub(super) fn fma32x2(decoder: &mut Decoder, i: &Instruction, flags: Flags) -> Decoded {
    for_mode!(
        flags,
        m,
        ternary(decoder, i, move |a: u64, b: u64, c: u64| {
            let one = |a, b, c| m.result(float32::fma(m.operand(a), m.operand(b), m.operand(c), m.round()));
            let ([a0, a1], [b0, b1], [c0, c1]) = (pair(a), pair(b), pair(c));
            join(one(a0, b0, c0), one(a1, b1, c1))
        })
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
    binary(decoder, i, move |a: u16, c: f32| flags.result(f(widen(a.into(), format), c, flags.round())))
}

/// `fma.f32.f16` and its like: the factors are widened.
pub(crate) fn mixed_fma(decoder: &mut Decoder, i: &Instruction, flags: Flags, format: Format) -> Decoded {
    ternary(decoder, i, move |a: u16, b: u16, c: f32| {
        flags.result(float32::fma(widen(a.into(), format), widen(b.into(), format), c, flags.round()))
    })
}

/// `min` and `max` with `.NaN` and `.xorsign.abs`, of two operands.
pub(super) fn extreme32(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    (which, nan, xorsign): (Extreme, bool, bool),
) -> Decoded {
    let choose = choice(which, nan);
    match (which, nan, xorsign) {
        (Extreme::Min, false, false) => binary32(decoder, i, flags, |a, b, _| float32::min(a, b)),
        (Extreme::Max, false, false) => binary32(decoder, i, flags, |a, b, _| float32::max(a, b)),
        (_, true, false) => binary32(decoder, i, flags, move |a, b, _| choose(a, b)),
        (.., true) => binary32(decoder, i, flags, move |a, b, _| float32::xorsign_abs(a, b, choose)),
    }
}

/// `min` and `max` with `.NaN` and `.abs`, of three operands.
pub(super) fn extreme32_of_three(
    decoder: &mut Decoder,
    i: &Instruction,
    flags: Flags,
    (which, nan, abs): (Extreme, bool, bool),
) -> Decoded {
    let choose = choice(which, nan);
    let magnitude = move |x: f32| if abs { x.abs() } else { x };
    ternary32(decoder, i, flags, move |a, b, c, _| choose(choose(magnitude(a), magnitude(b)), magnitude(c)))
}

fn choice(which: Extreme, nan: bool) -> fn(f32, f32) -> f32 {
    match (which, nan) {
        (Extreme::Min, false) => float32::min,
        (Extreme::Max, false) => float32::max,
        (Extreme::Min, true) => float32::min_nan,
        (Extreme::Max, true) => float32::max_nan,
    }
}
