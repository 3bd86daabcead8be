//! Elements of any layout, brought into row-major order.

use super::parallel::{for_chunks, rows_per_chunk};
use super::pool;
use crate::Element;
use crate::layout::Layout;

/// Copies the elements of `layout` in `source`, whose first element is that of the tensor, in row-major order.
pub(crate) fn gather<E: Element>(source: &[E], layout: &Layout) -> Vec<E> {
    let mut out = pool::buffer::<E>(layout.numel());
    let (Some(&width), Some(&stride)) = (layout.shape.last(), layout.strides.last()) else {
        out.copy_from_slice(&source[..1]);
        return out;
    };
    if out.is_empty() {
        return out;
    }
    let rows = Rows::new(layout);
    for_chunks(&mut out, rows_per_chunk(width) * width, |start, piece| {
        for (row, out) in (start / width..).zip(piece.chunks_exact_mut(width)) {
            let source = &source[rows.offset(row)..];
            match stride {
                0 => out.fill(source[0]),
                1 => out.copy_from_slice(&source[..width]),
                _ => out.iter_mut().zip(source.iter().step_by(stride)).for_each(|(out, value)| *out = *value),
            }
        }
    });
    out
}

/// The rows of a tensor: runs along its last dimension.
pub(crate) struct Rows {
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Rows {
    pub(crate) fn new(layout: &Layout) -> Self {
        let outer = layout.shape.len().saturating_sub(1);
        Rows { shape: layout.shape[..outer].to_vec(), strides: layout.strides[..outer].to_vec() }
    }

    /// Where the `row`-th row begins, from the tensor's first element.
    pub(crate) fn offset(&self, mut row: usize) -> usize {
        let mut offset = 0;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            offset += row % size * stride;
            row /= size;
        }
        offset
    }
}
