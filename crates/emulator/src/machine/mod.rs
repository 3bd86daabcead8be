//! What executes: warps of lanes in blocks, blocks in clusters, clusters in a grid.

mod block;
mod cluster;
mod grid;
mod mbarrier;
mod run;
mod warp;

use crate::count::Profile;
use crate::fault::{Access, Problem, SpaceName};
use crate::memory::{GlobalMemory, GlobalView};
use crate::options::Options;
use crate::program::Program;
use crate::registers::RegisterFile;

pub(crate) use block::{BARRIERS, Block, Waiting};
pub(crate) use cluster::Cluster;
pub(crate) use grid::{Launched, launch};
pub(crate) use mbarrier::{Arrival, Effect, Landing, Mbarrier, Mbarriers};
pub(crate) use warp::Warp;

/// What does not change during a launch.
pub(crate) struct Launch<'a> {
    pub program: &'a Program,
    pub entry: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The most shared memory a block may have, in bytes.
    pub shared_limit: u32,
    /// The parameter block.
    pub params: &'a [u8],
    pub memory: &'a GlobalMemory,
    pub options: &'a Options,
}

impl Launch<'_> {
    /// Where dynamic shared memory starts.
    pub fn dynamic_base(&self) -> u32 {
        let entry = &self.program.functions[self.entry];
        entry.shared_bytes.next_multiple_of(entry.dynamic_shared_align)
    }

    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    pub fn warps(&self) -> u32 {
        self.threads().div_ceil(32)
    }

    /// The number of a block in the grid. Of grids so large that they are hardly ever run it is not unique.
    pub fn block_number(&self, [x, y, z]: [u32; 3]) -> u32 {
        let rows = u64::from(z) * u64::from(self.grid[1]) + u64::from(y);
        ((rows * u64::from(self.grid[0]) + u64::from(x)) % (1 << 26)) as u32
    }

    /// The coordinates of the block of a number.
    pub fn block_of(&self, number: u32) -> [u32; 3] {
        let [x, y, _] = self.grid;
        [number % x, number / x % y, number / x / y]
    }
}

/// Everything an instruction may look at and change: the active lanes of a warp, its registers, and what surrounds
/// the warp.
pub(crate) struct Context<'a> {
    /// The lanes that execute the instruction.
    pub mask: u32,
    /// The instruction.
    pub pc: usize,
    /// The activation whose registers these are.
    pub frame: usize,
    pub registers: RegisterFile,
    pub warp: &'a mut Warp,
    /// The warp's block and those it shares a cluster with.
    pub cluster: &'a mut Cluster,
    pub launch: &'a Launch<'a>,
    /// Global memory, as this worker sees it.
    pub global: &'a mut GlobalView,
    pub profile: &'a mut Profile,
}

/// Why a warp cannot go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The instruction is to be executed again once this holds.
    Wait(Waiting),
    /// The instruction is done; what comes next waits for this.
    DoneThenWait(Waiting),
    Fault(Box<Trouble>),
}

/// A problem and whose it is.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub problem: Problem,
    /// The lane; the first active one where the warp as a whole did it.
    pub lane: Option<u32>,
}

impl Stop {
    /// A fault of one lane.
    #[cold]
    pub fn lane(lane: usize, problem: Problem) -> Stop {
        Stop::Fault(Box::new(Trouble { problem, lane: Some(lane as u32) }))
    }

    /// A fault of the warp.
    #[cold]
    pub fn warp(problem: Problem) -> Stop {
        Stop::Fault(Box::new(Trouble { problem, lane: None }))
    }
}

impl Context<'_> {
    /// The block of the warp.
    pub fn block(&mut self) -> &mut Block {
        &mut self.cluster.blocks[self.warp.rank]
    }

    /// Lanes that have not exited.
    pub fn live(&self) -> u32 {
        self.warp.live
    }

    /// The warp's number within the cluster.
    pub fn writer(&self) -> usize {
        32 * self.warp.rank + self.warp.index as usize
    }

    /// The warp tells others that it is done with something: it arrives at a barrier, or writes what they poll.
    pub fn end_epoch(&mut self) {
        let writer = self.writer();
        self.cluster.proxies.end_epoch(writer);
    }
}

/// An access, for a fault.
pub(crate) fn access(write: bool, space: SpaceName, address: u64, bytes: u64) -> Access {
    Access { write, space: Some(space), address, bytes }
}
