//! Copies and reductions of bytes in a row: `cp.async.bulk`, `cp.reduce.async.bulk`, `cp.async.bulk.prefetch`.

use crate::decode::{Address, Decoder, Modifiers, Unsupported};
use crate::fault::{Problem, SpaceName};
use crate::lanes::{Done, Reg, lanes_of};
use crate::machine::{Context, Stop, access};
use crate::memory::{CLUSTER_SHIFT, POISON, Space};
use crate::ops::async_store::{Operation, operation};
use crate::ops::atomic::{Operator, reduction};
use crate::ops::bulk::engine::{Reduction, Signal};
use crate::ops::bulk::said::{Said, Side};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::tensor::tma::Chunk;

/// Addresses and sizes are multiples of this.
const UNIT: u64 = 16;

/// Takes the operands that stand last: the cache policy, which changes nothing here, and what follows it.
pub(super) fn hints<'a>(
    decoder: &mut Decoder,
    policy: bool,
    operands: &'a [Operand],
) -> Result<&'a [Operand], Unsupported> {
    if !policy {
        return Ok(operands);
    }
    let [operands @ .., policy] = operands else { return Err("no cache policy".into()) };
    decoder.src64(policy)?;
    Ok(operands)
}

pub(super) fn copy(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("async");
    modifiers.flag("bulk");
    let said = Said::new(&mut modifiers)?;
    let (target, source) = said.direction()?;
    said.refuse(&[
        (said.multicast && (target, source) != (Side::Cluster, Side::Global), "multicast::cluster"),
        (said.byte_mask && target != Side::Global, "cp_mask"),
        (said.ignore_oob && target != Side::Block, "ignore_oob"),
        (said.policy && target != Side::Global && source != Side::Global, "L2::cache_hint"),
        (said.operation.is_some(), said.operation.unwrap_or_default()),
        (said.noftz, "noftz"),
        (said.ty.is_some(), "type"),
    ])?;
    said.refuse_tensor()?;
    match (target, source) {
        (Side::Global, _) => store(decoder, &said, &instruction.operands, None),
        (_, Side::Global) => load(decoder, &said, target, &instruction.operands),
        _ => send(decoder, &instruction.operands, None),
    }
}

pub(super) fn reduce(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    ["reduce", "async", "bulk"].iter().for_each(|it| {
        modifiers.flag(it);
    });
    let said = Said::new(&mut modifiers)?;
    let (target, source) = said.direction()?;
    said.refuse(&[
        (said.multicast, "multicast::cluster"),
        (said.byte_mask, "cp_mask"),
        (said.ignore_oob, "ignore_oob"),
        (source == Side::Global, "global as the source of a reduction"),
        (said.policy && target != Side::Global, "L2::cache_hint"),
    ])?;
    said.refuse_tensor()?;
    let name = said.operation.ok_or("no operation")?;
    let ty = said.ty.ok_or("no type")?;
    let element = ty.bytes() as usize;
    let unknown = || format!("operation .{name} on type {ty:?}");
    let is_half = matches!(ty, Type::F16 | Type::Bf16);
    if said.noftz != (is_half && name == "add") {
        return Err(format!(
            ".noftz must {}stand with .{name} of {ty:?}",
            if said.noftz { "not " } else { "" }
        ));
    }
    if target == Side::Global {
        let f = global_reduction(name, ty).ok_or_else(unknown)?;
        store(decoder, &said, &instruction.operands, Some(Reduction { f, element }))
    } else {
        let f = operation(name, ty).ok_or_else(unknown)?;
        send(decoder, &instruction.operands, Some(Reduction { f, element }))
    }
}

/// The reductions in global memory that the instruction has.
pub(super) fn global_reduction(name: &str, ty: Type) -> Option<Operator> {
    use Type::{B32, B64, Bf16, F16, F32, F64, S32, S64, U32, U64};
    let known = match name {
        "add" => matches!(ty, U32 | S32 | U64 | F32 | F64 | F16 | Bf16),
        "min" | "max" => matches!(ty, U32 | S32 | U64 | S64 | F16 | Bf16),
        "inc" | "dec" => ty == U32,
        _ => matches!(ty, B32 | B64),
    };
    reduction(name, ty).filter(|_| known)
}

/// The size of a copy, which all three of its ranges have.
fn check_size(lane: usize, bytes: u32) -> Result<u64, Stop> {
    let bytes = u64::from(bytes);
    if bytes.is_multiple_of(UNIT) {
        return Ok(bytes);
    }
    let what = format!("a bulk copy of {bytes} bytes (must be a multiple of {UNIT})");
    Err(Stop::lane(lane, Problem::Illegal(what)))
}

fn check_aligned(lane: usize, address: u64, bytes: u64, write: bool) -> Done {
    if address.is_multiple_of(UNIT) {
        return Ok(());
    }
    let access = access(write, SpaceName::Global, address, bytes);
    Err(Stop::lane(lane, Problem::Misaligned { access, align: UNIT }))
}

/// Where a copy to shared memory goes, and the `mbarrier` that it signals.
pub(super) struct Target {
    pub address: Address,
    pub mbarrier: Address,
    /// `.shared::cta`: both must be of the block itself.
    pub own: bool,
    /// The blocks that it goes to, by rank, instead of the one that the addresses are of.
    pub mask: Option<Reg<u32>>,
}

impl Target {
    /// The address that the copy writes to in each block that it goes to, and the blocks with their `mbarrier`s.
    pub fn places(
        &self,
        cx: &Context,
        lane: usize,
        bytes: u64,
        align: u64,
    ) -> Result<(u64, Vec<Signal>), Stop> {
        let (address, mbarrier) = (cx.addresses(&self.address)[lane], cx.addresses(&self.mbarrier)[lane]);
        let (rank, place) = cx.shared_place(lane, Space::Shared, address, bytes, align)?;
        let (owner, object) = cx.mbarrier_place(lane, Space::Shared, mbarrier)?;
        let refuse = |what: String| Err(Stop::lane(lane, Problem::Asynchronous(what)));
        if rank != owner {
            return refuse(format!(
                "a bulk copy to block rank {rank} that signals an mbarrier of block rank {owner}"
            ));
        }
        if self.own && rank != cx.warp.rank {
            return refuse(format!(
                "a bulk copy to .shared::cta of block rank {rank}, which is not the block itself"
            ));
        }
        let Some(mask) = self.mask else { return Ok((place, vec![Signal { rank, mbarrier: object }])) };
        let ranks = lanes_of(cx.get(mask)[lane] & 0xFFFF);
        let signals = ranks.map(|rank| {
            // Both lie at the same offset in each block.
            let there = |offset: u64| (rank as u64 + 1) << CLUSTER_SHIFT | offset;
            cx.shared_place(lane, Space::Shared, there(place), bytes, align)?;
            let (rank, mbarrier) = cx.mbarrier_place(lane, Space::Shared, there(object))?;
            Ok(Signal { rank, mbarrier })
        });
        Ok((place, signals.collect::<Result<_, Stop>>()?))
    }
}

fn load(decoder: &mut Decoder, said: &Said, side: Side, operands: &[Operand]) -> Result<Action, Unsupported> {
    let operands = hints(decoder, said.policy, operands)?;
    let (target, source, size, ignored, mbarrier, mask) = match operands {
        [target, source, size, mbarrier] if !said.multicast && !said.ignore_oob => {
            (target, source, size, None, mbarrier, None)
        }
        [target, source, size, left, right, mbarrier] if said.ignore_oob => {
            (target, source, size, Some((left, right)), mbarrier, None)
        }
        [target, source, size, mbarrier, mask] if said.multicast => {
            (target, source, size, None, mbarrier, Some(mask))
        }
        _ => return Err("operands".into()),
    };
    let target = Target {
        address: decoder.address(target)?,
        mbarrier: decoder.address(mbarrier)?,
        own: side == Side::Block,
        mask: mask.map(|mask| decoder.src32(mask)).transpose()?,
    };
    let (source, size) = (decoder.address(source)?, decoder.src32(size)?);
    let zero = decoder.constant32(0);
    let (left, right) = match ignored {
        Some((left, right)) => (decoder.src32(left)?, decoder.src32(right)?),
        None => (zero, zero),
    };
    Ok(Action::run(move |cx| {
        for lane in lanes_of(cx.mask) {
            let bytes = check_size(lane, cx.get(size)[lane])?;
            let from = cx.addresses(&source)[lane];
            check_aligned(lane, from, bytes, false)?;
            let (to, signals) = target.places(cx, lane, bytes, UNIT)?;
            let ignored = [cx.get(left)[lane], cx.get(right)[lane]];
            let chunks = with_ignored(to as u32, from, bytes as u32, ignored)
                .map_err(|problem| Stop::lane(lane, problem))?;
            cx.bulk_load(lane, &chunks, POISON, &signals)?;
        }
        Ok(())
    }))
}

/// The bytes of a copy, of which the first and the last few may lie out of bounds: what arrives of them is not known.
fn with_ignored(
    shared: u32,
    global: u64,
    bytes: u32,
    [left, right]: [u32; 2],
) -> Result<Vec<Chunk>, Problem> {
    if left > 15 || right > 15 || left + right > bytes {
        return Err(Problem::Illegal(format!(
            "a bulk copy of {bytes} bytes that ignores {left} on the left and {right} on the right (at most 15 each)"
        )));
    }
    let middle = bytes - left - right;
    let parts = [(0, left.min(bytes), false), (left, middle, true), (left + middle, right, false)];
    let chunk = |(offset, bytes, read): (u32, u32, bool)| Chunk {
        shared: shared + offset,
        global: read.then_some(global.wrapping_add(offset.into())),
        bytes,
    };
    Ok(parts.into_iter().filter(|(_, bytes, _)| *bytes > 0).map(chunk).collect())
}

fn send(
    decoder: &mut Decoder,
    operands: &[Operand],
    reduction: Option<Reduction<Operation>>,
) -> Result<Action, Unsupported> {
    let [target, source, size, mbarrier] = operands else { return Err("operands".into()) };
    let target = Target {
        address: decoder.address(target)?,
        mbarrier: decoder.address(mbarrier)?,
        own: false,
        mask: None,
    };
    let (source, size) = (decoder.address(source)?, decoder.src32(size)?);
    Ok(Action::run(move |cx| {
        for lane in lanes_of(cx.mask) {
            let bytes = check_size(lane, cx.get(size)[lane])?;
            let from = cx.shared_source(lane, (cx.addresses(&source)[lane], bytes), UNIT)?;
            let (to, signals) = target.places(cx, lane, bytes, UNIT)?;
            for signal in signals {
                if reduction.is_none() && signal.rank == cx.warp.rank {
                    let what =
                        "a bulk copy from .shared::cta to the block itself: it must go to another block";
                    return Err(Stop::lane(lane, Problem::Asynchronous(what.into())));
                }
                cx.bulk_send(lane, (from, to), bytes, signal, reduction)?;
            }
        }
        Ok(())
    }))
}

fn store(
    decoder: &mut Decoder,
    said: &Said,
    operands: &[Operand],
    reduction: Option<Reduction<Operator>>,
) -> Result<Action, Unsupported> {
    let (operands, mask) = match operands {
        [operands @ .., mask] if said.byte_mask => (operands, decoder.src32(mask)?),
        _ if said.byte_mask => return Err("no byte mask".into()),
        _ => (operands, decoder.constant32(0xFFFF)),
    };
    let [target, source, size] = hints(decoder, said.policy, operands)? else {
        return Err("operands".into());
    };
    let (target, source) = (decoder.address(target)?, decoder.address(source)?);
    let size = decoder.src32(size)?;
    // Reductions are how blocks of a launch speak to each other.
    decoder.communicates |= reduction.is_some();
    Ok(Action::run(move |cx| {
        for lane in lanes_of(cx.mask) {
            let bytes = check_size(lane, cx.get(size)[lane])?;
            let to = cx.addresses(&target)[lane];
            check_aligned(lane, to, bytes, true)?;
            let from = cx.shared_source(lane, (cx.addresses(&source)[lane], bytes), UNIT)?;
            let chunks = masked(from as u32, to, bytes as u32, cx.get(mask)[lane]);
            let writes = cx.bulk_store(lane, &chunks, reduction)?;
            cx.issue_store(lane, &chunks, writes)?;
        }
        Ok(())
    }))
}

/// The bytes of a copy of which, of each 16, those are written that the mask has.
fn masked(shared: u32, global: u64, bytes: u32, mask: u32) -> Vec<Chunk> {
    let chunk = |offset: u32, bytes| Chunk {
        shared: shared + offset,
        global: Some(global.wrapping_add(offset.into())),
        bytes,
    };
    if mask & 0xFFFF == 0xFFFF {
        return if bytes == 0 { Vec::new() } else { vec![chunk(0, bytes)] };
    }
    let units = (0..bytes).step_by(UNIT as usize);
    let written = |unit: u32| lanes_of(mask & 0xFFFF).map(move |byte| unit + byte as u32);
    units.flat_map(written).map(|offset| chunk(offset, 1)).collect()
}

pub(super) fn prefetch(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    ["async", "bulk", "prefetch"].iter().for_each(|it| {
        modifiers.flag(it);
    });
    modifiers.need("level", &[("L2", ())])?;
    modifiers.need("state space", &[("global", ())])?;
    let policy = modifiers.flag("L2::cache_hint");
    modifiers.finish()?;
    let [source, size] = hints(decoder, policy, &instruction.operands)? else {
        return Err("operands".into());
    };
    let (source, size) = (decoder.address(source)?, decoder.src32(size)?);
    Ok(Action::run(move |cx| {
        for lane in lanes_of(cx.mask) {
            let bytes = check_size(lane, cx.get(size)[lane])?;
            let address = cx.addresses(&source)[lane];
            check_aligned(lane, address, bytes, false)?;
            if bytes > 0 {
                cx.check_global(lane, address, bytes, false)?;
            }
        }
        Ok(())
    }))
}
