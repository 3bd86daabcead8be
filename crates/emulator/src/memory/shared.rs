//! Shared memory of one block.

use std::ops::Range;

use crate::memory::POISON;

/// Shared memory, static and dynamic, and what is known of each byte.
pub(crate) struct SharedMemory {
    pub bytes: Vec<u8>,
    /// A flag for each byte: whether it was written.
    pub written: Vec<bool>,
    /// What asynchronous operations have in flight; None where that is not checked.
    flight: Option<Flight>,
}

/// What asynchronous operations have in flight.
struct Flight {
    /// For each byte, how many operations in flight will write it.
    arriving: Vec<u16>,
    /// For each byte, how many operations in flight read it.
    leaving: Vec<u16>,
    /// For each 4 bytes, who issued the last operation that was to read or write one of them.
    issuers: Vec<Issuer>,
    /// For each byte, whether it belongs to an `mbarrier` object.
    objects: Vec<bool>,
    /// For each byte, who wrote it last through the generic proxy: see [`super::Proxies`].
    writers: Vec<u32>,
    /// Ranges that are marked as arriving, leaving or objects; while it is 0 nothing needs to be looked up.
    count: u64,
}

/// Who issued an asynchronous operation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Issuer {
    /// The instruction.
    pub pc: u32,
    /// 32 times the rank of the block, and the number of the warp in it.
    pub warp: u16,
    pub lane: u8,
}

impl SharedMemory {
    /// So many uninitialised bytes. `checked`: whether to keep in mind what is in flight.
    pub fn new(bytes: u32, checked: bool) -> Self {
        let bytes = bytes as usize;
        let flight = || Flight {
            arriving: vec![0; bytes],
            leaving: vec![0; bytes],
            issuers: vec![Issuer::default(); bytes.div_ceil(4)],
            objects: vec![false; bytes],
            writers: vec![0; bytes],
            count: 0,
        };
        SharedMemory { bytes: vec![POISON; bytes], written: vec![false; bytes], flight: checked.then(flight) }
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Consecutive words at a multiple of their size, which are within bounds.
    #[inline(always)]
    pub fn words<const N: usize>(&self, address: usize) -> [u32; N] {
        let bytes = &self.bytes[address..address + 4 * N];
        std::array::from_fn(|k| {
            u32::from_le_bytes([bytes[4 * k], bytes[4 * k + 1], bytes[4 * k + 2], bytes[4 * k + 3]])
        })
    }

    /// Whether all bytes of consecutive words were written.
    #[inline(always)]
    pub fn is_written<const N: usize>(&self, address: usize) -> bool {
        self.written[address..address + 4 * N].iter().fold(true, |all, it| all & it)
    }

    /// Writes consecutive words.
    #[inline(always)]
    pub fn set_words<const N: usize>(&mut self, address: usize, words: [u32; N]) {
        for (bytes, word) in self.bytes[address..address + 4 * N].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.written[address..address + 4 * N].fill(true);
    }

    /// Whether there are bytes here that not everyone may touch.
    pub fn is_marked(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.count > 0)
    }

    /// Who issued an operation in flight that will write one of these bytes.
    pub fn arriving(&self, address: u64, bytes: u64) -> Option<Issuer> {
        self.flight.as_ref()?.issuer(|flight| &flight.arriving, address, bytes)
    }

    /// Who issued an operation in flight that reads one of these bytes.
    pub fn leaving(&self, address: u64, bytes: u64) -> Option<Issuer> {
        self.flight.as_ref()?.issuer(|flight| &flight.leaving, address, bytes)
    }

    /// Whether one of these bytes belongs to an `mbarrier` object.
    pub fn is_object(&self, address: u64, bytes: u64) -> bool {
        let range = address as usize..(address + bytes) as usize;
        self.flight.as_ref().is_some_and(|flight| flight.objects[range].contains(&true))
    }

    /// The 8 bytes at an address become an `mbarrier` object.
    pub fn begin_object(&mut self, address: u64) {
        if let Some(flight) = &mut self.flight {
            flight.count += 1;
            flight.objects[address as usize..][..8].fill(true);
        }
    }

    /// The object at an address is no more.
    pub fn end_object(&mut self, address: u64) {
        if let Some(flight) = &mut self.flight {
            flight.count -= 1;
            flight.objects[address as usize..][..8].fill(false);
        }
    }

    /// Writes an object's bytes.
    pub fn set_object(&mut self, address: u64, bits: u64) {
        self.bytes[address as usize..][..8].copy_from_slice(&bits.to_le_bytes());
        self.written[address as usize..][..8].fill(true);
    }

    /// Notes who writes bytes through the generic proxy.
    #[inline]
    pub fn note_writer(&mut self, address: u64, bytes: u64, note: u32) {
        if let Some(flight) = &mut self.flight {
            flight.writers[address as usize..(address + bytes) as usize].fill(note);
        }
    }

    /// Bytes were written through the asynchronous proxy, which sees them.
    pub fn forget_writers(&mut self, address: u64, bytes: u64) {
        self.note_writer(address, bytes, 0);
    }

    /// Of these bytes, who wrote them last through the generic proxy.
    pub fn writers(&self, address: u64, bytes: u64) -> &[u32] {
        match &self.flight {
            Some(flight) => &flight.writers[address as usize..(address + bytes) as usize],
            None => &[],
        }
    }

    /// An asynchronous write begins: until it lands, the bytes hold poison.
    #[inline]
    pub fn begin_write(&mut self, address: u64, bytes: u64, issuer: Issuer) {
        let range = address as usize..(address + bytes) as usize;
        self.bytes[range.clone()].fill(POISON);
        if let Some(flight) = &mut self.flight {
            flight.begin(&range, issuer);
            flight.arriving[range].iter_mut().for_each(|count| *count += 1);
        }
    }

    /// An asynchronous write lands.
    #[inline]
    pub fn end_write(&mut self, address: u64, data: &[u8]) {
        let range = address as usize..address as usize + data.len();
        self.bytes[range.clone()].copy_from_slice(data);
        self.written[range.clone()].fill(true);
        if let Some(flight) = &mut self.flight {
            flight.count -= 1;
            flight.arriving[range].iter_mut().for_each(|count| *count -= 1);
        }
    }

    /// An asynchronous read begins.
    pub fn begin_read(&mut self, address: u64, bytes: u64, issuer: Issuer) {
        if let Some(flight) = &mut self.flight {
            let range = address as usize..(address + bytes) as usize;
            flight.begin(&range, issuer);
            flight.leaving[range].iter_mut().for_each(|count| *count += 1);
        }
    }

    /// An asynchronous read is over.
    pub fn end_read(&mut self, address: u64, bytes: u64) {
        if let Some(flight) = &mut self.flight {
            flight.count -= 1;
            flight.leaving[address as usize..][..bytes as usize].iter_mut().for_each(|count| *count -= 1);
        }
    }
}

impl Flight {
    /// Who issued the operation that the first of these bytes is marked for in a list of counts.
    #[inline]
    fn issuer(&self, list: fn(&Flight) -> &Vec<u16>, address: u64, bytes: u64) -> Option<Issuer> {
        let range = address as usize..(address + bytes) as usize;
        let marked = list(self)[range.clone()].iter().position(|count| *count > 0)?;
        Some(self.issuers[(range.start + marked) / 4])
    }

    #[inline]
    fn begin(&mut self, range: &Range<usize>, issuer: Issuer) {
        self.count += 1;
        self.issuers[range.start / 4..range.end.div_ceil(4)].fill(issuer);
    }
}
