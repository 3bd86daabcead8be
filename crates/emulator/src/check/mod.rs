//! Races: accesses of different threads to the same bytes, one of them a write, not both strong, that nothing orders
//! (PTX ISA, Memory Consistency Model, "Data Races").
//!
//! What orders is what the model says: barriers of a block, of a warp and of a cluster, `mbarrier`s, and strong accesses
//! with the release and acquire patterns of fences. Exchange between lanes (`shfl`, `vote` and the like) orders nothing.
//! Two choices go beyond its words: a thread that exits has come to the barriers that wait for all of its block; and
//! lanes of one instruction that write the same value to the same bytes do not race with each other.
//!
//! What is done asynchronously is done by an engine, which is like a thread of its own: it knows what the lane knew that
//! issued it, and who waits for it learns all that ([`Operation`]). Only the copies of `cp.async` that a lane waits for
//! itself are its own writes, when they are issued and again when they land.
//!
//! Within a cluster, races are found as they happen. Between clusters it is first only noted which bytes they share, one
//! of them writing ([`Touched`]): mostly none. Where there are any, the launch runs again from the memory it began with,
//! and accesses to their pages are followed across clusters ([`Across`]).

mod barrier;
mod clock;
mod mbarrier;
mod operation;
mod order;
mod page;
mod pages;
mod shadow;
mod span;
mod strand;
mod sync;
mod touched;

use std::cell::RefCell;
use std::rc::Rc;

use crate::check::barrier::ClusterBarrier;
use crate::check::clock::{Time, Unit};
use crate::check::mbarrier::Mbarriers;
pub(crate) use crate::check::operation::{Completes, Operation};
use crate::check::page::{Actor, Event, Way};
pub(crate) use crate::check::page::{Conflict, PAGE, Stranger};
pub(crate) use crate::check::shadow::Across;
use crate::check::shadow::{Memory, Shadow};
use crate::check::span::spans;
use crate::check::strand::Strand;
use crate::check::sync::{Gathering, Publications};
pub(crate) use crate::check::touched::Touched;
use crate::machine::BARRIERS;
use crate::memory::{Request, Target};

/// The accesses of a cluster, and what orders them.
pub(crate) struct Races {
    now: Time,
    /// Numbers of its blocks in the grid, by rank.
    cluster: Rc<[u32]>,
    /// Warps of a block.
    warps: usize,
    /// Of all warps of the cluster.
    strands: Vec<Strand>,
    shadow: Shadow,
    /// Of all blocks.
    barriers: Vec<Gathering>,
    /// Those who have exited, by rank.
    exited: Vec<Gathering>,
    cluster_barrier: ClusterBarrier,
    mbarriers: Mbarriers,
    /// What strong writes to shared memory published, by rank.
    published: Vec<Publications>,
}

impl Races {
    /// A cluster of blocks, given by their numbers in the grid, which have so many threads and bytes of shared memory.
    pub fn new(cluster: Rc<[u32]>, threads: u32, shared_bytes: u64, across: Rc<RefCell<Across>>) -> Self {
        let warps = threads.div_ceil(32);
        let units = cluster.iter().flat_map(|block| (0..warps).map(|index| Unit::warp(*block, index)));
        let blocks = cluster.len();
        Races {
            now: 0,
            strands: units.map(|unit| Strand::new(unit, Rc::clone(&cluster))).collect(),
            shadow: Shadow::new(blocks, shared_bytes, across),
            barriers: (0..blocks * BARRIERS).map(|_| Gathering::default()).collect(),
            cluster_barrier: ClusterBarrier::default(),
            mbarriers: Mbarriers::default(),
            exited: (0..blocks).map(|_| Gathering::default()).collect(),
            published: (0..blocks).map(|_| Publications::default()).collect(),
            warps: warps as usize,
            cluster,
        }
    }

    /// The next time; None when they are used up, after four billion accesses of one cluster: what comes then is not
    /// checked.
    fn tick(&mut self) -> Option<Time> {
        self.now = self.now.checked_add(1)?;
        Some(self.now)
    }

    fn strand(&mut self, rank: usize, warp: u32) -> &mut Strand {
        &mut self.strands[rank * self.warps + warp as usize]
    }

    /// Lanes of a warp access memory.
    pub fn access(&mut self, rank: usize, warp: u32, pc: usize, request: &Request) -> Result<(), Conflict> {
        let index = rank * self.warps + warp as usize;
        self.access_by(index, self.strands[index].unit, pc, request)
    }

    /// The same, by the warp itself or one of its engines.
    fn access_by(&mut self, index: usize, unit: Unit, pc: usize, request: &Request) -> Result<(), Conflict> {
        let memory = match request.target {
            Target::Shared(rank) => Memory::Shared(rank),
            Target::Global => Memory::Global,
            Target::Local | Target::Const | Target::Param => return Ok(()),
        };
        let Some(time) = self.tick() else { return Ok(()) };
        let event = Event { time, pc: pc as u32, way: Way::from(request.kind), data: request.data };
        let strand = &mut self.strands[index];
        strand.latest = time;
        for group in strand.groups().iter().filter(|group| group.lanes & request.mask != 0) {
            let actor = Actor {
                unit,
                clock: &group.clock,
                all: group.all,
                own: strand.unit,
                until: time,
                cluster: &self.cluster,
            };
            spans(group.lanes & request.mask, request.addresses, request.bytes, |address, lanes| {
                self.shadow.access(memory, &event, &actor, address, request.bytes, lanes)
            })?;
        }
        match request.kind.strong {
            Some(strong) => self.order(index, memory, request, strong, time),
            None if request.kind.write => self.overwrite(memory, request),
            None => {}
        }
        Ok(())
    }
}
