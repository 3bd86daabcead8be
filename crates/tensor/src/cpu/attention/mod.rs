//! Attention in blocks, with the softmax taken as the keys pass (Dao et al. 2022, arXiv 2205.14135; Milakov and
//! Gimelshein 2018, arXiv 1805.02867): memory grows with T and S, never with their product.

mod backward;
mod decode;
mod dropout;
mod dual;
mod forward;
mod mask;
mod score;

use std::ops::Range;

pub(crate) use backward::{Upstream, Wanted, backward};
pub(crate) use decode::{Cache, Decode, decode};
pub(crate) use dropout::Dropping;
pub use dual::Dual;
pub(crate) use forward::forward;
pub(crate) use mask::{Mask, Place, Visible};
pub use score::Position;
pub(crate) use score::{Bias, MaskFunction, Scores};

use super::matmul::Mat;
use super::simd::vectorised;
use super::tile::PANEL;
use super::{Real, Stored};
use crate::Element;

/// Queries per block: a multiple of the rows that a product takes at a time, as keys are for backward.
const QUERIES: usize = 96;
/// Keys per block, whole panels.
const KEYS: usize = 96;

/// What is attended to, and how.
pub(crate) struct Problem<'a, E: Stored> {
    pub(crate) q: Heads<'a, E>,
    pub(crate) k: Heads<'a, E>,
    pub(crate) v: Heads<'a, E>,
    pub(crate) sizes: Sizes,
    pub(crate) scale: f64,
    pub(crate) visible: Visible,
    /// What hides further keys.
    pub(crate) mask: Option<&'a MaskFunction<'a>>,
    pub(crate) scores: Scores<'a, E::Real>,
    /// `(H)`: a score that takes part in the softmax of each query and has no value.
    pub(crate) sinks: Option<&'a [E::Real]>,
    pub(crate) dropout: Option<Dropping>,
}

#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
    pub(crate) value_dim: usize,
}

/// A tensor `(B, T, H, D)` whose last dimension is contiguous.
pub(crate) struct Heads<'a, E> {
    pub(crate) data: &'a [E],
    /// Of batch, token and head.
    pub(crate) strides: [usize; 3],
}

impl<'a, E: Element> Heads<'a, E> {
    /// These tokens of one head, `(tokens, dim)`.
    fn of(&self, batch: usize, head: usize, tokens: Range<usize>, dim: usize) -> Mat<'a, E> {
        let [by_batch, by_token, by_head] = self.strides;
        let start = batch * by_batch + head * by_head + tokens.start * by_token;
        Mat::new(self.data.get(start..).unwrap_or(&[]), (tokens.len(), dim), (by_token, 1))
    }
}

/// Some queries of one head and some keys.
#[derive(Clone, Copy)]
struct Block {
    batch: usize,
    head: usize,
    query: usize,
    rows: usize,
    key: usize,
    cols: usize,
}

impl Visible {
    /// The block's keys that its query `row` sees, counted from the block's first, unless the user's mask hides them.
    fn seen(&self, block: &Block, row: usize) -> Range<usize> {
        let keys = &self.row(block.batch, block.query + row).keys;
        let at = |key: usize| key.clamp(block.key, block.key + block.cols) - block.key;
        at(keys.start)..at(keys.end)
    }
}

impl<E: Stored> Problem<'_, E> {
    fn kv_head(&self, head: usize) -> usize {
        head / (self.sizes.heads / self.sizes.kv_heads)
    }

    /// Drops some of what query `row` of the block has at these keys of it, and scales up the others.
    fn drop_some(
        &self,
        dropping: &Dropping,
        block: &Block,
        row: usize,
        keys: Range<usize>,
        values: &mut [E::Real],
    ) {
        let Place { sequence, query, first_key } = self.visible.place(block.batch, block.query + row);
        let head = sequence * self.sizes.heads + block.head;
        dropping.apply(head, query, block.key as isize - first_key as isize, keys, values);
    }
}

/// What a row of `dim` elements takes in whole panels.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(PANEL)
}

/// `matrix` times `factor`, with contiguous rows, in place of what `rows` held.
fn copy_rows<E: Stored>(rows: &mut Vec<E::Real>, matrix: Mat<E>, factor: E::Real) {
    let (count, width) = matrix.size();
    rows.resize(count * width, E::Real::ZERO);
    scale_rows(rows, width, matrix, factor);
}

vectorised! {
    /// `matrix` times `factor`, to rows that begin `stride` apart.
    fn scale_rows<E: Stored>(rows: &mut [E::Real], stride: usize, matrix: Mat<E>, factor: E::Real) {
        for (to, values) in rows.chunks_exact_mut(stride.max(1)).zip(matrix.iter_rows()) {
            to.iter_mut().zip(values).for_each(|(to, x)| *to = x.widen() * factor);
        }
    }
}
