//! Exchange between the lanes of a warp (PTX ISA, "shfl.sync", "vote.sync", "match.sync", "redux.sync", "elect.sync",
//! "activemask").

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::lanes::{Done, LANES, Lanes, Pred, Reg, Word, each1, lanes_of};
use crate::machine::{Context, Stop};
use crate::num::float32;
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "shfl",
        syntax: "shfl.sync.up|.down|.bfly|.idx.b32 d{|p}, a, b, c, mask",
        class: Class::Warp,
        decode: shuffle,
    },
    Form {
        name: "vote",
        syntax: "vote.sync.all|.any|.uni.pred p, {!}a, mask; vote.sync.ballot.b32 d, {!}a, mask",
        class: Class::Warp,
        decode: vote,
    },
    Form {
        name: "match",
        syntax: "match.any.sync.b32|.b64 d, a, mask; match.all.sync.b32|.b64 d{|p}, a, mask",
        class: Class::Warp,
        decode: matching,
    },
    Form {
        name: "redux",
        syntax: "redux.sync.add|.min|.max.u32|.s32 d, a, mask; redux.sync.and|.or|.xor.b32 d, a, mask; redux.sync.min|.max{.abs}{.NaN}.f32 d, a, mask",
        class: Class::Warp,
        decode: reduce,
    },
    Form { name: "elect", syntax: "elect.sync d|p, mask", class: Class::Warp, decode: elect },
    Form { name: "activemask", syntax: "activemask.b32 d", class: Class::Warp, decode: active_mask },
];

/// What a lane gets that reads from one that gives nothing, where that is not checked.
const UNDEFINED: u32 = u32::MAX;

/// `.sync`, without which these instructions ended with compute capability 7.0.
fn need_sync(modifiers: &mut Modifiers) -> Result<(), Unsupported> {
    if modifiers.flag("sync") { Ok(()) } else { Err("without .sync, which sm_70 and later need".into()) }
}

/// Acts for each set of lanes that name the same mask, with these as the active ones, once all of them are here.
#[inline(always)]
fn together(cx: &mut Context, mask: Reg<u32>, mut act: impl FnMut(&mut Context) -> Done) -> Done {
    let all_named = cx.get(mask).iter().fold(u32::MAX, |all, mask| all & mask);
    if cx.mask & all_named == u32::MAX {
        return act(cx);
    }
    by_masks(cx, mask, &mut act)
}

fn by_masks(cx: &mut Context, mask: Reg<u32>, act: &mut dyn FnMut(&mut Context) -> Done) -> Done {
    let masks = *cx.get(mask);
    cx.check_membership(&masks)?;
    let active = cx.mask;
    let (mut rest, mut late) = (active, 0);
    while rest != 0 {
        let first = rest.trailing_zeros() as usize;
        let mask = masks[first];
        let group = lanes_where(rest, |lane| masks[lane] == mask);
        rest &= !group;
        if let Some(other) = lanes_of(mask & active & !group).next() {
            let what = format!(
                "lanes of one mask name different masks: lane {first} {mask:#010x}, lane {other} {:#010x}",
                masks[other]
            );
            return Err(Stop::lane(first, Problem::Synchronisation(what)));
        }
        cx.mask = group;
        match cx.converge(mask) {
            Ok(()) => act(cx)?,
            Err(_) => late |= group,
        }
    }
    // Those whose group is complete are done, the others come here again.
    cx.mask = if late == 0 { active } else { late };
    match lanes_of(late).next() {
        None => Ok(()),
        Some(lane) => cx.converge(masks[lane]),
    }
}

fn lanes_where(mask: u32, holds: impl Fn(usize) -> bool) -> u32 {
    lanes_of(mask).filter(|lane| holds(*lane)).fold(0, |lanes, lane| lanes | 1 << lane)
}

/// A destination `d` or `d|p`.
fn parts(operand: &Operand) -> (&Operand, Option<&Operand>) {
    match operand {
        Operand::Pair(d, p) => (d, Some(p)),
        d => (d, None),
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
    Butterfly,
    Index,
}

/// Whom each lane reads from.
#[derive(Clone, Copy)]
struct Sources {
    lanes: Lanes<u32>,
    /// The lanes that read from where they mean to, and not from themselves because that is out of range.
    in_range: u32,
}

impl Sources {
    fn new(direction: Direction, b: &Lanes<u32>, c: &Lanes<u32>) -> Sources {
        let mut sources = Sources { lanes: [0; LANES], in_range: 0 };
        for lane in 0..LANES as u32 {
            let (b, c) = (b[lane as usize] & 31, c[lane as usize]);
            let (clamp, segment) = (c & 31, c >> 8 & 31);
            let first = lane & segment;
            let last = first | clamp & !segment;
            let (source, in_range) = match direction {
                Direction::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= last as i32),
                Direction::Down => (lane + b, lane + b <= last),
                Direction::Butterfly => (lane ^ b, lane ^ b <= last),
                Direction::Index => (first | b & !segment, first | b & !segment <= last),
            };
            sources.lanes[lane as usize] = if in_range { source & 31 } else { lane };
            sources.in_range |= u32::from(in_range) << lane;
        }
        sources
    }
}

/// A value of another lane.
///
/// A lane that reads from one that is not active, or not of its mask, gets an undefined value: all ones, or a fault
/// where reads of what nobody wrote are checked.
fn shuffle(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    need_sync(&mut modifiers)?;
    let directions = [
        ("up", Direction::Up),
        ("down", Direction::Down),
        ("bfly", Direction::Butterfly),
        ("idx", Direction::Index),
    ];
    let direction = modifiers.need("direction", &directions)?;
    modifiers.need("type", &[("b32", ())])?;
    modifiers.finish()?;
    let [d, a, b, c, mask] = &instruction.operands[..] else { return Err("operands".into()) };
    let known = match (b, c) {
        (Operand::Integer(b), Operand::Integer(c)) => {
            Some(Sources::new(direction, &[*b as u32; LANES], &[*c as u32; LANES]))
        }
        _ => None,
    };
    let (d, p) = parts(d);
    let (d, p) = (decoder.dst32(d)?, p.map(|p| decoder.dst_pred(p)).transpose()?);
    let (a, b, c, mask) = (decoder.src32(a)?, decoder.src32(b)?, decoder.src32(c)?, decoder.src32(mask)?);
    let take = move |cx: &mut Context, sources: &Sources| {
        let values = cx.get(a);
        let mut out = [0; LANES];
        each1(&sources.lanes, &mut out, |source: u32| values[source as usize % LANES]);
        if cx.mask != u32::MAX {
            undefined(cx, sources, &mut out)?;
        }
        cx.set(d, &out);
        if let Some(p) = p {
            cx.set_pred(p, sources.in_range);
        }
        Ok(())
    };
    Ok(match known {
        Some(sources) => Action::run(move |cx| together(cx, mask, |cx| take(cx, &sources))),
        None => Action::run(move |cx| {
            let sources = Sources::new(direction, cx.get(b), cx.get(c));
            together(cx, mask, |cx| take(cx, &sources))
        }),
    })
}

/// Marks the values that lanes read which give none.
fn undefined(cx: &Context, sources: &Sources, out: &mut Lanes<u32>) -> Done {
    for lane in lanes_of(cx.mask) {
        let source = sources.lanes[lane];
        if cx.mask >> source & 1 == 1 {
            continue;
        }
        if cx.launch.options.checks.init {
            let what =
                format!("the lane reads from lane {source}, which is not active or not of the same mask");
            return Err(Stop::lane(lane, Problem::Synchronisation(what)));
        }
        out[lane] = UNDEFINED;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Vote {
    All,
    Any,
    Uniform,
}

fn vote(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    need_sync(&mut modifiers)?;
    let votes =
        [("all", Some(Vote::All)), ("any", Some(Vote::Any)), ("uni", Some(Vote::Uniform)), ("ballot", None)];
    let vote = modifiers.need("vote", &votes)?;
    modifiers.need("type", &[(if vote.is_some() { "pred" } else { "b32" }, ())])?;
    modifiers.finish()?;
    let [d, a, mask] = &instruction.operands[..] else { return Err("operands".into()) };
    let (a, mask) = (decoder.pred(a)?, decoder.src32(mask)?);
    let Some(vote) = vote else {
        let d = decoder.dst32(d)?;
        return Ok(Action::run(move |cx| {
            together(cx, mask, |cx| {
                cx.set(d, &[cx.test(a) & cx.mask; LANES]);
                Ok(())
            })
        }));
    };
    let d = decoder.dst_pred(d)?;
    Ok(Action::run(move |cx| {
        together(cx, mask, |cx| {
            let votes = cx.test(a) & cx.mask;
            let holds = match vote {
                Vote::All => votes == cx.mask,
                Vote::Any => votes != 0,
                Vote::Uniform => votes == 0 || votes == cx.mask,
            };
            set_uniform(cx, d, holds);
            Ok(())
        })
    }))
}

fn set_uniform(cx: &mut Context, p: Pred, holds: bool) {
    cx.set_pred(p, if holds { u32::MAX } else { 0 });
}

fn matching(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let all = modifiers.need("comparison", &[("any", false), ("all", true)])?;
    need_sync(&mut modifiers)?;
    let wide = modifiers.need("type", &[("b32", false), ("b64", true)])?;
    modifiers.finish()?;
    let [d, a, mask] = &instruction.operands[..] else { return Err("operands".into()) };
    let (d, p) = parts(d);
    if p.is_some() && !all {
        return Err("match.any has no predicate".into());
    }
    let mask = decoder.src32(mask)?;
    let d = decoder.dst32(d)?;
    let p = p.map(|p| decoder.dst_pred(p)).transpose()?;
    Ok(match (wide, all) {
        (false, false) => match_any(d, decoder.src32(a)?, mask),
        (true, false) => match_any(d, decoder.src64(a)?, mask),
        (false, true) => match_all(d, p, decoder.src32(a)?, mask),
        (true, true) => match_all(d, p, decoder.src64(a)?, mask),
    })
}

fn match_any<T: Word + PartialEq>(d: Reg<u32>, a: Reg<T>, mask: Reg<u32>) -> Action {
    Action::run(move |cx| {
        together(cx, mask, |cx| {
            let values = *cx.get(a);
            let mut out = [0; LANES];
            for lane in lanes_of(cx.mask) {
                out[lane] = lanes_where(cx.mask, |other| values[other] == values[lane]);
            }
            cx.set(d, &out);
            Ok(())
        })
    })
}

fn match_all<T: Word + PartialEq>(d: Reg<u32>, p: Option<Pred>, a: Reg<T>, mask: Reg<u32>) -> Action {
    Action::run(move |cx| {
        together(cx, mask, |cx| {
            let values = cx.get(a);
            let first = values[cx.mask.trailing_zeros() as usize % LANES];
            let same = lanes_of(cx.mask).all(|lane| values[lane] == first);
            cx.set(d, &[if same { cx.mask } else { 0 }; LANES]);
            if let Some(p) = p {
                set_uniform(cx, p, same);
            }
            Ok(())
        })
    })
}

fn reduce(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    need_sync(&mut modifiers)?;
    let operation = modifiers.next().unwrap_or_default();
    let abs = modifiers.flag("abs");
    let nan = modifiers.flag("NaN");
    let ty = modifiers.next().unwrap_or_default();
    modifiers.finish()?;
    let f: fn(u32, u32) -> u32 = match (operation, ty) {
        ("min" | "max", "f32") => return reduce_f32(decoder, instruction, operation == "max", abs, nan),
        _ if abs || nan => return Err(".abs and .NaN are of .f32".into()),
        ("add", "u32" | "s32") => u32::wrapping_add,
        ("min", "u32") => Ord::min,
        ("max", "u32") => Ord::max,
        ("min", "s32") => |a, b| (a as i32).min(b as i32) as u32,
        ("max", "s32") => |a, b| (a as i32).max(b as i32) as u32,
        ("and", "b32") => |a, b| a & b,
        ("or", "b32") => |a, b| a | b,
        ("xor", "b32") => |a, b| a ^ b,
        _ => return Err(format!("operation .{operation} on type .{ty}")),
    };
    reduction(decoder, instruction, |a| a, f)
}

/// Without `.NaN` a number wins over a NaN.
fn reduce_f32(
    decoder: &mut Decoder,
    instruction: &Instruction,
    max: bool,
    abs: bool,
    nan: bool,
) -> Result<Action, Unsupported> {
    let f = match (max, nan) {
        (false, false) => float32::min,
        (false, true) => float32::min_nan,
        (true, false) => float32::max,
        (true, true) => float32::max_nan,
    };
    let magnitude = move |a: u32| if abs { a & 0x7FFF_FFFF } else { a };
    let prepare = move |a: u32| float32::canonical(f32::from_bits(magnitude(a))).to_bits();
    reduction(decoder, instruction, prepare, move |a, b| f(f32::from_bits(a), f32::from_bits(b)).to_bits())
}

fn reduction(
    decoder: &mut Decoder,
    instruction: &Instruction,
    prepare: impl Fn(u32) -> u32 + Send + Sync + 'static,
    f: impl Fn(u32, u32) -> u32 + Send + Sync + 'static,
) -> Result<Action, Unsupported> {
    let [d, a, mask] = &instruction.operands[..] else { return Err("operands".into()) };
    let (d, a, mask) = (decoder.dst32(d)?, decoder.src32(a)?, decoder.src32(mask)?);
    Ok(Action::run(move |cx| {
        together(cx, mask, |cx| {
            let values = cx.get(a);
            let all = lanes_of(cx.mask).map(|lane| prepare(values[lane])).reduce(&f);
            cx.set(d, &[all.unwrap_or_default(); LANES]);
            Ok(())
        })
    }))
}

/// The leader is the first lane of the mask that has not exited.
fn elect(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    need_sync(&mut modifiers)?;
    modifiers.finish()?;
    let [Operand::Pair(d, p), mask] = &instruction.operands[..] else { return Err("operands".into()) };
    let (d, p, mask) = (decoder.dst32(d)?, decoder.dst_pred(p)?, decoder.src32(mask)?);
    Ok(Action::run(move |cx| {
        together(cx, mask, |cx| {
            let leader = cx.mask.trailing_zeros() % 32;
            cx.set(d, &[leader; LANES]);
            cx.set_pred(p, 1 << leader);
            Ok(())
        })
    }))
}

fn active_mask(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("type", &[("b32", ())])?;
    modifiers.finish()?;
    let [d] = &instruction.operands[..] else { return Err("operands".into()) };
    let d = decoder.dst32(d)?;
    Ok(Action::run(move |cx| {
        cx.set(d, &[cx.mask; LANES]);
        Ok(())
    }))
}
