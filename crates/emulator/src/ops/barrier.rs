//! Barriers of a block and of a warp (PTX ISA, "bar, barrier", "bar.warp.sync").

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::lanes::{Pred, Reg, lanes_of};
use crate::machine::{BARRIERS, Context, Stop, Waiting};
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "bar",
        syntax: "bar{.cta}.sync a{, b}; bar{.cta}.arrive a, b; bar{.cta}.red.popc.u32|.and.pred|.or.pred d, a{, b}, p",
        class: Class::Synchronisation,
        decode: |decoder, instruction| barrier(decoder, instruction, true),
    },
    Form {
        name: "barrier",
        syntax: "barrier{.cta}.sync|.arrive|.red{.aligned}, as bar",
        class: Class::Synchronisation,
        decode: |decoder, instruction| barrier(decoder, instruction, false),
    },
    Form {
        name: "bar.warp.sync",
        syntax: "bar.warp.sync mask",
        class: Class::Synchronisation,
        decode: warp_barrier,
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sync,
    Arrive,
    Reduce,
}

#[derive(Clone, Copy)]
enum Reduction {
    Popc,
    And,
    Or,
}

/// Threads that come to a barrier.
#[derive(Clone, Copy)]
struct Arrival {
    id: Reg<u32>,
    count: Option<Reg<u32>>,
    /// Whether all lanes of the warp must come together.
    aligned: bool,
    vote: Option<Pred>,
    waits: bool,
}

fn barrier(decoder: &mut Decoder, instruction: &Instruction, aligned: bool) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("cta");
    let kinds = [("sync", Kind::Sync), ("arrive", Kind::Arrive), ("red", Kind::Reduce)];
    let kind = modifiers.need("kind of barrier", &kinds)?;
    // `.aligned` stands before or after the operation in texts of different age.
    let mut aligned = modifiers.flag("aligned") || aligned;
    let reductions = [("popc", Reduction::Popc), ("and", Reduction::And), ("or", Reduction::Or)];
    let reduction = (kind == Kind::Reduce).then(|| modifiers.need("reduction", &reductions)).transpose()?;
    aligned |= modifiers.flag("aligned");
    if reduction.is_some() {
        modifiers.need("type", &[("u32", ()), ("pred", ())])?;
    }
    modifiers.finish()?;
    let operands = &instruction.operands[..];
    let (result, operands) =
        if kind == Kind::Reduce { operands.split_at(1.min(operands.len())) } else { (&[][..], operands) };
    let (operands, vote) = match (kind, operands) {
        (Kind::Reduce, [rest @ .., vote]) => (rest, Some(decoder.pred(vote)?)),
        (_, operands) => (operands, None),
    };
    let (id, count) = match operands {
        [id] => (id, None),
        [id, count] => (id, Some(decoder.src32(count)?)),
        _ => return Err("operands".into()),
    };
    if kind == Kind::Arrive && count.is_none() {
        return Err("arrive without a count".into());
    }
    let id = decoder.src32(id)?;
    let arrival = Arrival { id, count, aligned, vote, waits: kind != Kind::Arrive };
    if let (Some(reduction), [result]) = (reduction, result) {
        decoder.follow = Some(read_result(decoder, reduction, result, id)?);
    }
    Ok(Action::run(move |cx| arrival.run(cx)))
}

fn read_result(
    decoder: &mut Decoder,
    reduction: Reduction,
    result: &Operand,
    id: Reg<u32>,
) -> Result<Action, Unsupported> {
    let last = move |cx: &mut Context| {
        let lane = cx.mask.trailing_zeros() as usize % 32;
        let id = cx.get(id)[lane] as usize % BARRIERS;
        let barrier = cx.block().barriers[id];
        (barrier.last_votes, barrier.last_voted)
    };
    if let Reduction::Popc = reduction {
        let d = decoder.dst32(result)?;
        return Ok(Action::run(move |cx| {
            let (votes, _) = last(cx);
            cx.set(d, &[votes; 32]);
            Ok(())
        }));
    }
    let d = decoder.dst_pred(result)?;
    Ok(Action::run(move |cx| {
        let (votes, voted) = last(cx);
        let holds = if let Reduction::And = reduction { votes == voted } else { votes > 0 };
        cx.set_pred(d, if holds { u32::MAX } else { 0 });
        Ok(())
    }))
}

impl Arrival {
    fn run(&self, cx: &mut Context) -> crate::lanes::Done {
        if self.aligned && cx.mask != cx.live() {
            let what = format!(
                "an aligned barrier in divergent code: the lanes {:#010x} are here, of {:#010x} that have not exited",
                cx.mask,
                cx.live()
            );
            return Err(Stop::warp(Problem::Synchronisation(what)));
        }
        let first = cx.mask.trailing_zeros() as usize;
        let id = uniform(cx, self.id, "barrier")? as usize;
        if id >= BARRIERS {
            let what = format!("barrier {id} of the {BARRIERS} that a block has");
            return Err(Stop::lane(first, Problem::Synchronisation(what)));
        }
        let expected = match self.count {
            None => None,
            Some(count) => Some(self.expected(cx, count)?),
        };
        // A barrier with a count counts whole warps.
        let threads = if self.aligned && expected.is_some() { 32 } else { cx.mask.count_ones() };
        if let Some(vote) = self.vote {
            let votes = (cx.test(vote) & cx.mask).count_ones();
            let voted = cx.mask.count_ones();
            let barrier = &mut cx.block().barriers[id];
            barrier.votes += votes;
            barrier.voted += voted;
        }
        cx.cluster.changes += 1;
        cx.end_epoch();
        let (rank, index, mask) = (cx.warp.rank, cx.warp.index, cx.mask);
        let block = &mut cx.cluster.blocks[rank];
        let generation = block.arrive(id, threads, expected).map_err(Stop::warp)?;
        let complete = block.barriers[id].generation != generation;
        if let Some(races) = &mut cx.cluster.races {
            races.arrive(rank, index, mask, id, self.waits);
            if complete {
                races.complete(rank, id, block.live, expected.is_none());
            }
        }
        if self.waits && !complete {
            return Err(Stop::DoneThenWait(Waiting::Barrier { id, generation }));
        }
        Ok(())
    }

    fn expected(&self, cx: &Context, count: Reg<u32>) -> Result<u32, Stop> {
        let count = uniform(cx, count, "thread count")?;
        let threads = cx.launch.warps() * 32;
        if count == 0 || count % 32 != 0 || count > threads {
            let what = format!(
                "a barrier for {count} threads: must be a multiple of 32, and at most the block's {threads}"
            );
            return Err(Stop::warp(Problem::Synchronisation(what)));
        }
        Ok(count)
    }
}

/// A value that must be the same in all active lanes.
fn uniform(cx: &Context, register: Reg<u32>, what: &str) -> Result<u32, Stop> {
    let values = cx.get(register);
    let first = values[cx.mask.trailing_zeros() as usize % 32];
    match lanes_of(cx.mask).find(|lane| values[*lane] != first) {
        None => Ok(first),
        Some(lane) => {
            let what = format!(
                "lanes of a warp at one barrier instruction name the {what} {first} and {}",
                values[lane]
            );
            Err(Stop::lane(lane, Problem::Synchronisation(what)))
        }
    }
}

fn warp_barrier(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("warp");
    modifiers.flag("sync");
    modifiers.finish()?;
    let [mask] = &instruction.operands[..] else { return Err("operands".into()) };
    let mask = decoder.src32(mask)?;
    Ok(Action::run(move |cx| {
        let masks = *cx.get(mask);
        cx.check_membership(&masks)?;
        let missing = lanes_of(cx.mask).find(|lane| masks[*lane] & cx.live() & !cx.mask != 0);
        match missing {
            None => {
                if let Some(races) = &mut cx.cluster.races {
                    races.pass_by_mask(cx.warp.rank, cx.warp.index, cx.mask, &masks);
                }
                Ok(())
            }
            Some(lane) => Err(Stop::DoneThenWait(Waiting::WarpBarrier { mask: masks[lane] })),
        }
    }))
}

impl Context<'_> {
    /// Every active lane is a member of the mask that it names.
    pub fn check_membership(&self, masks: &[u32; 32]) -> crate::lanes::Done {
        match lanes_of(self.mask).find(|lane| masks[*lane] >> lane & 1 == 0) {
            None => Ok(()),
            Some(lane) => {
                let what = format!("the mask {:#010x} lacks the lane that names it, {lane}", masks[lane]);
                Err(Stop::lane(lane, Problem::Synchronisation(what)))
            }
        }
    }
}
