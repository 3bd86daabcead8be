//! What the engine of bulk copies does: it reads and writes memory on behalf of a lane, through the asynchronous proxy.
//!
//! Sources are read when a copy is issued. Whoever changes them, in shared memory, before the copy is known to have read
//! them is found by the marks that shared memory keeps.

use crate::check::{self, Completes, PAGE};
use crate::count::sectors_of;
use crate::fault::{Access, Problem, SpaceName};
use crate::lanes::Done;
use crate::machine::{Context, Effect, Landing, Stop, access};
use crate::memory::{Found, Kind, Target};
use crate::ops::async_store::Operation;
use crate::ops::atomic::Operator;
use crate::tensor::tma::Chunk;

/// A reduction in place of a copy.
#[derive(Clone, Copy)]
pub(super) struct Reduction<F> {
    pub f: F,
    /// Bytes of an element.
    pub element: usize,
}

/// What a copy does to global memory when it lands.
pub(super) struct GlobalWrite {
    pub address: u64,
    pub data: Vec<u8>,
    pub reduction: Option<Reduction<Operator>>,
}

/// Bytes that arrive in shared memory from an address on.
struct Arriving {
    address: u64,
    data: Vec<u8>,
}

/// The `mbarrier` that a copy signals, of the block of this rank, which is the one that the copy writes to.
#[derive(Clone, Copy)]
pub(super) struct Signal {
    pub rank: usize,
    pub mbarrier: u64,
}

/// A signal, and the operation that it tells of.
type Operating<'a> = (Signal, &'a Option<check::Operation>);

impl Signal {
    fn completes(self) -> Completes {
        Completes::Mbarrier { rank: self.rank, address: self.mbarrier }
    }
}

impl Context<'_> {
    /// A copy from global to the shared memory of blocks: the same bytes at the same addresses in each. What lies
    /// outside of a tensor is `fill`.
    pub(super) fn bulk_load(&mut self, lane: usize, chunks: &[Chunk], fill: u8, signals: &[Signal]) -> Done {
        let operations: Vec<_> =
            signals.iter().map(|it| self.begin_operation(lane, it.completes())).collect();
        let whole = |(address, bytes)| Arriving { address, data: vec![fill; bytes as usize] };
        let mut arriving: Vec<Arriving> = ranges(chunks).into_iter().map(whole).collect();
        for row in rows(chunks) {
            let Some(address) = row[0].global else { continue };
            let bytes = row.iter().map(|it| u64::from(it.bytes)).sum();
            let data = self.engine_reads_global(lane, address, bytes)?;
            for operation in &operations {
                self.operate(operation.as_ref(), Target::Global, address, bytes, Kind::READ)?;
            }
            let mut rest = &data[..];
            for chunk in row {
                let (now, later) = rest.split_at(chunk.bytes as usize);
                let at = u64::from(chunk.shared);
                let holder = arriving.partition_point(|it| it.address <= at) - 1;
                let range = &mut arriving[holder];
                range.data[(at - range.address) as usize..][..now.len()].copy_from_slice(now);
                rest = later;
            }
        }
        self.count_sectors(chunks);
        for (signal, operation) in signals.iter().zip(&operations) {
            for Arriving { address, data } in &arriving {
                self.engine_sends(lane, (*signal, operation), *address, data.clone(), None)?;
            }
        }
        Ok(())
    }

    /// A copy or reduction from the block's shared memory to that of another one.
    pub(super) fn bulk_send(
        &mut self,
        lane: usize,
        (source, target): (u64, u64),
        bytes: u64,
        signal: Signal,
        reduction: Option<Reduction<Operation>>,
    ) -> Done {
        let data = self.engine_reads_shared(lane, source, bytes)?;
        let (rank, issuer) = (self.warp.rank, self.issuer(lane));
        let operation = &self.begin_operation(lane, signal.completes());
        self.operate(operation.as_ref(), Target::Shared(rank), source, bytes, Kind::READ)?;
        let Some(Reduction { f, element }) = reduction else {
            return self.engine_sends(lane, (signal, operation), target, data, Some(source));
        };
        self.check_reducible(lane, signal.rank, target, bytes)?;
        self.operate(operation.as_ref(), Target::Shared(signal.rank), target, bytes, Kind::REDUCE)?;
        self.cluster.blocks[rank].shared.begin_read(source, bytes, issuer);
        let effect = Effect::Reduce { address: target, element, data, f, source: Some((rank, source)) };
        self.enqueue(lane, (signal, operation), bytes, effect)
    }

    /// Bytes begin to arrive in the shared memory of a block; `source` is where they were read from in the shared memory
    /// of the block itself.
    fn engine_sends(
        &mut self,
        lane: usize,
        (signal, operation): Operating,
        address: u64,
        data: Vec<u8>,
        source: Option<u64>,
    ) -> Done {
        let bytes = data.len() as u64;
        self.check_target(lane, signal.rank, address, bytes)?;
        self.operate(operation.as_ref(), Target::Shared(signal.rank), address, bytes, Kind::WRITE)?;
        let (rank, issuer) = (self.warp.rank, self.issuer(lane));
        self.cluster.blocks[signal.rank].shared.begin_write(address, bytes, issuer);
        if let Some(source) = source {
            self.cluster.blocks[rank].shared.begin_read(source, bytes, issuer);
        }
        let effect = Effect::Write { address, data, source: source.map(|source| (rank, source)) };
        self.enqueue(lane, (signal, operation), bytes, effect)
    }

    fn enqueue(&mut self, lane: usize, (signal, operation): Operating, bytes: u64, effect: Effect) -> Done {
        self.profile.instructions[self.pc].bulk_bytes += bytes;
        let operation = operation.clone();
        let landing = Landing { effect, bytes: bytes as u32, arrivals: 0, operation };
        let done = self.cluster.enqueue(signal.rank, signal.mbarrier, landing);
        done.map_err(|problem| Stop::lane(lane, problem))
    }

    /// A copy or reduction from the block's shared memory to global: what it will do there. Bytes outside of a tensor
    /// are not written.
    pub(super) fn bulk_store(
        &mut self,
        lane: usize,
        chunks: &[Chunk],
        reduction: Option<Reduction<Operator>>,
    ) -> Result<Vec<GlobalWrite>, Stop> {
        let mut writes = Vec::new();
        for row in rows(chunks) {
            let Some(address) = row[0].global else { continue };
            let mut data = Vec::new();
            for chunk in row {
                data.extend(self.engine_reads_shared(lane, chunk.shared.into(), chunk.bytes.into())?);
            }
            self.engine_writes_global(lane, address, data.len() as u64, reduction.is_some())?;
            writes.push(GlobalWrite { address, data, reduction });
        }
        self.count_sectors(chunks);
        Ok(writes)
    }

    /// The bytes at an address of global memory, which must have been written.
    fn engine_reads_global(&mut self, lane: usize, address: u64, bytes: u64) -> Result<Vec<u8>, Stop> {
        self.check_global(lane, address, bytes, false)?;
        self.check_global_written(lane, address, bytes)?;
        self.touch_global(address, bytes, Kind::READ);
        Ok(self.global.read(address, bytes))
    }

    /// Bytes of global memory will be overwritten, or reduced; until a copy lands nothing is known of them.
    fn engine_writes_global(&mut self, lane: usize, address: u64, bytes: u64, reduces: bool) -> Done {
        self.check_global(lane, address, bytes, true)?;
        let kind = if reduces { Kind::REDUCE } else { Kind::WRITE };
        self.touch_global(address, bytes, kind);
        if reduces {
            self.check_global_written(lane, address, bytes)
        } else {
            self.global.forget(address, bytes);
            Ok(())
        }
    }

    /// The bytes at an address of the block's shared memory, which lie within it.
    fn engine_reads_shared(&mut self, lane: usize, address: u64, bytes: u64) -> Result<Vec<u8>, Stop> {
        let checks = self.launch.options.checks;
        let rank = self.warp.rank;
        let shared = &self.cluster.blocks[rank].shared;
        let access = access(false, SpaceName::Shared, address, bytes);
        let range = address as usize..(address + bytes) as usize;
        let done = self.check_flight(rank, &access, " by a bulk copy,");
        done.map_err(|problem| Stop::lane(lane, problem))?;
        if checks.init && !shared.written[range.clone()].iter().all(|written| *written) {
            return Err(Stop::lane(lane, Problem::Uninitialised { access }));
        }
        let data = shared.bytes[range].to_vec();
        self.check_fenced(rank, address, bytes).map_err(|problem| Stop::lane(lane, problem))?;
        Ok(data)
    }

    /// Nothing else concerns the bytes that a copy will write.
    fn check_target(&self, lane: usize, rank: usize, address: u64, bytes: u64) -> Done {
        let access = access(true, SpaceName::Shared, address, bytes);
        let done = self.check_flight(rank, &access, " by a bulk copy,");
        done.map_err(|problem| Stop::lane(lane, problem))
    }

    /// What a reduction will act on is there to be read.
    fn check_reducible(&self, lane: usize, rank: usize, address: u64, bytes: u64) -> Done {
        self.check_target(lane, rank, address, bytes)?;
        let written = &self.cluster.blocks[rank].shared.written[address as usize..][..bytes as usize];
        if self.launch.options.checks.init && !written.iter().all(|it| *it) {
            let access = access(false, SpaceName::Shared, address, bytes);
            return Err(Stop::lane(lane, Problem::Uninitialised { access }));
        }
        self.check_fenced(rank, address, bytes).map_err(|problem| Stop::lane(lane, problem))
    }

    /// A range of global memory lies within an allocation.
    pub(super) fn check_global(&mut self, lane: usize, address: u64, bytes: u64, write: bool) -> Done {
        let access: Access = access(write, SpaceName::Global, address, bytes);
        match self.global.find(address, bytes) {
            Found::In(_) => Ok(()),
            Found::Freed => Err(Stop::lane(lane, Problem::UseAfterFree { access })),
            Found::Outside => {
                let nearest = self.global.nearest(address);
                Err(Stop::lane(lane, Problem::OutOfBounds { access, nearest }))
            }
        }
    }

    pub(super) fn check_global_written(&mut self, lane: usize, address: u64, bytes: u64) -> Done {
        if !self.launch.options.checks.init || self.global.is_written(address, bytes) {
            return Ok(());
        }
        let access = access(false, SpaceName::Global, address, bytes);
        Err(Stop::lane(lane, Problem::Uninitialised { access }))
    }

    /// Notes which bytes of global memory are accessed, and keeps what they held before.
    fn touch_global(&mut self, address: u64, bytes: u64, kind: Kind) {
        self.profile.instructions[self.pc].global_bytes += bytes;
        let end = address + bytes;
        let mut at = address;
        while at < end {
            let next = (at + 1).next_multiple_of(PAGE).min(end);
            self.cluster.touched.add(at, next - at, kind.into());
            at = next;
        }
        if kind.write {
            self.global.keep_range(address, bytes);
        }
    }

    fn count_sectors(&mut self, chunks: &[Chunk]) {
        let ranges = chunks.iter().filter_map(|it| Some((it.global?, u64::from(it.bytes))));
        self.profile.instructions[self.pc].global_sectors += sectors_of(ranges);
    }
}

/// Chunks that follow each other in global memory, or that lie outside of it, together.
fn rows(chunks: &[Chunk]) -> impl Iterator<Item = &[Chunk]> {
    chunks.chunk_by(|one, next| match (one.global, next.global) {
        (Some(one_at), Some(next_at)) => one_at.wrapping_add(one.bytes.into()) == next_at,
        (None, None) => true,
        _ => false,
    })
}

/// Address and length of what chunks cover of shared memory, in order.
pub(super) fn ranges(chunks: &[Chunk]) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> =
        chunks.iter().map(|it| (u64::from(it.shared), u64::from(it.bytes))).collect();
    all.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (address, bytes) in all {
        match out.last_mut() {
            Some(last) if last.0 + last.1 == address => last.1 += bytes,
            _ => out.push((address, bytes)),
        }
    }
    out
}
