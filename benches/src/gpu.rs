//! What benches on a GPU share: inputs that are not zeros, and enough of them to leave the cache behind.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::Result;
use half::{bf16, f16};
use longhand_gpu::{Buffer, Device, Stream};
use longhand_kernels::Dtype;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Distinct random elements; a longer buffer repeats them.
const RANDOM: usize = 1 << 22;

/// A GPU and the stream on which everything runs.
#[derive(Clone)]
pub struct Gpu {
    /// The device.
    pub device: Device,
    /// What is timed runs here.
    pub stream: Stream,
    tensors: longhand_tensor::Gpu,
    random: Rc<Random>,
}

/// Elements that were drawn, and where the next buffer starts in them, so that no two are the same.
#[derive(Default)]
struct Random {
    bytes: RefCell<HashMap<(Dtype, bool), Vec<u8>>>,
    start: Cell<usize>,
}

impl Gpu {
    /// The device and the stream of tensors.
    #[must_use]
    pub fn new(tensors: longhand_tensor::Gpu) -> Gpu {
        Gpu {
            device: tensors.device().clone(),
            stream: tensors.stream().clone(),
            tensors,
            random: Rc::default(),
        }
    }

    /// As tensors know it.
    #[must_use]
    pub fn tensors(&self) -> &longhand_tensor::Gpu {
        &self.tensors
    }

    /// The sizes, of which an emulated GPU, a million times slower, gets one that is small instead.
    #[must_use]
    pub fn lengths(&self, lengths: &[usize], small: usize) -> Vec<usize> {
        if self.device.is_emulated() { vec![small] } else { lengths.to_vec() }
    }

    /// Device memory with `count` random numbers in [-1, 1): never zeros, which take less power to multiply.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn random(&self, dtype: Dtype, count: usize) -> Result<Buffer> {
        self.filled(dtype, count, false)
    }

    /// Device memory with `count` random numbers in [0, 1).
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn random_positive(&self, dtype: Dtype, count: usize) -> Result<Buffer> {
        self.filled(dtype, count, true)
    }

    /// Device memory with `count` random integers below `limit`.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn random_ids(&self, count: usize, limit: usize) -> Result<Buffer> {
        let mut rng = StdRng::seed_from_u64(count as u64);
        let ids: Vec<u32> = (0..count).map(|_| rng.next_u32() % limit as u32).collect();
        self.upload(4 * count, &[bytemuck::cast_slice(&ids)])
    }

    fn filled(&self, dtype: Dtype, count: usize, positive: bool) -> Result<Buffer> {
        let Random { bytes, start } = &*self.random;
        let mut drawn = bytes.borrow_mut();
        let drawn = drawn.entry((dtype, positive)).or_insert_with(|| draw(dtype, positive));
        const STEP: usize = 8191 * 16;
        start.set((start.get() + STEP) % drawn.len());
        self.upload(dtype.size() * count, &[&drawn[start.get()..], &drawn[..start.get()]])
    }

    /// The pieces, again and again until they fill a buffer.
    fn upload(&self, len: usize, pieces: &[&[u8]]) -> Result<Buffer> {
        let buffer = self.stream.alloc(len)?;
        let mut offset = 0;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()).cycle() {
            let piece = &piece[..piece.len().min(len - offset)];
            if piece.is_empty() {
                break;
            }
            buffer.upload(offset, piece)?;
            offset += piece.len();
        }
        Ok(buffer)
    }

    /// Memory that leaves nothing else in the second-level cache when it is written.
    ///
    /// # Errors
    /// When there is none left.
    pub fn larger_than_l2(&self) -> Result<Buffer> {
        let bytes = if self.device.is_emulated() { 1 } else { 2 * self.device.l2_bytes() };
        Ok(self.stream.alloc(bytes)?)
    }

    /// How many sets of inputs of so many bytes it takes to go through more than twice the second-level cache, so
    /// that none is still there when its turn comes again.
    #[must_use]
    pub fn sets(&self, bytes: usize) -> usize {
        const MOST: usize = 64;
        if self.device.is_emulated() { 1 } else { (2 * self.device.l2_bytes() / bytes.max(1) + 1).min(MOST) }
    }

    /// As many sets of inputs, to take in turn.
    ///
    /// # Errors
    /// What `make` returns.
    pub fn cycle<T>(&self, bytes: usize, mut make: impl FnMut() -> Result<T>) -> Result<Cycle<T>> {
        let sets = (0..self.sets(bytes)).map(|_| make()).collect::<Result<_>>()?;
        Ok(Cycle { sets, at: 0 })
    }
}

fn draw(dtype: Dtype, positive: bool) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(1);
    let values = (0..RANDOM).map(|_| {
        let bits = rng.next_u32();
        if positive { bits as f32 / 2f32.powi(32) } else { bits as i32 as f32 / 2f32.powi(31) }
    });
    match dtype {
        Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
        Dtype::Bf16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        Dtype::F16 => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// Sets of inputs that take turns.
pub struct Cycle<T> {
    sets: Vec<T>,
    at: usize,
}

impl<T> Cycle<T> {
    /// The one whose turn it is.
    pub fn take(&mut self) -> &T {
        self.at = (self.at + 1) % self.sets.len();
        &self.sets[self.at]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.sets.iter()
    }
}
