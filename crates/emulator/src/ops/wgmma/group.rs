//! What the four warps of a warpgroup issue together.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::WARPS;
use crate::fault::Problem;
use crate::lanes::{Done, Lanes};
use crate::machine::{Context, Stop, Waiting};

/// The products that some warps of a warpgroup have issued and others not yet.
#[derive(Debug, Default)]
pub(crate) struct Warpgroup {
    /// How many each warp has issued.
    issued: [u64; WARPS as usize],
    /// The last of the products that any has issued.
    log: VecDeque<Arc<Issue>>,
}

/// A product as the first warp to come issued it.
#[derive(Debug)]
pub(super) struct Issue {
    pc: usize,
    a_bits: Option<u64>,
    b_bits: u64,
    /// The matrix b, as registers.
    pub b: Vec<Lanes<u32>>,
    /// Where it lies in shared memory.
    pub ranges: Vec<Range<u32>>,
}

impl Warpgroup {
    /// How many products all four warps have issued.
    pub fn together(&self) -> u64 {
        self.issued.iter().copied().min().unwrap_or(0)
    }

    /// The product that a warp issues now, if another was faster.
    fn next(&self, warp: usize) -> Option<&Arc<Issue>> {
        let first = self.issued.iter().max().unwrap_or(&0) - self.log.len() as u64;
        self.log.get((self.issued[warp] - first) as usize)
    }

    fn issue(&mut self, warp: usize, issue: &Arc<Issue>) {
        if self.next(warp).is_none() {
            self.log.push_back(issue.clone());
        }
        self.issued[warp] += 1;
        let ahead = self.issued.iter().max().unwrap_or(&0) - self.together();
        while self.log.len() as u64 > ahead {
            self.log.pop_front();
        }
    }
}

impl Context<'_> {
    fn warpgroup(&mut self) -> &mut Warpgroup {
        let index = (self.warp.index / WARPS) as usize;
        &mut self.block().warpgroups[index]
    }

    /// Issues a product: the same as the other warps of the warpgroup. The first of them reads b.
    pub(super) fn issue(
        &mut self,
        a_bits: Option<u64>,
        b_bits: u64,
        read: impl FnOnce(&mut Self) -> Result<(Vec<Lanes<u32>>, Vec<Range<u32>>), Stop>,
    ) -> Result<Arc<Issue>, Stop> {
        let (warp, pc) = ((self.warp.index % WARPS) as usize, self.pc);
        let issue = match self.warpgroup().next(warp).cloned() {
            Some(issue) => issue,
            None => {
                let (b, ranges) = read(self)?;
                Arc::new(Issue { pc, a_bits, b_bits, b, ranges })
            }
        };
        if issue.pc != pc || issue.a_bits != a_bits || issue.b_bits != b_bits {
            let line = |pc: usize| self.launch.program.code[pc].line;
            let what = if issue.pc == pc {
                "the descriptors of this wgmma differ between the warps of a warpgroup".to_owned()
            } else {
                let (other, this) = (line(issue.pc), line(pc));
                format!("the warps of a warpgroup issue different wgmma: of lines {other} and {this}")
            };
            return Err(Stop::warp(Problem::Synchronisation(what)));
        }
        self.warpgroup().issue(warp, &issue);
        self.cluster.changes += 1;
        Ok(issue)
    }

    /// Waits until the other warps of the warpgroup have issued as much as this one.
    pub(super) fn wait_for_warpgroup(&mut self) -> Done {
        let warp = (self.warp.index % WARPS) as usize;
        let issued = self.warpgroup().issued[warp];
        if self.warpgroup().together() >= issued {
            return Ok(());
        }
        Err(Stop::Wait(Waiting::Warpgroup { issued }))
    }
}
