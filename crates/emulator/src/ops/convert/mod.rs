//! cvt between integers, f16, bf16, f32 and f64, and cvt.pack (PTX ISA, "`cvt`", "`cvt.pack`"). Formats of fewer bits
//! and pairs: `small`.

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Source, Unsupported};
use crate::lanes::map1;
use crate::num::convert::{
    Integer, f32_from_f64, f32_from_integer, f64_from_f32, f64_from_integer, half_from_f64,
    half_from_integer, integer_from_f64, integer_from_integer, integral, pack, s32_from_f32, u32_from_f32,
};
use crate::num::small::{BF16, F16, Format, narrow, widen};
use crate::num::{Round, float32, float64, half};
use crate::ops::Form;
use crate::ops::float::{Flags, PLAIN, ROUNDS, Rounding, for_round, unary32};
use crate::ops::value::{Value, binary, operands, ternary};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Type};

mod small;

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "cvt",
        syntax: "cvt{.irnd|.frnd}{.relu}{.satfinite}{.ftz}{.sat}.dtype.atype d, a{, b}{, rbits}",
        class: Class::Convert,
        decode: cvt,
    },
    Form {
        name: "cvt.pack",
        syntax: "cvt.pack.sat.{u16|s16}.s32 d, a, b; cvt.pack.sat.{u2|s2|u4|s4|u8|s8}.s32.b32 d, a, b, c",
        class: Class::Convert,
        decode: cvt_pack,
    },
];

type Decoded = Result<Action, Unsupported>;

/// What stands between `cvt` and its types.
#[derive(Clone, Copy)]
struct Modes {
    /// `.rn` and its like.
    round: Option<Round>,
    /// `.rni` and its like.
    integral: Option<Round>,
    stochastic: bool,
    relu: bool,
    satfinite: bool,
    ftz: bool,
    sat: bool,
}

const INTEGRALS: [(&str, Round); 4] =
    [("rni", Round::Rn), ("rzi", Round::Rz), ("rmi", Round::Rm), ("rpi", Round::Rp)];

impl Modes {
    fn take(modifiers: &mut Modifiers) -> Result<Modes, Unsupported> {
        let mut modes = Modes {
            round: modifiers.one_of(&ROUNDS),
            integral: modifiers.one_of(&INTEGRALS),
            stochastic: modifiers.flag("rs"),
            relu: false,
            satfinite: false,
            ftz: false,
            sat: false,
        };
        if modifiers.flag("rna") {
            modes.round = Some(Round::Rna);
        }
        // Their order varies between the forms of the instruction.
        loop {
            match modifiers.peek() {
                Some("relu") => modes.relu = true,
                Some("satfinite") => modes.satfinite = true,
                Some("ftz") => modes.ftz = true,
                Some("sat") => modes.sat = true,
                _ => return Ok(modes),
            }
            modifiers.next();
        }
    }

    /// An error where `.rna`, `.rs`, `.relu` or `.satfinite` is there, which belong to small formats.
    fn plain(self) -> Result<(), Unsupported> {
        match self {
            Modes { round: Some(Round::Rna), .. } | Modes { stochastic: true, .. } => {
                Err("such rounding of this type".into())
            }
            Modes { relu: true, .. } => Err(".relu of this type".into()),
            Modes { satfinite: true, .. } => Err(".satfinite of this type".into()),
            _ => Ok(()),
        }
    }

    /// The floating-point rounding that a conversion must have.
    fn need_round(self) -> Result<Round, Unsupported> {
        match (self.round, self.integral) {
            (Some(round), None) => Ok(round),
            _ => Err("no floating-point rounding mode".into()),
        }
    }

    /// An error where there is a rounding mode that the conversion does not have.
    fn exact(self) -> Result<(), Unsupported> {
        match (self.round, self.integral) {
            (None, None) => Ok(()),
            _ => Err("a rounding mode of an exact conversion".into()),
        }
    }
}

/// The kinds of types.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Integer(Integer),
    Half(Format),
    Single,
    Double,
}

fn kind(ty: Type) -> Result<Kind, Unsupported> {
    let integer = |bits, signed| Kind::Integer(Integer { bits, signed });
    Ok(match ty {
        Type::U8 => integer(8, false),
        Type::U16 => integer(16, false),
        Type::U32 => integer(32, false),
        Type::U64 => integer(64, false),
        Type::S8 => integer(8, true),
        Type::S16 => integer(16, true),
        Type::S32 => integer(32, true),
        Type::S64 => integer(64, true),
        Type::F16 => Kind::Half(F16),
        Type::Bf16 => Kind::Half(BF16),
        Type::F32 => Kind::Single,
        Type::F64 => Kind::Double,
        other => return Err(format!("type {other:?}")),
    })
}

fn cvt(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    let modes = Modes::take(&mut modifiers)?;
    if let Some(found) = small::decode(decoder, i, modes, &modifiers) {
        return found;
    }
    let (to, from) = (modifiers.ty()?, modifiers.ty()?);
    modifiers.finish()?;
    let single = to == Type::F32 || from == Type::F32;
    if modes.ftz && !single {
        return Err(".ftz without .f32".into());
    }
    let (to, from) = (kind(to)?, kind(from)?);
    if !(matches!(to, Kind::Half(_)) && from == Kind::Single) {
        modes.plain()?;
    }
    match (to, from) {
        (Kind::Integer(to), Kind::Integer(from)) => {
            modes.exact()?;
            between_integers(decoder, i, to, from, modes.sat)
        }
        (Kind::Integer(to), from) => to_integer(decoder, i, to, from, modes),
        (to, Kind::Integer(from)) => from_integer(decoder, i, to, from, modes),
        (to, from) => between_floats(decoder, i, to, from, modes),
    }
}

/// `d = f(a)`; the source's register may be wider than its type.
fn convert<A: Value, D: Value>(
    decoder: &mut Decoder,
    i: &Instruction,
    f: impl Fn(A) -> D + Copy + Send + Sync + 'static,
) -> Decoded {
    let [d, a] = &i.operands[..] else { return Err(operands(2, i)) };
    let d = decoder.dst::<D::Word>(d)?;
    if let Source::B64(wide) = decoder.source(a, size_of::<A::Word>() as u64)?
        && size_of::<A::Word>() == 4
    {
        return Ok(map1(d, wide, move |a| f(A::of_wide(a)).word()));
    }
    let a = decoder.src::<A::Word>(a)?;
    Ok(map1(d, a, move |a| f(A::of(a)).word()))
}

/// `d = f(a)`, where `f` gives an integer extended to 64 bits; the result fills a register that is wider.
fn convert_to_integer<A: Value>(
    decoder: &mut Decoder,
    i: &Instruction,
    f: impl Fn(A) -> u64 + Copy + Send + Sync + 'static,
) -> Decoded {
    let [d, _] = &i.operands[..] else { return Err(operands(2, i)) };
    match decoder.declared(d).map_or(4, Type::bytes) {
        8 => convert(decoder, i, f),
        bytes => {
            let mask = u32::MAX >> (32 - 8 * bytes.clamp(1, 4));
            convert(decoder, i, move |a: A| f(a) as u32 & mask)
        }
    }
}

/// `d = f(a)` of an integer, which `f` is given extended to 64 bits.
fn convert_from_integer<D: Value>(
    decoder: &mut Decoder,
    i: &Instruction,
    from: Integer,
    f: impl Fn(u64) -> D + Copy + Send + Sync + 'static,
) -> Decoded {
    match from.bits {
        64 => convert(decoder, i, f),
        _ => convert(decoder, i, move |a: u32| f(from.extend(a.into()))),
    }
}

fn between_integers(
    decoder: &mut Decoder,
    i: &Instruction,
    to: Integer,
    from: Integer,
    sat: bool,
) -> Decoded {
    let f = move |a: u64| {
        let value = from.extend(a);
        if sat { integer_from_integer(value, from, to, true) } else { to.extend(value) }
    };
    match from.bits {
        64 => convert_to_integer(decoder, i, f),
        _ => convert_to_integer(decoder, i, move |a: u32| f(a.into())),
    }
}

fn to_integer(decoder: &mut Decoder, i: &Instruction, to: Integer, from: Kind, modes: Modes) -> Decoded {
    let (Some(round), None) = (modes.integral, modes.round) else {
        return Err("no integer rounding mode".into());
    };
    match from {
        Kind::Single if to.bits == 32 && !modes.ftz => for_round!(
            round,
            r,
            match to.signed {
                true => convert_to_integer(decoder, i, move |a: f32| s32_from_f32(a, r.mode()) as u64),
                false => convert_to_integer(decoder, i, move |a: f32| u32_from_f32(a, r.mode()).into()),
            }
        ),
        Kind::Single if modes.ftz => convert_to_integer(decoder, i, move |a: f32| {
            integer_from_f64(float32::ftz(a).into(), round, to, false)
        }),
        Kind::Single => {
            convert_to_integer(decoder, i, move |a: f32| integer_from_f64(a.into(), round, to, false))
        }
        Kind::Double => convert_to_integer(decoder, i, move |a: f64| integer_from_f64(a, round, to, true)),
        Kind::Half(format) => convert_to_integer(decoder, i, move |a: u16| {
            integer_from_f64(widen(a.into(), format).into(), round, to, false)
        }),
        Kind::Integer(_) => Err("an integer".into()),
    }
}

fn from_integer(decoder: &mut Decoder, i: &Instruction, to: Kind, from: Integer, modes: Modes) -> Decoded {
    let round = modes.need_round()?;
    let sat = modes.sat;
    let signed = from.signed;
    match to {
        Kind::Single if from.bits == 32 && !sat => for_round!(
            round,
            r,
            match signed {
                false => convert(decoder, i, move |a: u32| f32_from_f64(a.into(), r.mode())),
                true => convert(decoder, i, move |a: i32| f32_from_f64(a.into(), r.mode())),
            }
        ),
        Kind::Single => convert_from_integer(decoder, i, from, move |a| {
            let value = f32_from_integer(a, signed, round);
            if sat { float32::sat(value) } else { value }
        }),
        Kind::Double => convert_from_integer(decoder, i, from, move |a| {
            let value = f64_from_integer(a, signed, round);
            if sat { float64::sat(value) } else { value }
        }),
        Kind::Half(format) => convert_from_integer(decoder, i, from, move |a| {
            let value = half_from_integer(a, signed, format, round);
            if sat { half::sat(value, format) } else { value }
        }),
        Kind::Integer(_) => Err("an integer".into()),
    }
}

fn between_floats(decoder: &mut Decoder, i: &Instruction, to: Kind, from: Kind, modes: Modes) -> Decoded {
    let flush = move |x: f32| if modes.ftz { float32::ftz(x) } else { x };
    let sat16 = move |x: u16, format| if modes.sat { half::sat(x, format) } else { x };
    let sat32 = move |x: f32| if modes.sat { float32::sat(x) } else { x };
    let sat64 = move |x: f64| if modes.sat { float64::sat(x) } else { x };
    match (to, from) {
        (Kind::Half(format), Kind::Single) => small::half_from_f32(decoder, i, format, modes),
        (Kind::Single, Kind::Half(format)) => {
            modes.exact()?;
            convert(decoder, i, move |a: u16| sat32(flush(widen(a.into(), format))))
        }
        (Kind::Single, Kind::Single) => same_single(decoder, i, modes),
        (Kind::Double, Kind::Double) => match (modes.integral, modes.round) {
            (Some(round), None) => convert(decoder, i, move |a: f64| sat64(integral_f64(a, round))),
            (None, None) => convert(decoder, i, move |a: f64| sat64(a)),
            _ => Err("a rounding mode of an exact conversion".into()),
        },
        (Kind::Double, Kind::Single) => {
            modes.exact()?;
            convert(decoder, i, move |a: f32| sat64(f64_from_f32(flush(a))))
        }
        (Kind::Single, Kind::Double) => {
            for_round!(
                modes.need_round()?,
                r,
                convert(decoder, i, move |a: f64| sat32(flush(f32_from_f64(a, r.mode()))))
            )
        }
        (Kind::Half(format), Kind::Double) => {
            let round = modes.need_round()?;
            convert(decoder, i, move |a: f64| sat16(half_from_f64(a, format, round), format))
        }
        (Kind::Double, Kind::Half(format)) => {
            modes.exact()?;
            convert(decoder, i, move |a: u16| sat64(f64_from_f32(widen(a.into(), format))))
        }
        (Kind::Half(to), Kind::Half(from)) if to == from => match (modes.integral, modes.round) {
            (Some(round), None) => convert(decoder, i, move |a: u16| {
                let rounded = integral(widen(a.into(), from).into(), round);
                sat16(half_from_f64(rounded, to, Round::Rn), to)
            }),
            (None, None) => convert(decoder, i, move |a: u16| sat16(half::canonical(a, to), to)),
            _ => Err("a rounding mode of an exact conversion".into()),
        },
        (Kind::Half(to), Kind::Half(from)) => {
            let round = modes.need_round()?;
            convert(decoder, i, move |a: u16| {
                sat16(narrow(widen(a.into(), from), to, round, false) as u16, to)
            })
        }
        (Kind::Integer(_), _) | (_, Kind::Integer(_)) => Err("an integer".into()),
    }
}

fn integral_f64(x: f64, round: Round) -> f64 {
    // Adding 0 would lose the sign of -0; multiplying by 1 makes a NaN quiet and changes nothing else.
    float64::mul(integral(x, round), 1.0, Round::Rn)
}

/// `cvt.f32.f32`: to an integral value, or for `.ftz` and `.sat` alone.
fn same_single(decoder: &mut Decoder, i: &Instruction, modes: Modes) -> Decoded {
    let flags = Flags { round: modes.integral, ftz: modes.ftz, sat: modes.sat, ..PLAIN };
    match (modes.integral, modes.round) {
        (Some(_), None) => unary32(decoder, i, flags, float32::integral),
        (None, None) => unary32(decoder, i, flags, |a, _| float32::canonical(a)),
        _ => Err("a rounding mode of an exact conversion".into()),
    }
}

fn cvt_pack(decoder: &mut Decoder, i: &Instruction) -> Decoded {
    let mut modifiers = Modifiers::new(i);
    // The name has `pack` in it.
    modifiers.next();
    modifiers.need("saturation", &[("sat", ())])?;
    let integer = |bits, signed| Integer { bits, signed };
    let to = modifiers.need(
        "type",
        &[
            ("u16", integer(16, false)),
            ("s16", integer(16, true)),
            ("u8", integer(8, false)),
            ("s8", integer(8, true)),
            ("u4", integer(4, false)),
            ("s4", integer(4, true)),
            ("u2", integer(2, false)),
            ("s2", integer(2, true)),
        ],
    )?;
    modifiers.need("type of a and b", &[("s32", ())])?;
    let third = modifiers.flag("b32");
    modifiers.finish()?;
    match (to.bits, third) {
        (16, false) => binary(decoder, i, move |a: i32, b: i32| pack(a, b, 0, to)),
        (2 | 4 | 8, true) => ternary(decoder, i, move |a: i32, b: i32, c: u32| pack(a, b, c, to)),
        _ => Err(".b32 goes with the types of fewer than 16 bits".into()),
    }
}
