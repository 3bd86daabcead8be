//! What is done asynchronously: by an engine, which knows what the lane knew that issued it, and which others know of
//! once they have waited for it.

use std::rc::Rc;

use crate::check::Races;
use crate::check::clock::{Clock, Time, Unit};
use crate::check::page::{Actor, Conflict, Event, SpanLanes, Way};
use crate::check::shadow::Memory;
use crate::memory::{Kind, Target};

/// What lanes issue at once.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(super) unit: Unit,
    pub(super) lanes: u32,
    /// What the lanes knew, and what they had done.
    pub(super) clock: Rc<Clock>,
    /// Of all its accesses.
    pub(super) time: Time,
    pc: usize,
}

/// How others come to know that an operation is complete. Those of one lane that complete in the same way complete in
/// the order they were issued, or at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completes {
    /// They wait for an `mbarrier` of the block of this rank.
    Mbarrier {
        rank: usize,
        address: u64,
    },
    /// By `cp.async.bulk.wait_group`, or that with `.read`.
    Group,
    GroupRead,
    /// By `wgmma.wait_group`.
    Product,
}

/// The numbers of engines.
const PRODUCTS: u32 = 1;
const GROUPS: u32 = 2;
const GROUP_READS: u32 = 3;
pub(super) const FIRST_MBARRIER: u32 = 4;

/// The most bytes of a piece, however small the cells of a page are.
const PIECE: u64 = 128;

impl Races {
    /// Lanes of a warp issue an operation, together. None when times are used up.
    pub fn issue(
        &mut self,
        rank: usize,
        warp: u32,
        lanes: u32,
        pc: usize,
        completes: Completes,
    ) -> Option<Operation> {
        let engine = match completes {
            Completes::Mbarrier { rank, address } => self.mbarriers.engine((rank, address)),
            Completes::Group => GROUPS,
            Completes::GroupRead => GROUP_READS,
            Completes::Product => PRODUCTS,
        };
        let time = self.tick()?;
        let strand = self.strand(rank, warp);
        let clock = Rc::new(strand.released(lanes, time));
        Some(Operation { unit: strand.unit.engine(engine), lanes, clock, time, pc })
    }

    /// An operation accesses bytes of global memory, or of the shared memory of a block, which exist. Its accesses are
    /// told when it is issued.
    pub fn operate(
        &mut self,
        operation: &Operation,
        target: Target,
        bytes: std::ops::Range<u64>,
        kind: Kind,
    ) -> Result<(), Conflict> {
        let memory = match target {
            Target::Shared(rank) => Memory::Shared(rank),
            Target::Global => Memory::Global,
            Target::Local | Target::Const | Target::Param => return Ok(()),
        };
        let Operation { unit, lanes, ref clock, time, pc } = *operation;
        let event = Event { time, pc: pc as u32, way: Way::from(kind), data: &[] };
        let cluster = &self.cluster;
        let actor = Actor { unit, clock, all: 0, own: unit, until: time, cluster };
        for (address, bytes) in pieces(bytes) {
            self.shadow.access(memory, &event, &actor, address, bytes, &SpanLanes::Same(lanes))?;
        }
        Ok(())
    }

    /// Lanes have waited for an operation.
    pub fn finish(&mut self, rank: usize, warp: u32, lanes: u32, operation: &Operation) {
        let mut clock = Clock::default();
        clock.learn(operation.unit, operation.lanes, operation.time);
        self.strand(rank, warp).acquire(lanes, &Rc::new(clock));
    }
}

/// A range in pieces that lie within a page each, and which consist of the largest cells possible.
fn pieces(range: std::ops::Range<u64>) -> impl Iterator<Item = (u64, u32)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let rest = range.end.checked_sub(at).filter(|rest| *rest > 0)?;
        // Words as far as they are whole; before and after them, what their addresses are multiples of.
        let cell = 1 << (at | 4).trailing_zeros();
        let bytes = match (PIECE - at % PIECE).min(rest) {
            whole if cell == 4 && whole >= 4 => whole - whole % 4,
            few => cell.min(1 << few.ilog2()),
        };
        let piece = (at, bytes as u32);
        at += bytes;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::pieces;
    use crate::check::page::PAGE;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_range_and_lie_in_pages_at_multiples_of_their_cells(start in 0..3 * PAGE, bytes in 0..2 * PAGE) {
            let mut at = start;
            for (address, bytes) in pieces(start..start + bytes) {
                let cell = 1u64 << bytes.trailing_zeros().min(2);
                prop_assert_eq!((address, address % cell), (at, 0));
                prop_assert!(address / PAGE == (address + u64::from(bytes) - 1) / PAGE);
                at += u64::from(bytes);
            }
            prop_assert_eq!(at, start + bytes);
        }
    }
}
