//! Half precision, one value or two in a register, and mixed precision (PTX ISA, "Half Precision Floating Point
//! Instructions", "Mixed Precision Floating Point Instructions").

use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::lanes::{LANES, Lanes, Reg};
use crate::num::small::{BF16, F16, Format};
use crate::num::{Round, approx, float32, half};
use crate::ops::Form;
use crate::ops::float::{Extreme, Flags, PLAIN, ROUNDED, SATURATED, mixed, mixed_fma};
use crate::ops::value::operands;
use crate::program::Action;
use crate::ptx::ast::Instruction;
use crate::simd::vectorised;

pub(crate) const FORMS: &[Form] = &[
    Form::float(
        "add (half)",
        "add{.rn}{.ftz}{.sat}.f16|.f16x2; add{.rn}.bf16|.bf16x2 d, a, b; add{.rnd}{.sat}.f32.f16|.bf16 d, a, c",
        |d, i| arithmetic(d, i, Add, Some(float32::add)),
    ),
    Form::float(
        "sub (half)",
        "sub{.rn}{.ftz}{.sat}.f16|.f16x2; sub{.rn}.bf16|.bf16x2 d, a, b; sub{.rnd}{.sat}.f32.f16|.bf16 d, a, c",
        |d, i| arithmetic(d, i, Sub, Some(float32::sub)),
    ),
    Form::float("mul (half)", "mul{.rn}{.ftz}{.sat}.f16|.f16x2; mul{.rn}.bf16|.bf16x2 d, a, b", |d, i| {
        arithmetic(d, i, Mul, None)
    }),
    Form::float(
        "fma (half)",
        "fma.rn{.ftz}{.sat|.relu}.f16|.f16x2; fma.rn{.relu}.bf16|.bf16x2 d, a, b, c; fma.rnd{.sat}.f32.f16|.bf16 d, a, b, c",
        multiply_add,
    ),
    Form::float("abs (half)", "abs{.ftz}.f16|.f16x2; abs.bf16|.bf16x2 d, a", |d, i| sign(d, i, Abs)),
    Form::float("neg (half)", "neg{.ftz}.f16|.f16x2; neg.bf16|.bf16x2 d, a", |d, i| sign(d, i, Neg)),
    Form::float(
        "min (half)",
        "min{.ftz}{.NaN}{.xorsign.abs}.f16|.f16x2; min{.NaN}{.xorsign.abs}.bf16|.bf16x2 d, a, b",
        |d, i| extreme(d, i, Extreme::Min),
    ),
    Form::float(
        "max (half)",
        "max{.ftz}{.NaN}{.xorsign.abs}.f16|.f16x2; max{.NaN}{.xorsign.abs}.bf16|.bf16x2 d, a, b",
        |d, i| extreme(d, i, Extreme::Max),
    ),
    Form::special("ex2 (half)", "ex2.approx.f16|.f16x2; ex2.approx.ftz.bf16|.bf16x2 d, a", exponential),
    Form::special("tanh (half)", "tanh.approx.f16|.f16x2|.bf16|.bf16x2 d, a", hyperbolic_tangent),
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

/// A function of three values of a format, of which it may ignore some. A type of its own, not a closure, so that it is
/// compiled into the loop over the lanes whatever its size, and vectorised.
trait Operation: Copy + Send + Sync + 'static {
    fn apply(self, a: u16, b: u16, c: u16, format: Format) -> u16;
}

macro_rules! operations {
    ($($name:ident = |$a:ident, $b:ident, $c:ident, $format:ident| $result:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl Operation for $name {
            #[inline(always)]
            fn apply(self, $a: u16, $b: u16, $c: u16, $format: Format) -> u16 {
                $result
            }
        }
    )*};
}

operations! {
    Add = |a, b, _c, format| half::add(a, b, format);
    Sub = |a, b, _c, format| half::sub(a, b, format);
    Mul = |a, b, _c, format| half::mul(a, b, format);
    Fma = |a, b, c, format| half::fma(a, b, c, format);
    Abs = |a, _b, _c, format| half::abs(a, format);
    Neg = |a, _b, _c, format| half::neg(a, format);
    Min = |a, b, _c, format| half::min(a, b, format);
    Max = |a, b, _c, format| half::max(a, b, format);
    MinNan = |a, b, _c, format| half::min_nan(a, b, format);
    MaxNan = |a, b, _c, format| half::max_nan(a, b, format);
    Exponential = |a, _b, _c, format| approx::ex2_half(a, format);
    Tanh = |a, _b, _c, format| approx::tanh_half(a, format);
}

/// `.xorsign.abs` of a function that chooses.
#[derive(Clone, Copy)]
struct Xorsign(fn(u16, u16, Format) -> u16);

impl Operation for Xorsign {
    #[inline(always)]
    fn apply(self, a: u16, b: u16, _c: u16, format: Format) -> u16 {
        half::xorsign_abs(a, b, format, |a, b| self.0(a, b, format))
    }
}

vectorised! {
    /// The operation on both halves of three registers; `BFLOAT` is 1 for bf16, 0 for f16.
    fn on_halves<F: Operation; const BFLOAT: usize>(
        f: F, a: &Lanes<u32>, b: &Lanes<u32>, c: &Lanes<u32>, out: &mut Lanes<u32>
    ) {
        let format = if BFLOAT == 1 { BF16 } else { F16 };
        for lane in 0..LANES {
            let (a, b, c) = (a[lane], b[lane], c[lane]);
            let low = f.apply(a as u16, b as u16, c as u16, format);
            let high = f.apply((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16, format);
            out[lane] = u32::from(low) | u32::from(high) << 16;
        }
    }
}

/// A function of one format on both halves of a register.
fn both(word: u32, format: Format, f: impl Fn(u16, Format) -> u16) -> u32 {
    u32::from(f(word as u16, format)) | u32::from(f((word >> 16) as u16, format)) << 16
}

/// `.ftz` of an operand.
fn flushed(words: &Lanes<u32>, format: Format) -> Lanes<u32> {
    words.map(|word| both(word, format, half::ftz))
}

/// `.ftz`, `.relu` and `.sat` of a result.
fn finished(words: &Lanes<u32>, format: Format, flags: Flags) -> Lanes<u32> {
    words.map(|word| {
        both(word, format, |x, format| {
            let flushed = if flags.ftz { half::ftz(x, format) } else { x };
            let positive = if flags.relu { half::relu(flushed, format) } else { flushed };
            if flags.sat { half::sat(positive, format) } else { positive }
        })
    })
}

/// `d = f(a, b, ...)` with flags, for one value or two. With one, the upper half is computed too, and cut off.
fn action<const N: usize>(
    decoder: &mut Decoder,
    i: &Instruction,
    (format, two): Shape,
    flags: Flags,
    f: impl Operation,
) -> Decoded {
    let [d, sources @ ..] = &i.operands[..] else { return Err(operands(N + 1, i)) };
    if sources.len() != N {
        return Err(operands(N + 1, i));
    }
    let d = decoder.dst32(d)?;
    let sources: Vec<Reg<u32>> = sources.iter().map(|it| decoder.src32(it)).collect::<Result<_, _>>()?;
    let [a, b, c] = std::array::from_fn(|k| sources[k.min(N - 1)]);
    let mask = if two { u32::MAX } else { 0xffff };
    let finish = flags.ftz | flags.relu | flags.sat;
    Ok(Action::run(move |cx| {
        let mut operands = [cx.get(a), cx.get(b), cx.get(c)];
        let zeroed;
        if flags.ftz {
            zeroed = operands.map(|it| flushed(it, format));
            operands = zeroed.each_ref();
        }
        let ([a, b, c], mut out) = (operands, [0; LANES]);
        if format == BF16 {
            on_halves::<_, 1>(f, a, b, c, &mut out);
        } else {
            on_halves::<_, 0>(f, a, b, c, &mut out);
        }
        if finish {
            out = finished(&out, format, flags);
        }
        cx.set(d, &out.map(|it| it & mask));
        Ok(())
    }))
}

/// The flags that add, sub and mul of a format have.
fn allowed(format: Format) -> Flags {
    if format == F16 { SATURATED } else { ROUNDED }
}

/// [`Flags`] of mixed precision.
const MIXED: Flags = Flags { sat: true, ..ROUNDED };

/// `add`, `sub` and `mul`; `single` is what the operation does in single precision, if it has a mixed form.
fn arithmetic(
    decoder: &mut Decoder,
    i: &Instruction,
    f: impl Operation,
    single: Option<fn(f32, f32, Round) -> f32>,
) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags::take(&mut modifiers);
    let is_mixed = modifiers.flag("f32");
    let shape = shape(&mut modifiers)?;
    match (is_mixed, single, shape) {
        (false, ..) => {
            flags.within(allowed(shape.0))?.nearest()?;
            action::<2>(decoder, i, shape, flags, f)
        }
        (true, Some(f), (format, false)) => mixed(decoder, i, flags.within(MIXED)?, format, f),
        _ => Err("these types together".into()),
    }
}

fn multiply_add(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags::take(&mut modifiers);
    let is_mixed = modifiers.flag("f32");
    let (format, two) = shape(&mut modifiers)?;
    if flags.round.is_none() {
        return Err("no rounding mode".into());
    }
    match (is_mixed, two) {
        (false, _) => {
            flags.within(Flags { relu: true, ..allowed(format) })?.nearest()?;
            action::<3>(decoder, i, (format, two), flags, Fma)
        }
        (true, false) => mixed_fma(decoder, i, flags.within(MIXED)?, format),
        (true, true) => Err("these types together".into()),
    }
}

/// `abs` and `neg`.
fn sign(decoder: &mut Decoder, i: &Instruction, f: impl Operation) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let flags = Flags { ftz: modifiers.flag("ftz"), ..PLAIN };
    let shape = shape(&mut modifiers)?;
    flags.within(Flags { ftz: shape.0 == F16, ..PLAIN })?;
    action::<1>(decoder, i, shape, flags, f)
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
    match (which, nan, xorsign) {
        (Extreme::Min, false, false) => action::<2>(decoder, i, shape, flags, Min),
        (Extreme::Max, false, false) => action::<2>(decoder, i, shape, flags, Max),
        (Extreme::Min, true, false) => action::<2>(decoder, i, shape, flags, MinNan),
        (Extreme::Max, true, false) => action::<2>(decoder, i, shape, flags, MaxNan),
        (Extreme::Min, false, true) => action::<2>(decoder, i, shape, flags, Xorsign(half::min)),
        (Extreme::Max, false, true) => action::<2>(decoder, i, shape, flags, Xorsign(half::max)),
        (Extreme::Min, true, true) => action::<2>(decoder, i, shape, flags, Xorsign(half::min_nan)),
        (Extreme::Max, true, true) => action::<2>(decoder, i, shape, flags, Xorsign(half::max_nan)),
    }
}

fn exponential(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    modifiers.need("precision", &[("approx", ())])?;
    let flags = Flags { ftz: modifiers.flag("ftz"), ..PLAIN };
    let shape = shape(&mut modifiers)?;
    if flags.ftz != (shape.0 == BF16) {
        return Err(".ftz goes with bf16, and with it alone".into());
    }
    action::<1>(decoder, i, shape, flags, Exponential)
}

fn hyperbolic_tangent(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    modifiers.need("precision", &[("approx", ())])?;
    let shape = shape(&mut modifiers)?;
    action::<1>(decoder, i, shape, PLAIN, Tanh)
}
