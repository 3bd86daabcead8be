//! Ranges of bytes of global memory, however they lie.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use crate::memory::POISON;
use crate::memory::global::{Allocation, Found, GlobalView, PAGE, Page, PageOf};

/// A part of a range: whole words of one page, or some bytes of one word.
struct Piece<'a> {
    page: &'a Page,
    words: Range<usize>,
    /// Where in the first word it starts.
    shift: usize,
    bytes: usize,
}

impl Piece<'_> {
    /// A bit for each of its bytes in a word.
    fn flags(&self) -> u8 {
        if self.bytes < 4 { ((1 << self.bytes) - 1) << self.shift } else { 0xF }
    }

    fn read(&self, target: &mut [u8]) {
        let words = self.page.words[self.words.clone()].iter().map(|word| word.load(Relaxed).to_le_bytes());
        if self.bytes < 4 {
            words.for_each(|word| target.copy_from_slice(&word[self.shift..][..self.bytes]));
        } else {
            target.as_chunks_mut().0.iter_mut().zip(words).for_each(|(target, word)| *target = word);
        }
    }

    /// Leaves other bytes of a word alone, whoever writes them meanwhile.
    fn write(&self, source: &[u8]) {
        let words = &self.page.words[self.words.clone()];
        if self.bytes < 4 {
            let replace = |old: u32| {
                let mut word = old.to_le_bytes();
                word[self.shift..][..self.bytes].copy_from_slice(source);
                Some(u32::from_le_bytes(word))
            };
            let _ = words[0].fetch_update(Relaxed, Relaxed, replace);
        } else {
            let source = source.as_chunks().0.iter();
            words
                .iter()
                .zip(source)
                .for_each(|(word, bytes)| word.store(u32::from_le_bytes(*bytes), Relaxed));
        }
    }

    fn mark_written(&self) {
        let flags = self.flags();
        for written in &self.page.written[self.words.clone()] {
            written.fetch_or(flags, Relaxed);
        }
    }

    fn is_written(&self) -> bool {
        let flags = self.flags();
        self.page.written[self.words.clone()].iter().fold(flags, |all, it| all & it.load(Relaxed)) == flags
    }
}

impl Allocation {
    fn pieces(&self, address: u64, bytes: u64) -> impl Iterator<Item = Piece<'_>> {
        let (mut offset, end) = (address - self.base, address - self.base + bytes);
        std::iter::from_fn(move || {
            let rest = (end - offset) as usize;
            let (first, shift) = (offset as usize % PAGE / 4, offset as usize % 4);
            let count = if shift == 0 { (rest / 4).min(PAGE / 4 - first) } else { 0 };
            let bytes = if count == 0 { (4 - shift).min(rest) } else { 4 * count };
            let piece = (bytes > 0).then(|| Piece {
                page: self.page(offset),
                words: first..first + count.max(1),
                shift,
                bytes,
            });
            offset += bytes as u64;
            piece
        })
    }

    pub fn read_bytes(&self, address: u64, target: &mut [u8]) {
        let mut rest = target;
        for piece in self.pieces(address, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(piece.bytes);
            piece.read(now);
            rest = later;
        }
    }

    /// Tells of each byte whether it was written.
    pub fn read_written(&self, address: u64, target: &mut [bool]) {
        let mut rest = target.iter_mut();
        for piece in self.pieces(address, rest.len() as u64) {
            let flags = &piece.page.written[piece.words.clone()];
            for (k, now) in rest.by_ref().take(piece.bytes).enumerate() {
                let at = piece.shift + k;
                *now = flags[at / 4].load(Relaxed) >> (at % 4) & 1 == 1;
            }
        }
    }

    /// Whether all bytes were written.
    pub fn is_written(&self, address: u64, bytes: u64) -> bool {
        self.pieces(address, bytes).all(|piece| piece.is_written())
    }

    pub fn write_bytes(&self, address: u64, source: &[u8]) {
        let mut rest = source;
        for piece in self.pieces(address, rest.len() as u64) {
            let (now, later) = rest.split_at(piece.bytes);
            piece.write(now);
            piece.mark_written();
            rest = later;
        }
    }

    pub fn write_bytes_where(&self, address: u64, source: &[u8], wanted: impl Fn(usize) -> bool) {
        for (k, byte) in source.iter().enumerate() {
            if wanted(k) {
                self.write_bytes(address + k as u64, &[*byte]);
            }
        }
    }

    /// Makes bytes uninitialised.
    pub fn forget(&self, address: u64, bytes: u64) {
        for piece in self.pieces(address, bytes) {
            piece.write(&vec![POISON; piece.bytes]);
            let flags = piece.flags();
            for written in &piece.page.written[piece.words.clone()] {
                written.fetch_and(!flags, Relaxed);
            }
        }
    }
}

impl GlobalView {
    /// The allocation that holds a whole range.
    fn holder(&mut self, address: u64, bytes: u64) -> Option<&Allocation> {
        match self.find(address, bytes) {
            Found::In(index) => Some(&self.allocations[index]),
            Found::Freed | Found::Outside => None,
        }
    }

    /// The bytes of a range, which lies within an allocation.
    pub fn read(&mut self, address: u64, bytes: u64) -> Vec<u8> {
        let mut out = vec![POISON; bytes as usize];
        if let Some(allocation) = self.holder(address, bytes) {
            allocation.read_bytes(address, &mut out);
        }
        out
    }

    /// Overwrites a range, which lies within an allocation.
    pub fn write(&mut self, address: u64, data: &[u8]) {
        if let Some(allocation) = self.holder(address, data.len() as u64) {
            allocation.write_bytes(address, data);
        }
    }

    /// Makes a range uninitialised, which lies within an allocation.
    pub fn forget(&mut self, address: u64, bytes: u64) {
        if let Some(allocation) = self.holder(address, bytes) {
            allocation.forget(address, bytes);
        }
    }

    /// Whether all bytes of a range were written, which lies within an allocation.
    pub fn is_written(&mut self, address: u64, bytes: u64) -> bool {
        self.holder(address, bytes).is_some_and(|allocation| allocation.is_written(address, bytes))
    }

    /// Notes what the pages of a range hold before it is written to.
    pub fn keep_range(&mut self, address: u64, bytes: u64) {
        let Found::In(allocation) = self.find(address, bytes) else { return };
        let offset = address - self.allocations[allocation].base;
        for page in offset as usize / PAGE..((offset + bytes) as usize).div_ceil(PAGE) {
            self.keep(PageOf { allocation, page });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::memory::{GlobalMemory, POISON};

    proptest! {
        /// Around the end of the first page.
        #[test]
        fn ranges_hold_what_was_written_to_them(
            steps in prop::collection::vec((0..40u64, 0..40usize, any::<u8>(), any::<bool>()), 1..20),
            (start, length) in (0..40u64, 0..40u64),
        ) {
            let memory = GlobalMemory::default();
            let base = memory.alloc(70_000).unwrap() + 65_516;
            let mut view = memory.view();
            let mut model = [None; 80];
            for (start, length, value, forget) in steps {
                let range = start as usize..start as usize + length;
                if forget {
                    view.forget(base + start, length as u64);
                    model[range].fill(None);
                } else {
                    let data: Vec<u8> = (0..length).map(|k| value.wrapping_add(k as u8)).collect();
                    view.write(base + start, &data);
                    range.zip(&data).for_each(|(k, byte)| model[k] = Some(*byte));
                }
            }
            let expected = &model[start as usize..(start + length) as usize];
            let bytes: Vec<u8> = expected.iter().map(|it| it.unwrap_or(POISON)).collect();
            prop_assert_eq!(view.read(base + start, length), bytes);
            if length > 0 {
                prop_assert_eq!(view.is_written(base + start, length), expected.iter().all(Option::is_some));
            }
        }
    }
}
