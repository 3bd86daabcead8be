//! cvt to and from formats of fewer bits than f32, and pairs of values (PTX ISA, "`cvt`").

use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::lanes::{LANES, Lanes, Reg};
use crate::num::Round;
use crate::num::small::{
    BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, Format, narrow, narrow_stochastic, relu, tf32, to_ue8m0,
    ue8m0_to_bf16, widen,
};
use crate::num::{float32, half};
use crate::ops::float::for_round;
use crate::ops::value::{binary, operands, unary};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};
use crate::simd::vectorised;

use super::Modes;

type Decoded = Result<Action, Unsupported>;

/// A packed type: the format, and how many values there are.
#[derive(Clone, Copy)]
struct Packed {
    format: Format,
    count: u32,
}

/// Bits from one value of a format to the next.
const fn pitch(format: Format) -> u32 {
    match format.bits {
        6 => 8,
        bits => bits,
    }
}

impl Packed {
    /// How many of the bits of `rbits` go to a value.
    fn random_bits(self) -> u32 {
        match self.format.bits {
            4 => 8,
            _ if self.format == F16 => 13,
            _ => 16,
        }
    }
}

const fn packed(format: Format, count: u32) -> Packed {
    Packed { format, count }
}

const PACKED: [(&str, Packed); 12] = [
    ("f16x2", packed(F16, 2)),
    ("bf16x2", packed(BF16, 2)),
    ("e4m3x2", packed(E4M3, 2)),
    ("e5m2x2", packed(E5M2, 2)),
    ("e3m2x2", packed(E3M2, 2)),
    ("e2m3x2", packed(E2M3, 2)),
    ("e2m1x2", packed(E2M1, 2)),
    ("e4m3x4", packed(E4M3, 4)),
    ("e5m2x4", packed(E5M2, 4)),
    ("e3m2x4", packed(E3M2, 4)),
    ("e2m3x4", packed(E2M3, 4)),
    ("e2m1x4", packed(E2M1, 4)),
];

/// A conversion to a packed type, to `.tf32` or to `.ue8m0x2`; None if it is none of these.
pub(super) fn decode(
    decoder: &mut Decoder,
    i: &Instruction,
    modes: Modes,
    modifiers: &Modifiers,
) -> Option<Decoded> {
    let mut modifiers = modifiers.clone();
    if modifiers.flag("tf32") {
        return Some(to_tf32(decoder, i, modes, modifiers));
    }
    if modifiers.flag("ue8m0x2") {
        return Some(to_exponents(decoder, i, modes, modifiers));
    }
    let to = modifiers.one_of(&PACKED)?;
    Some(to_packed(decoder, i, modes, to, modifiers))
}

/// An error where there are modifiers that conversions between floating-point formats do not have here.
fn check(modes: Modes) -> Result<(), Unsupported> {
    match modes {
        Modes { sat: true, .. } => Err(".sat of this type".into()),
        Modes { ftz: true, .. } => Err(".ftz of this type".into()),
        Modes { integral: Some(_), .. } => Err("integer rounding of this type".into()),
        _ => Ok(()),
    }
}

fn to_tf32(decoder: &mut Decoder, i: &Instruction, modes: Modes, mut modifiers: Modifiers) -> Decoded {
    modifiers.need("source type", &[("f32", ())])?;
    modifiers.finish()?;
    check(modes)?;
    match modes.need_round()? {
        round @ (Round::Rna | Round::Rn | Round::Rz) if !modes.stochastic => {
            unary(decoder, i, move |a: f32| {
                tf32(if modes.relu { relu(a) } else { a }, round, modes.satfinite)
            })
        }
        other => Err(format!("rounding mode {other:?} of .tf32")),
    }
}

fn to_exponents(decoder: &mut Decoder, i: &Instruction, modes: Modes, mut modifiers: Modifiers) -> Decoded {
    let halves = modifiers.need("source type", &[("f32", false), ("bf16x2", true)])?;
    modifiers.finish()?;
    check(modes)?;
    let round = match modes.need_round()? {
        round @ (Round::Rz | Round::Rp) if !modes.stochastic && !modes.relu => round,
        other => return Err(format!("rounding mode {other:?} of .ue8m0x2")),
    };
    let both = move |high, low| {
        (to_ue8m0(high, round, modes.satfinite) << 8 | to_ue8m0(low, round, modes.satfinite)) as u16
    };
    if halves {
        unary(decoder, i, move |a: u32| both(widen(a >> 16, BF16), widen(a & 0xffff, BF16)))
    } else {
        binary(decoder, i, move |a: f32, b: f32| both(a, b))
    }
}

/// What a value comes from that goes to a packed type.
#[derive(Clone, Copy)]
enum From {
    Single,
    Packed(Packed),
    Exponents,
}

fn to_packed(
    decoder: &mut Decoder,
    i: &Instruction,
    modes: Modes,
    to: Packed,
    mut modifiers: Modifiers,
) -> Decoded {
    let from = match modifiers.one_of(&PACKED) {
        Some(from) => From::Packed(from),
        None => modifiers.need("source type", &[("f32", From::Single), ("ue8m0x2", From::Exponents)])?,
    };
    modifiers.finish()?;
    check(modes)?;
    let halves = to.format.bits == 16;
    if !halves && !modes.satfinite {
        return Err("no .satfinite".into());
    }
    match (from, modes.stochastic) {
        (From::Single, true) => stochastic(decoder, i, modes, to),
        _ if to.count == 4 => Err("four values are rounded by .rs".into()),
        (From::Single, false) => match modes.need_round()? {
            Round::Rn => two(decoder, i, modes, to),
            Round::Rz if halves => two(decoder, i, modes, to),
            other => Err(format!("rounding mode {other:?} of this type")),
        },
        (_, true) => Err(".rs of this type".into()),
        (From::Exponents, false) if to.format == BF16 && modes.round == Some(Round::Rn) && !modes.relu => {
            unary(decoder, i, |a: u16| {
                ue8m0_to_bf16((a >> 8).into()) << 16 | ue8m0_to_bf16((a & 0xff).into())
            })
        }
        (From::Packed(from), false) if modes.round == Some(Round::Rn) => repack(decoder, i, modes, to, from),
        _ => Err("these types together".into()),
    }
}

/// A format as a type: so that conversions are compiled for each apart.
trait Small: 'static {
    const FORMAT: Format;
}

macro_rules! small {
    ($($name:ident = $format:ident;)*) => {$(
        struct $name;

        impl Small for $name {
            const FORMAT: Format = $format;
        }
    )*};
}

small! {
    Half = F16;
    Bfloat = BF16;
    Float8E4 = E4M3;
    Float8E5 = E5M2;
    Float6E3 = E3M2;
    Float6E2 = E2M3;
    Float4 = E2M1;
}

/// Evaluates an expression for each format apart, of which it is the type.
macro_rules! for_format {
    ($format:expr, $F:ident => $body:expr) => {
        match $format {
            F16 => for_format!(@ $F, Half, $body),
            BF16 => for_format!(@ $F, Bfloat, $body),
            E4M3 => for_format!(@ $F, Float8E4, $body),
            E5M2 => for_format!(@ $F, Float8E5, $body),
            E3M2 => for_format!(@ $F, Float6E3, $body),
            E2M3 => for_format!(@ $F, Float6E2, $body),
            _ => for_format!(@ $F, Float4, $body),
        }
    };
    (@ $F:ident, $name:ident, $body:expr) => {{
        type $F = $name;
        $body
    }};
}

/// What `.relu` makes of a value that is then narrowed.
#[inline(always)]
fn shrink<T: Small>(x: f32, relu_too: bool, round: Round, satfinite: bool) -> u32 {
    narrow(if relu_too { relu(x) } else { x }, T::FORMAT, round, satfinite)
}

vectorised! {
    /// From single precision, `a` in the upper half; of `MODE` bit 0 is `.relu`, bit 1 `.rz`.
    fn narrow_two<T: Small; const MODE: usize>(
        a: &Lanes<u32>, b: &Lanes<u32>, out: &mut Lanes<u32>, satfinite: bool
    ) {
        let (relu, round) = (MODE & 1 == 1, if MODE & 2 == 0 { Round::Rn } else { Round::Rz });
        for lane in 0..LANES {
            let high = shrink::<T>(f32::from_bits(a[lane]), relu, round, satfinite);
            out[lane] = high << pitch(T::FORMAT) | shrink::<T>(f32::from_bits(b[lane]), relu, round, satfinite);
        }
    }
}

vectorised! {
    /// From one packed format to another; `RELU` is 1 for `.relu`.
    fn narrow_pair<F: Small, T: Small; const RELU: usize>(a: &Lanes<u32>, out: &mut Lanes<u32>, satfinite: bool) {
        let mask = (1 << F::FORMAT.bits) - 1;
        for lane in 0..LANES {
            let (high, low) = (widen(a[lane] >> pitch(F::FORMAT) & mask, F::FORMAT), widen(a[lane] & mask, F::FORMAT));
            let high = shrink::<T>(high, RELU == 1, Round::Rn, satfinite);
            out[lane] = high << pitch(T::FORMAT) | shrink::<T>(low, RELU == 1, Round::Rn, satfinite);
        }
    }
}

/// `d = {a, b}` from single precision, `a` in the upper half.
fn two(decoder: &mut Decoder, i: &Instruction, modes: Modes, to: Packed) -> Decoded {
    let round = modes.round.unwrap_or(Round::Rn);
    let Modes { relu, satfinite, .. } = modes;
    if !(relu || satfinite) {
        return for_round!(
            round,
            R,
            if to.format == F16 {
                binary(decoder, i, |a: f32, b: f32| narrow(a, F16, R, false) << 16 | narrow(b, F16, R, false))
            } else {
                binary(decoder, i, |a: f32, b: f32| {
                    narrow(a, BF16, R, false) << 16 | narrow(b, BF16, R, false)
                })
            }
        );
    }
    let [d, a, b] = &i.operands[..] else { return Err(operands(3, i)) };
    let (d, a, b) = (decoder.dst32(d)?, decoder.src32(a)?, decoder.src32(b)?);
    for_format!(to.format, T => Ok(Action::run(move |cx| {
        let mut out = [0; LANES];
        let convert = match (relu, round) {
            (false, Round::Rz) => narrow_two::<T, 2>,
            (true, Round::Rz) => narrow_two::<T, 3>,
            (false, _) => narrow_two::<T, 0>,
            (true, _) => narrow_two::<T, 1>,
        };
        convert(cx.get(a), cx.get(b), &mut out, satfinite);
        cx.set(d, &out);
        Ok(())
    })))
}

/// Between packed types of two values: from the halves to what is smaller, and back.
fn repack(decoder: &mut Decoder, i: &Instruction, modes: Modes, to: Packed, from: Packed) -> Decoded {
    let Modes { relu, satfinite, .. } = modes;
    let smaller = from.format.bits == 16 && to.format.bits < 16;
    let back = to.format == F16 && from.format.bits < 16;
    let [d, a] = &i.operands[..] else { return Err(operands(2, i)) };
    let (d, a) = (decoder.dst32(d)?, decoder.src32(a)?);
    macro_rules! converted {
        ($F:ident, $T:ident) => {
            Ok(Action::run(move |cx| {
                let mut out = [0; LANES];
                let convert = if relu { narrow_pair::<$F, $T, 1> } else { narrow_pair::<$F, $T, 0> };
                convert(cx.get(a), &mut out, satfinite);
                cx.set(d, &out);
                Ok(())
            }))
        };
    }
    match from.format {
        _ if from.count != 2 => Err("these types together".into()),
        F16 if smaller => for_format!(to.format, T => converted!(Half, T)),
        BF16 if smaller => for_format!(to.format, T => converted!(Bfloat, T)),
        _ if back => for_format!(from.format, F => converted!(F, Half)),
        _ => Err("these types together".into()),
    }
}

/// `.rs`: two values, or four of a vector, and random bits.
fn stochastic(decoder: &mut Decoder, i: &Instruction, modes: Modes, to: Packed) -> Decoded {
    let (d, values, random) = match (&i.operands[..], to.count) {
        ([d, a, b, random], 2) if to.format.bits == 16 => (d, vec![a.clone(), b.clone()], random),
        ([d, Operand::Vector(values), random], 4) if values.len() == 4 => (d, values.clone(), random),
        _ => return Err(operands(to.count as usize + 2, i)),
    };
    let values: Vec<Reg<u32>> = values.iter().map(|it| decoder.src32(it)).collect::<Result<_, _>>()?;
    let (d, random) = (decoder.dst32(d)?, decoder.src32(random)?);
    Ok(Action::run(move |cx| {
        let mut out = [0; LANES];
        for (k, value) in values.iter().enumerate() {
            let (value, random) = (cx.get(*value), cx.get(random));
            let place = to.count - 1 - k as u32;
            for (lane, out) in out.iter_mut().enumerate() {
                let x = f32::from_bits(value[lane]);
                let x = if modes.relu { relu(x) } else { x };
                let share = share(random[lane], place, to);
                *out |= narrow_stochastic(x, to.format, share, to.random_bits(), modes.satfinite)
                    << (place * pitch(to.format));
            }
        }
        cx.set(d, &out);
        Ok(())
    }))
}

/// The random bits of the value at a place, the lowest being 0.
fn share(random: u32, place: u32, to: Packed) -> u32 {
    let shift = match (to.count, to.format.bits) {
        // Each of the four has a byte: those of the upper two are the upper ones of both halves.
        (4, 4) => 16 * (place & 1) + 8 * (place >> 1),
        // The upper two have the upper half, the lower two the lower half.
        (4, _) => 16 * (place >> 1),
        _ => 16 * place,
    };
    random >> shift & ((1 << to.random_bits()) - 1)
}

/// `cvt.f16.f32` and `cvt.bf16.f32`.
pub(super) fn half_from_f32(decoder: &mut Decoder, i: &Instruction, format: Format, modes: Modes) -> Decoded {
    if modes.stochastic || modes.round == Some(Round::Rna) {
        return Err("such rounding of this type".into());
    }
    let round = modes.need_round()?;
    let Modes { relu: false, satfinite: false, ftz: false, sat: false, .. } = modes else {
        return unary(decoder, i, move |a: f32| {
            let flushed = if modes.ftz { float32::ftz(a) } else { a };
            let positive = if modes.relu { relu(flushed) } else { flushed };
            let bits = narrow(positive, format, round, modes.satfinite) as u16;
            if modes.sat { half::sat(bits, format) } else { bits }
        });
    };
    for_round!(
        round,
        R,
        if format == F16 {
            unary(decoder, i, |a: f32| narrow(a, F16, R, false) as u16)
        } else {
            unary(decoder, i, |a: f32| narrow(a, BF16, R, false) as u16)
        }
    )
}
