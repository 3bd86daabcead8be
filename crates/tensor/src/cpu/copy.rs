//! Elements of any layout, brought into row-major order.

use super::parallel::{for_chunks, rows_per_chunk};
use super::pool;
use crate::Element;
use crate::layout::Layout;

/// Rows that are transposed together: as many `f32` as a cache line holds.
const TRANSPOSED: usize = 16;

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
    let rows_per_piece = rows_per_chunk(width).next_multiple_of(TRANSPOSED);
    for_chunks(&mut out, rows_per_piece * width, |start, piece| {
        let (mut row, mut rest) = (start / width, piece);
        while !rest.is_empty() {
            let count =
                if stride > 1 { rows.adjacent(row).min(TRANSPOSED).min(rest.len() / width) } else { 1 };
            let (block, tail) = rest.split_at_mut(count * width);
            copy_rows(block, &source[rows.offset(row)..], (width, stride));
            (row, rest) = (row + count, tail);
        }
    });
    out
}

/// Copies one row, or several that begin at neighbouring elements of the source.
fn copy_rows<E: Element>(block: &mut [E], source: &[E], (width, stride): (usize, usize)) {
    let count = block.len() / width;
    match (count, stride) {
        (_, 0) => block.fill(source[0]),
        (_, 1) => block.copy_from_slice(&source[..width]),
        (1, _) => block.iter_mut().zip(source.iter().step_by(stride)).for_each(|(out, value)| *out = *value),
        // Each line of the source is read once.
        _ => {
            for column in 0..width {
                for (row, value) in source[column * stride..][..count].iter().enumerate() {
                    block[row * width + column] = *value;
                }
            }
        }
    }
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

    /// How many rows from this one on begin at neighbouring elements; at least 1.
    fn adjacent(&self, row: usize) -> usize {
        match (self.shape.last(), self.strides.last()) {
            (Some(size), Some(1)) => size - row % size,
            _ => 1,
        }
    }
}
