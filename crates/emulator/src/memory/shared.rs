//! Shared memory of one block.

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
    /// For each byte, whether it belongs to an `mbarrier` object.
    objects: Vec<bool>,
    /// For each byte, who wrote it last through the generic proxy: see [`super::Proxies`].
    writers: Vec<u32>,
    /// Ranges that are marked as arriving, leaving or objects; while it is 0 nothing needs to be looked up.
    count: u64,
}

impl SharedMemory {
    /// So many uninitialised bytes. `checked`: whether to keep in mind what is in flight.
    pub fn new(bytes: u32, checked: bool) -> Self {
        let bytes = bytes as usize;
        let flight = || Flight {
            arriving: vec![0; bytes],
            leaving: vec![0; bytes],
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

    /// Whether an operation in flight will write one of these bytes.
    pub fn is_arriving(&self, address: u64, bytes: u64) -> bool {
        let range = address as usize..(address + bytes) as usize;
        self.flight.as_ref().is_some_and(|flight| flight.arriving[range].iter().any(|count| *count > 0))
    }

    /// Whether an operation in flight reads one of these bytes.
    pub fn is_leaving(&self, address: u64, bytes: u64) -> bool {
        let range = address as usize..(address + bytes) as usize;
        self.flight.as_ref().is_some_and(|flight| flight.leaving[range].iter().any(|count| *count > 0))
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
    pub fn begin_write(&mut self, address: u64, bytes: u64) {
        let range = address as usize..(address + bytes) as usize;
        self.bytes[range.clone()].fill(POISON);
        if let Some(flight) = &mut self.flight {
            flight.count += 1;
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
    pub fn begin_read(&mut self, address: u64, bytes: u64) {
        if let Some(flight) = &mut self.flight {
            flight.count += 1;
            flight.leaving[address as usize..][..bytes as usize].iter_mut().for_each(|count| *count += 1);
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
