//! Places in shared memory that are not read or written like data: `mbarrier` objects, and what asynchronous
//! operations will write.

use crate::fault::{Problem, SpaceName};
use crate::lanes::Done;
use crate::machine::{Context, Stop, access};
use crate::memory::global::Found;
use crate::memory::{Kind, Space};

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
        self.place(lane, space, (address, bytes), align, true)
    }

    /// The same in the memory of the block itself, of what is read.
    pub fn shared_source(&self, lane: usize, range: (u64, u64), align: u64) -> Result<u64, Stop> {
        let (rank, address) = self.place(lane, Space::Shared, range, align, false)?;
        if rank == self.warp.rank {
            return Ok(address);
        }
        let access = access(false, SpaceName::Shared, address, range.1);
        let nearest = format!("it is of block rank {rank}, and must be of the block itself");
        Err(Stop::lane(lane, Problem::OutOfBounds { access, nearest }))
    }

    fn place(
        &self,
        lane: usize,
        space: Space,
        (address, bytes): (u64, u64),
        align: u64,
        write: bool,
    ) -> Result<(usize, u64), Stop> {
        let Some((SpaceName::Shared, address)) = space.locate(address) else {
            let mut access = access(write, SpaceName::Shared, address, bytes);
            access.space = space.locate(address).map(|(space, _)| space);
            return Err(Stop::lane(lane, Problem::WrongSpace { access }));
        };
        let (rank, address) = self.shared_address(address);
        let access = access(write, SpaceName::Shared, address, bytes);
        if address % align != 0 {
            return Err(Stop::lane(lane, Problem::Misaligned { access, align }));
        }
        let nearest = match self.cluster.blocks.get(rank) {
            None => format!("the cluster has no block of rank {rank}"),
            Some(block) if address + bytes > block.shared.len() => {
                format!("there are {} bytes", block.shared.len())
            }
            // What has no bytes is only an address.
            Some(_) if bytes == 0 => return Ok((rank, address)),
            Some(_) => return self.check_alive(lane, rank).map(|()| (rank, address)),
        };
        Err(Stop::lane(lane, Problem::OutOfBounds { access, nearest }))
    }

    /// What concerns 128 bytes of global memory as a whole; of a write, nothing is known of them afterwards.
    pub fn global_line(&mut self, lane: usize, address: u64, kind: Kind) -> Done {
        let access = access(kind.write, SpaceName::Global, address, 128);
        if !address.is_multiple_of(128) {
            return Err(Stop::lane(lane, Problem::Misaligned { access, align: 128 }));
        }
        match self.global.find(address, 128) {
            Found::In(index) if kind.write => self.global.allocations[index].forget(address, 128),
            Found::In(_) => {}
            Found::Freed => return Err(Stop::lane(lane, Problem::UseAfterFree { access })),
            Found::Outside => {
                let nearest = self.global.nearest(address);
                return Err(Stop::lane(lane, Problem::OutOfBounds { access, nearest }));
            }
        }
        Ok(())
    }

    /// The shared memory of another block is there from when that block has begun, which a barrier of the cluster
    /// shows, until all its threads have exited (CUDA C++ Programming Guide, "Distributed Shared Memory").
    pub fn check_alive(&self, lane: usize, rank: usize) -> Result<(), Stop> {
        if rank == self.warp.rank {
            return Ok(());
        }
        let what = if self.cluster.blocks[rank].live == 0 {
            "all threads of which have exited"
        } else if self.cluster.barrier.generation == 0 {
            "which may not have begun: no barrier.cluster has completed"
        } else {
            return Ok(());
        };
        let what = format!("shared memory of the block of rank {rank}, {what}");
        Err(Stop::lane(lane, Problem::Synchronisation(what)))
    }
}
