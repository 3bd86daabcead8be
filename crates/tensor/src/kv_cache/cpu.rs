//! In CPU memory.

use longhand_kernels::kv_cache::Storage;

use super::{Append, KvCache, Memory, NAME, Side};
use crate::cpu::cached::{CachedRows, quantise};
use crate::dtype::with_element;
use crate::ops::widened;
use crate::{Dtype, Result, Tensor};

/// Copies the elements of a contiguous tensor to where those of `target`, a view of the same shape, lie.
pub(super) fn copy(from: &Tensor, target: &Tensor) -> Result<()> {
    let (width, strides) = (from.shape()[3], target.strides());
    with_element!(from.dtype(), E => {
        let (source, mut to) = (from.read::<E>(NAME)?, target.write::<E>(NAME)?);
        let [_, heads, tokens, _] = [0, 1, 2, 3].map(|dim| from.shape()[dim]);
        let rows = source[..from.numel()].chunks_exact((tokens * width).max(1));
        for (i, rows) in rows.enumerate() {
            to[i / heads * strides[0] + i % heads * strides[1]..][..rows.len()].copy_from_slice(rows);
        }
    });
    target.storage().bump_version();
    Ok(())
}

pub(super) fn append(memory: &Memory, append: &Append<'_>) -> Result<()> {
    let Append { storage, lengths, new, .. } = append;
    // What is quantised is turned before it is rounded.
    let exact =
        |tensor: &Tensor| if *storage == Storage::Plain { Ok(tensor.clone()) } else { widened(NAME, tensor) };
    let mut k = exact(new.k)?;
    if let Some(rope) = new.rope {
        let tokens = new.k.shape()[1];
        let places =
            |length: &usize| (length - tokens..*length).map(|place| place as u32).collect::<Vec<_>>();
        let positions: Vec<u32> = lengths[new.sequences.clone()].iter().flat_map(places).collect();
        k = rope.turn_keys(&k, positions)?;
    }
    memory.sides[0].write(memory.heads, append, &k)?;
    memory.sides[1].write(memory.heads, append, &exact(new.v)?)
}

impl Side {
    /// Writes the heads of `x`, `(B, T, Hkv, D)`, to the last T places of the sequences.
    fn write(&self, heads: usize, append: &Append<'_>, x: &Tensor) -> Result<()> {
        let &Append { storage, pages, lengths, ref new } = append;
        let x = x.contiguous()?;
        let (tokens, width) = (x.shape()[1], self.elements.shape()[3]);
        let rows = self.elements.shape()[2];
        // Of each head of x, in turn: its row among the rows of the cache.
        let row_of = |i: usize| {
            let (sequence, t) = (new.sequences.start + i / heads / tokens, i / heads % tokens);
            let [page, token] = pages.place(sequence, lengths[sequence] - tokens + t);
            (page * heads + i % heads) * rows + token
        };
        let count = x.numel() / self.dim;
        match (storage, &self.scales) {
            (Storage::Plain, _) | (_, None) => with_element!(x.dtype(), E => {
                let (x, mut to) = (x.read::<E>(NAME)?, self.elements.write::<E>(NAME)?);
                for (i, head) in x.chunks_exact(self.dim).take(count).enumerate() {
                    to[row_of(i) * width..][..self.dim].copy_from_slice(head);
                }
            }),
            (_, Some(scales)) => {
                let x = x.to_dtype(Dtype::F32)?;
                let (x, mut to) = (x.read::<f32>(NAME)?, self.elements.write::<u32>(NAME)?);
                let (to, mut scales) =
                    (bytemuck::cast_slice_mut::<u32, u8>(&mut to), scales.write::<f32>(NAME)?);
                for (i, head) in x.chunks_exact(self.dim).take(count).enumerate() {
                    let row = row_of(i);
                    scales[row] = quantise(storage, head, &mut to[row * width * 4..][..self.dim]);
                }
            }
        }
        self.tensors().for_each(|tensor| tensor.storage().bump_version());
        Ok(())
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.elements).chain(&self.scales)
    }
}

impl KvCache {
    /// Calls `body` with the rows of keys and of values.
    pub(crate) fn with_rows<R>(&self, body: impl FnOnce([CachedRows<'_>; 2]) -> R) -> Result<R> {
        let Some(memory) = &self.memory else { return Err(super::empty(NAME)) };
        let storage = self.storage;
        let [k, v] = &memory.sides;
        let (Some(k_scales), Some(v_scales)) = (&k.scales, &v.scales) else {
            return with_element!(memory.dtype, E => {
                let data = [k.elements.read::<E>(NAME)?, v.elements.read::<E>(NAME)?];
                let rows = |side: usize| CachedRows {
                    bytes: bytemuck::cast_slice(&data[side]),
                    storage,
                    scales: &[],
                    width: memory.sides[side].elements.shape()[3],
                };
                Ok(body([rows(0), rows(1)]))
            });
        };
        let data = [k.elements.read::<u32>(NAME)?, v.elements.read::<u32>(NAME)?];
        let scales = [k_scales.read::<f32>(NAME)?, v_scales.read::<f32>(NAME)?];
        let rows = |side: usize| CachedRows {
            bytes: bytemuck::cast_slice(&data[side]),
            storage,
            scales: &scales[side],
            width: 4 * memory.sides[side].elements.shape()[3],
        };
        Ok(body([rows(0), rows(1)]))
    }

    /// The row of a token of a head, and how many tokens follow it in the next rows, itself included.
    pub(crate) fn run(&self, sequence: usize, head: usize, token: usize) -> [usize; 2] {
        let Some(memory) = &self.memory else { return [0, 0] };
        let tokens = self.pages.shape(self.lengths.len())[1];
        let [page, place] = self.pages.place(sequence, token);
        [(page * memory.heads + head) * tokens + place, tokens - place]
    }
}
