//! cvt to and from formats of fewer bits than f32, and pairs of values (PTX ISA, "`cvt`").

use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::lanes::{LANES, Lanes, Reg};
use crate::num::Round;
use crate::num::small::{
    BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, Format, narrow, narrow_stochastic, relu, tf32, to_ue8m0,
    ue8m0_to_bf16, widen,
};
use crate::num::{float32, half};
use crate::ops::float::{Rounding, for_round};
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

/// What `.relu` makes of a value that is then narrowed.
#[inline(always)]
fn shrink(x: f32, format: Format, round: Round, modes: Modes) -> u32 {
    narrow(if modes.relu { relu(x) } else { x }, format, round, modes.satfinite)
}

vectorised! {
    /// From single precision, `a` in the upper part.
    fn narrow_two(
        a: &Lanes<u32>, b: &Lanes<u32>, out: &mut Lanes<u32>, to: Format, round: Round, modes: Modes
    ) {
        for lane in 0..LANES {
            let high = shrink(f32::from_bits(a[lane]), to, round, modes);
            out[lane] = high << pitch(to) | shrink(f32::from_bits(b[lane]), to, round, modes);
        }
    }
}

vectorised! {
    /// From one packed format to another.
    fn narrow_pair(a: &Lanes<u32>, out: &mut Lanes<u32>, from: Format, to: Format, modes: Modes) {
        let mask = (1 << from.bits) - 1;
        for lane in 0..LANES {
            let (high, low) = (widen(a[lane] >> pitch(from) & mask, from), widen(a[lane] & mask, from));
            let high = shrink(high, to, Round::Rn, modes);
            out[lane] = high << pitch(to) | shrink(low, to, Round::Rn, modes);
        }
    }
}

/// `d = {a, b}` from single precision, `a` in the upper half.
fn two(decoder: &mut Decoder, i: &Instruction, modes: Modes, to: Packed) -> Decoded {
    let round = modes.round.unwrap_or(Round::Rn);
    match (to.format, modes.relu || modes.satfinite) {
        // What nearly every kernel does to its results is compiled apart.
        (F16, false) => for_round!(
            round,
            r,
            binary(decoder, i, move |a: f32, b: f32| {
                narrow(a, F16, r.mode(), false) << 16 | narrow(b, F16, r.mode(), false)
            })
        ),
        (BF16, false) => for_round!(
            round,
            r,
            binary(decoder, i, move |a: f32, b: f32| {
                narrow(a, BF16, r.mode(), false) << 16 | narrow(b, BF16, r.mode(), false)
            })
        ),
        (format, _) => {
            let [d, a, b] = &i.operands[..] else { return Err(operands(3, i)) };
            let (d, a, b) = (decoder.dst32(d)?, decoder.src32(a)?, decoder.src32(b)?);
            Ok(Action::run(move |cx| {
                let mut out = [0; LANES];
                narrow_two(cx.get(a), cx.get(b), &mut out, format, round, modes);
                cx.set(d, &out);
                Ok(())
            }))
        }
    }
}

/// Between packed types of two values: from the halves to what is smaller, and from that to f16.
fn repack(decoder: &mut Decoder, i: &Instruction, modes: Modes, to: Packed, from: Packed) -> Decoded {
    let smaller = from.format.bits == 16 && to.format.bits < 16;
    let back = to.format == F16 && from.format.bits < 16;
    if from.count != 2 || !(smaller || back) {
        return Err("these types together".into());
    }
    let [d, a] = &i.operands[..] else { return Err(operands(2, i)) };
    let (d, a) = (decoder.dst32(d)?, decoder.src32(a)?);
    Ok(Action::run(move |cx| {
        let mut out = [0; LANES];
        narrow_pair(cx.get(a), &mut out, from.format, to.format, modes);
        cx.set(d, &out);
        Ok(())
    }))
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
        r,
        if format == F16 {
            unary(decoder, i, move |a: f32| narrow(a, F16, r.mode(), false) as u16)
        } else {
            unary(decoder, i, move |a: f32| narrow(a, BF16, r.mode(), false) as u16)
        }
    )
}
