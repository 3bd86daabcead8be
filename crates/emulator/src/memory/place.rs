//! Places in shared memory that are not read or written like data: `mbarrier` objects, and what asynchronous
//! operations will write.

use crate::fault::{Problem, SpaceName};
use crate::machine::{Context, Stop, access};
use crate::memory::Space;

impl Context<'_> {
    /// The block, by rank, and the address there of so many bytes that a lane names in shared memory, which must exist
    /// and lie at a multiple of `align`.
    pub fn shared_place(
        &self,
        lane: usize,
        space: Space,
        address: u64,
        bytes: u64,
        align: u64,
    ) -> Result<(usize, u64), Stop> {
        let Some((SpaceName::Shared, address)) = space.locate(address) else {
            let mut access = access(true, SpaceName::Shared, address, bytes);
            access.space = space.locate(address).map(|(space, _)| space);
            return Err(Stop::lane(lane, Problem::WrongSpace { access }));
        };
        let (rank, address) = self.shared_address(address);
        let access = access(true, SpaceName::Shared, address, bytes);
        if address % align != 0 {
            return Err(Stop::lane(lane, Problem::Misaligned { access, align }));
        }
        let nearest = match self.cluster.blocks.get(rank) {
            None => format!("the cluster has no block of rank {rank}"),
            Some(block) if address + bytes > block.shared.len() => {
                format!("there are {} bytes", block.shared.len())
            }
            Some(_) => return self.check_alive(lane, rank).map(|()| (rank, address)),
        };
        Err(Stop::lane(lane, Problem::OutOfBounds { access, nearest }))
    }

    /// The shared memory of another block is there until all threads of that block have exited (PTX ISA, "Distributed
    /// shared memory"; CUDA C++ Programming Guide, "Distributed Shared Memory").
    pub fn check_alive(&self, lane: usize, rank: usize) -> Result<(), Stop> {
        if rank == self.warp.rank || self.cluster.blocks[rank].live > 0 {
            return Ok(());
        }
        let what = format!("shared memory of the block of rank {rank}, all threads of which have exited");
        Err(Stop::lane(lane, Problem::Synchronisation(what)))
    }
}
