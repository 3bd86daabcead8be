//! Counting what a launch does.

use serde::Serialize;

use crate::lanes::lanes_of;
use crate::memory::Request;

/// What kind of instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Integer arithmetic, logic and shifts.
    Integer,
    /// Floating-point arithmetic, in any precision.
    Float,
    /// Approximate functions: the special function unit's.
    Special,
    /// Conversions between types.
    Convert,
    /// Comparisons and selections.
    Compare,
    /// Moves between registers, address conversions.
    Move,
    /// Branches, calls, returns.
    Control,
    /// Loads from, stores to memory of any space.
    Memory,
    /// Atomic operations and reductions in memory.
    Atomic,
    /// Exchange between the lanes of a warp.
    Warp,
    /// Barriers, fences, waits.
    Synchronisation,
    /// Asynchronous copies.
    Copy,
    /// Matrix products and moves of their fragments.
    Matrix,
}

/// Counts of one instruction of the text, by the lines of a program: what one worker adds up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    pub instructions: Vec<Executed>,
}

/// What one instruction of the text did, all its executions together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Executed {
    /// Times that a warp executed it with at least one active lane.
    pub warps: u64,
    /// Active lanes of these together.
    pub lanes: u64,
    /// Times that it parted the lanes of a warp.
    pub divergent: u64,
    /// Bytes that the lanes asked of global memory.
    pub bytes: u64,
    /// Sectors of 32 bytes of global memory that each execution touched.
    pub sectors: u64,
    /// Passes over shared memory's 32 banks.
    pub wavefronts: u64,
    /// The passes that as many bytes take without conflicts.
    pub ideal_wavefronts: u64,
}

impl Profile {
    pub fn new(instructions: usize) -> Self {
        Profile { instructions: vec![Executed::default(); instructions] }
    }

    /// Adds what another worker counted.
    pub fn add(&mut self, other: &Profile) {
        for (mine, theirs) in self.instructions.iter_mut().zip(&other.instructions) {
            mine.warps += theirs.warps;
            mine.lanes += theirs.lanes;
            mine.divergent += theirs.divergent;
            mine.bytes += theirs.bytes;
            mine.sectors += theirs.sectors;
            mine.wavefronts += theirs.wavefronts;
            mine.ideal_wavefronts += theirs.ideal_wavefronts;
        }
    }

    /// Counts an access to global memory.
    #[inline]
    pub fn global(&mut self, pc: usize, request: &Request) {
        let counts = &mut self.instructions[pc];
        counts.bytes += u64::from(request.bytes) * u64::from(request.mask.count_ones());
        counts.sectors += sectors(request);
    }

    /// Counts an access to shared memory.
    #[inline]
    pub fn shared(&mut self, pc: usize, request: &Request) {
        let counts = &mut self.instructions[pc];
        let (wavefronts, ideal) = wavefronts(request);
        counts.wavefronts += wavefronts;
        counts.ideal_wavefronts += ideal;
    }
}

/// Distinct sectors of 32 bytes.
fn sectors(request: &Request) -> u64 {
    let mut found = [0u64; 64];
    let mut count = 0;
    for lane in lanes_of(request.mask) {
        let first = request.addresses[lane] / 32;
        let last = (request.addresses[lane] + u64::from(request.bytes) - 1) / 32;
        for sector in first..=last {
            // Neighbours mostly share a sector: the last one found is the likeliest.
            if !found[..count].iter().rev().any(|it| *it == sector) {
                found[count] = sector;
                count += 1;
            }
        }
    }
    count as u64
}

/// Passes over the 32 banks of 4 bytes: of each bank, as many distinct words as are asked of it. Accesses of 8 and 16
/// bytes are made by half and by quarter warps.
fn wavefronts(request: &Request) -> (u64, u64) {
    let words = request.bytes.div_ceil(4);
    let lanes_together = 32 / words.max(1);
    let mut total = (0, 0);
    for part in 0..words {
        let lanes = (u32::MAX >> (32 - lanes_together)) << (part * lanes_together);
        let mask = request.mask & lanes;
        if mask != 0 {
            let (most, distinct) = banks(request, mask, words);
            total.0 += most;
            total.1 += distinct.div_ceil(32);
        }
    }
    total
}

/// The most distinct words in one bank, and the distinct words of all.
fn banks(request: &Request, mask: u32, words: u32) -> (u64, u64) {
    let mut found = [[0u32; 32]; 32];
    let mut depth = [0usize; 32];
    for lane in lanes_of(mask) {
        for k in 0..words {
            let word = (request.addresses[lane] / 4) as u32 + k;
            let bank = word as usize % 32;
            let column = &mut found[bank];
            if !column[..depth[bank]].contains(&word) {
                column[depth[bank]] = word;
                depth[bank] += 1;
            }
        }
    }
    (depth.iter().max().map_or(0, |most| *most as u64), depth.iter().map(|it| *it as u64).sum())
}
