//! Barriers in shared memory (PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier").

use crate::count::Class;
use crate::decode::{Address, Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::lanes::{Done, LANES, Lanes, Reg, lanes_of};
use crate::machine::{Arrival, Context, Mbarrier, Stop, Waiting};
use crate::memory::{Kind, Request, Space, Strong, Target};
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "mbarrier.init",
        syntax: "mbarrier.init{.shared{::cta}}.b64 [addr], count",
        class: Class::Synchronisation,
        decode: init,
    },
    Form {
        name: "mbarrier.inval",
        syntax: "mbarrier.inval{.shared{::cta}}.b64 [addr]",
        class: Class::Synchronisation,
        decode: invalidate,
    },
    Form {
        name: "mbarrier.expect_tx",
        syntax: "mbarrier.expect_tx{.relaxed}{.scope}{.shared{::cta|::cluster}}.b64 [addr], bytes",
        class: Class::Synchronisation,
        decode: |decoder, instruction| transactions(decoder, instruction, Mbarrier::expect),
    },
    Form {
        name: "mbarrier.complete_tx",
        syntax: "mbarrier.complete_tx{.relaxed}{.scope}{.shared{::cta|::cluster}}.b64 [addr], bytes",
        class: Class::Synchronisation,
        decode: |decoder, instruction| transactions(decoder, instruction, Mbarrier::complete),
    },
    Form {
        name: "mbarrier.arrive",
        syntax: "mbarrier.arrive{.noComplete|.expect_tx}{.release|.relaxed}{.scope}{.shared{::cta|::cluster}}.b64 state or _, [addr]{, count or bytes}",
        class: Class::Synchronisation,
        decode: |decoder, instruction| arrive(decoder, instruction, false),
    },
    Form {
        name: "mbarrier.arrive_drop",
        syntax: "mbarrier.arrive_drop, as mbarrier.arrive",
        class: Class::Synchronisation,
        decode: |decoder, instruction| arrive(decoder, instruction, true),
    },
    Form {
        name: "mbarrier.test_wait",
        syntax: "mbarrier.test_wait{.parity}{.acquire|.relaxed}{.scope}{.shared{::cta}}.b64 p, [addr], state or parity",
        class: Class::Synchronisation,
        decode: |decoder, instruction| wait(decoder, instruction, false),
    },
    Form {
        name: "mbarrier.try_wait",
        syntax: "mbarrier.try_wait{.parity}{.acquire|.relaxed}{.scope}{.shared{::cta}}.b64 p, [addr], state or parity{, time}",
        class: Class::Synchronisation,
        decode: |decoder, instruction| wait(decoder, instruction, true),
    },
    Form {
        name: "mbarrier.pending_count",
        syntax: "mbarrier.pending_count.b64 count, state",
        class: Class::Synchronisation,
        decode: pending_count,
    },
];

/// What the modifiers of an instruction on an `mbarrier` say.
#[derive(Default)]
struct Said {
    no_complete: bool,
    expects: bool,
    parity: bool,
    /// Whether a block of the cluster may own the object that is not the one that executes.
    cluster: bool,
    generic: bool,
    /// Whether it orders nothing by itself.
    relaxed: bool,
}

impl Said {
    fn space(&self) -> Space {
        if self.generic { Space::Generic } else { Space::Shared }
    }
}

/// Takes the modifiers, of which `allowed` says those that this instruction has. Compilers write them in different
/// orders.
fn said(instruction: &Instruction, allowed: &[&str]) -> Result<Said, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.next();
    let mut said = Said { generic: true, ..Said::default() };
    while let Some(next) = modifiers.peek().filter(|next| allowed.contains(next)) {
        match next {
            "noComplete" => said.no_complete = true,
            "expect_tx" => said.expects = true,
            "parity" => said.parity = true,
            "shared" | "shared::cta" => said.generic = false,
            "shared::cluster" => {
                said.generic = false;
                said.cluster = true;
            }
            "relaxed" => said.relaxed = true,
            // What is not relaxed is `.acquire` or `.release`. Its scope is taken for as wide as it need be: arrivals
            // at the mbarrier of another block are written without one everywhere.
            _ => {}
        }
        modifiers.next();
    }
    modifiers.need("type", &[("b64", ())])?;
    modifiers.finish()?;
    Ok(said)
}

impl Context<'_> {
    /// The block, by rank, and the address of the `mbarrier` object that a lane names.
    pub fn mbarrier_place(&self, lane: usize, space: Space, address: u64) -> Result<(usize, u64), Stop> {
        self.shared_place(lane, space, address, 8, 8)
    }

    /// The same, where the object must be of the block that executes.
    pub fn own_mbarrier(&self, lane: usize, space: Space, address: u64) -> Result<(usize, u64), Stop> {
        let (rank, address) = self.mbarrier_place(lane, space, address)?;
        if rank == self.warp.rank {
            return Ok((rank, address));
        }
        let what =
            format!("the mbarrier at {address:#x} of block rank {rank}, which is not the block itself");
        Err(Stop::lane(lane, Problem::Asynchronous(what)))
    }

    /// Initialising and ending an object are writes of its bytes, which its uses must be ordered with.
    fn check_object_race(&mut self, lane: usize, (rank, address): (usize, u64), kind: Kind) -> Done {
        if self.cluster.races.is_none() {
            return Ok(());
        }
        let (target, addresses) = (Target::Shared(rank), [address; LANES]);
        let request =
            Request { target, mask: 1 << lane, addresses: &addresses, bytes: 8, kind, data: &[], page: None };
        self.check_races_of(self.warp.index, self.pc, &request)
    }
}

/// The use of an `mbarrier` object. What it orders, the object tells and not its bytes.
const USE: Kind = Kind { write: true, strong: Some(Strong { atomic: true, ..Strong::RELAXED }) };

fn init(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let space = said(instruction, &["shared", "shared::cta"])?.space();
    let [address, count] = &instruction.operands[..] else { return Err("operands".into()) };
    let (address, count) = (decoder.address(address)?, decoder.src32(count)?);
    Ok(Action::run(move |cx| {
        let (addresses, counts) = (cx.addresses(&address), *cx.get(count));
        for lane in lanes_of(cx.mask) {
            let (rank, at) = cx.own_mbarrier(lane, space, addresses[lane])?;
            cx.check_object_race(lane, (rank, at), Kind::WRITE)?;
            let done = cx.cluster.init_mbarrier(rank, at, counts[lane]);
            done.map_err(|problem| Stop::lane(lane, problem))?;
        }
        Ok(())
    }))
}

fn invalidate(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let space = said(instruction, &["shared", "shared::cta"])?.space();
    let [address] = &instruction.operands[..] else { return Err("operands".into()) };
    let address = decoder.address(address)?;
    Ok(Action::run(move |cx| {
        let addresses = cx.addresses(&address);
        for lane in lanes_of(cx.mask) {
            let (rank, at) = cx.own_mbarrier(lane, space, addresses[lane])?;
            cx.check_object_race(lane, (rank, at), Kind::WRITE)?;
            let done = cx.cluster.invalidate_mbarrier(rank, at);
            done.map_err(|problem| Stop::lane(lane, problem))?;
        }
        Ok(())
    }))
}

const ANYWHERE: [&str; 6] = ["relaxed", "cta", "cluster", "shared", "shared::cta", "shared::cluster"];

fn transactions(
    decoder: &mut Decoder,
    instruction: &Instruction,
    act: fn(&mut Mbarrier, u32) -> Result<(), String>,
) -> Result<Action, Unsupported> {
    let space = said(instruction, &ANYWHERE)?.space();
    let [address, bytes] = &instruction.operands[..] else { return Err("operands".into()) };
    let (address, bytes) = (decoder.address(address)?, decoder.src32(bytes)?);
    Ok(Action::run(move |cx| {
        let (addresses, bytes) = (cx.addresses(&address), *cx.get(bytes));
        for lane in lanes_of(cx.mask) {
            let (rank, at) = cx.mbarrier_place(lane, space, addresses[lane])?;
            cx.check_object_race(lane, (rank, at), USE)?;
            let done = cx.cluster.mbarrier(rank, at, |object| act(object, bytes[lane]));
            done.map_err(|problem| Stop::lane(lane, problem))?;
        }
        Ok(())
    }))
}

/// Lanes that have the same value together, and that value.
fn alike<T: Copy + PartialEq>(mut lanes: u32, values: &Lanes<T>) -> impl Iterator<Item = (u32, T)> {
    std::iter::from_fn(move || {
        let value = values[lanes_of(lanes).next()?];
        let same = lanes_of(lanes).filter(|lane| values[*lane] == value);
        let same = same.fold(0, |mask, lane| mask | 1 << lane);
        lanes &= !same;
        Some((same, value))
    })
}

/// What an arrival's last operand says.
#[derive(Clone, Copy)]
enum Amount {
    /// How often it arrives.
    Count(Reg<u32>),
    /// It arrives once, and expects so many bytes.
    Bytes(Reg<u32>),
}

fn arrive(decoder: &mut Decoder, instruction: &Instruction, drop: bool) -> Result<Action, Unsupported> {
    let said = said(instruction, &[&ANYWHERE[..], &["release", "noComplete", "expect_tx"]].concat())?;
    let [state, address, amount @ ..] = &instruction.operands[..] else { return Err("operands".into()) };
    let amount = match amount {
        [] if said.expects || said.no_complete => return Err("operands".into()),
        [] => Amount::Count(decoder.constant32(1)),
        [bytes] if said.expects => Amount::Bytes(decoder.src32(bytes)?),
        [count] => Amount::Count(decoder.src32(count)?),
        _ => return Err("operands".into()),
    };
    let state = match state {
        Operand::Sink => None,
        _ if said.cluster => return Err("the state of an mbarrier of another block".into()),
        state => Some(decoder.dst64(state)?),
    };
    if said.no_complete && said.cluster {
        return Err("modifier .noComplete on an mbarrier of another block".into());
    }
    let (address, space, may_complete) = (decoder.address(address)?, said.space(), !said.no_complete);
    Ok(Action::run(move |cx| {
        cx.end_epoch();
        let addresses = cx.addresses(&address);
        let mut states = [0; LANES];
        let mut places = [((0, 0), 0); LANES];
        for lane in lanes_of(cx.mask) {
            let (rank, at) = cx.mbarrier_place(lane, space, addresses[lane])?;
            cx.check_object_race(lane, (rank, at), USE)?;
            let (count, transactions) = match amount {
                Amount::Count(register) => (cx.get(register)[lane], 0),
                Amount::Bytes(register) => (1, cx.get(register)[lane]),
            };
            let arrival = Arrival { count, transactions, drop, may_complete };
            let before = cx.cluster.mbarrier(rank, at, |object| object.arrive(arrival));
            states[lane] = before.map_err(|problem| Stop::lane(lane, problem))?;
            places[lane] = ((rank, at), Mbarrier::phase_of(states[lane]));
        }
        if let Some(races) = &mut cx.cluster.races {
            for (lanes, place) in alike(cx.mask, &places) {
                races.arrive_at(cx.warp.rank, cx.warp.index, lanes, place, !said.relaxed);
            }
        }
        if let Some(state) = state {
            cx.set(state, &states);
        }
        Ok(())
    }))
}

fn pending_count(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    said(instruction, &[])?;
    let [count, state] = &instruction.operands[..] else { return Err("operands".into()) };
    Ok(crate::lanes::map1(decoder.dst32(count)?, decoder.src64(state)?, Mbarrier::pending_of))
}

/// A wait for a phase, decoded.
struct Wait {
    result: crate::lanes::Pred,
    address: Address,
    space: Space,
    phase: Phase,
    /// Whether it waits a while before it says that the phase is not over.
    blocks: bool,
    relaxed: bool,
}

/// How a wait names the phase.
#[derive(Clone, Copy)]
enum Phase {
    State(Reg<u64>),
    Parity(Reg<u32>),
}

fn wait(decoder: &mut Decoder, instruction: &Instruction, blocks: bool) -> Result<Action, Unsupported> {
    let allowed = ["parity", "acquire", "relaxed", "cta", "cluster", "shared", "shared::cta"];
    let said = said(instruction, &allowed)?;
    let (result, address, phase) = match &instruction.operands[..] {
        [result, address, phase] => (result, address, phase),
        [result, address, phase, time] if blocks => {
            decoder.src32(time)?;
            (result, address, phase)
        }
        _ => return Err("operands".into()),
    };
    let phase = match said.parity {
        true => Phase::Parity(decoder.src32(phase)?),
        false => Phase::State(decoder.src64(phase)?),
    };
    let (result, address) = (decoder.dst_pred(result)?, decoder.address(address)?);
    let wait = Wait { result, address, space: said.space(), phase, blocks, relaxed: said.relaxed };
    Ok(Action::run(move |cx| wait.run(cx)))
}

impl Wait {
    fn run(&self, cx: &mut Context) -> Done {
        let addresses = cx.addresses(&self.address);
        let (mut over, mut passed) = (0, 0);
        let mut incomplete = None;
        let mut places = [((0, 0), 0); LANES];
        for lane in lanes_of(cx.mask) {
            let place @ (rank, address) = cx.own_mbarrier(lane, self.space, addresses[lane])?;
            cx.check_object_race(lane, place, USE)?;
            let current = cx.cluster.land(rank, address).map_err(|problem| Stop::lane(lane, problem))?;
            places[lane] = (place, current.saturating_sub(1));
            cx.tell_landed_at(place, places[lane].1)?;
            if self.is_over(cx, lane, current)? {
                over |= 1 << lane;
                // Before the first phase there was one that nobody came to.
                passed |= u32::from(current > 0) << lane;
            } else {
                incomplete.get_or_insert((rank, address, current));
            }
        }
        if let Some(races) = &mut cx.cluster.races {
            for (lanes, place) in alike(passed, &places) {
                races.pass_phase(cx.warp.rank, cx.warp.index, lanes, place, !self.relaxed);
            }
        }
        let Some((rank, address, phase)) = incomplete else {
            cx.set_pred(self.result, over);
            return Ok(());
        };
        if self.blocks && over == 0 && !cx.cluster.time_out {
            return Err(Stop::Wait(Waiting::Mbarrier { rank, address, phase }));
        }
        cx.set_pred(self.result, over);
        // Whoever tests again and again lets the others go on.
        cx.cluster.polls += 1;
        Err(Stop::DoneThenWait(Waiting::Tested { rank, address, phase }))
    }

    /// Whether the phase that a lane names is over, while the object is in another or the same.
    fn is_over(&self, cx: &Context, lane: usize, current: u64) -> Result<bool, Stop> {
        let refuse = |what: String| Err(Stop::lane(lane, Problem::Asynchronous(what)));
        match self.phase {
            Phase::Parity(register) => match cx.get(register)[lane] {
                parity @ (0 | 1) => Ok(current % 2 != u64::from(parity)),
                other => refuse(format!("a wait for the phase of parity {other} (must be 0 or 1)")),
            },
            Phase::State(register) => match Mbarrier::phase_of(cx.get(register)[lane]) {
                phase if phase == current => Ok(false),
                phase if phase + 1 == current => Ok(true),
                phase => refuse(format!(
                    "a wait for phase {phase} of an mbarrier in phase {current}: it must be that or the one before"
                )),
            },
        }
    }
}
