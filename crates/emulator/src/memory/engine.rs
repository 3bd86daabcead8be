//! What asynchronous operations have to do with other accesses: those in flight, and races.

use crate::check::{Completes, Conflict, Operation, Stranger};
use crate::fault::{Access, Location, Problem};
use crate::lanes::Done;
use crate::machine::{Context, Stop, access};
use crate::memory::{Issuer, Kind, Target};

impl Context<'_> {
    /// An operation that a lane issues now.
    pub fn issuer(&self, lane: usize) -> Issuer {
        Issuer { pc: self.pc as u32, warp: self.writer() as u16, lane: lane as u8 }
    }

    /// No operation in flight minds an access to the shared memory of the block of a rank, `by` whomever.
    pub fn check_flight(&self, rank: usize, access: &Access, by: &str) -> Result<(), Problem> {
        let shared = &self.cluster.blocks[rank].shared;
        let Access { write, address, bytes, .. } = *access;
        if !shared.is_marked() || !self.launch.options.checks.asynchronous {
            return Ok(());
        }
        let (what, issuer) = if let Some(issuer) = shared.arriving(address, bytes) {
            ("that an asynchronous copy has not finished writing: a wait is missing", Some(issuer))
        } else if shared.is_object(address, bytes) {
            ("that belong to an mbarrier", None)
        } else if write && let Some(issuer) = shared.leaving(address, bytes) {
            ("that an asynchronous operation may still read: a wait is missing", Some(issuer))
        } else {
            return Ok(());
        };
        let issued = issuer.map(|Issuer { pc, warp, lane }| {
            let (rank, index) = (usize::from(warp) / 32, u32::from(warp) % 32);
            let block = self.cluster.blocks[rank].coordinates;
            format!("; issued by {}", self.launch.program.location(pc as usize, block, index, lane.into()))
        });
        Err(Problem::Asynchronous(format!("{access}{by} {what}{}", issued.unwrap_or_default())))
    }

    /// A lane issues an operation. None where races are not looked for.
    pub fn begin_operation(&mut self, lane: usize, completes: Completes) -> Option<Operation> {
        self.begin_operation_of(1 << lane, completes)
    }

    /// Lanes issue an operation together.
    pub fn begin_operation_of(&mut self, lanes: u32, completes: Completes) -> Option<Operation> {
        let races = self.cluster.races.as_mut()?;
        races.issue(self.warp.rank, self.warp.index, lanes, self.pc, completes)
    }

    /// An operation that is being issued will access bytes, which exist.
    pub fn operate(
        &mut self,
        operation: Option<&Operation>,
        target: Target,
        address: u64,
        bytes: u64,
        kind: Kind,
    ) -> Done {
        let (Some(operation), Some(races)) = (operation, &mut self.cluster.races) else { return Ok(()) };
        let done = races.operate(operation, target, address..address + bytes, kind);
        done.map_err(|conflict| self.race(access(kind.write, target.space(), address, bytes), &conflict))
    }

    /// A lane has waited for an operation, or lanes for one that they issued together.
    pub fn end_operation(&mut self, lanes: u32, operation: &Operation) {
        if let Some(races) = &mut self.cluster.races {
            races.finish(self.warp.rank, self.warp.index, lanes, operation);
        }
    }

    #[cold]
    pub fn race(&self, access: Access, conflict: &Conflict) -> Stop {
        let Conflict { lane, earlier, earlier_lane, earlier_pc, earlier_is_write } = *conflict;
        let earlier = self.place_of(earlier.block(), earlier.index(), earlier_pc, earlier_lane);
        Stop::lane(lane, Problem::Race { access, earlier_is_write, earlier: Box::new(earlier) })
    }

    /// A lane of a warp, at an instruction, of the block of a number.
    fn place_of(&self, number: u32, warp: u32, pc: u32, lane: u32) -> Location {
        let mut blocks = self.cluster.blocks.iter().map(|block| block.coordinates);
        let mine = blocks.find(|coordinates| self.launch.block_number(*coordinates) == number);
        let block = mine.unwrap_or_else(|| self.launch.block_of(number));
        self.launch.program.location(pc as usize, block, warp, lane)
    }

    /// The block has exited: other blocks are done with its shared memory, and it knows.
    pub fn check_strangers(&self) -> Result<(), Problem> {
        let found = self.cluster.races.as_ref().and_then(|races| races.unknown_at_exit(self.warp.rank));
        let Some(Stranger { unit, lane, pc, is_write }) = found else { return Ok(()) };
        let place = self.place_of(unit.block(), unit.index(), pc, lane);
        let verb = if is_write { "write to" } else { "read of" };
        Err(Problem::Synchronisation(format!(
            "the block exits, and nothing orders that after the {verb} its shared memory by {place}"
        )))
    }
}
