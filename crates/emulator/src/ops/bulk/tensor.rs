//! Copies and reductions of parts of tensors: `cp.async.bulk.tensor`, `cp.reduce.async.bulk.tensor`,
//! `cp.async.bulk.prefetch.tensor`.

use crate::decode::{Address, Decoder, Modifiers, Unsupported};
use crate::fault::{Problem, SpaceName};
use crate::lanes::{Reg, lanes_of};
use crate::machine::{Context, Stop, access};
use crate::memory::Space;
use crate::ops::atomic::Operator;
use crate::ops::bulk::copy::{Target, global_reduction, hints};
use crate::ops::bulk::engine::Reduction;
use crate::ops::bulk::said::{DIMENSIONS, Load, Said, Side};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::tensor::tma::{Chunk, TensorElement, TensorMap};

/// What is copied lies in shared memory at multiples of this (CUDA C++ Programming Guide, "Tensor Memory Access").
const SHARED_ALIGN: u64 = 128;

/// Tensor maps lie at multiples of this (`CUtensorMap` in `cuda.h`).
const MAP_ALIGN: u64 = 64;

/// Which part of a tensor, as operands name it.
struct Part {
    map: Address,
    coordinates: Vec<Reg<u32>>,
    offsets: Vec<Reg<u32>>,
    dimensions: usize,
    load: Load,
}

impl Part {
    fn new(
        decoder: &mut Decoder,
        said: &Said,
        operand: &Operand,
        offsets: Option<&Operand>,
    ) -> Result<Part, Unsupported> {
        let Operand::TensorAddress(_, _, groups) = operand else {
            return Err("operands: no coordinates".into());
        };
        let [coordinates] = &groups[..] else { return Err("operands: several lists of coordinates".into()) };
        let dimensions = said.dimensions.ok_or("no dimension")?;
        let load = said.load.unwrap_or(Load::Tile);
        let (wanted, is_possible) = match load {
            Load::Tile => (dimensions, true),
            Load::Gather | Load::Scatter => (5, dimensions == 2),
            Load::Im2col | Load::Im2colNoOffsets => (dimensions, dimensions >= 3),
        };
        if !is_possible {
            return Err(format!("modifier .{dimensions}d in this mode"));
        }
        let offsets = match offsets {
            Some(offsets) => decoder.elements(offsets),
            None => Vec::new(),
        };
        let wanted_offsets = if load == Load::Im2col { dimensions - 2 } else { 0 };
        if coordinates.len() != wanted || offsets.len() != wanted_offsets {
            return Err(format!(
                "{} coordinates and {} offsets (must be {wanted} and {wanted_offsets})",
                coordinates.len(),
                offsets.len()
            ));
        }
        let mut values =
            |all: &[Operand]| all.iter().map(|it| decoder.src32(it)).collect::<Result<Vec<_>, _>>();
        let (coordinates, offsets) = (values(coordinates)?, values(&offsets)?);
        Ok(Part { map: decoder.address(operand)?, coordinates, offsets, dimensions, load })
    }

    /// The map, which must be one of as many dimensions.
    fn map(&self, cx: &mut Context, lane: usize) -> Result<TensorMap, Stop> {
        let address = cx.addresses(&self.map)[lane];
        let map = cx.tensor_map(lane, address)?;
        if map.dims.len() == self.dimensions {
            return Ok(map);
        }
        let rank = map.dims.len();
        Err(illegal(lane, format!("a copy of {} dimensions with a tensor map of {rank}", self.dimensions)))
    }

    fn bytes(&self, map: &TensorMap) -> u64 {
        let rows = if matches!(self.load, Load::Gather | Load::Scatter) { 4 } else { 1 };
        rows * map.box_bytes()
    }

    /// What goes where; the bytes in shared memory are known to exist.
    fn chunks(&self, cx: &Context, lane: usize, map: &TensorMap, shared: u64) -> Result<Vec<Chunk>, Stop> {
        let at: Vec<i32> = self.coordinates.iter().map(|it| cx.get(*it)[lane] as i32).collect();
        let offsets: Vec<u16> = self.offsets.iter().map(|it| cx.get(*it)[lane] as u16).collect();
        let shared = shared as u32;
        let (chunks, must) = match (self.load, &at[..]) {
            (Load::Tile, at) => (map.chunks(at, shared), "be tiled"),
            (Load::Gather | Load::Scatter, [column, rows @ ..]) => {
                let rows = std::array::from_fn(|i| rows.get(i).copied().unwrap_or(0));
                (map.chunks_of_rows(*column, rows, shared), "have boxes of one row")
            }
            (_, at) => (
                map.chunks_im2col(at, &offsets, shared),
                "be of im2col mode, and the first pixel within its corners",
            ),
        };
        chunks.ok_or_else(|| illegal(lane, format!("a tensor map at coordinates {at:?}, which must {must}")))
    }
}

fn illegal(lane: usize, what: String) -> Stop {
    Stop::lane(lane, Problem::Illegal(what))
}

impl Context<'_> {
    /// The tensor map at a generic address, in global, constant or parameter memory.
    fn tensor_map(&mut self, lane: usize, address: u64) -> Result<TensorMap, Stop> {
        let mut access = access(false, SpaceName::Global, address, 128);
        let Some((space, offset)) = Space::Generic.locate(address) else {
            access.space = None;
            return Err(Stop::lane(lane, Problem::WrongSpace { access }));
        };
        (access.space, access.address) = (Some(space), offset);
        if !offset.is_multiple_of(MAP_ALIGN) {
            return Err(Stop::lane(lane, Problem::Misaligned { access, align: MAP_ALIGN }));
        }
        let within = |memory: &[u8]| {
            let bytes = memory.get(offset as usize..)?.first_chunk::<128>();
            bytes.copied()
        };
        let (bytes, length) = match space {
            SpaceName::Global => {
                self.check_global(lane, offset, 128, false)?;
                self.check_global_written(lane, offset, 128)?;
                (self.global.read(offset, 128).first_chunk().copied(), 0)
            }
            SpaceName::Param => (within(self.launch.params), self.launch.params.len()),
            SpaceName::Const => {
                let constants = &self.launch.program.constants.bytes;
                (within(constants), constants.len())
            }
            SpaceName::Shared | SpaceName::Local => {
                return Err(Stop::lane(lane, Problem::WrongSpace { access }));
            }
        };
        let Some(bytes) = bytes else {
            let nearest = format!("there are {length} bytes");
            return Err(Stop::lane(lane, Problem::OutOfBounds { access, nearest }));
        };
        TensorMap::decode(&bytes).map_err(|error| illegal(lane, error.to_string()))
    }
}

/// Takes the modifiers, which those of copies in a row are not among.
fn said<'a>(modifiers: &mut Modifiers<'a>) -> Result<Said<'a>, Unsupported> {
    modifiers.flag("tensor");
    let said = Said::new(modifiers)?;
    said.refuse(&[
        (said.byte_mask, "cp_mask"),
        (said.ignore_oob, "ignore_oob"),
        (said.noftz, "noftz"),
        (said.ty.is_some(), "type"),
    ])?;
    Ok(said)
}

pub(super) fn copy(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("async");
    modifiers.flag("bulk");
    let said = said(&mut modifiers)?;
    let (target, source) = said.direction()?;
    said.refuse(&[
        (said.operation.is_some(), said.operation.unwrap_or_default()),
        (said.multicast && target != Side::Cluster, "multicast::cluster"),
        (said.cta_group && target == Side::Global, "cta_group::1"),
    ])?;
    let fits = match said.load {
        Some(Load::Gather | Load::Im2col) => target != Side::Global,
        Some(Load::Scatter | Load::Im2colNoOffsets) => target == Side::Global,
        Some(Load::Tile) | None => true,
    };
    if !fits {
        return Err("a mode that this direction has not".into());
    }
    match (target, source) {
        (Side::Global, _) => store(decoder, &said, &instruction.operands, None),
        (_, Side::Global) => load(decoder, &said, target, &instruction.operands),
        _ => Err("a direction that tensor copies have not".into()),
    }
}

fn load(decoder: &mut Decoder, said: &Said, side: Side, operands: &[Operand]) -> Result<Action, Unsupported> {
    let [target, map, mbarrier, rest @ ..] = hints(decoder, said.policy, operands)? else {
        return Err("operands".into());
    };
    let (offsets, mask) = match rest {
        [] if !said.multicast => (None, None),
        [offsets] if !said.multicast => (Some(offsets), None),
        [mask] if said.multicast => (None, Some(mask)),
        [offsets, mask] if said.multicast => (Some(offsets), Some(mask)),
        _ => return Err("operands".into()),
    };
    let part = Part::new(decoder, said, map, offsets)?;
    let target = Target {
        address: decoder.address(target)?,
        mbarrier: decoder.address(mbarrier)?,
        own: side == Side::Block,
        mask: mask.map(|mask| decoder.src32(mask)).transpose()?,
    };
    Ok(Action::run(move |cx| {
        for lane in lanes_of(cx.mask) {
            let map = part.map(cx, lane)?;
            let (to, signals) = target.places(cx, lane, part.bytes(&map), SHARED_ALIGN)?;
            let chunks = part.chunks(cx, lane, &map, to)?;
            cx.bulk_load(lane, &chunks, map.fill()[0], &signals)?;
        }
        Ok(())
    }))
}

pub(super) fn reduce(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    ["reduce", "async", "bulk"].iter().for_each(|it| {
        modifiers.flag(it);
    });
    let said = said(&mut modifiers)?;
    let (target, _) = said.direction()?;
    said.refuse(&[(said.multicast, "multicast::cluster"), (said.cta_group, "cta_group::1")])?;
    if target != Side::Global {
        return Err("a direction that reductions of tensors have not".into());
    }
    if !matches!(said.load, None | Some(Load::Tile | Load::Im2colNoOffsets)) {
        return Err("a mode that reductions have not".into());
    }
    let name = said.operation.ok_or("no operation")?;
    // Reductions are how blocks of a launch speak to each other.
    decoder.communicates = true;
    store(decoder, &said, &instruction.operands, Some(name.to_owned()))
}

/// What a reduction of this name makes of elements of a type.
fn operator(name: &str, element: TensorElement) -> Option<Operator> {
    let ty = match element {
        TensorElement::U32 => Type::U32,
        TensorElement::S32 => Type::S32,
        TensorElement::U64 => Type::U64,
        TensorElement::S64 => Type::S64,
        TensorElement::F16 => Type::F16,
        TensorElement::Bf16 => Type::Bf16,
        TensorElement::F32 => Type::F32,
        TensorElement::U8 | TensorElement::U16 | TensorElement::F64 => return None,
    };
    let ty = match (name, ty) {
        ("and" | "or" | "xor", Type::U32 | Type::S32) => Type::B32,
        ("and" | "or" | "xor", Type::U64 | Type::S64) => Type::B64,
        (_, ty) => ty,
    };
    global_reduction(name, ty)
}

fn store(
    decoder: &mut Decoder,
    said: &Said,
    operands: &[Operand],
    operation: Option<String>,
) -> Result<Action, Unsupported> {
    let [map, source] = hints(decoder, said.policy, operands)? else { return Err("operands".into()) };
    let part = Part::new(decoder, said, map, None)?;
    let source = decoder.address(source)?;
    Ok(Action::run(move |cx| {
        for lane in lanes_of(cx.mask) {
            let map = part.map(cx, lane)?;
            let reduction = match &operation {
                None => None,
                Some(name) => {
                    let f = operator(name, map.element).ok_or_else(|| {
                        illegal(lane, format!("a reduction .{name} of elements {:?}", map.element))
                    })?;
                    Some(Reduction { f, element: map.element.bytes() as usize })
                }
            };
            let range = (cx.addresses(&source)[lane], part.bytes(&map));
            let from = cx.shared_source(lane, range, SHARED_ALIGN)?;
            let chunks = part.chunks(cx, lane, &map, from)?;
            let writes = cx.bulk_store(lane, &chunks, reduction)?;
            cx.issue_store(lane, &chunks, writes)?;
        }
        Ok(())
    }))
}

pub(super) fn prefetch(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    ["async", "bulk", "prefetch", "tensor"].iter().for_each(|it| {
        modifiers.flag(it);
    });
    let dimensions = Some(modifiers.need("dimension", &DIMENSIONS)?);
    modifiers.need("level", &[("L2", ())])?;
    let mut said = said(&mut modifiers)?;
    said.dimensions = dimensions;
    let other = [
        (said.operation.is_some(), said.operation.unwrap_or_default()),
        (said.multicast, "multicast::cluster"),
        (said.cta_group, "cta_group::1"),
    ];
    said.refuse(&other)?;
    if !said.is_prefetch() {
        return Err("a prefetch from anywhere but .global, or with a completion mechanism".into());
    }
    if matches!(said.load, Some(Load::Scatter | Load::Im2colNoOffsets)) {
        return Err("a mode that prefetches have not".into());
    }
    let (map, offsets) = match hints(decoder, said.policy, &instruction.operands)? {
        [map] => (map, None),
        [map, offsets] => (map, Some(offsets)),
        _ => return Err("operands".into()),
    };
    let part = Part::new(decoder, &said, map, offsets)?;
    Ok(Action::run(move |cx| {
        for lane in lanes_of(cx.mask) {
            part.map(cx, lane)?;
        }
        Ok(())
    }))
}
