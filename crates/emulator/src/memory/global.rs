//! Global memory: allocations far apart in a large address space, of which only touched pages exist.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::memory::journal::Keeper;
use crate::memory::{GLOBAL_BASE, POISON};

/// Bytes of a page.
pub(super) const PAGE: usize = 1 << 16;

/// Allocations start at multiples of this, as those of CUDA do (of at least 256), with at least as much between them
/// that belongs to none.
const ALIGN: u64 = 512;

/// The last address, exclusive, that 47 bits have room for.
const LIMIT: u64 = 1 << 47;

/// The most bytes of one allocation: their pages are a list.
const LARGEST: u64 = 1 << 40;

/// All of global memory.
#[derive(Default)]
pub(crate) struct GlobalMemory {
    /// In order of their addresses. Addresses are never used again, so that use after free is found. A view shares the
    /// list; what is allocated or freed while a view lasts goes into another one.
    allocations: RwLock<Arc<Vec<Arc<Allocation>>>>,
}

/// One allocation.
pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    freed: AtomicBool,
    pages: Box<[OnceLock<Box<Page>>]>,
}

/// Words are atomics, since blocks run on several threads and a kernel may be wrong; every access is relaxed, which
/// costs nothing.
pub(crate) struct Page {
    pub(super) words: Box<[AtomicU32]>,
    /// For each word, a bit for each byte that was written.
    pub(super) written: Box<[AtomicU8]>,
}

/// Why memory could not be allocated, freed, read or written by the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The address space is used up, or more than 1 TiB was asked for.
    #[error("allocating {bytes} bytes: no addresses are left for so many")]
    NoSpace {
        /// What was asked for.
        bytes: u64,
    },
    /// An address that no allocation starts at.
    #[error("freeing {address:#x}: no allocation starts there, or it was freed before")]
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// A range that is not within one allocation.
    #[error("{operation} of {bytes} bytes at {address:#x}: not within one allocation that is alive")]
    OutOfBounds {
        /// What was to be done.
        operation: &'static str,
        /// Where the range starts.
        address: u64,
        /// Its length.
        bytes: u64,
    },
}

impl GlobalMemory {
    /// Reserves addresses; memory is taken page by page as it is written.
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryError> {
        let mut allocations = self.allocations.write().unwrap_or_else(PoisonError::into_inner);
        let base = match allocations.last() {
            Some(last) => (last.base + last.bytes).next_multiple_of(ALIGN) + ALIGN,
            None => GLOBAL_BASE,
        };
        if bytes > LARGEST.min(LIMIT - base.min(LIMIT)) {
            return Err(MemoryError::NoSpace { bytes });
        }
        let pages = (0..bytes.div_ceil(PAGE as u64)).map(|_| OnceLock::new()).collect();
        let allocation = Allocation { base, bytes, freed: AtomicBool::new(false), pages };
        Arc::make_mut(&mut allocations).push(Arc::new(allocation));
        Ok(base)
    }

    /// Gives an allocation back. Its pages go when no launch uses them any more.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut allocations = self.allocations.write().unwrap_or_else(PoisonError::into_inner);
        let found = allocations.binary_search_by_key(&address, |allocation| allocation.base);
        match found {
            Ok(index) if !allocations[index].freed.swap(true, Relaxed) => {
                let Allocation { base, bytes, .. } = *allocations[index];
                let tombstone =
                    Allocation { base, bytes, freed: AtomicBool::new(true), pages: Box::default() };
                Arc::make_mut(&mut allocations)[index] = Arc::new(tombstone);
                Ok(())
            }
            _ => Err(MemoryError::NotAllocated { address }),
        }
    }

    /// The allocations as they are now.
    pub fn view(&self) -> GlobalView {
        let allocations = self.allocations.read().unwrap_or_else(PoisonError::into_inner).clone();
        GlobalView { allocations, last: 0, keeper: Keeper::default() }
    }

    /// Bytes of all allocations that are alive.
    pub fn allocated(&self) -> u64 {
        let allocations = self.allocations.read().unwrap_or_else(PoisonError::into_inner);
        allocations
            .iter()
            .filter(|allocation| !allocation.is_freed())
            .map(|allocation| allocation.bytes)
            .sum()
    }

    fn find(
        &self,
        operation: &'static str,
        address: u64,
        bytes: u64,
    ) -> Result<Arc<Allocation>, MemoryError> {
        let mut view = self.view();
        match view.find(address, bytes) {
            Found::In(index) => Ok(Arc::clone(&view.allocations[index])),
            Found::Freed | Found::Outside => Err(MemoryError::OutOfBounds { operation, address, bytes }),
        }
    }

    /// Writes from the host.
    pub fn upload(&self, address: u64, source: &[u8]) -> Result<(), MemoryError> {
        if !source.is_empty() {
            self.find("upload", address, source.len() as u64)?.write_bytes(address, source);
        }
        Ok(())
    }

    /// Reads to the host; bytes that nobody wrote are 0xFF.
    pub fn download(&self, address: u64, target: &mut [u8]) -> Result<(), MemoryError> {
        if !target.is_empty() {
            self.find("download", address, target.len() as u64)?.read_bytes(address, target);
        }
        Ok(())
    }

    /// Copies within the device; what is not initialised stays so.
    pub fn copy(&self, target: u64, source: u64, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let from = self.find("copy", source, bytes)?;
        let to = self.find("copy", target, bytes)?;
        let mut chunk = vec![0; PAGE];
        let mut written = vec![false; PAGE];
        // Backwards where the ranges overlap and the target lies behind.
        let chunks = bytes.div_ceil(PAGE as u64);
        for i in 0..chunks {
            let i = if target > source { chunks - 1 - i } else { i };
            let start = i * PAGE as u64;
            let length = (bytes - start).min(PAGE as u64) as usize;
            from.read_bytes(source + start, &mut chunk[..length]);
            from.read_written(source + start, &mut written[..length]);
            let written = &written[..length];
            if written.iter().all(|it| *it) {
                to.write_bytes(target + start, &chunk[..length]);
            } else {
                to.write_bytes_where(target + start, &chunk[..length], |k| written[k]);
            }
        }
        Ok(())
    }

    /// Sets every byte.
    pub fn fill(&self, address: u64, value: u8, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let allocation = self.find("fill", address, bytes)?;
        let chunk = vec![value; PAGE];
        let mut done = 0;
        while done < bytes {
            let length = (bytes - done).min(PAGE as u64) as usize;
            allocation.write_bytes(address + done, &chunk[..length]);
            done += length as u64;
        }
        Ok(())
    }
}

impl Page {
    fn new() -> Box<Page> {
        let poison = u32::from_ne_bytes([POISON; 4]);
        Box::new(Page {
            words: (0..PAGE / 4).map(|_| AtomicU32::new(poison)).collect(),
            written: (0..PAGE / 4).map(|_| AtomicU8::new(0)).collect(),
        })
    }

    /// Another page that holds the same.
    pub fn copy(&self) -> Box<Page> {
        let copy = Page::new();
        copy.become_like(Some(self));
        copy
    }

    /// Takes over what another page holds, or becomes as if nobody had written to it.
    pub fn become_like(&self, other: Option<&Page>) {
        let poison = u32::from_ne_bytes([POISON; 4]);
        for (k, word) in self.words.iter().enumerate() {
            word.store(other.map_or(poison, |other| other.words[k].load(Relaxed)), Relaxed);
        }
        for (k, flags) in self.written.iter().enumerate() {
            flags.store(other.map_or(0, |other| other.written[k].load(Relaxed)), Relaxed);
        }
    }

    /// Consecutive words.
    #[inline(always)]
    pub fn words<const N: usize>(&self, word: usize) -> [u32; N] {
        let words = &self.words[word..word + N];
        std::array::from_fn(|k| words[k].load(Relaxed))
    }

    /// Whether all bytes of consecutive words were written.
    #[inline(always)]
    pub fn written<const N: usize>(&self, word: usize) -> bool {
        self.written[word..word + N].iter().fold(0xF, |all, flags| all & flags.load(Relaxed)) == 0xF
    }

    /// Writes consecutive words.
    #[inline(always)]
    pub fn set_words<const N: usize>(&self, word: usize, values: [u32; N]) {
        for (word, value) in self.words[word..word + N].iter().zip(values) {
            word.store(value, Relaxed);
        }
        self.written[word..word + N].iter().for_each(|flags| flags.store(0xF, Relaxed));
    }
}

impl Allocation {
    pub fn is_freed(&self) -> bool {
        self.freed.load(Relaxed)
    }

    #[inline]
    pub(super) fn page(&self, offset: u64) -> &Page {
        self.pages[offset as usize / PAGE].get_or_init(Page::new)
    }

    /// The word that holds these up to four bytes, which do not cross a word's end.
    #[inline]
    pub fn read(&self, offset: u64, bytes: u32) -> (u32, bool) {
        let page = self.page(offset);
        let word = offset as usize % PAGE / 4;
        let (mask, flags) = super::local::masks(bytes);
        let shift = offset as u32 % 4;
        let value = page.words[word].load(Relaxed) >> (8 * shift) & mask;
        (value, page.written[word].load(Relaxed) >> shift & flags == flags)
    }

    /// Writes up to four bytes within a word, and leaves the others alone whoever writes them meanwhile.
    #[inline]
    pub fn write(&self, offset: u64, bytes: u32, value: u32) {
        let page = self.page(offset);
        let word = offset as usize % PAGE / 4;
        if bytes == 4 {
            return page.set_words(word, [value]);
        }
        let (mask, flags) = super::local::masks(bytes);
        let shift = offset as u32 % 4;
        let replace = |old: u32| Some(old & !(mask << (8 * shift)) | (value & mask) << (8 * shift));
        let _ = page.words[word].fetch_update(Relaxed, Relaxed, replace);
        page.written[word].fetch_or(flags << shift, Relaxed);
    }
}

/// Global memory as one worker sees it during a launch.
pub(crate) struct GlobalView {
    pub allocations: Arc<Vec<Arc<Allocation>>>,
    /// The allocation found last: most accesses go to the same again.
    last: usize,
    /// Of a launch that may have to be repeated: what it overwrites.
    pub keeper: Keeper,
}

/// A page: the indices of its allocation, and of itself there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PageOf {
    pub(super) allocation: usize,
    pub(super) page: usize,
}

/// Where a range lies.
pub(crate) enum Found {
    /// Within the allocation of this index.
    In(usize),
    Freed,
    Outside,
}

impl GlobalView {
    /// The allocation that holds a whole range.
    #[inline]
    pub fn find(&mut self, address: u64, bytes: u64) -> Found {
        if let Some(last) = self.allocations.get(self.last)
            && address.wrapping_sub(last.base) < last.bytes
            && bytes <= last.bytes - (address - last.base)
            && !last.is_freed()
        {
            return Found::In(self.last);
        }
        self.search(address, bytes)
    }

    fn search(&mut self, address: u64, bytes: u64) -> Found {
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        let Some(index) = after.checked_sub(1) else { return Found::Outside };
        let allocation = &self.allocations[index];
        let offset = address - allocation.base;
        if offset >= allocation.bytes || bytes > allocation.bytes - offset {
            return Found::Outside;
        }
        if allocation.is_freed() {
            return Found::Freed;
        }
        self.last = index;
        Found::In(index)
    }

    /// The page that holds a whole range of an allocation, if one does, and the address of its first byte.
    #[inline]
    pub fn page_of(&self, allocation: usize, address: u64, bytes: u64) -> Option<(PageOf, u64)> {
        let base = self.allocations[allocation].base;
        let page = (address - base) as usize / PAGE;
        let same = (address - base + bytes - 1) as usize / PAGE == page;
        same.then_some((PageOf { allocation, page }, base + (page * PAGE) as u64))
    }

    /// A page that something was read from or written to.
    pub fn existing_page(&self, page: PageOf) -> Option<&Page> {
        self.allocations[page.allocation].pages[page.page].get().map(|page| &**page)
    }

    #[inline]
    pub fn page(&self, page: PageOf) -> &Page {
        self.allocations[page.allocation].pages[page.page].get_or_init(Page::new)
    }

    /// What lies nearest to an address that is in no allocation.
    pub fn nearest(&self, address: u64) -> String {
        let distance = |allocation: &Allocation| {
            let end = allocation.base + allocation.bytes;
            if address < allocation.base {
                allocation.base - address
            } else {
                (address + 1).saturating_sub(end)
            }
        };
        match self.allocations.iter().filter(|it| !it.is_freed()).min_by_key(|it| distance(it)) {
            None => "nothing is allocated".into(),
            Some(it) if address < it.base => {
                format!("{} bytes before the {} bytes at {:#x}", it.base - address, it.bytes, it.base)
            }
            Some(it) => format!("{} bytes into the {} bytes at {:#x}", address - it.base, it.bytes, it.base),
        }
    }
}
