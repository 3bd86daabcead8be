//! Local memory: each lane has its own.

use crate::lanes::{LANES, Lanes};
use crate::memory::POISON;

/// The local memory of a warp's lanes, which grows with the activations of functions.
#[derive(Default)]
pub(crate) struct LocalMemory {
    words: Vec<Lanes<u32>>,
    /// Which bytes of a word were written, four bits.
    written: Vec<Lanes<u8>>,
}

impl LocalMemory {
    /// Bytes each lane has.
    pub fn len(&self) -> u32 {
        self.words.len() as u32 * 4
    }

    /// Makes it this long; what is new is uninitialised.
    pub fn resize(&mut self, bytes: u32) {
        let words = bytes.div_ceil(4) as usize;
        self.words.resize(words, [u32::from_ne_bytes([POISON; 4]); LANES]);
        self.written.resize(words, [0; LANES]);
    }

    /// Reads up to 4 bytes that lie in one word; the second result tells which of them were written.
    #[inline]
    pub fn read(&self, lane: usize, address: u32, bytes: u32) -> (u32, bool) {
        let (word, shift) = (address as usize / 4, address % 4);
        let (mask, flags) = masks(bytes);
        let value = self.words[word][lane] >> (8 * shift) & mask;
        (value, self.written[word][lane] >> shift & flags == flags)
    }

    /// Writes up to 4 bytes that lie in one word.
    #[inline]
    pub fn write(&mut self, lane: usize, address: u32, bytes: u32, value: u32) {
        let (word, shift) = (address as usize / 4, address % 4);
        let (mask, flags) = masks(bytes);
        let target = &mut self.words[word][lane];
        *target = *target & !(mask << (8 * shift)) | (value & mask) << (8 * shift);
        self.written[word][lane] |= flags << shift;
    }
}

/// The bits of the low bytes, and one flag for each of them.
#[inline]
pub(super) fn masks(bytes: u32) -> (u32, u8) {
    if bytes >= 4 { (u32::MAX, 0xF) } else { ((1 << (8 * bytes)) - 1, (1 << bytes) - 1) }
}
