//! What the warps of a block share.

use crate::fault::Problem;
use crate::machine::{Launch, Mbarriers};
use crate::memory::SharedMemory;
use crate::ops::async_copy::CopyGroups;
use crate::ops::bulk::BulkGroups;
use crate::ops::setmaxnreg::Registers;
use crate::ops::wgmma::Warpgroup;

/// Barriers of a block.
pub(crate) const BARRIERS: usize = 16;

/// A block, but for its warps.
pub(crate) struct Block {
    /// Its coordinates in the grid.
    pub coordinates: [u32; 3],
    pub shared: SharedMemory,
    /// Threads that have not exited.
    pub live: u32,
    pub barriers: [Barrier; BARRIERS],
    pub mbarriers: Mbarriers,
    /// Copies (`cp.async`) that have not landed, of each warp.
    pub copies: Vec<CopyGroups>,
    /// Bulk copies to global memory that have not landed, of each warp.
    pub bulk: Vec<BulkGroups>,
    pub registers: Registers,
    pub warpgroups: Vec<Warpgroup>,
}

/// What a group of lanes waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// That a barrier of the block is past this generation.
    Barrier { id: usize, generation: u64 },
    /// That these lanes of the warp come to the same instruction.
    Lanes { mask: u32 },
    /// That these lanes come to a `bar.warp.sync` of the same mask, wherever it stands.
    WarpBarrier { mask: u32 },
    /// That an `mbarrier` of a block of the cluster completes the phase of this number (counted from its initialisation).
    Mbarrier { rank: usize, address: u64, phase: u64 },
    /// That others had their turn, after such an `mbarrier` was tested in vain.
    Tested { rank: usize, address: u64, phase: u64 },
    /// That so many registers of the block are free.
    Registers { needed: u32 },
    /// That the cluster's barrier is past this generation.
    Cluster { generation: u64 },
    /// That all four warps of the warpgroup have issued so many `wgmma`.
    Warpgroup { issued: u64 },
    /// That others had their turn.
    Turn,
}

/// A named barrier (PTX ISA, "bar, barrier").
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Barrier {
    /// Threads that have come, counted as the instruction counts them.
    pub arrived: u32,
    /// Threads that must come; None: all that have not exited.
    pub expected: Option<u32>,
    /// How often it has completed.
    pub generation: u64,
    /// Of the threads that have come with a predicate, how many there are and for how many it holds.
    pub voted: u32,
    pub votes: u32,
    /// The same of the last generation.
    pub last_voted: u32,
    pub last_votes: u32,
}

impl Block {
    pub fn new(launch: &Launch, coordinates: [u32; 3]) -> Self {
        let shared_bytes = launch.dynamic_base() + launch.dynamic_shared;
        Block {
            coordinates,
            shared: SharedMemory::new(shared_bytes, launch.options.checks.asynchronous),
            live: launch.threads(),
            barriers: [Barrier::default(); BARRIERS],
            mbarriers: Mbarriers::default(),
            registers: Registers::new(
                launch.program.functions[launch.entry].registers_per_thread,
                launch.warps(),
            ),
            copies: (0..launch.warps()).map(|_| CopyGroups::default()).collect(),
            bulk: (0..launch.warps()).map(|_| BulkGroups::default()).collect(),
            warpgroups: (0..launch.warps().div_ceil(4)).map(|_| Warpgroup::default()).collect(),
        }
    }

    /// Threads come to a barrier; returns the generation that completes when all have.
    pub fn arrive(&mut self, id: usize, threads: u32, expected: Option<u32>) -> Result<u64, Problem> {
        let barrier = &mut self.barriers[id];
        if barrier.arrived > 0 && barrier.expected != expected {
            let count = |expected: Option<u32>| match expected {
                Some(count) => format!("{count} threads"),
                None => "all threads".to_owned(),
            };
            return Err(Problem::Synchronisation(format!(
                "barrier {id} is waited at for {}, and here for {}",
                count(barrier.expected),
                count(expected),
            )));
        }
        let generation = barrier.generation;
        barrier.expected = expected;
        barrier.arrived += threads;
        if let Some(expected) = expected
            && barrier.arrived > expected
        {
            let arrived = barrier.arrived;
            return Err(Problem::Synchronisation(format!(
                "{arrived} threads came to barrier {id}, which is for {expected}"
            )));
        }
        self.complete(id);
        Ok(generation)
    }

    /// Threads exit: barriers that wait for all of the block wait for them no more. Returns those that are complete now.
    pub fn exit(&mut self, threads: u32) -> Vec<usize> {
        self.live -= threads;
        (0..BARRIERS).filter(|id| self.complete(*id)).collect()
    }

    fn complete(&mut self, id: usize) -> bool {
        let barrier = &mut self.barriers[id];
        if barrier.arrived == 0 || barrier.arrived < barrier.expected.unwrap_or(self.live) {
            return false;
        }
        *barrier = Barrier {
            generation: barrier.generation + 1,
            last_voted: barrier.voted,
            last_votes: barrier.votes,
            ..Barrier::default()
        };
        true
    }
}
