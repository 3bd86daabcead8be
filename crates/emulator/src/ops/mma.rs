//! Matrix products of a warp (PTX ISA, "Warp-level Matrix Instructions: mma").

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::lanes::{Done, LANES, Lanes, Reg};
use crate::machine::{Context, Stop};
use crate::ops::{Decode, Form, mma_rare};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};
use crate::tensor::mma::{Shape, mma as multiply};
use crate::tensor::{Accumulator, Element};

pub(crate) const FORMS: &[Form] = &[Form {
    name: "mma",
    syntax: "mma.sync.aligned.shape.row.col{.satfinite}.dtype.atype.btype.ctype d, a, b, c, \
             with shape m16n8k4 (tf32), m16n8k8 (f16, bf16, tf32), m16n8k16 (f16, bf16, e4m3, e5m2, s8, u8), \
             m16n8k32 (e4m3, e5m2, s8, u8, s4, u4), m16n8k64 (s4, u4), m8n8k16 (s8, u8), m8n8k32 (s4, u4); \
             mma.sync.aligned.shape.row.col.f64.f64.f64.f64, with shape m8n8k4, m16n8k4, m16n8k8, m16n8k16; \
             mma.sync.aligned.shape.row.col.s32.b1.b1.s32.xor|.and.popc, with shape m8n8k128, m16n8k128, m16n8k256",
    class: Class::Matrix,
    decode: |decoder, instruction| match instruction.modifiers.iter().find_map(|it| rare(it)) {
        Some(decode) => decode(decoder, instruction),
        None => mma(decoder, instruction),
    },
}];

/// What decodes a product of a type that goes a way of its own.
fn rare(modifier: &str) -> Option<Decode> {
    match modifier {
        "f64" => Some(mma_rare::double),
        "b1" => Some(mma_rare::bits),
        _ => None,
    }
}

/// The types of multiplicands by name.
pub(super) const ELEMENTS: [(&str, Element); 9] = [
    ("f16", Element::F16),
    ("bf16", Element::Bf16),
    ("tf32", Element::Tf32),
    ("e4m3", Element::E4m3),
    ("e5m2", Element::E5m2),
    ("s8", Element::S8),
    ("u8", Element::U8),
    ("s4", Element::S4),
    ("u4", Element::U4),
];

/// Takes the type of an accumulator.
pub(super) fn accumulator(modifiers: &mut Modifiers, satfinite: bool) -> Result<Accumulator, Unsupported> {
    let s32 = if satfinite { Accumulator::S32Satfinite } else { Accumulator::S32 };
    modifiers.need("accumulator", &[("f16", Accumulator::F16), ("f32", Accumulator::F32), ("s32", s32)])
}

fn mma(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    const SHAPES: [(&str, (usize, usize)); 7] = [
        ("m16n8k4", (16, 4)),
        ("m16n8k8", (16, 8)),
        ("m16n8k16", (16, 16)),
        ("m16n8k32", (16, 32)),
        ("m16n8k64", (16, 64)),
        ("m8n8k16", (8, 16)),
        ("m8n8k32", (8, 32)),
    ];
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("modifier", &[("sync", ())])?;
    modifiers.need("modifier", &[("aligned", ())])?;
    let (m, k) = modifiers.need("shape", &SHAPES)?;
    modifiers.need("layout of a", &[("row", ())])?;
    modifiers.need("layout of b", &[("col", ())])?;
    let satfinite = modifiers.flag("satfinite");
    let d_type = accumulator(&mut modifiers, satfinite)?;
    let a_type = modifiers.need("type of a", &ELEMENTS)?;
    let b_type = modifiers.need("type of b", &ELEMENTS)?;
    let c_type = accumulator(&mut modifiers, satfinite)?;
    modifiers.finish()?;
    let shape =
        Shape::new(m, k, a_type, b_type, c_type, d_type).filter(|_| !satfinite || a_type.is_integer());
    let shape = shape.ok_or("a shape that these types have not")?;

    let [d, a, b, c] = &instruction.operands[..] else { return Err("operands".into()) };
    let d = targets(decoder, d, shape.d_registers())?;
    let a = sources(decoder, a, shape.a_registers())?;
    let b = sources(decoder, b, shape.b_registers())?;
    let c = sources(decoder, c, shape.c_registers())?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let mut out = [[0; LANES]; 4];
        let (a, b, c) = (cx.gather::<4>(&a), cx.gather::<2>(&b), cx.gather::<4>(&c));
        multiply(&shape, &a, &b, &c, &mut out);
        for (register, values) in d.iter().zip(&out) {
            cx.set(*register, values);
        }
        cx.profile.instructions[cx.pc].tensor_operations += 2 * shape.products();
        Ok(())
    }))
}

/// The registers of a fragment that is read.
pub(super) fn sources(
    decoder: &mut Decoder,
    operand: &Operand,
    count: usize,
) -> Result<Vec<Reg<u32>>, Unsupported> {
    fragment(decoder, operand, count)?.iter().map(|element| decoder.src32(element)).collect()
}

/// The registers of a fragment that is written.
pub(super) fn targets(
    decoder: &mut Decoder,
    operand: &Operand,
    count: usize,
) -> Result<Vec<Reg<u32>>, Unsupported> {
    fragment(decoder, operand, count)?.iter().map(|element| decoder.dst32(element)).collect()
}

pub(super) fn fragment(
    decoder: &Decoder,
    operand: &Operand,
    count: usize,
) -> Result<Vec<Operand>, Unsupported> {
    let elements = decoder.elements(operand);
    if elements.len() != count {
        return Err(format!("{} registers for a fragment of {count}", elements.len()));
    }
    Ok(elements)
}

impl Context<'_> {
    /// Waits until all lanes are here. None may have exited, or be missing from the start.
    pub fn whole_warp(&self) -> Done {
        let missing = !self.live();
        if missing != 0 {
            let what =
                format!("an instruction of a whole warp, of which the lanes {missing:#010x} do not exist");
            return Err(Stop::warp(Problem::Synchronisation(what)));
        }
        self.converge(u32::MAX)
    }

    /// The values of several registers; those beyond them are 0.
    #[inline]
    pub fn gather<const N: usize>(&self, registers: &[Reg<u32>]) -> [Lanes<u32>; N] {
        let mut out = [[0; LANES]; N];
        for (out, register) in out.iter_mut().zip(registers) {
            *out = *self.get(*register);
        }
        out
    }
}
