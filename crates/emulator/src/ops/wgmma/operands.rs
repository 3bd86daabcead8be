//! Operands in shared memory.

use std::ops::Range;

use crate::fault::{Problem, SpaceName};
use crate::machine::{Context, Stop, access};
use crate::tensor::ldmatrix::Row;
use crate::tensor::wgmma::{Descriptor, Major, addresses};

impl Context<'_> {
    /// The bytes that blocks of 8 rows or columns lie in, all of which may be read.
    pub(super) fn operand_ranges(
        &mut self,
        descriptor: Descriptor,
        major: Major,
        blocks: Range<u32>,
    ) -> Result<Vec<Range<u32>>, Stop> {
        let mut units: Vec<u32> = addresses(descriptor, major, blocks).collect();
        for unit in &units {
            self.check_unit(u64::from(*unit))?;
        }
        units.sort_unstable();
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for unit in units {
            match ranges.last_mut() {
                Some(last) if unit <= last.end => last.end = unit + 16,
                _ => ranges.push(unit..unit + 16),
            }
        }
        Ok(ranges)
    }

    fn check_unit(&mut self, address: u64) -> Result<(), Stop> {
        let checks = self.launch.options.checks;
        let rank = self.warp.rank;
        let shared = &self.cluster.blocks[rank].shared;
        let access = access(false, SpaceName::Shared, address, 16);
        let problem = if address + 16 > shared.len() {
            let nearest = format!("there are {} bytes", shared.len());
            Problem::OutOfBounds { access, nearest }
        } else if let Err(problem) = self.check_flight(rank, &access, " by wgmma") {
            problem
        } else if checks.init && !shared.written[address as usize..][..16].iter().all(|written| *written) {
            Problem::Uninitialised { access }
        } else {
            return self.check_fenced(rank, address, 16).map_err(Stop::warp);
        };
        Err(Stop::warp(problem))
    }

    /// The 16 bytes at an address that was checked.
    pub(super) fn operand_row(&self, address: u32) -> Row {
        let bytes = &self.cluster.blocks[self.warp.rank].shared.bytes[address as usize..][..16];
        let words = bytes.as_chunks::<4>().0;
        std::array::from_fn(|i| u32::from_le_bytes(words[i]))
    }
}
