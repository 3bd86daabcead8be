//! Half precision, one value or two in a register, and mixed precision (PTX ISA, "Half Precision Floating Point
//! Instructions", "Mixed Precision Floating Point Instructions").

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::num::packed::{map1, map2, map3};
use crate::num::small::{BF16, F16, Format};
use crate::num::{Round, approx, float32, half};
use crate::ops::Form;
use crate::ops::float::{Extreme, Flags, PLAIN, ROUNDED, SATURATED, mixed, mixed_fma};
use crate::ops::value::{binary, ternary, unary};
use crate::program::Action;
use crate::ptx::ast::Instruction;

const fn form(
    name: &'static str,
    syntax: &'static str,
    decode: fn(&mut Decoder, &Instruction) -> Result<Action, Unsupported>,
) -> Form {
    Form { name, syntax, class: Class::Float, decode }
}

const fn special(
    name: &'static str,
    syntax: &'static str,
    decode: fn(&mut Decoder, &Instruction) -> Result<Action, Unsupported>,
) -> Form {
    Form { name, syntax, class: Class::Special, decode }
}

pub(crate) const FORMS: &[Form] = &[
    form(
        "add (half)",
        "add{.rn}{.ftz}{.sat}.f16|.f16x2; add{.rn}.bf16|.bf16x2 d, a, b; add{.rnd}{.sat}.f32.f16|.bf16 d, a, c",
        |d, i| arithmetic(d, i, half::add, Some(float32::add)),
    ),
    form(
        "sub (half)",
        "sub{.rn}{.ftz}{.sat}.f16|.f16x2; sub{.rn}.bf16|.bf16x2 d, a, b; sub{.rnd}{.sat}.f32.f16|.bf16 d, a, c",
        |d, i| arithmetic(d, i, half::sub, Some(float32::sub)),
    ),
    form("mul (half)", "mul{.rn}{.ftz}{.sat}.f16|.f16x2; mul{.rn}.bf16|.bf16x2 d, a, b", |d, i| {
        arithmetic(d, i, half::mul, None)
    }),
    form(
        "fma (half)",
        "fma.rn{.ftz}{.sat|.relu}.f16|.f16x2; fma.rn{.relu}.bf16|.bf16x2 d, a, b, c; fma.rnd{.sat}.f32.f16|.bf16 d, a, b, c",
        fma,
    ),
    form("abs (half)", "abs{.ftz}.f16|.f16x2; abs.bf16|.bf16x2 d, a", |d, i| sign(d, i, half::abs)),
    form("neg (half)", "neg{.ftz}.f16|.f16x2; neg.bf16|.bf16x2 d, a", |d, i| sign(d, i, half::neg)),
    form(
        "min (half)",
        "min{.ftz}{.NaN}{.xorsign.abs}.f16|.f16x2; min{.NaN}{.xorsign.abs}.bf16|.bf16x2 d, a, b",
        |d, i| extreme(d, i, Extreme::Min),
    ),
    form(
        "max (half)",
        "max{.ftz}{.NaN}{.xorsign.abs}.f16|.f16x2; max{.NaN}{.xorsign.abs}.bf16|.bf16x2 d, a, b",
        |d, i| extreme(d, i, Extreme::Max),
    ),
    special("ex2 (half)", "ex2.approx.f16|.f16x2; ex2.approx.ftz.bf16|.bf16x2 d, a", ex2),
    special("tanh (half)", "tanh.approx.f16|.f16x2|.bf16|.bf16x2 d, a", tanh),
];

type Decoded = Result<Action, Unsupported>;

/// A format, and whether there are two values of it.
type Shape = (Format, bool);

const SHAPES: [(&str, Shape); 4] =
    [("f16", (F16, false)), ("f16x2", (F16, true)), ("bf16", (BF16, false)), ("bf16x2", (BF16, true))];

/// Takes the type that ends an instruction.
fn shape(modifiers: &mut Modifiers) -> Result<Shape, Unsupported> {
    let shape = modifiers.need("type", &SHAPES)?;
    modifiers.finish()?;
    Ok(shape)
}

/// `.ftz` of an operand.
#[inline(always)]
fn operand(x: u16, format: Format, flags: Flags) -> u16 {
    if flags.ftz { half::ftz(x, format) } else { x }
}

/// `.ftz`, `.relu` and `.sat` of a result.
#[inline(always)]
fn result(x: u16, format: Format, flags: Flags) -> u16 {
    let flushed = operand(x, format, flags);
    let positive = if flags.relu { half::relu(flushed, format) } else { flushed };
    if flags.sat { half::sat(positive, format) } else { positive }
}

/// `d = f(a)` of one value or two.
fn unary16(
    decoder: &mut Decoder,
    i: &Instruction,
    (format, two): Shape,
    flags: Flags,
    f: impl Fn(u16, Format) -> u16 + Copy + Send + Sync + 'static,
) -> Decoded {
    let one = move |format| move |a| result(f(operand(a, format, flags), format), format, flags);
    match (format == F16, two) {
        (true, false) => unary(decoder, i, move |a: u16| one(F16)(a)),
        (true, true) => unary(decoder, i, move |a: u32| map1(a, one(F16))),
        (false, false) => unary(decoder, i, move |a: u16| one(BF16)(a)),
        (false, true) => unary(decoder, i, move |a: u32| map1(a, one(BF16))),
    }
}

/// `d = f(a, b)` of one value or two.
fn binary16(
    decoder: &mut Decoder,
    i: &Instruction,
    (format, two): Shape,
    flags: Flags,
    f: impl Fn(u16, u16, Format) -> u16 + Copy + Send + Sync + 'static,
) -> Decoded {
    let one = move |format| {
        move |a, b| result(f(operand(a, format, flags), operand(b, format, flags), format), format, flags)
    };
    match (format == F16, two) {
        (true, false) => binary(decoder, i, move |a: u16, b: u16| one(F16)(a, b)),
        (true, true) => binary(decoder, i, move |a: u32, b: u32| map2(a, b, one(F16))),
        (false, false) => binary(decoder, i, move |a: u16, b: u16| one(BF16)(a, b)),
        (false, true) => binary(decoder, i, move |a: u32, b: u32| map2(a, b, one(BF16))),
    }
}

/// The flags that add, sub and mul of a format have.
fn allowed(format: Format) -> Flags {
    if format == F16 { SATURATED } else { ROUNDED }
}

/// [`Flags`] of mixed precision.
const MIXED: Flags = Flags { sat: true, ..ROUNDED };

/// `add`, `sub` and `mul`; `mixed` is what the operation does in single precision, if it has such a form.
fn arithmetic(
    decoder: &mut Decoder,
    i: &Instruction,
    f: impl Fn(u16, u16, Format) -> u16 + Copy + Send + Sync + 'static,
    single: Option<fn(f32, f32, Round) -> f32>,
) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags::take(&mut modifiers);
    let is_mixed = modifiers.flag("f32");
    let shape = shape(&mut modifiers)?;
    match (is_mixed, single, shape) {
        (false, ..) => {
            flags.within(allowed(shape.0))?.nearest()?;
            binary16(decoder, i, shape, flags, f)
        }
        (true, Some(f), (format, false)) => mixed(decoder, i, flags.within(MIXED)?, format, f),
        _ => Err("these types together".into()),
    }
}

fn fma(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags::take(&mut modifiers);
    let is_mixed = modifiers.flag("f32");
    let (format, two) = shape(&mut modifiers)?;
    if flags.round.is_none() {
        return Err("no rounding mode".into());
    }
    if is_mixed {
        return match two {
            false => mixed_fma(decoder, i, flags.within(MIXED)?, format),
            true => Err("these types together".into()),
        };
    }
    flags.within(Flags { relu: true, ..allowed(format) })?.nearest()?;
    let one = move |format| {
        let flush = move |x| operand(x, format, flags);
        move |a, b, c| result(half::fma(flush(a), flush(b), flush(c), format), format, flags)
    };
    match (format == F16, two) {
        (true, false) => ternary(decoder, i, move |a: u16, b: u16, c: u16| one(F16)(a, b, c)),
        (true, true) => ternary(decoder, i, move |a: u32, b: u32, c: u32| map3(a, b, c, one(F16))),
        (false, false) => ternary(decoder, i, move |a: u16, b: u16, c: u16| one(BF16)(a, b, c)),
        (false, true) => ternary(decoder, i, move |a: u32, b: u32, c: u32| map3(a, b, c, one(BF16))),
    }
}

/// `abs` and `neg`.
fn sign(
    decoder: &mut Decoder,
    i: &Instruction,
    f: impl Fn(u16, Format) -> u16 + Copy + Send + Sync + 'static,
) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags { ftz: modifiers.flag("ftz"), ..PLAIN };
    let shape = shape(&mut modifiers)?;
    flags.within(Flags { ftz: shape.0 == F16, ..PLAIN })?;
    unary16(decoder, i, shape, flags, f)
}

fn extreme(decoder: &mut Decoder, i: &Instruction, which: Extreme) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags { ftz: modifiers.flag("ftz"), ..PLAIN };
    let nan = modifiers.flag("NaN");
    let xorsign = modifiers.flag("xorsign");
    if modifiers.flag("abs") != xorsign {
        return Err("one of .xorsign and .abs alone".into());
    }
    let shape = shape(&mut modifiers)?;
    flags.within(Flags { ftz: shape.0 == F16, ..PLAIN })?;
    match (which, nan) {
        (Extreme::Min, false) => chosen(decoder, i, shape, flags, xorsign, half::min),
        (Extreme::Max, false) => chosen(decoder, i, shape, flags, xorsign, half::max),
        (Extreme::Min, true) => chosen(decoder, i, shape, flags, xorsign, half::min_nan),
        (Extreme::Max, true) => chosen(decoder, i, shape, flags, xorsign, half::max_nan),
    }
}

fn chosen(
    decoder: &mut Decoder,
    i: &Instruction,
    shape: Shape,
    flags: Flags,
    xorsign: bool,
    choose: impl Fn(u16, u16, Format) -> u16 + Copy + Send + Sync + 'static,
) -> Decoded {
    if xorsign {
        return binary16(decoder, i, shape, flags, move |a, b, format| {
            half::xorsign_abs(a, b, format, |a, b| choose(a, b, format))
        });
    }
    binary16(decoder, i, shape, flags, choose)
}

fn ex2(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    modifiers.need("precision", &[("approx", ())])?;
    let flags = Flags { ftz: modifiers.flag("ftz"), ..PLAIN };
    let shape = shape(&mut modifiers)?;
    if flags.ftz != (shape.0 == BF16) {
        return Err(".ftz goes with bf16, and with it alone".into());
    }
    unary16(decoder, i, shape, flags, approx::ex2_half)
}

fn tanh(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    modifiers.need("precision", &[("approx", ())])?;
    let shape = shape(&mut modifiers)?;
    unary16(decoder, i, shape, PLAIN, approx::tanh_half)
}
