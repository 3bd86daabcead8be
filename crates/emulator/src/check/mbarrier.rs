//! What an `mbarrier` hands from who comes to it, threads and engines, to who waits for it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::check::Races;
use crate::check::clock::Clock;
use crate::check::operation::{FIRST_MBARRIER, Operation};
use crate::check::page::Conflict;
use crate::check::sync::{Arrival, Gathering};
use crate::lanes::lanes_of;
use crate::memory::{Request, Scope};

/// An `mbarrier`: the rank of its block, and its address.
type Name = (usize, u64);

/// The `mbarrier`s of a cluster.
#[derive(Default)]
pub(super) struct Mbarriers(HashMap<Name, Mbarrier>);

struct Mbarrier {
    /// The engine, of each warp, that operations belong to which signal it: they complete in the order they are issued,
    /// or else in one phase.
    engine: u32,
    /// The last phases, by their numbers.
    phases: BTreeMap<u64, Phase>,
}

/// Those who came in a phase, and what that tells those who wait for it.
#[derive(Default)]
struct Phase {
    gathering: Gathering,
    told: Option<Rc<Clock>>,
}

impl Mbarriers {
    fn get(&mut self, name: Name) -> &mut Mbarrier {
        let engine = FIRST_MBARRIER + self.0.len() as u32;
        self.0.entry(name).or_insert_with(|| Mbarrier { engine, phases: BTreeMap::new() })
    }

    pub fn engine(&mut self, name: Name) -> u32 {
        self.get(name).engine
    }

    /// Those who came in a phase so far.
    fn phase(&mut self, name: Name, phase: u64) -> &mut Gathering {
        &mut self.get(name).phases.entry(phase).or_default().gathering
    }
}

impl Races {
    /// Lanes arrive at an `mbarrier` in a phase: with `.release`, or with only what fences before it published.
    pub fn arrive_at(&mut self, rank: usize, warp: u32, lanes: u32, at: (Name, u64), release: bool) {
        let Some(time) = self.tick() else { return };
        let strand = &self.strands[rank * self.warps + warp as usize];
        let (mbarrier, phase) = at;
        let gathering = self.mbarriers.phase(mbarrier, phase);
        if release {
            gathering.arrive(strand, lanes, time, false);
        } else {
            gathering.arrive_fenced(strand, lanes, Scope::Cta);
        }
    }

    /// An operation completes at an `mbarrier` in a phase.
    pub fn complete_at(&mut self, mbarrier: Name, phase: u64, operation: &Operation) {
        let gathering = self.mbarriers.phase(mbarrier, phase);
        gathering.join(operation);
    }

    /// Copies (`cp.async`) of lanes of a warp have landed because a phase of an `mbarrier` is over.
    pub fn copies_land_at(
        &mut self,
        rank: usize,
        warp: u32,
        (pc, request): (usize, &Request),
        mbarrier: Name,
        phase: u64,
    ) -> Result<(), Conflict> {
        let index = rank * self.warps + warp as usize;
        let unit = self.strands[index].unit.engine(self.mbarriers.engine(mbarrier));
        let done = self.access_by(index, unit, pc, request);
        let arrival = Arrival { unit, lanes: request.mask, time: self.now, waits: false };
        self.mbarriers.phase(mbarrier, phase).came.push(arrival);
        done
    }

    /// Lanes have waited for all their copies (`cp.async`), which have landed.
    pub fn know_copies(&mut self, rank: usize, warp: u32, lanes: u32) {
        let (now, engines) = (self.now, self.mbarriers.0.len() as u32);
        let strand = self.strand(rank, warp);
        for lane in lanes_of(lanes) {
            let mut clock = Clock::default();
            for engine in 0..engines {
                clock.learn(strand.unit.engine(FIRST_MBARRIER + engine), 1 << lane, now);
            }
            strand.acquire(1 << lane, &Rc::new(clock));
        }
    }

    /// An `mbarrier` is initialised, or is no more.
    pub fn forget_phases(&mut self, mbarrier: Name) {
        self.mbarriers.get(mbarrier).phases.clear();
    }

    /// Lanes find that a phase of an `mbarrier` is over: with `.acquire`, or so that only a fence makes them know.
    pub fn pass_phase(&mut self, rank: usize, warp: u32, lanes: u32, at: (Name, u64), acquire: bool) {
        let (mbarrier, number) = at;
        let phases = &mut self.mbarriers.get(mbarrier).phases;
        // Nobody waits for an earlier phase any more. Whoever came then is ordered before whoever came later.
        let later = phases.split_off(&number);
        let earlier = std::mem::replace(phases, later);
        let Some(phase) = phases.get_mut(&number) else { return };
        earlier.values().for_each(|it| phase.gathering.know(&it.gathering.known()));
        let clock = Rc::clone(phase.told.get_or_insert_with(|| Rc::new(phase.gathering.known())));
        let strand = self.strand(rank, warp);
        if acquire {
            strand.acquire(lanes, &clock);
        } else {
            lanes_of(lanes).for_each(|lane| strand.see(lane, Scope::Cta, Rc::clone(&clock)));
        }
    }
}
