//! Stores to, and reductions in, the shared memory of a cluster's blocks that signal an `mbarrier` when they are done
//! (PTX ISA, "st.async", "red.async").

use crate::check::Completes;
use crate::count::Class;
use crate::decode::{Address, Decoder, Modifiers, Source, Unsupported};
use crate::fault::{Problem, SpaceName};
use crate::lanes::{Done, lanes_of};
use crate::machine::{Context, Effect, Landing, Stop, access};
use crate::memory::{Kind, Scope, Space, Strong, Target};
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Type};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "st.async",
        syntax: "st.async{.weak}{.shared::cluster}{.mbarrier::complete_tx::bytes}{.v2|.v4}.type [a], b, [mbar]",
        class: Class::Copy,
        decode: store,
    },
    Form {
        name: "red.async",
        syntax: "red.async{.relaxed}{.cluster}{.shared::cluster}{.mbarrier::complete_tx::bytes}.op.type [a], b, [mbar]",
        class: Class::Copy,
        decode: reduce,
    },
];

/// Where lanes write, and the `mbarrier` that they signal.
struct Places {
    target: Address,
    barrier: Address,
    space: Space,
}

/// Those of one lane: in the block of this rank.
struct Place {
    rank: usize,
    target: u64,
    barrier: u64,
}

impl Places {
    fn of(&self, cx: &Context, lane: usize, bytes: u64) -> Result<Place, Stop> {
        let (target, barrier) = (cx.addresses(&self.target)[lane], cx.addresses(&self.barrier)[lane]);
        let (rank, target) = cx.shared_place(lane, self.space, target, bytes, bytes)?;
        let (owner, barrier) = cx.mbarrier_place(lane, self.space, barrier)?;
        if rank != owner {
            let what = format!("a store to block rank {rank} that signals an mbarrier of block rank {owner}");
            return Err(Stop::lane(lane, Problem::Asynchronous(what)));
        }
        let access = access(true, SpaceName::Shared, target, bytes);
        let done = cx.check_flight(rank, &access, "");
        done.map(|()| Place { rank, target, barrier }).map_err(|problem| Stop::lane(lane, problem))
    }
}

fn places(
    decoder: &mut Decoder,
    instruction: &Instruction,
    modifiers: &mut Modifiers,
) -> Result<Places, Unsupported> {
    let space = if modifiers.flag("shared::cluster") { Space::Shared } else { Space::Generic };
    modifiers.flag("mbarrier::complete_tx::bytes");
    let [target, _, barrier] = &instruction.operands[..] else { return Err("operands".into()) };
    Ok(Places { target: decoder.address(target)?, barrier: decoder.address(barrier)?, space })
}

fn store(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("async");
    modifiers.flag("weak");
    let places = places(decoder, instruction, &mut modifiers)?;
    let vector = modifiers.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let elements = decoder.elements(&instruction.operands[1]);
    if elements.len() != vector {
        return Err(format!("{} registers for a vector of {vector}", elements.len()));
    }
    let size = ty.bytes() as usize;
    if !matches!(size, 4 | 8) || ty == Type::F16x2 || ty == Type::Bf16x2 || size * vector > 16 {
        return Err(format!("type .{}", instruction.modifiers.last().map_or("", String::as_str)));
    }
    let values: Vec<Source> =
        elements.iter().map(|it| decoder.source(it, size as u64)).collect::<Result<_, _>>()?;
    Ok(Action::run(move |cx| run_store(cx, &places, &values, size)))
}

fn run_store(cx: &mut Context, places: &Places, values: &[Source], size: usize) -> Done {
    let bytes = size * values.len();
    let values: Vec<_> = values.iter().map(|source| cx.values(*source)).collect();
    for lane in lanes_of(cx.mask) {
        let place = places.of(cx, lane, bytes as u64)?;
        let data =
            values.iter().flat_map(|values| values[lane].to_le_bytes().into_iter().take(size)).collect();
        let issuer = cx.issuer(lane);
        cx.cluster.blocks[place.rank].shared.begin_write(place.target, bytes as u64, issuer);
        let effect = Effect::Write { address: place.target, data, source: None };
        enqueue(cx, lane, &place, effect, bytes as u32, Kind::WRITE)?;
    }
    Ok(())
}

/// The operation begins, which writes `bytes`.
fn enqueue(cx: &mut Context, lane: usize, place: &Place, effect: Effect, bytes: u32, kind: Kind) -> Done {
    let completes = Completes::Mbarrier { rank: place.rank, address: place.barrier };
    let operation = cx.begin_operation(lane, completes);
    cx.operate(operation.as_ref(), Target::Shared(place.rank), place.target, bytes.into(), kind)?;
    let landing = Landing { effect, bytes, arrivals: 0, operation };
    let done = cx.cluster.enqueue(place.rank, place.barrier, landing);
    done.map_err(|problem| Stop::lane(lane, problem))
}

fn check_written(cx: &Context, lane: usize, place: &Place, bytes: u64) -> Done {
    let written = &cx.cluster.blocks[place.rank].shared.written;
    let range = place.target as usize..(place.target + bytes) as usize;
    if !cx.launch.options.checks.init || written[range].iter().all(|it| *it) {
        return Ok(());
    }
    let access = access(false, SpaceName::Shared, place.target, bytes);
    Err(Stop::lane(lane, Problem::Uninitialised { access }))
}

/// What a reduction does (PTX ISA, "red.async": `.relaxed.cluster`).
const ATOMIC: Kind =
    Kind { write: true, strong: Some(Strong { scope: Scope::Cluster, atomic: true, ..Strong::RELAXED }) };

/// The old value, and the operand.
pub(super) type Operation = fn(u64, u64) -> u64;

fn reduce(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("async");
    modifiers.flag("relaxed");
    modifiers.flag("cluster");
    let places = places(decoder, instruction, &mut modifiers)?;
    let name = modifiers.next().ok_or("no operation")?;
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let operation = operation(name, ty).ok_or_else(|| format!("operation .{name} of that type"))?;
    let bytes = ty.bytes();
    let value = decoder.source(&instruction.operands[1], bytes)?;
    Ok(Action::run(move |cx| {
        let values = cx.values(value);
        for lane in lanes_of(cx.mask) {
            let place = places.of(cx, lane, bytes)?;
            check_written(cx, lane, &place, bytes)?;
            let element = bytes as usize;
            let data = values[lane].to_le_bytes()[..element].to_vec();
            let effect = Effect::Reduce { address: place.target, element, data, f: operation, source: None };
            enqueue(cx, lane, &place, effect, bytes as u32, ATOMIC)?;
        }
        Ok(())
    }))
}

/// An operation on values of a type, which lie in the low bits.
pub(super) fn operation(name: &str, ty: Type) -> Option<Operation> {
    Some(match (name, ty) {
        ("inc", Type::U32) => |old, most| if old >= most { 0 } else { old + 1 },
        ("dec", Type::U32) => |old, most| if old == 0 || old > most { most } else { old - 1 },
        ("min", Type::U32) => |old, value| old.min(value),
        ("max", Type::U32) => |old, value| old.max(value),
        ("min", Type::S32) => |old, value| u64::from((old as i32).min(value as i32) as u32),
        ("max", Type::S32) => |old, value| u64::from((old as i32).max(value as i32) as u32),
        ("add", Type::U32 | Type::S32 | Type::U64) => |old, value| old.wrapping_add(value),
        ("and", Type::B32) => |old, value| old & value,
        ("or", Type::B32) => |old, value| old | value,
        ("xor", Type::B32) => |old, value| old ^ value,
        _ => return None,
    })
}
