//! Clusters: their barrier, and addresses in the shared memory of their blocks (PTX ISA, "barrier.cluster", "mapa",
//! "getctarank").

use crate::count::Class;
use crate::decode::{Address, Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::lanes::{LANES, lanes_of};
use crate::machine::{Cluster, Context, Stop, Waiting};
use crate::memory::{CLUSTER_SHIFT, SHARED_WINDOW, Space, Writer};
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "barrier.cluster.arrive",
        syntax: "barrier.cluster.arrive{.release|.relaxed}{.aligned}",
        class: Class::Synchronisation,
        decode: arrive,
    },
    Form {
        name: "barrier.cluster.wait",
        syntax: "barrier.cluster.wait{.acquire}{.aligned}",
        class: Class::Synchronisation,
        decode: wait,
    },
    Form {
        name: "mapa",
        syntax: "mapa{.shared::cluster}.u32|.u64 d, a, rank",
        class: Class::Move,
        decode: mapa,
    },
    Form {
        name: "getctarank",
        syntax: "getctarank{.shared::cluster}.u32|.u64 d, a",
        class: Class::Move,
        decode: rank_of,
    },
];

/// A barrier of all threads of a cluster that have not exited.
#[derive(Clone, Debug)]
pub(crate) struct ClusterBarrier {
    /// How often it has completed.
    pub generation: u64,
    /// Threads that have not exited.
    live: u32,
    /// Threads that have come since it last completed.
    count: u32,
    /// Of each warp, the lanes that have come since it last completed.
    arrived: Vec<u32>,
    /// Of each warp, the lanes that have come and not waited yet.
    owing: Vec<u32>,
}

impl ClusterBarrier {
    pub fn new(blocks: usize, threads: u32) -> Self {
        let live = blocks as u32 * threads;
        ClusterBarrier {
            generation: 0,
            live,
            count: 0,
            arrived: vec![0; 32 * blocks],
            owing: vec![0; 32 * blocks],
        }
    }

    /// Lanes of a warp come.
    fn arrive(&mut self, warp: Writer, lanes: u32) -> Result<(), String> {
        if self.owing[warp] & lanes != 0 {
            return Err("barrier.cluster.arrive again, without barrier.cluster.wait since".into());
        }
        self.owing[warp] |= lanes;
        self.arrived[warp] |= lanes;
        self.count += lanes.count_ones();
        self.complete();
        Ok(())
    }

    /// Lanes of a warp wait for the others; returns whether all have come.
    fn wait(&mut self, warp: Writer, lanes: u32) -> Result<bool, String> {
        if lanes & !self.owing[warp] != 0 {
            return Err("barrier.cluster.wait without barrier.cluster.arrive before".into());
        }
        let over = lanes & self.arrived[warp] == 0;
        if over {
            self.owing[warp] &= !lanes;
        }
        Ok(over)
    }

    /// Lanes of a warp exit: the others wait for them no more.
    pub fn exit(&mut self, warp: Writer, lanes: u32) {
        self.live -= lanes.count_ones();
        self.count -= (self.arrived[warp] & lanes).count_ones();
        self.arrived[warp] &= !lanes;
        self.complete();
    }

    fn complete(&mut self) {
        if self.count > 0 && self.count == self.live {
            self.generation += 1;
            self.count = 0;
            self.arrived.fill(0);
        }
    }
}

impl Cluster {
    /// Tells races that the barrier has completed, if it has since it was at this generation.
    pub fn tell_barrier(&mut self, generation: u64) {
        if let Some(races) = self.races.as_mut().filter(|_| self.barrier.generation != generation) {
            races.complete_cluster();
        }
    }
}

/// Takes the modifiers of one half of the barrier; returns whether the lanes of a warp come together, and whether the
/// barrier orders what they do.
fn half(instruction: &Instruction, name: &str, orders: &[(&str, bool)]) -> Result<(bool, bool), Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("cluster");
    modifiers.flag(name);
    let orders = modifiers.one_of(orders).unwrap_or(true);
    let aligned = modifiers.flag("aligned");
    modifiers.finish()?;
    match &instruction.operands[..] {
        [] => Ok((aligned, orders)),
        _ => Err("operands".into()),
    }
}

fn arrive(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let (aligned, release) = half(instruction, "arrive", &[("release", true), ("relaxed", false)])?;
    Ok(Action::run(move |cx| {
        check_aligned(cx, aligned)?;
        cx.end_epoch();
        cx.cluster.changes += 1;
        let (writer, mask) = (cx.writer(), cx.mask);
        if let Some(races) = &mut cx.cluster.races {
            races.arrive_at_cluster(cx.warp.rank, cx.warp.index, mask, release);
        }
        let generation = cx.cluster.barrier.generation;
        let done = cx.cluster.barrier.arrive(writer, mask);
        cx.cluster.tell_barrier(generation);
        done.map_err(|what| Stop::warp(Problem::Synchronisation(what)))
    }))
}

fn wait(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let (aligned, _) = half(instruction, "wait", &[("acquire", true)])?;
    Ok(Action::run(move |cx| {
        check_aligned(cx, aligned)?;
        let (writer, mask) = (cx.writer(), cx.mask);
        let over = cx.cluster.barrier.wait(writer, mask);
        match over.map_err(|what| Stop::warp(Problem::Synchronisation(what)))? {
            true => {
                if let Some(races) = &mut cx.cluster.races {
                    races.pass_cluster(cx.warp.rank, cx.warp.index, mask);
                }
                Ok(())
            }
            false => Err(Stop::Wait(Waiting::Cluster { generation: cx.cluster.barrier.generation })),
        }
    }))
}

fn check_aligned(cx: &Context, aligned: bool) -> Result<(), Stop> {
    if !aligned || cx.mask == cx.live() {
        return Ok(());
    }
    let what = format!(
        "an aligned barrier in divergent code: the lanes {:#010x} are here, of {:#010x} that have not exited",
        cx.mask,
        cx.live()
    );
    Err(Stop::warp(Problem::Synchronisation(what)))
}

/// Takes the modifiers: whether addresses are of the shared space, and whether they have 64 bits.
fn address_modifiers(instruction: &Instruction) -> Result<(Space, bool), Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let shared = modifiers.flag("shared::cluster");
    let wide = modifiers.need("type", &[("u32", false), ("u64", true)])?;
    modifiers.finish()?;
    if !shared && !wide {
        return Err("generic addresses of 32 bits".into());
    }
    Ok((if shared { Space::Shared } else { Space::Generic }, wide))
}

fn mapa(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let (space, wide) = address_modifiers(instruction)?;
    let [d, a, rank] = &instruction.operands[..] else { return Err("operands".into()) };
    let (a, rank) = (value(decoder, a, wide)?, decoder.src32(rank)?);
    let d = decoder.destination(d)?.ok_or("a result nobody takes")?;
    Ok(Action::run(move |cx| {
        let addresses = cx.addresses(&a);
        let mut out = [0; LANES];
        for lane in lanes_of(cx.mask) {
            // No more than the ranks that an address has room for: one that the cluster has not is found when used.
            let rank = u64::from(cx.get(rank)[lane]).min(254);
            let (_, offset) = cx.shared_place(lane, space, addresses[lane], 0, 1)?;
            let window = if space == Space::Generic { SHARED_WINDOW } else { 0 };
            out[lane] = u128::from(window | (rank + 1) << CLUSTER_SHIFT | offset);
        }
        cx.set_any(d, &out);
        Ok(())
    }))
}

fn rank_of(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let (space, wide) = address_modifiers(instruction)?;
    let [d, a] = &instruction.operands[..] else { return Err("operands".into()) };
    let (d, a) = (decoder.dst32(d)?, value(decoder, a, wide)?);
    Ok(Action::run(move |cx| {
        let addresses = cx.addresses(&a);
        let mut out = [0; LANES];
        for lane in lanes_of(cx.mask) {
            out[lane] = cx.shared_place(lane, space, addresses[lane], 0, 1)?.0 as u32;
        }
        cx.set(d, &out);
        Ok(())
    }))
}

/// A register or a variable whose value is an address.
fn value(decoder: &mut Decoder, operand: &Operand, wide: bool) -> Result<Address, Unsupported> {
    if let Operand::Register(_) = operand {
        match wide {
            true => decoder.src64(operand).map(drop)?,
            false => decoder.src32(operand).map(drop)?,
        }
    }
    decoder.address(operand)
}
