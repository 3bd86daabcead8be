//! Single and double precision (PTX ISA, "Floating Point Instructions").

mod approximate;
mod full;

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::lanes::test1;
use crate::num::{Round, approx, float32, float64};
use crate::ops::Form;
use crate::ops::value::{binary, operands, unary};
use crate::program::Action;
use crate::ptx::ast::Instruction;

pub(crate) use full::{Extreme, mixed, mixed_fma, unary32};

pub(crate) const FORMS: &[Form] = &[
    Form::float(
        "add (float)",
        "add{.rnd}{.ftz}{.sat}.f32; add{.rnd}{.ftz}.f32x2; add{.rnd}.f64 d, a, b",
        |d, i| arithmetic(d, i, float32::add, float64::add),
    ),
    Form::float(
        "sub (float)",
        "sub{.rnd}{.ftz}{.sat}.f32; sub{.rnd}{.ftz}.f32x2; sub{.rnd}.f64 d, a, b",
        |d, i| arithmetic(d, i, float32::sub, float64::sub),
    ),
    Form::float(
        "mul (float)",
        "mul{.rnd}{.ftz}{.sat}.f32; mul{.rnd}{.ftz}.f32x2; mul{.rnd}.f64 d, a, b",
        |d, i| arithmetic(d, i, float32::mul, float64::mul),
    ),
    Form::float("mad (float)", "mad.rnd{.ftz}{.sat}.f32; mad.rnd.f64 d, a, b, c", fma),
    Form::float("fma (float)", "fma.rnd{.ftz}{.sat}.f32; fma.rnd{.ftz}.f32x2; fma.rnd.f64 d, a, b, c", fma),
    Form::float("div (float)", "div{.approx|.full|.rnd}{.ftz}.f32; div.rnd.f64 d, a, b", div),
    Form::float("abs (float)", "abs{.ftz}.f32; abs.f64 d, a", abs),
    Form::float("neg (float)", "neg{.ftz}.f32; neg.f64 d, a", neg),
    Form::float(
        "min (float)",
        "min{.ftz}{.NaN}{.xorsign.abs}.f32; min.f64 d, a, b; min{.ftz}{.NaN}{.abs}.f32 d, a, b, c",
        |d, i| extreme(d, i, Extreme::Min),
    ),
    Form::float(
        "max (float)",
        "max{.ftz}{.NaN}{.xorsign.abs}.f32; max.f64 d, a, b; max{.ftz}{.NaN}{.abs}.f32 d, a, b, c",
        |d, i| extreme(d, i, Extreme::Max),
    ),
    Form::float("copysign", "copysign.f32|.f64 d, a, b", copysign),
    Form {
        name: "testp",
        syntax: "testp.finite|.infinite|.number|.notanumber|.normal|.subnormal.f32|.f64 p, a",
        class: Class::Compare,
        decode: testp,
    },
    Form::special(
        "rcp",
        "rcp{.approx|.rnd}{.ftz}.f32; rcp.rnd.f64; rcp.approx.ftz.f64 d, a",
        approximate::rcp,
    ),
    Form::special("sqrt", "sqrt{.approx|.rnd}{.ftz}.f32; sqrt.rnd.f64 d, a", approximate::sqrt),
    Form::special("rsqrt", "rsqrt.approx{.ftz}.f32; rsqrt.approx{.ftz}.f64 d, a", approximate::rsqrt),
    Form::special("sin", "sin.approx{.ftz}.f32 d, a", |d, i| approximate::single(d, i, approx::sin)),
    Form::special("cos", "cos.approx{.ftz}.f32 d, a", |d, i| approximate::single(d, i, approx::cos)),
    Form::special("lg2", "lg2.approx{.ftz}.f32 d, a", |d, i| approximate::single(d, i, approx::lg2)),
    Form::special("ex2 (float)", "ex2.approx{.ftz}.f32 d, a", |d, i| approximate::single(d, i, approx::ex2)),
    Form::special("tanh (float)", "tanh.approx.f32 d, a", approximate::tanh),
];

type Decoded = Result<Action, Unsupported>;

/// The rounding modifiers of arithmetic.
pub(crate) const ROUNDS: [(&str, Round); 4] =
    [("rn", Round::Rn), ("rz", Round::Rz), ("rm", Round::Rm), ("rp", Round::Rp)];

/// A rounding mode, as a constant or as a value.
pub(crate) trait Rounding: Copy + Send + Sync + 'static {
    fn mode(self) -> Round;
}

/// To nearest.
#[derive(Clone, Copy)]
pub(crate) struct Nearest;

impl Rounding for Nearest {
    #[inline(always)]
    fn mode(self) -> Round {
        Round::Rn
    }
}

impl Rounding for Round {
    #[inline(always)]
    fn mode(self) -> Round {
        self
    }
}

/// Evaluates an expression for [`Nearest`] apart, which nearly every instruction rounds to; the other modes share one
/// version, which looks at its mode as it runs.
macro_rules! for_round {
    ($round:expr, $rounding:ident, $body:expr) => {
        match $round {
            $crate::num::Round::Rn => {
                let $rounding = $crate::ops::float::Nearest;
                $body
            }
            $rounding => $body,
        }
    };
}
pub(crate) use for_round;

/// What may stand before the type of a floating-point operation.
#[derive(Clone, Copy, Default)]
pub(crate) struct Flags {
    pub round: Option<Round>,
    pub ftz: bool,
    pub relu: bool,
    pub sat: bool,
}

impl Flags {
    /// Takes `{.rnd}{.ftz}{.relu}{.sat}`.
    pub fn take(modifiers: &mut Modifiers) -> Flags {
        Flags {
            round: modifiers.one_of(&ROUNDS),
            ftz: modifiers.flag("ftz"),
            relu: modifiers.flag("relu"),
            sat: modifiers.flag("sat"),
        }
    }

    /// Only those of these flags that are set in `allowed` may have been there; any rounding if one is.
    pub fn within(self, allowed: Flags) -> Result<Flags, Unsupported> {
        let refused = [
            (self.round.is_some() && allowed.round.is_none(), "a rounding mode"),
            (self.ftz && !allowed.ftz, ".ftz"),
            (self.relu && !allowed.relu, ".relu"),
            (self.sat && !allowed.sat, ".sat"),
        ];
        match refused.iter().find(|(refused, _)| *refused) {
            Some((_, what)) => Err(format!("{what} of this type")),
            None => Ok(self),
        }
    }

    /// No rounding mode, or to nearest.
    pub fn nearest(self) -> Result<(), Unsupported> {
        match self.round {
            None | Some(Round::Rn) => Ok(()),
            Some(round) => Err(format!("rounding mode {round:?} of this type")),
        }
    }
}

/// Allowed: nothing.
pub(crate) const PLAIN: Flags = Flags { round: None, ftz: false, relu: false, sat: false };
/// Allowed: a rounding mode.
pub(crate) const ROUNDED: Flags = Flags { round: Some(Round::Rn), ..PLAIN };
/// Allowed: what add, sub, mul and fma of `.f32` and `.f16` have.
pub(crate) const SATURATED: Flags = Flags { ftz: true, sat: true, ..ROUNDED };

/// [`Flags`] of single precision in a pair.
const PAIR: Flags = Flags { ftz: true, ..ROUNDED };

/// A type of two numbers or of one.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Single,
    Double,
    /// `.f32x2`
    Singles,
}

/// Takes the type that ends an instruction.
fn kind(modifiers: &mut Modifiers) -> Result<Kind, Unsupported> {
    let kind =
        modifiers.need("type", &[("f32", Kind::Single), ("f64", Kind::Double), ("f32x2", Kind::Singles)])?;
    modifiers.finish()?;
    Ok(kind)
}

fn no_pair() -> Unsupported {
    "type .f32x2".into()
}

/// `add`, `sub` and `mul`.
fn arithmetic(
    decoder: &mut Decoder,
    i: &Instruction,
    single: impl Fn(f32, f32, Round) -> f32 + Copy + Send + Sync + 'static,
    double: impl Fn(f64, f64, Round) -> f64 + Copy + Send + Sync + 'static,
) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags::take(&mut modifiers);
    match kind(&mut modifiers)? {
        Kind::Single => full::binary32(decoder, i, flags.within(SATURATED)?, single),
        Kind::Double => full::binary64(decoder, i, flags.within(ROUNDED)?, double),
        Kind::Singles => full::binary32x2(decoder, i, flags.within(PAIR)?, single),
    }
}

/// `fma`, and `mad`, which has been the same since sm_20.
fn fma(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags::take(&mut modifiers);
    if flags.round.is_none() {
        return Err("no rounding mode".into());
    }
    match kind(&mut modifiers)? {
        Kind::Single => full::ternary32(decoder, i, flags.within(SATURATED)?, float32::fma),
        Kind::Double => full::ternary64(decoder, i, flags.within(ROUNDED)?, float64::fma),
        Kind::Singles if i.name == "fma" => full::fma32x2(decoder, i, flags.within(PAIR)?),
        Kind::Singles => Err(no_pair()),
    }
}

fn div(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let approximate = modifiers.one_of(&[("approx", false), ("full", true)]);
    let flags = Flags::take(&mut modifiers).within(PAIR)?;
    match (kind(&mut modifiers)?, approximate, flags.round) {
        (Kind::Single, Some(false), None) => full::binary32(decoder, i, flags, |a, b, _| approx::div(a, b)),
        (Kind::Single, Some(true), None) => {
            full::binary32(decoder, i, flags, |a, b, _| approx::div_full(a, b))
        }
        (Kind::Single, None, Some(_)) => full::binary32(decoder, i, flags, float32::div),
        (Kind::Double, None, Some(_)) => full::binary64(decoder, i, flags.within(ROUNDED)?, float64::div),
        _ => Err("such a division of this type".into()),
    }
}

/// Takes `{.ftz}` and the type.
fn flushing(i: &Instruction) -> Result<(Flags, Kind), Unsupported> {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags { ftz: modifiers.flag("ftz"), ..PLAIN };
    match kind(&mut modifiers)? {
        Kind::Single => Ok((flags, Kind::Single)),
        Kind::Double => Ok((flags.within(PLAIN)?, Kind::Double)),
        Kind::Singles => Err(no_pair()),
    }
}

fn abs(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    match flushing(i)? {
        (_, Kind::Double) => unary(decoder, i, float64::abs),
        (flags, _) => unary32(decoder, i, flags, |a, _| float32::abs(a)),
    }
}

fn neg(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    match flushing(i)? {
        (_, Kind::Double) => unary(decoder, i, float64::neg),
        (flags, _) => unary32(decoder, i, flags, |a, _| float32::neg(a)),
    }
}

fn extreme(decoder: &mut Decoder, i: &Instruction, which: Extreme) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags { ftz: modifiers.flag("ftz"), ..PLAIN };
    let (nan, xorsign, abs) = (modifiers.flag("NaN"), modifiers.flag("xorsign"), modifiers.flag("abs"));
    let of_three = i.operands.len() == 4;
    match (kind(&mut modifiers)?, which) {
        (Kind::Single, _) if of_three && !xorsign => {
            full::extreme32_of_three(decoder, i, flags, (which, nan, abs))
        }
        (Kind::Single, _) if xorsign == abs => full::extreme32(decoder, i, flags, (which, nan, xorsign)),
        (Kind::Double, _) if flags.ftz || nan || xorsign || abs => Err("such modifiers of .f64".into()),
        (Kind::Double, Extreme::Min) => binary(decoder, i, float64::min),
        (Kind::Double, Extreme::Max) => binary(decoder, i, float64::max),
        (Kind::Single, _) => Err("one of .xorsign and .abs alone".into()),
        (Kind::Singles, _) => Err(no_pair()),
    }
}

fn copysign(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    match kind(&mut Modifiers::new(i))? {
        Kind::Single => binary(decoder, i, float32::copysign),
        Kind::Double => binary(decoder, i, float64::copysign),
        Kind::Singles => Err(no_pair()),
    }
}

/// What `testp` asks.
#[derive(Clone, Copy)]
enum Property {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

const PROPERTIES: [(&str, Property); 6] = [
    ("finite", Property::Finite),
    ("infinite", Property::Infinite),
    ("number", Property::Number),
    ("notanumber", Property::NotANumber),
    ("normal", Property::Normal),
    ("subnormal", Property::Subnormal),
];

fn testp(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let property = modifiers.need("property", &PROPERTIES)?;
    let kind = kind(&mut modifiers)?;
    let [p, a] = &i.operands[..] else { return Err(operands(2, i)) };
    let p = decoder.dst_pred(p)?;
    macro_rules! holds {
        ($x:expr) => {
            match property {
                Property::Finite => $x.is_finite(),
                Property::Infinite => $x.is_infinite(),
                Property::Number => !$x.is_nan(),
                Property::NotANumber => $x.is_nan(),
                Property::Normal => $x.is_normal(),
                Property::Subnormal => $x.is_subnormal(),
            }
        };
    }
    match kind {
        Kind::Single => {
            let a = decoder.src32(a)?;
            Ok(Action::run(move |cx| {
                let bits = test1(cx.get(a), |a| holds!(f32::from_bits(a)));
                cx.set_pred(p, bits);
                Ok(())
            }))
        }
        Kind::Double => {
            let a = decoder.src64(a)?;
            Ok(Action::run(move |cx| {
                let bits = test1(cx.get(a), |a| holds!(f64::from_bits(a)));
                cx.set_pred(p, bits);
                Ok(())
            }))
        }
        Kind::Singles => Err(no_pair()),
    }
}
