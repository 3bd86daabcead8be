//! What barriers and memory hand from thread to thread.

use std::collections::HashMap;
use std::rc::Rc;

use crate::check::clock::{Clock, Time, Unit};
use crate::check::operation::Operation;
use crate::check::strand::Strand;
use crate::lanes::lanes_of;
use crate::memory::Scope;

/// What those know and did that came to a barrier.
#[derive(Default)]
pub(crate) struct Gathering {
    clock: Clock,
    /// The clock that was joined last: mostly the next one's, too.
    last: Option<Rc<Clock>>,
    /// All who came.
    pub came: Vec<Arrival>,
}

/// Lanes that came, and when.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub unit: Unit,
    pub lanes: u32,
    pub time: Time,
    /// Whether they wait there.
    pub waits: bool,
}

impl Gathering {
    /// Lanes of a warp come.
    pub fn arrive(&mut self, strand: &Strand, lanes: u32, time: Time, waits: bool) {
        strand.each_clock(lanes, |clock| {
            if !self.last.as_ref().is_some_and(|last| Rc::ptr_eq(last, clock)) {
                self.clock.join(clock);
                self.last = Some(Rc::clone(clock));
            }
        });
        self.came.push(Arrival { unit: strand.unit, lanes, time, waits });
    }

    /// Lanes of a warp come whose arrival by itself orders nothing: only what fences of at least this scope have made
    /// known counts.
    pub fn arrive_fenced(&mut self, strand: &Strand, lanes: u32, least: Scope) {
        for lane in lanes_of(lanes) {
            for (_, clock) in strand.fenced(lane).filter(|(scope, _)| *scope >= least) {
                self.clock.join(&clock);
            }
        }
        self.last = None;
    }

    /// Adds what is known anyway.
    pub fn know(&mut self, clock: &Clock) {
        self.clock.join(clock);
        self.last = None;
    }

    /// An operation completes.
    pub fn join(&mut self, operation: &Operation) {
        self.know(&operation.clock);
        let Operation { unit, lanes, time, .. } = *operation;
        self.came.push(Arrival { unit, lanes, time, waits: false });
    }

    /// Adds what others know and did.
    pub fn add(&mut self, other: &Gathering) {
        self.clock.join(&other.clock);
        self.came.extend(&other.came);
    }

    /// What all know together, who did what they did before they came.
    pub fn known(&self) -> Clock {
        let mut clock = self.clock.clone();
        for Arrival { unit, lanes, time, .. } in &self.came {
            clock.learn(*unit, *lanes, *time);
        }
        clock
    }

    /// What all know together, if that is all that a block did up to now.
    pub fn known_with(&self, block: u32, now: Time) -> Clock {
        let mut clock = self.clock.clone();
        clock.learn_block(block, now);
        clock
    }
}

/// Those who see what a strong write publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    pub scope: Scope,
    /// The block, or the first block of the cluster; 0 for the GPU.
    pub of: u32,
}

/// What strong writes to an address published. Only what the last one and the atomic operations on top of it published
/// is seen by who reads it (PTX ISA, Memory Consistency Model, "Observation").
#[derive(Default)]
pub(crate) struct Published(Vec<(Domain, Rc<Clock>)>);

impl Published {
    pub fn add(&mut self, domain: Domain, clock: &Rc<Clock>) {
        match self.0.iter_mut().find(|(it, _)| *it == domain) {
            Some((_, there)) => Rc::make_mut(there).join(clock),
            None => self.0.push((domain, Rc::clone(clock))),
        }
    }

    pub fn seen_in(&self, domain: Domain) -> Option<&Rc<Clock>> {
        self.0.iter().find(|(it, _)| *it == domain).map(|(_, clock)| clock)
    }
}

/// What was published, by addresses.
pub(crate) type Publications = HashMap<u64, Published>;
