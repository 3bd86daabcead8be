//! Matrix products of a warp that are rare (PTX ISA, "Warp-level Matrix Instructions: mma", "mma.sp").

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, OperandWord, Unsupported};
use crate::fault::Problem;
use crate::lanes::{Reg, Word};
use crate::machine::{Context, Stop};
use crate::ops::Form;
use crate::ops::mma::{ELEMENTS, accumulator, fragment, sources, targets};
use crate::ops::value::operands;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};
use crate::tensor::rare::{self, Bitwise, Sparse};

const SPARSE: &str = "mma.sp{::ordered_metadata}.sync.aligned.shape.row.col{.satfinite}.dtype.atype.btype.ctype \
                      d, a, b, c, metadata, selector, with shape m16n8k8 (tf32), m16n8k16 (tf32, f16, bf16), \
                      m16n8k32 (f16, bf16, e4m3, e5m2, s8, u8), m16n8k64 (e4m3, e5m2, s8, u8, s4, u4), m16n8k128 (s4, u4)";

pub(crate) const FORMS: &[Form] = &[
    Form { name: "mma.sp", syntax: SPARSE, class: Class::Matrix, decode: sparse },
    Form {
        name: "mma.sp::ordered_metadata",
        syntax: "mma.sp::ordered_metadata, as mma.sp",
        class: Class::Matrix,
        decode: sparse,
    },
];

/// Takes `.sync.aligned`, the shape, of which it gives the blocks of 8 rows and k, and `.row.col`.
fn shape(
    modifiers: &mut Modifiers,
    shapes: &[(&str, (usize, usize))],
) -> Result<(usize, usize), Unsupported> {
    modifiers.need("modifier", &[("sync", ())])?;
    modifiers.need("modifier", &[("aligned", ())])?;
    let shape = modifiers.need("shape", shapes)?;
    modifiers.need("layout of a", &[("row", ())])?;
    modifiers.need("layout of b", &[("col", ())])?;
    Ok(shape)
}

/// The registers of a fragment.
fn registers<W: OperandWord>(
    decoder: &mut Decoder,
    operand: &Operand,
    count: usize,
    of: fn(&mut Decoder, &Operand) -> Result<Reg<W>, Unsupported>,
) -> Result<Vec<Reg<W>>, Unsupported> {
    fragment(decoder, operand, count)?.iter().map(|element| of(decoder, element)).collect()
}

/// What the lanes hold in registers of 32 bits or 64.
fn values<W: Word + Into<u64>>(cx: &Context, registers: &[Reg<W>]) -> Vec<[u64; 32]> {
    registers.iter().map(|it| cx.get(*it).map(Into::into)).collect()
}

/// `.f64`
pub(super) fn double(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    const SHAPES: [(&str, (usize, usize)); 4] =
        [("m8n8k4", (1, 4)), ("m16n8k4", (2, 4)), ("m16n8k8", (2, 8)), ("m16n8k16", (2, 16))];
    let mut modifiers = Modifiers::new(instruction);
    let (blocks, k) = shape(&mut modifiers, &SHAPES)?;
    for _ in 0..4 {
        modifiers.need("type", &[("f64", ())])?;
    }
    modifiers.finish()?;
    let [d, a, b, c] = &instruction.operands[..] else { return Err(operands(4, instruction)) };
    let d = registers(decoder, d, 2 * blocks, u64::dst)?;
    let a = registers(decoder, a, blocks * k / 4, u64::src)?;
    let b = registers(decoder, b, k / 4, u64::src)?;
    let c = registers(decoder, c, 2 * blocks, u64::src)?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let product = rare::double(blocks, &values(cx, &a), &values(cx, &b), &values(cx, &c));
        for (register, values) in d.iter().zip(&product) {
            cx.set(*register, values);
        }
        cx.profile.instructions[cx.pc].tensor_operations += 2 * (8 * blocks * 8 * k) as u64;
        Ok(())
    }))
}

/// `.b1`
pub(super) fn bits(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    const SHAPES: [(&str, (usize, usize)); 3] =
        [("m8n8k128", (1, 128)), ("m16n8k128", (2, 128)), ("m16n8k256", (2, 256))];
    let mut modifiers = Modifiers::new(instruction);
    let (blocks, k) = shape(&mut modifiers, &SHAPES)?;
    for name in ["s32", "b1", "b1", "s32"] {
        modifiers.need("type", &[(name, ())])?;
    }
    let of = modifiers.need("operation", &[("and", Bitwise::And), ("xor", Bitwise::Xor)])?;
    modifiers.need("operation", &[("popc", ())])?;
    modifiers.finish()?;
    let [d, a, b, c] = &instruction.operands[..] else { return Err(operands(4, instruction)) };
    let d = targets(decoder, d, 2 * blocks)?;
    let a = sources(decoder, a, blocks * k / 128)?;
    let b = sources(decoder, b, k / 128)?;
    let c = sources(decoder, c, 2 * blocks)?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let product = rare::bits(of, blocks, &values(cx, &a), &values(cx, &b), &values(cx, &c));
        for (register, values) in d.iter().zip(&product) {
            cx.set(*register, &values.map(|it| it as u32));
        }
        cx.profile.instructions[cx.pc].tensor_operations += 2 * (8 * blocks * 8 * k) as u64;
        Ok(())
    }))
}

/// `mma.sp`
fn sparse(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    const SHAPES: [(&str, (usize, usize)); 5] = [
        ("m16n8k8", (2, 8)),
        ("m16n8k16", (2, 16)),
        ("m16n8k32", (2, 32)),
        ("m16n8k64", (2, 64)),
        ("m16n8k128", (2, 128)),
    ];
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("modifier", &[("sp", ()), ("sp::ordered_metadata", ())])?;
    let (_, k) = shape(&mut modifiers, &SHAPES)?;
    let satfinite = modifiers.flag("satfinite");
    let d_type = accumulator(&mut modifiers, satfinite)?;
    let a_type = modifiers.need("type of a", &ELEMENTS)?;
    let b_type = modifiers.need("type of b", &ELEMENTS)?;
    let c_type = accumulator(&mut modifiers, satfinite)?;
    modifiers.finish()?;
    let shape = Sparse::new(k, a_type, b_type, c_type, d_type).filter(|_| !satfinite || a_type.is_integer());
    let shape = shape.ok_or("a shape that these types have not")?;

    let [d, a, b, c, metadata, selector] = &instruction.operands[..] else {
        return Err(operands(6, instruction));
    };
    let selector = match selector {
        Operand::Integer(value) if *value < shape.selectors() => *value as usize,
        _ => return Err(format!("a sparsity selector that is no constant below {}", shape.selectors())),
    };
    let d = targets(decoder, d, 2 * d_type.registers_per_block())?;
    let a = sources(decoder, a, shape.a_registers())?;
    let b = sources(decoder, b, shape.b_registers())?;
    let c = sources(decoder, c, 2 * c_type.registers_per_block())?;
    let metadata = decoder.src32(metadata)?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let c = cx.gather::<4>(&c);
        let c = &c[..2 * c_type.registers_per_block()];
        let product = shape.multiply(&values(cx, &a), &values(cx, &b), c, cx.get(metadata), selector);
        let product = product.map_err(|row| {
            Stop::warp(Problem::Illegal(format!("the metadata of row {row} tells no elements")))
        })?;
        for (register, values) in d.iter().zip(&product) {
            cx.set(*register, values);
        }
        // As many as are done: half of those of the shape.
        cx.profile.instructions[cx.pc].tensor_operations += (16 * 8 * k) as u64;
        Ok(())
    }))
}
