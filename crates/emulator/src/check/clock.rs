//! What threads know of each other: vector clocks (Fidge 1988), kept short because threads mostly learn of each other
//! by whole blocks and warps.

use crate::lanes::{LANES, Lanes, lanes_of};

/// Counts the accesses and synchronisations of a cluster.
pub(crate) type Time = u32;

/// A warp of the grid, or one of the engines that do for its lanes what they do not wait for.
///
/// From the lowest bit on: the number of the warp in its block, the engine (0: the warp itself), and the number of the
/// block in the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unit(u64);

const ENGINE: u32 = 5;
const BLOCK: u32 = 32;

impl Unit {
    /// A warp by the number of its block in the grid and its own in the block.
    pub fn warp(block: u32, index: u32) -> Unit {
        Unit(u64::from(block) << BLOCK | u64::from(index))
    }

    /// One of the engines of this warp, by its number from 1 on.
    pub fn engine(self, number: u32) -> Unit {
        Unit(self.0 | u64::from(number) << ENGINE)
    }

    pub fn is_engine(self) -> bool {
        self.0 as u32 >> ENGINE != 0
    }

    pub fn block(self) -> u32 {
        (self.0 >> BLOCK) as u32
    }

    /// The number of the warp in its block.
    pub fn index(self) -> u32 {
        self.0 as u32 & 31
    }
}

/// Up to when a thread knows what each other one did. What it knows is ordered before what it does next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    /// By block, in order: of all its threads (not of engines) at least so much is known.
    floors: Vec<(u32, Time)>,
    /// In order: units of which more is known.
    beyond: Vec<Beyond>,
}

#[derive(Clone, Debug)]
struct Beyond {
    unit: Unit,
    /// The lowest of the lanes.
    least: Time,
    lanes: Lanes<Time>,
}

impl Clock {
    /// Up to when all of a block is known.
    #[inline]
    pub fn floor(&self, block: u32) -> Time {
        match self.floors.binary_search_by_key(&block, |(block, _)| *block) {
            Ok(at) => self.floors[at].1,
            Err(_) => 0,
        }
    }

    #[inline]
    fn floor_of(&self, unit: Unit) -> Time {
        if unit.is_engine() { 0 } else { self.floor(unit.block()) }
    }

    /// Up to when all lanes of a unit are known.
    #[inline]
    pub fn whole(&self, unit: Unit) -> Time {
        let floor = self.floor_of(unit);
        match self.beyond.binary_search_by_key(&unit, |it| it.unit) {
            Ok(at) => self.beyond[at].least.max(floor),
            Err(_) => floor,
        }
    }

    /// Whether what these lanes did at a time is known.
    #[inline]
    pub fn knows(&self, unit: Unit, lanes: u32, time: Time) -> bool {
        if self.floor_of(unit) >= time {
            return true;
        }
        match self.beyond.binary_search_by_key(&unit, |it| it.unit) {
            Ok(at) => {
                let found = &self.beyond[at];
                found.least >= time || lanes_of(lanes).all(|lane| found.lanes[lane] >= time)
            }
            Err(_) => false,
        }
    }

    /// Learns what these lanes did up to a time.
    pub fn learn(&mut self, unit: Unit, lanes: u32, time: Time) {
        let at = match self.beyond.binary_search_by_key(&unit, |it| it.unit) {
            Ok(at) => at,
            Err(at) => {
                self.beyond.insert(at, Beyond { unit, least: 0, lanes: [0; LANES] });
                at
            }
        };
        let found = &mut self.beyond[at];
        for lane in lanes_of(lanes) {
            found.lanes[lane] = found.lanes[lane].max(time);
        }
        found.least = found.lanes.iter().copied().min().unwrap_or(0);
    }

    /// Learns what all threads of a block did up to a time, which is later than anything known of them so far.
    pub fn learn_block(&mut self, block: u32, time: Time) {
        self.raise(block, time);
        self.beyond.retain(|it| it.unit.block() != block || it.unit.is_engine());
    }

    /// Learns at least so much of a block.
    pub fn raise(&mut self, block: u32, time: Time) {
        match self.floors.binary_search_by_key(&block, |(block, _)| *block) {
            Ok(at) => self.floors[at].1 = self.floors[at].1.max(time),
            Err(at) => self.floors.insert(at, (block, time)),
        }
    }

    /// Learns all that another clock knows.
    pub fn join(&mut self, other: &Clock) {
        for (block, time) in &other.floors {
            self.raise(*block, *time);
        }
        for theirs in &other.beyond {
            match self.beyond.binary_search_by_key(&theirs.unit, |it| it.unit) {
                Ok(at) => {
                    let mine = &mut self.beyond[at];
                    for (mine, theirs) in mine.lanes.iter_mut().zip(&theirs.lanes) {
                        *mine = (*mine).max(*theirs);
                    }
                    mine.least = mine.lanes.iter().copied().min().unwrap_or(0);
                }
                Err(at) => self.beyond.insert(at, theirs.clone()),
            }
        }
    }
}
