//! Counting what a launch does.

use std::ops::AddAssign;

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

/// What some instructions did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Instructions executed by warps, with at least one active lane.
    pub instructions: u64,
    /// Active lanes of these together.
    pub lane_instructions: u64,
    /// Branches that parted the lanes of a warp.
    pub divergent_branches: u64,
    /// Bytes that lanes asked of global memory.
    pub global_bytes: u64,
    /// Sectors of 32 bytes of global memory that instructions of warps touched.
    pub global_sectors: u64,
    /// Passes over the 32 banks of shared memory by loads, stores, atomics and `ldmatrix`. What `wgmma` and bulk copies do
    /// there is not among them: how the hardware serves those is not documented.
    pub shared_wavefronts: u64,
    /// The passes that as many bytes take without bank conflicts.
    pub ideal_shared_wavefronts: u64,
    /// Multiplications and additions of tensor cores: 2 m n k for each product of matrices.
    pub tensor_operations: u64,
    /// Bytes that lanes copied to shared memory asynchronously (`cp.async`).
    pub copied_bytes: u64,
    /// Bytes that bulk copies and reductions (`cp.async.bulk`, `cp.reduce.async.bulk`) brought to or took from the shared
    /// memory of blocks.
    pub bulk_bytes: u64,
    /// Barriers that warps came to: of blocks, clusters and warps.
    pub barriers: u64,
    /// Atomic operations of lanes.
    pub atomics: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.instructions += other.instructions;
        self.lane_instructions += other.lane_instructions;
        self.divergent_branches += other.divergent_branches;
        self.global_bytes += other.global_bytes;
        self.global_sectors += other.global_sectors;
        self.shared_wavefronts += other.shared_wavefronts;
        self.ideal_shared_wavefronts += other.ideal_shared_wavefronts;
        self.tensor_operations += other.tensor_operations;
        self.copied_bytes += other.copied_bytes;
        self.bulk_bytes += other.bulk_bytes;
        self.barriers += other.barriers;
        self.atomics += other.atomics;
    }
}

/// What each instruction of a program did, all its executions together: what one worker adds up. Barriers and atomics
/// follow from what instruction it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    pub instructions: Vec<Counts>,
}

impl Profile {
    pub fn new(instructions: usize) -> Self {
        Profile { instructions: vec![Counts::default(); instructions] }
    }

    /// Adds what another worker counted.
    pub fn add(&mut self, other: &Profile) {
        for (mine, theirs) in self.instructions.iter_mut().zip(&other.instructions) {
            *mine += *theirs;
        }
    }

    /// Counts an access to global memory.
    #[inline]
    pub fn global(&mut self, pc: usize, request: &Request) {
        let counts = &mut self.instructions[pc];
        counts.global_bytes += u64::from(request.bytes) * u64::from(request.mask.count_ones());
        counts.global_sectors += sectors(request);
    }

    /// Counts an access to shared memory.
    #[inline]
    pub fn shared(&mut self, pc: usize, request: &Request) {
        let counts = &mut self.instructions[pc];
        let (wavefronts, ideal) = wavefronts(request);
        counts.shared_wavefronts += wavefronts;
        counts.ideal_shared_wavefronts += ideal;
    }
}

/// Whether all 32 lanes take part and their bytes lie in a row, which is what kernels are written for.
#[inline(always)]
fn in_a_row(request: &Request) -> bool {
    let (first, bytes) = (request.addresses[0], u64::from(request.bytes));
    let mut differs = 0;
    for (lane, address) in request.addresses.iter().enumerate() {
        differs |= address ^ first.wrapping_add(bytes * lane as u64);
    }
    request.mask == u32::MAX && differs == 0
}

/// Distinct sectors of 32 bytes.
fn sectors(request: &Request) -> u64 {
    if in_a_row(request) {
        let last = request.addresses[31] + u64::from(request.bytes) - 1;
        return last / 32 - request.addresses[0] / 32 + 1;
    }
    let (mut count, mut end) = (0, 0);
    for lane in lanes_of(request.mask) {
        let first = request.addresses[lane] / 32;
        let last = (request.addresses[lane] + u64::from(request.bytes) - 1) / 32;
        // Lanes mostly go up in memory; those that do not are sorted out the long way.
        if first + 1 < end {
            return sectors_in_any_order(request);
        }
        count += last + 1 - first.max(end).min(last + 1);
        end = last + 1;
    }
    count
}

/// Sectors of 32 bytes of ranges, given by address and length, of which each mostly follows the one before.
pub(crate) fn sectors_of(ranges: impl Iterator<Item = (u64, u64)>) -> u64 {
    let (mut count, mut end) = (0, 0);
    for (address, bytes) in ranges {
        let (first, last) = (address / 32, (address + bytes - 1) / 32 + 1);
        count += last - first - u64::from(first + 1 == end);
        end = last;
    }
    count
}

fn sectors_in_any_order(request: &Request) -> u64 {
    let ends = |lane: usize| {
        let first = request.addresses[lane] / 32;
        let last = (request.addresses[lane] + u64::from(request.bytes) - 1) / 32;
        [first, last]
    };
    let mut found = [0u64; 64];
    let mut count = 0;
    for sector in lanes_of(request.mask).flat_map(ends) {
        found[count] = sector;
        count += 1;
    }
    let found = &mut found[..count];
    found.sort_unstable();
    1 + found.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
}

/// Passes over the 32 banks of 4 bytes: of each bank, as many distinct words as are asked of it. Accesses of 8 and 16
/// bytes are made by half and by quarter warps.
fn wavefronts(request: &Request) -> (u64, u64) {
    let words = request.bytes.div_ceil(4);
    if request.bytes >= 4 && in_a_row(request) {
        return (words.into(), words.into());
    }
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
    // Without conflicts, which is what kernels are written for, no bank is asked for two words.
    let mut found = [u32::MAX; 32];
    let mut distinct = 0;
    for lane in lanes_of(mask) {
        for k in 0..words {
            let word = (request.addresses[lane] / 4) as u32 + k;
            let bank = &mut found[word as usize % 32];
            if *bank != word {
                if *bank != u32::MAX {
                    return conflicting_banks(request, mask, words);
                }
                *bank = word;
                distinct += 1;
            }
        }
    }
    (1, distinct)
}

fn conflicting_banks(request: &Request, mask: u32, words: u32) -> (u64, u64) {
    let mut all = [0u32; 32];
    let mut count = 0;
    for lane in lanes_of(mask) {
        for k in 0..words {
            all[count] = (request.addresses[lane] / 4) as u32 + k;
            count += 1;
        }
    }
    let all = &mut all[..count];
    all.sort_unstable();
    let mut depth = [0u64; 32];
    for (i, word) in all.iter().enumerate() {
        if i == 0 || all[i - 1] != *word {
            depth[*word as usize % 32] += 1;
        }
    }
    (depth.iter().max().copied().unwrap_or(0), depth.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::{sectors, wavefronts};
    use crate::memory::{Kind, Request, Target};

    fn request(addresses: &[u64; 32], mask: u32, bytes: u32) -> Request<'_> {
        Request { target: Target::Global, mask, addresses, bytes, kind: Kind::READ, data: &[], page: None }
    }

    #[test]
    fn neighbours_of_four_bytes_touch_four_sectors_in_whatever_order() {
        let up = std::array::from_fn(|lane| 4096 + 4 * lane as u64);
        let down = std::array::from_fn(|lane| 4096 + 4 * (31 - lane as u64));
        assert_eq!([up, down].map(|it| sectors(&request(&it, u32::MAX, 4))), [4, 4]);
    }

    #[test]
    fn a_stride_of_a_sector_touches_one_for_each_lane() {
        let addresses = std::array::from_fn(|lane| 32 * lane as u64);
        assert_eq!(sectors(&request(&addresses, 0xFFFF, 4)), 16);
    }

    #[test]
    fn a_broadcast_is_one_sector_and_one_wavefront() {
        let request = request(&[64; 32], u32::MAX, 4);
        assert_eq!((sectors(&request), wavefronts(&request)), (1, (1, 1)));
    }

    #[test]
    fn a_stride_of_two_words_takes_two_wavefronts() {
        let addresses = std::array::from_fn(|lane| 8 * lane as u64);
        assert_eq!(wavefronts(&request(&addresses, u32::MAX, 4)), (2, 1));
    }

    #[test]
    fn sixteen_bytes_for_each_lane_take_four_wavefronts() {
        let addresses = std::array::from_fn(|lane| 16 * lane as u64);
        assert_eq!(wavefronts(&request(&addresses, u32::MAX, 16)), (4, 4));
    }

    #[test]
    fn lanes_that_are_not_active_count_nothing() {
        let addresses = std::array::from_fn(|lane| 128 * lane as u64);
        assert_eq!(wavefronts(&request(&addresses, 0b101, 4)), (2, 1));
    }
}
