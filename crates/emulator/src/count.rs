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
    /// Multiplications and additions of tensor cores.
    pub tensor_operations: u64,
    /// Bytes that asynchronous copies by lanes (`cp.async`) wrote.
    pub copied: u64,
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
            mine.tensor_operations += theirs.tensor_operations;
            mine.copied += theirs.copied;
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
