//! A cluster: blocks that run side by side, warp after warp, in an order that is always the same.

use crate::check::{Across, Races, Touched};
use crate::fault::{Fault, Location, Problem};
use crate::lanes::LANES;
use crate::machine::warp::{Fragment, Frame};
use crate::machine::{Block, Context, Launch, Trouble, Waiting, Warp};
use crate::memory::{GlobalView, LocalMemory, Proxies};
use crate::ops::cluster::ClusterBarrier;
use crate::program::{AnyReg, Fill};

use std::cell::RefCell;
use std::rc::Rc;

/// Instructions that a warp executes before the next has its turn.
const SLICE: u64 = 1 << 14;

/// Rounds in which everyone polls and nothing changes before that is called a deadlock.
const IDLE_ROUNDS: u32 = 64;

/// The state that the blocks of a cluster share, but for their warps.
pub(crate) struct Cluster {
    /// By rank.
    pub blocks: Vec<Block>,
    pub barrier: ClusterBarrier,
    /// Which generic writes to shared memory the asynchronous proxy sees.
    pub proxies: Proxies,
    /// Instructions executed so far, by all warps.
    pub executed: u64,
    /// Counts whatever another lane might wait for: stores, arrivals, phases.
    pub changes: u64,
    /// Counts what is read again and again until something changes: strong loads, failed tests of barriers.
    pub polls: u64,
    /// Whether waits for an mbarrier are over, as if their time had run out.
    pub time_out: bool,
    /// Who accessed what, if races are looked for.
    pub races: Option<Box<Races>>,
    /// The bytes of global memory that were accessed.
    pub touched: Touched,
}

/// A cluster with its warps.
pub(crate) struct Running {
    pub cluster: Cluster,
    warps: Vec<Warp>,
    idle: u32,
}

/// How far a cluster came.
pub(crate) enum Progress {
    Done,
    /// All its warps poll for something that only other clusters can change.
    Polling,
}

impl Running {
    /// A cluster whose first block has these coordinates. Races with other clusters are looked for in what they share.
    pub fn new(launch: &Launch, origin: [u32; 3], across: Option<&Rc<RefCell<Across>>>) -> Self {
        let [cx, cy, cz] = launch.cluster;
        let blocks: Vec<Block> = (0..cx * cy * cz)
            .map(|rank| {
                let within = [rank % cx, rank / cx % cy, rank / cx / cy];
                let coordinates = std::array::from_fn(|axis| origin[axis] + within[axis]);
                Block::new(launch, coordinates)
            })
            .collect();
        let warps = (0..blocks.len())
            .flat_map(|rank| (0..launch.warps()).map(move |index| (rank, index)))
            .map(|(rank, index)| Warp::new(launch, rank, index, blocks[rank].coordinates))
            .collect();
        let barrier = ClusterBarrier::new(blocks.len(), launch.threads());
        let races = across.map(|across| {
            let numbers = blocks.iter().map(|block| launch.block_number(block.coordinates)).collect();
            Box::new(Races::new(numbers, launch.threads(), blocks[0].shared.len(), Rc::clone(across)))
        });
        let touched = Touched::default();
        let proxies = Proxies::new(blocks.len());
        let (executed, changes, polls, time_out) = (0, 0, 0, false);
        let cluster =
            Cluster { blocks, barrier, proxies, executed, changes, polls, time_out, races, touched };
        Running { cluster, warps, idle: 0 }
    }

    /// Runs until all threads have exited, or all poll.
    pub fn run(
        &mut self,
        launch: &Launch,
        global: &mut GlobalView,
        profile: &mut crate::count::Profile,
    ) -> Result<Progress, Fault> {
        loop {
            let (executed, changes, polls) =
                (self.cluster.executed, self.cluster.changes, self.cluster.polls);
            for warp in &mut self.warps {
                let until = self.cluster.executed + SLICE;
                while warp.live != 0 && self.cluster.executed < until {
                    match warp.run(launch, &mut self.cluster, global, profile, until) {
                        Ok(true) if warp.gives_way() => break,
                        Ok(true) => {}
                        Ok(false) => break,
                        Err((trouble, pc)) => return Err(fault(launch, &self.cluster, warp, *trouble, pc)),
                    }
                }
            }
            if self.warps.iter().all(|warp| warp.live == 0) {
                return Ok(Progress::Done);
            }
            if self.cluster.executed > launch.options.instruction_limit {
                let problem = Problem::Limit(launch.options.instruction_limit);
                return Err(Fault { problem, kernel: kernel(launch), place: None });
            }
            let nothing_ran = self.cluster.executed == executed;
            let changed = self.cluster.changes != changes;
            let polled = self.cluster.polls != polls;
            if changed || !(nothing_ran || polled) {
                self.idle = 0;
                self.cluster.time_out = false;
                continue;
            }
            self.idle += 1;
            self.cluster.time_out = true;
            if self.idle >= IDLE_ROUNDS || nothing_ran && !self.may_time_out() {
                self.idle = 0;
                return Ok(Progress::Polling);
            }
        }
    }

    /// Whether a lane waits for something that it may give up.
    fn may_time_out(&self) -> bool {
        let mut waits = self.warps.iter().flat_map(|warp| &warp.fragments).filter_map(|it| it.waiting);
        waits.any(|it| matches!(it, Waiting::Mbarrier { .. } | Waiting::Tested { .. } | Waiting::Turn))
    }

    /// What every group of lanes waits for.
    pub fn deadlock(&self, launch: &Launch) -> Fault {
        let mut waits = Vec::new();
        let mut first = None;
        for warp in &self.warps {
            for fragment in &warp.fragments {
                let lane = fragment.mask.trailing_zeros();
                let place = location(launch, &self.cluster, warp, fragment.pc, lane);
                let what = match fragment.waiting {
                    None | Some(Waiting::Turn) => "polls".to_owned(),
                    Some(Waiting::Barrier { id, .. }) => {
                        let block = &self.cluster.blocks[warp.rank];
                        let barrier = &block.barriers[id];
                        let expected = barrier.expected.unwrap_or(block.live);
                        format!("waits at barrier {id}, where {} of {expected} threads are", barrier.arrived)
                    }
                    Some(Waiting::Lanes { mask } | Waiting::WarpBarrier { mask }) => {
                        let missing = mask & warp.live & !fragment.mask;
                        format!("waits for the lanes {missing:#010x} of its warp")
                    }
                    Some(
                        Waiting::Mbarrier { rank, address, phase } | Waiting::Tested { rank, address, phase },
                    ) => {
                        let object = self.cluster.blocks[rank].mbarriers.get(address);
                        let missing = object.map(super::mbarrier::Mbarrier::missing).unwrap_or_default();
                        format!(
                            "waits for phase {phase} of the mbarrier at {address:#x} of block rank {rank}: {missing}"
                        )
                    }
                    Some(Waiting::Registers { needed }) => {
                        let free = self.cluster.blocks[warp.rank].registers.free();
                        format!("waits for {needed} registers, where {free} are free")
                    }
                    Some(Waiting::Cluster { .. }) => "waits at the cluster's barrier".to_owned(),
                    Some(Waiting::Warpgroup { .. }) => {
                        "waits for the other warps of its warpgroup to issue the same wgmma".to_owned()
                    }
                };
                waits.push(format!("lanes {:#010x} {what}: {place}", fragment.mask));
                first.get_or_insert(place);
            }
        }
        Fault { problem: Problem::Deadlock(waits), kernel: kernel(launch), place: first }
    }
}

pub(crate) fn kernel(launch: &Launch) -> String {
    launch.program.functions[launch.entry].name.clone()
}

/// Where a lane is.
pub(crate) fn location(launch: &Launch, cluster: &Cluster, warp: &Warp, pc: usize, lane: u32) -> Location {
    let block = cluster.blocks[warp.rank].coordinates;
    launch.program.location(pc, block, warp.index, lane)
}

fn fault(
    launch: &Launch,
    cluster: &Cluster,
    warp: &Warp,
    trouble: Trouble,
    (pc, mask): (usize, u32),
) -> Fault {
    let lane = trouble.lane.unwrap_or(mask.trailing_zeros() % 32);
    let place = Some(location(launch, cluster, warp, pc, lane));
    Fault { problem: trouble.problem, kernel: kernel(launch), place }
}

impl Warp {
    /// A warp at the entry's first instruction.
    pub fn new(launch: &Launch, rank: usize, index: u32, block: [u32; 3]) -> Self {
        let threads = launch.threads() - index * 32;
        let live = if threads >= 32 { u32::MAX } else { (1 << threads) - 1 };
        let entry = &launch.program.functions[launch.entry];
        let mut warp = Warp {
            rank,
            index,
            live,
            fragments: vec![Fragment {
                mask: live,
                pc: entry.start,
                frame: 0,
                waiting: None,
                yielded: false,
            }],
            frames: Vec::new(),
            local: LocalMemory::default(),
            products: Default::default(),
        };
        let frame = warp.activate(launch, launch.entry, None, live, block);
        warp.frames.push(Some(frame));
        warp
    }

    /// A new activation of a function.
    pub fn activate(
        &mut self,
        launch: &Launch,
        function: usize,
        caller: Option<super::warp::Caller>,
        lanes: u32,
        block: [u32; 3],
    ) -> Frame {
        let this = &launch.program.functions[function];
        let mut registers = this.registers.clone();
        let local_base = self.local.len().next_multiple_of(16);
        self.local.resize(local_base + this.local_bytes);
        for (fill, register) in &this.fills {
            let values = match fill {
                Fill::Special(special) => special.values(launch, self, block),
                Fill::Local(offset) => [u64::from(local_base) + offset; LANES],
                Fill::DynamicShared(offset) => [u64::from(launch.dynamic_base()) + offset; LANES],
            };
            match *register {
                AnyReg::B32(index) => registers.b32[index as usize] = values.map(|it| it as u32),
                AnyReg::B64(index) => registers.b64[index as usize] = values,
                AnyReg::B128(index) => registers.b128[index as usize] = values.map(u128::from),
                AnyReg::Pred(index) => {
                    let bit = |lane: usize| u32::from(values[lane] != 0) << lane;
                    registers.pred[index as usize] = (0..LANES).fold(0, |bits, lane| bits | bit(lane));
                }
            }
        }
        let (depth, below) = match caller {
            Some(caller) => {
                let caller = self.frame(caller.frame);
                (caller.depth + 1, caller.stack)
            }
            None => (0, 0),
        };
        let stack = below + super::warp::stack_bytes(this);
        Frame { function, registers, caller, depth, stack, lanes, local_base, touched: Default::default() }
    }
}

impl Context<'_> {
    /// Waits until all these lanes that have not exited are here.
    pub fn converge(&self, mask: u32) -> crate::lanes::Done {
        if mask & self.warp.live & !self.mask == 0 {
            return Ok(());
        }
        Err(super::Stop::Wait(Waiting::Lanes { mask }))
    }
}
