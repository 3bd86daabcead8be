//! Shared memory of one block.

use crate::memory::POISON;

/// Shared memory, static and dynamic, and what is known of each byte.
pub(crate) struct SharedMemory {
    pub bytes: Vec<u8>,
    /// A flag for each byte: whether it was written.
    pub written: Vec<bool>,
    /// For each byte, how many operations in flight will write it.
    arriving: Vec<u8>,
    /// For each byte, how many operations in flight read it.
    leaving: Vec<u8>,
    /// Operations in flight that are marked in either; while it is 0 nothing needs to be looked up.
    in_flight: u32,
}

impl SharedMemory {
    pub fn new(bytes: u32) -> Self {
        let bytes = bytes as usize;
        SharedMemory {
            bytes: vec![POISON; bytes],
            written: vec![false; bytes],
            arriving: vec![0; bytes],
            leaving: vec![0; bytes],
            in_flight: 0,
        }
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether any asynchronous operation has bytes here in flight.
    pub fn in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether an operation in flight will write one of these bytes.
    pub fn is_arriving(&self, address: u64, bytes: u64) -> bool {
        self.arriving[address as usize..][..bytes as usize].iter().any(|count| *count > 0)
    }

    /// Whether an operation in flight reads one of these bytes.
    pub fn is_leaving(&self, address: u64, bytes: u64) -> bool {
        self.leaving[address as usize..][..bytes as usize].iter().any(|count| *count > 0)
    }

    /// An asynchronous write begins: until it lands, the bytes hold poison.
    pub fn begin_write(&mut self, address: u64, bytes: u64) {
        self.in_flight += 1;
        self.arriving[address as usize..][..bytes as usize].iter_mut().for_each(|count| *count += 1);
        self.bytes[address as usize..][..bytes as usize].fill(POISON);
    }

    /// An asynchronous write lands.
    pub fn end_write(&mut self, address: u64, data: &[u8]) {
        self.in_flight -= 1;
        self.arriving[address as usize..][..data.len()].iter_mut().for_each(|count| *count -= 1);
        self.bytes[address as usize..][..data.len()].copy_from_slice(data);
        self.written[address as usize..][..data.len()].fill(true);
    }

    /// An asynchronous read begins.
    pub fn begin_read(&mut self, address: u64, bytes: u64) {
        self.in_flight += 1;
        self.leaving[address as usize..][..bytes as usize].iter_mut().for_each(|count| *count += 1);
    }

    /// An asynchronous read is over.
    pub fn end_read(&mut self, address: u64, bytes: u64) {
        self.in_flight -= 1;
        self.leaving[address as usize..][..bytes as usize].iter_mut().for_each(|count| *count -= 1);
    }
}
