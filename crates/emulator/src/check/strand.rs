//! What the lanes of one warp know.

use std::rc::Rc;

use crate::check::clock::{Clock, Time, Unit};
use crate::lanes::lanes_of;
use crate::memory::Scope;

/// A warp, as far as order is concerned. Its lanes are threads; those that know the same share a clock. That a thread
/// knows what it did itself goes without saying.
pub(crate) struct Strand {
    pub unit: Unit,
    /// When it last accessed memory.
    pub latest: Time,
    /// Blocks of the cluster.
    cluster: Rc<[u32]>,
    /// Each lane is in one of them.
    groups: Vec<Group>,
    /// Fences that strong writes may still come after.
    fences: Vec<Fence>,
    /// What strong reads have seen that a fence may still come after.
    seen: Vec<Seen>,
}

/// Lanes that know the same.
#[derive(Clone)]
pub(crate) struct Group {
    pub lanes: u32,
    pub clock: Rc<Clock>,
    /// Up to when they know the whole cluster.
    pub all: Time,
}

/// What some lanes knew and had done when they executed a fence.
struct Fence {
    lanes: u32,
    scope: Scope,
    clock: Rc<Clock>,
    time: Time,
}

/// What a lane learns once it executes a fence of at least this scope.
struct Seen {
    lane: usize,
    scope: Scope,
    clock: Rc<Clock>,
}

impl Strand {
    /// A warp that knows nothing yet.
    pub fn new(unit: Unit, cluster: Rc<[u32]>) -> Self {
        let group = Group { lanes: u32::MAX, clock: Rc::default(), all: 0 };
        Strand { unit, latest: 0, cluster, groups: vec![group], fences: Vec::new(), seen: Vec::new() }
    }

    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Gives lanes another clock, which knows at least what they knew.
    pub fn set(&mut self, lanes: u32, clock: Rc<Clock>) {
        let floors = self.cluster.iter().map(|block| clock.floor(*block));
        let all = floors.min().unwrap_or(0);
        self.groups.retain_mut(|group| {
            group.lanes &= !lanes;
            group.lanes != 0
        });
        self.groups.push(Group { lanes, clock, all });
    }

    /// What these lanes know together.
    fn together(&self, lanes: u32) -> Rc<Clock> {
        let mut groups = self.groups.iter().filter(|group| group.lanes & lanes != 0);
        let Some(first) = groups.next() else { return Rc::default() };
        let mut clock = Rc::clone(&first.clock);
        for group in groups {
            Rc::make_mut(&mut clock).join(&group.clock);
        }
        clock
    }

    /// Lanes learn what each other did up to now (PTX ISA, "bar.warp.sync").
    pub fn synchronise(&mut self, lanes: u32, now: Time) {
        let unit = self.unit;
        if let [only] = &mut self.groups[..]
            && only.lanes & !lanes == 0
        {
            Rc::make_mut(&mut only.clock).learn(unit, lanes, now);
            return;
        }
        let mut clock = self.together(lanes);
        Rc::make_mut(&mut clock).learn(unit, lanes, now);
        self.set(lanes, clock);
    }

    /// Lanes learn what a clock knows.
    pub fn acquire(&mut self, lanes: u32, clock: &Rc<Clock>) {
        let concerned: Vec<Group> = self.groups.iter().filter(|it| it.lanes & lanes != 0).cloned().collect();
        for group in concerned {
            if !Rc::ptr_eq(&group.clock, clock) {
                let mut joined = Clock::clone(&group.clock);
                joined.join(clock);
                self.set(group.lanes & lanes, Rc::new(joined));
            }
        }
    }

    /// What lanes know together, and all that they did up to a time.
    pub fn released(&self, lanes: u32, time: Time) -> Clock {
        let mut clock = Clock::clone(&self.together(lanes));
        clock.learn(self.unit, lanes, time);
        clock
    }

    /// Lanes execute a fence: what they saw before is ordered before what they do next, and what they did before is
    /// ordered before what sees what they write next (PTX ISA, Memory Consistency Model, "Release and Acquire Patterns").
    pub fn fence(&mut self, lanes: u32, scope: Scope, now: Time) {
        let (acquired, kept) = std::mem::take(&mut self.seen)
            .into_iter()
            .partition(|it: &Seen| lanes >> it.lane & 1 == 1 && it.scope <= scope);
        self.seen = kept;
        for Seen { lane, clock, .. } in acquired {
            self.acquire(1 << lane, &clock);
        }
        self.fences.retain_mut(|fence| {
            if fence.scope <= scope {
                fence.lanes &= !lanes;
            }
            fence.lanes != 0
        });
        for group in self.groups.iter().filter(|it| it.lanes & lanes != 0) {
            let clock = Rc::clone(&group.clock);
            self.fences.push(Fence { lanes: group.lanes & lanes, scope, clock, time: now });
        }
    }

    /// What a lane's strong writes publish because of the fences before them, and to whom.
    pub fn fenced(&self, lane: usize) -> impl Iterator<Item = (Scope, Clock)> {
        self.fences.iter().filter(move |fence| fence.lanes >> lane & 1 == 1).map(move |fence| {
            let mut clock = Clock::clone(&fence.clock);
            clock.learn(self.unit, 1 << lane, fence.time);
            (fence.scope, clock)
        })
    }

    pub fn has_fences(&self) -> bool {
        !self.fences.is_empty()
    }

    /// A lane's strong read saw what was published; a fence may make that known to it.
    pub fn see(&mut self, lane: usize, scope: Scope, clock: Rc<Clock>) {
        // A lane that polls sees the same again and again.
        if !self.seen.iter().any(|it| it.lane == lane && it.scope == scope && Rc::ptr_eq(&it.clock, &clock)) {
            self.seen.push(Seen { lane, scope, clock });
        }
    }

    /// Calls a function with the clock of each group among these lanes.
    pub fn each_clock(&self, lanes: u32, mut f: impl FnMut(&Rc<Clock>)) {
        self.groups.iter().filter(|it| it.lanes & lanes != 0).for_each(|it| f(&it.clock));
    }
}

/// The lanes of each distinct mask among those that lanes name, as far as they name it.
pub(crate) fn by_mask(lanes: u32, masks: &[u32; 32]) -> impl Iterator<Item = u32> {
    let mut rest = lanes;
    std::iter::from_fn(move || {
        let first = lanes_of(rest).next()?;
        let same =
            lanes_of(rest).filter(|lane| masks[*lane] == masks[first]).fold(0, |all, lane| all | 1 << lane);
        rest &= !same;
        Some(same)
    })
}
