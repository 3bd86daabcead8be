//! Races: accesses of different threads to the same bytes, one of them a write, not both strong, that nothing orders
//! (PTX ISA, Memory Consistency Model, "Data Races").
//!
//! What orders is what the model says: barriers of a block, of a warp and of a cluster, `mbarrier`s, and strong accesses
//! with the release and acquire patterns of fences. Exchange between lanes (`shfl`, `vote` and the like) orders nothing.
//! Two choices go beyond its words: a thread that exits has come to the barriers that wait for all of its block; and
//! lanes of one instruction that write the same value to the same bytes do not race with each other.
//!
//! Not followed are the barriers of clusters, and thus no races of blocks that are in one; nor what engines (`wgmma`,
//! `cp.async.bulk`) read and write.
//!
//! Within a cluster, races are found as they happen. Between clusters it is first only noted which bytes they share, one
//! of them writing ([`Touched`]): mostly none. Where there are any, the launch runs again from the memory it began with,
//! and accesses to their pages are followed across clusters ([`Across`]).

mod clock;
mod order;
mod page;
mod pages;
mod shadow;
mod span;
mod strand;
mod sync;
mod touched;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::check::clock::{Clock, Time, Unit};
pub(crate) use crate::check::page::Conflict;
pub(crate) use crate::check::page::PAGE;
use crate::check::page::{Actor, Event, Way};
pub(crate) use crate::check::shadow::Across;
use crate::check::shadow::{Memory, Shadow};
use crate::check::span::spans;
use crate::check::strand::{Strand, by_mask};
use crate::check::sync::{Arrival, Gathering, Publications};
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
    /// Those who came to each `mbarrier`, by rank and address, in its last phases, by their numbers.
    mbarriers: HashMap<(usize, u64), BTreeMap<u64, Phase>>,
    /// What strong writes to shared memory published, by rank.
    published: Vec<Publications>,
}

/// Those who came to an `mbarrier` in a phase, and what that tells those who wait for it.
#[derive(Default)]
struct Phase {
    gathering: Gathering,
    told: Option<Rc<Clock>>,
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
            mbarriers: HashMap::new(),
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
        let memory = match request.target {
            Target::Shared(rank) => Memory::Shared(rank),
            Target::Global => Memory::Global,
            Target::Local | Target::Const | Target::Param => return Ok(()),
        };
        let Some(time) = self.tick() else { return Ok(()) };
        let event = Event { time, pc: pc as u32, way: Way::from(request.kind), data: request.data };
        let index = rank * self.warps + warp as usize;
        let strand = &self.strands[index];
        for group in strand.groups().iter().filter(|group| group.lanes & request.mask != 0) {
            let actor = Actor {
                unit: strand.unit,
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

    /// Lanes come to a barrier of their block.
    pub fn arrive(&mut self, rank: usize, warp: u32, lanes: u32, id: usize, waits: bool) {
        let Some(time) = self.tick() else { return };
        let strand = &self.strands[rank * self.warps + warp as usize];
        self.barriers[rank * BARRIERS + id].arrive(strand, lanes, time, waits);
    }

    /// A barrier of a block is complete: those who wait go on. It may be for all threads of the block that have not
    /// exited, of which there are so many.
    pub fn complete(&mut self, rank: usize, id: usize, live: u32, for_all: bool) {
        let Some(now) = self.tick() else { return };
        let mut gathering = std::mem::take(&mut self.barriers[rank * BARRIERS + id]);
        let waiting =
            gathering.came.iter().filter(|it| it.waits).map(|it| it.lanes.count_ones()).sum::<u32>();
        let block = self.cluster[rank];
        if for_all {
            gathering.add(&self.exited[rank]);
        }
        let nobody_else = for_all || self.exited[rank].came.is_empty();
        let clock = Rc::new(if waiting == live && nobody_else {
            // Nobody did anything since they came.
            gathering.known_with(block, now)
        } else {
            gathering.known()
        });
        for Arrival { unit, lanes, .. } in gathering.came.iter().filter(|it| it.waits) {
            self.strand(rank, unit.index()).set(*lanes, Rc::clone(&clock));
        }
    }

    /// Lanes of a warp pass a barrier of the warp together.
    pub fn pass(&mut self, rank: usize, warp: u32, lanes: u32) {
        let Some(now) = self.tick() else { return };
        self.strand(rank, warp).synchronise(lanes, now);
    }

    /// Lanes of a warp pass a barrier of the warp, each with those that name the same mask.
    pub fn pass_by_mask(&mut self, rank: usize, warp: u32, lanes: u32, masks: &[u32; 32]) {
        by_mask(lanes, masks).for_each(|lanes| self.pass(rank, warp, lanes));
    }

    /// A lane arrives at an `mbarrier`, by its rank and address, in a phase.
    pub fn arrive_at(&mut self, rank: usize, warp: u32, lane: usize, mbarrier: (usize, u64), phase: u64) {
        let Some(time) = self.tick() else { return };
        let strand = &self.strands[rank * self.warps + warp as usize];
        let phases = self.mbarriers.entry(mbarrier).or_default();
        phases.entry(phase).or_default().gathering.arrive(strand, 1 << lane, time, false);
    }

    /// Asynchronous copies of lanes of a warp, which have landed, arrive at an `mbarrier` in a phase.
    pub fn copies_arrive_at(
        &mut self,
        rank: usize,
        warp: u32,
        lanes: u32,
        mbarrier: (usize, u64),
        phase: u64,
    ) {
        let time = self.now;
        let unit = self.strands[rank * self.warps + warp as usize].unit;
        let phases = self.mbarriers.entry(mbarrier).or_default();
        let arrival = Arrival { unit, lanes, time, waits: false };
        phases.entry(phase).or_default().gathering.came.push(arrival);
    }

    /// Lanes find that a phase of an `mbarrier` is over.
    pub fn pass_phase(&mut self, rank: usize, warp: u32, lane: usize, mbarrier: (usize, u64), phase: u64) {
        let Some(phases) = self.mbarriers.get_mut(&mbarrier) else { return };
        phases.retain(|number, _| *number >= phase);
        let Some(phase) = phases.get_mut(&phase) else { return };
        let clock = Rc::clone(phase.told.get_or_insert_with(|| Rc::new(phase.gathering.known())));
        self.strand(rank, warp).acquire(1 << lane, &clock);
    }

    /// Threads exit.
    pub fn exit(&mut self, rank: usize, warp: u32, lanes: u32) {
        let Some(time) = self.tick() else { return };
        let strand = &self.strands[rank * self.warps + warp as usize];
        self.exited[rank].arrive(strand, lanes, time, false);
    }
}
