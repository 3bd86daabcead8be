//! Tensor maps that a kernel changes: `tensormap.replace`, `tensormap.cp_fenceproxy`.
//!
//! What is changed in this way is a tensor map from then on, in tiled mode, whatever it was before. That a changed map
//! is used only after a fence of the tensor map proxy is not checked.

use crate::decode::{Address, Decoder, Modifiers, Source, Unsupported};
use crate::lanes::{Done, LANES, Lanes, lanes_of};
use crate::machine::Context;
use crate::memory::{Kind, Scope, Space};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};
use crate::tensor::tma::Field;

/// Words that are accessed at once.
const WORDS: usize = 4;

/// A tensor map in each lane.
type Maps = Vec<Lanes<u32>>;

fn at(addresses: &Lanes<u64>, part: usize) -> Lanes<u64> {
    addresses.map(|it| it.wrapping_add(4 * WORDS as u64 * part as u64))
}

fn read_maps(cx: &mut Context, space: Space, addresses: &Lanes<u64>) -> Result<Maps, crate::machine::Stop> {
    let mut maps = vec![[0; LANES]; 128 / 4];
    for (part, words) in maps.chunks_mut(WORDS).enumerate() {
        cx.load(space, &at(addresses, part), 4 * WORDS as u32, Kind::READ, words)?;
    }
    Ok(maps)
}

fn write_maps(cx: &mut Context, space: Space, addresses: &Lanes<u64>, maps: &Maps) -> Done {
    maps.chunks(WORDS).enumerate().try_for_each(|(part, words)| {
        cx.store(space, &at(addresses, part), 4 * WORDS as u32, Kind::WRITE, words)
    })
}

/// The element types as `.elemtype` numbers them, which is not as a driver does (PTX ISA, "tensormap.replace").
const ELEMENTS: [Option<u64>; 11] =
    [Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), Some(7), None, Some(8), Some(9)];

/// What a field is replaced by.
#[derive(Clone, Copy)]
enum Value {
    Known(u64),
    Of(Source),
    /// One less than it.
    LessOne(Source),
}

/// The field that `.field` names, and the values of those that have to be immediate.
fn field(name: &str, value: &Operand) -> Result<(Field, Option<u64>), Unsupported> {
    let known = |values: &[Option<u64>]| match value {
        Operand::Integer(value) => {
            let code = usize::try_from(*value).ok().and_then(|it| values.get(it).copied().flatten());
            code.map(Some).ok_or_else(|| format!("value {value} of .{name}"))
        }
        _ => Err(format!("a value of .{name} that is not immediate")),
    };
    Ok(match name {
        "global_address" => (Field::ADDRESS, None),
        "rank" => (Field::RANK, None),
        "box_dim" => (Field::BOX_DIMS, None),
        "global_dim" => (Field::DIMS, None),
        "global_stride" => (Field::STRIDES, None),
        "element_stride" => (Field::ELEMENT_STRIDES, None),
        "elemtype" => (Field::ELEMENT, known(&ELEMENTS)?),
        "swizzle_mode" => (Field::SWIZZLE, known(&[Some(0), Some(1), Some(2), Some(3)])?),
        "fill_mode" => (Field::FILL, known(&[Some(0), Some(1)])?),
        // Of these two there is nothing else here.
        "interleave_layout" | "swizzle_atomicity" => (Field::MODE, known(&[Some(0)])?),
        _ => return Err(format!("field .{name}")),
    })
}

pub(super) fn replace(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("replace");
    modifiers.need("mode", &[("tile", ())])?;
    let name = modifiers.next().ok_or("no field")?;
    let space = modifiers.one_of(&[("global", Space::Global), ("shared::cta", Space::Shared)]);
    modifiers.need("size", &[("b1024", ())])?;
    let bytes = modifiers.need("type", &[("b32", 4), ("b64", 8)])?;
    modifiers.finish()?;
    if (bytes == 8) != matches!(name, "global_address" | "global_stride") {
        return Err(format!("type .b{} of .{name}", 8 * bytes));
    }
    let (address, index, value) = match &instruction.operands[..] {
        [address, value] => (address, 0, value),
        [address, Operand::Integer(index), value] => (address, *index as usize, value),
        _ => return Err("operands".into()),
    };
    let (field, known) = field(name, value)?;
    if (field.count > 1) != (instruction.operands.len() == 3) || index >= field.count {
        return Err(format!("ordinal {index} of .{name}"));
    }
    let value = match known {
        Some(value) => Value::Known(value),
        None if name == "rank" => Value::LessOne(decoder.source(value, bytes)?),
        None => Value::Of(decoder.source(value, bytes)?),
    };
    let (address, space) = (decoder.address(address)?, space.unwrap_or(Space::Generic));
    Ok(Action::run(move |cx| {
        let addresses = cx.addresses(&address);
        let values = match value {
            Value::Known(value) => [value; LANES],
            Value::Of(source) => cx.values(source).map(|it| it as u64),
            Value::LessOne(source) => cx.values(source).map(|it| (it as u64).saturating_add(1)),
        };
        let mut maps = read_maps(cx, space, &addresses)?;
        for lane in lanes_of(cx.mask) {
            let mut map = [0; 128];
            for (bytes, word) in map.chunks_exact_mut(4).zip(&maps) {
                bytes.copy_from_slice(&word[lane].to_le_bytes());
            }
            Field::MAGIC.set(&mut map, 0, Field::MAGIC_VALUE);
            Field::MODE.set(&mut map, 0, 0);
            field.set(&mut map, index, values[lane]);
            for (bytes, word) in map.as_chunks::<4>().0.iter().zip(&mut maps) {
                word[lane] = u32::from_le_bytes(*bytes);
            }
        }
        write_maps(cx, space, &addresses, &maps)
    }))
}

/// The warp copies a map from shared to global memory, and releases it to the tensor map proxy.
pub(super) fn copy(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    for name in ["cp_fenceproxy", "global", "shared::cta", "tensormap::generic", "release"] {
        modifiers.need("modifier", &[(name, ())])?;
    }
    modifiers.need("scope", &Scope::NAMES)?;
    for name in ["sync", "aligned"] {
        modifiers.need("modifier", &[(name, ())])?;
    }
    modifiers.finish()?;
    let [target, source, Operand::Integer(128)] = &instruction.operands[..] else {
        return Err("operands".into());
    };
    let (target, source): (Address, Address) = (decoder.address(target)?, decoder.address(source)?);
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let (targets, sources) = (cx.addresses(&target), cx.addresses(&source));
        // All lanes name the same map: one of them copies it.
        let all = cx.mask;
        cx.mask = 1 << all.trailing_zeros();
        let maps = read_maps(cx, Space::Shared, &sources)?;
        write_maps(cx, Space::Global, &targets, &maps)?;
        cx.mask = all;
        cx.end_epoch();
        Ok(())
    }))
}
