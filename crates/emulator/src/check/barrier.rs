//! Barriers of blocks, warps and clusters, and exits, which are like arrivals at all of them.

use std::rc::Rc;

use crate::check::clock::Clock;
use crate::check::page::Stranger;
use crate::check::strand::by_mask;
use crate::check::sync::{Arrival, Gathering};
use crate::check::{BARRIERS, Races};
use crate::memory::Scope;

/// The barrier of a cluster, of which no thread comes to the next phase before it has waited for the last.
#[derive(Default)]
pub(super) struct ClusterBarrier {
    gathering: Gathering,
    /// Whether some that came published only what fences had ordered before.
    relaxed: bool,
    /// What those learn who wait for the last phase that completed.
    told: Rc<Clock>,
}

impl Races {
    /// Lanes come to a barrier of their block.
    pub fn arrive(&mut self, rank: usize, warp: u32, lanes: u32, id: usize, waits: bool) {
        let Some(time) = self.tick() else { return };
        let strand = &self.strands[rank * self.warps + warp as usize];
        self.barriers[rank * BARRIERS + id].arrive(strand, lanes, time, waits);
    }

    /// A barrier of a block is complete: those who wait go on. It may be for all threads of the block that have not
    /// exited, of which there are so many.
    pub fn complete(&mut self, rank: usize, id: usize, live: u32, for_all: bool) {
        let Some(now) = self.tick() else { return };
        let mut gathering = std::mem::take(&mut self.barriers[rank * BARRIERS + id]);
        let waiting =
            gathering.came.iter().filter(|it| it.waits).map(|it| it.lanes.count_ones()).sum::<u32>();
        let block = self.cluster[rank];
        if for_all {
            gathering.add(&self.exited[rank]);
        }
        let nobody_else = for_all || self.exited[rank].came.is_empty();
        let clock = Rc::new(if waiting == live && nobody_else {
            // Nobody did anything since they came.
            gathering.known_with(block, now)
        } else {
            gathering.known()
        });
        for Arrival { unit, lanes, .. } in gathering.came.iter().filter(|it| it.waits) {
            self.strand(rank, unit.index()).set(*lanes, Rc::clone(&clock));
        }
    }

    /// Lanes of a warp pass a barrier of the warp together.
    pub fn pass(&mut self, rank: usize, warp: u32, lanes: u32) {
        let Some(now) = self.tick() else { return };
        self.strand(rank, warp).synchronise(lanes, now);
    }

    /// Lanes of a warp pass a barrier of the warp, each with those that name the same mask.
    pub fn pass_by_mask(&mut self, rank: usize, warp: u32, lanes: u32, masks: &[u32; 32]) {
        by_mask(lanes, masks).for_each(|lanes| self.pass(rank, warp, lanes));
    }

    /// Lanes come to the barrier of the cluster: with `.release`, or with only what fences before it published.
    pub fn arrive_at_cluster(&mut self, rank: usize, warp: u32, lanes: u32, release: bool) {
        let Some(time) = self.tick() else { return };
        let strand = &self.strands[rank * self.warps + warp as usize];
        let barrier = &mut self.cluster_barrier;
        if release {
            barrier.gathering.arrive(strand, lanes, time, true);
        } else {
            barrier.relaxed = true;
            barrier.gathering.arrive_fenced(strand, lanes, Scope::Cluster);
        }
    }

    /// The barrier of the cluster is complete.
    pub fn complete_cluster(&mut self) {
        let Some(now) = self.tick() else { return };
        let barrier = std::mem::take(&mut self.cluster_barrier);
        let mut gathering = barrier.gathering;
        let is_idle = |it: &Arrival| {
            let rank = self.cluster.iter().position(|block| *block == it.unit.block());
            rank.is_some_and(|rank| {
                self.strands[rank * self.warps + it.unit.index() as usize].latest < it.time
            })
        };
        let nobody_did_more = !barrier.relaxed && gathering.came.iter().all(is_idle);
        self.exited.iter().for_each(|exited| gathering.add(exited));
        let mut clock = gathering.known();
        if nobody_did_more {
            self.cluster.iter().for_each(|block| clock.learn_block(*block, now));
        }
        self.cluster_barrier.told = Rc::new(clock);
    }

    /// Lanes have waited for the barrier of the cluster.
    pub fn pass_cluster(&mut self, rank: usize, warp: u32, lanes: u32) {
        let told = Rc::clone(&self.cluster_barrier.told);
        self.strand(rank, warp).acquire(lanes, &told);
    }

    /// Threads exit.
    pub fn exit(&mut self, rank: usize, warp: u32, lanes: u32) {
        let Some(time) = self.tick() else { return };
        let strand = &self.strands[rank * self.warps + warp as usize];
        self.exited[rank].arrive(strand, lanes, time, false);
    }

    /// An access by another block to the shared memory of one all threads of which have exited, if they cannot know that
    /// it is over.
    pub fn unknown_at_exit(&self, rank: usize) -> Option<Stranger> {
        if self.cluster.len() == 1 {
            return None;
        }
        let clock = self.exited[rank].known();
        self.shadow.shared(rank).iter().find_map(|page| page.unknown_of_others(self.cluster[rank], &clock))
    }
}
