//! Bulk copies to global memory, and the groups that a lane waits for (PTX ISA, "Bulk async-group mechanism").
//!
//! A copy lands when the lane waits for its group, and what was never waited for when the block ends. Until then the
//! bytes that it will write are uninitialised. Its source belongs to it until `.read` is waited for. Shared memory lasts
//! as long as the block does (PTX ISA, "Shared State Space"): a block that ends before its copies are known to have read
//! their sources has them read what is no longer there.

use std::collections::VecDeque;

use crate::check::{Completes, Operation};
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::lanes::{Done, LANES, Lanes, lanes_of};
use crate::machine::Context;
use crate::memory::{Kind, Target};
use crate::ops::bulk::engine::{GlobalWrite, ranges};
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};
use crate::tensor::tma::Chunk;

/// Bulk copies to global memory of a warp's lanes that have not landed.
#[derive(Default)]
pub(crate) struct BulkGroups {
    /// In the order they were issued.
    issued: VecDeque<Store>,
    /// How many groups each lane has committed.
    committed: Lanes<u32>,
}

/// A copy to global memory.
struct Store {
    lane: usize,
    /// The group of the lane that it belongs to, by its number.
    group: u32,
    /// The instruction.
    pc: usize,
    /// Address and length of what it reads of the block's shared memory; nothing once that is done.
    sources: Vec<(u64, u64)>,
    writes: Vec<GlobalWrite>,
    /// As races see what it reads and what it writes.
    operations: [Option<Operation>; 2],
}

impl Context<'_> {
    /// A copy begins of these bytes of the block's shared memory.
    pub(super) fn issue_store(&mut self, lane: usize, chunks: &[Chunk], writes: Vec<GlobalWrite>) -> Done {
        let sources = ranges(chunks);
        let (pc, warp, rank) = (self.pc, self.warp.index as usize, self.warp.rank);
        let operations = [Completes::GroupRead, Completes::Group].map(|it| self.begin_operation(lane, it));
        let [reads, stores] = operations.each_ref().map(Option::as_ref);
        for (address, bytes) in &sources {
            self.operate(reads, Target::Shared(rank), *address, *bytes, Kind::READ)?;
        }
        for write in &writes {
            let kind = if write.reduction.is_some() { Kind::REDUCE } else { Kind::WRITE };
            self.operate(stores, Target::Global, write.address, write.data.len() as u64, kind)?;
        }
        let issuer = self.issuer(lane);
        self.profile.instructions[pc].bulk_bytes += writes.iter().map(|it| it.data.len() as u64).sum::<u64>();
        let block = self.block();
        sources.iter().for_each(|(address, bytes)| block.shared.begin_read(*address, *bytes, issuer));
        let groups = &mut block.bulk[warp];
        let group = groups.committed[lane];
        groups.issued.push_back(Store { lane, group, pc, sources, writes, operations });
        Ok(())
    }

    /// Copies of a lane that belong to groups before this one are done, or have read their sources.
    fn finish_stores(&mut self, lane: usize, before: u32, only_reads: bool) {
        let warp = self.warp.index as usize;
        let block = self.block();
        let covered = |store: &Store| store.lane == lane && store.group < before;
        // Who knows of the last knows of all before it.
        let mut last = [None, None];
        for store in block.bulk[warp].issued.iter_mut().filter(|store| covered(store)) {
            last.clone_from(&store.operations);
            for (address, bytes) in std::mem::take(&mut store.sources) {
                block.shared.end_read(address, bytes);
            }
        }
        let waited = if only_reads { &last[..1] } else { &last[..] };
        waited.iter().flatten().for_each(|it| self.end_operation(1 << lane, it));
        if only_reads {
            return;
        }
        let block = self.block();
        let all = std::mem::take(&mut block.bulk[warp].issued);
        let (done, rest) = all.into_iter().partition(covered);
        block.bulk[warp].issued = rest;
        self.land_stores(&done);
    }

    fn land_stores(&mut self, stores: &VecDeque<Store>) {
        for write in stores.iter().flat_map(|store| &store.writes) {
            self.cluster.changes += 1;
            match write.reduction {
                None => self.global.write(write.address, &write.data),
                Some(reduction) => {
                    let mut data = self.global.read(write.address, write.data.len() as u64);
                    let elements = data.chunks_exact_mut(reduction.element);
                    for (old, new) in elements.zip(write.data.chunks_exact(reduction.element)) {
                        let bits = (reduction.f)(word(old), word(new), 0);
                        old.copy_from_slice(&bits.to_le_bytes()[..reduction.element]);
                    }
                    self.global.write(write.address, &data);
                }
            }
        }
    }

    /// The last threads of the block exit: copies to global memory land. None may still need its shared memory.
    pub fn end_block(&mut self) -> Result<(), Problem> {
        if self.block().live != 0 {
            return Ok(());
        }
        let checked = self.launch.options.checks.asynchronous;
        let program = self.launch.program;
        if checked && let Some((address, bytes)) = self.block().mbarriers.in_flight() {
            return Err(Problem::Asynchronous(format!(
                "the block ends while {bytes} bytes are in flight to its shared memory, which the mbarrier at {address:#x} \
                 was to tell of: a wait is missing"
            )));
        }
        let rank = self.warp.rank;
        let sent = self.cluster.blocks.iter().map(|block| block.mbarriers.in_flight_from(rank));
        if checked && let Some((target, bytes)) = sent.enumerate().find(|(_, bytes)| *bytes > 0) {
            return Err(Problem::Asynchronous(format!(
                "the block ends while {bytes} bytes of its shared memory are on their way to block rank {target}: a \
                 wait is missing"
            )));
        }
        for warp in 0..self.block().bulk.len() {
            let stores = std::mem::take(&mut self.block().bulk[warp].issued);
            if let Some(store) = stores.iter().find(|store| checked && !store.sources.is_empty()) {
                let line = program.code[store.pc].line;
                return Err(Problem::Asynchronous(format!(
                    "the block ends while a bulk copy by warp {warp}, lane {}, PTX line {line} may still read its shared \
                     memory: cp.async.bulk.wait_group.read is missing",
                    store.lane
                )));
            }
            self.land_stores(&stores);
        }
        Ok(())
    }
}

/// Up to 16 bytes, the first the lowest.
fn word(bytes: &[u8]) -> u128 {
    let mut word = [0; 16];
    word[..bytes.len()].copy_from_slice(bytes);
    u128::from_le_bytes(word)
}

/// `cp.async.bulk.commit_group`
pub(super) fn commit(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    ["async", "bulk", "commit_group"].iter().for_each(|it| {
        modifiers.flag(it);
    });
    modifiers.finish()?;
    let [] = &instruction.operands[..] else { return Err("operands".into()) };
    Ok(Action::run(|cx| {
        let (mask, warp) = (cx.mask, cx.warp.index as usize);
        let committed = &mut cx.block().bulk[warp].committed;
        lanes_of(mask).for_each(|lane| committed[lane] += 1);
        Ok(())
    }))
}

/// `cp.async.bulk.wait_group`
pub(super) fn wait(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    ["async", "bulk", "wait_group"].iter().for_each(|it| {
        modifiers.flag(it);
    });
    let only_reads = modifiers.flag("read");
    modifiers.finish()?;
    let [Operand::Integer(pending)] = instruction.operands[..] else { return Err("operands".into()) };
    let pending = u32::try_from(pending).map_err(|_| "operands")?;
    Ok(Action::run(move |cx| {
        let (mask, warp) = (cx.mask, cx.warp.index as usize);
        let committed: [u32; LANES] = cx.block().bulk[warp].committed;
        for lane in lanes_of(mask) {
            cx.finish_stores(lane, committed[lane].saturating_sub(pending), only_reads);
        }
        Ok(())
    }))
}
