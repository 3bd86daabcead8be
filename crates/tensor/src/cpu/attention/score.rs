//! What becomes of the products of queries and keys before the softmax.

use std::ops::Range;

use super::{Block, Dual, KEYS, Place, Visible};
use crate::cpu::Real;

/// A place among the scores, as users' functions get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which batch, or document.
    pub batch: usize,
    /// Which query head.
    pub head: usize,
    /// Which query token of it.
    pub query: usize,
    /// Which key token of it.
    pub key: usize,
}

/// A user's own mask: whether the query sees the key.
pub(crate) type MaskFunction<'a> = dyn Fn(Position) -> bool + Send + Sync + 'a;
/// A user's own score.
pub(crate) type ScoreFunction = dyn Fn(Position, Dual) -> Dual + Send + Sync;

/// What is done to a score, in this order.
#[derive(Default)]
pub(crate) struct Scores<'a, T> {
    pub(crate) function: Option<&'a ScoreFunction>,
    /// `cap tanh(score / cap)`.
    pub(crate) softcap: Option<f64>,
    /// `(H)`: the score of a key falls by this for each token between it and the query.
    pub(crate) slopes: Option<&'a [T]>,
    pub(crate) bias: Option<Bias<'a, T>>,
}

/// A tensor that broadcasts to `(B, H, T, S)`; of documents, to how many there are, H, and T and S of the longest.
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) sizes: [usize; 4],
    /// 0 where it is repeated.
    pub(crate) strides: [usize; 4],
}

impl<T: Real> Scores<'_, T> {
    /// Whether the derivative of a score by what it was is anything but 1.
    pub(super) fn bends(&self) -> bool {
        self.function.is_some() || self.softcap.is_some()
    }

    /// Turns the products of query `row` of the block with these keys of it into scores, and says how each changes with
    /// the product.
    pub(super) fn apply(
        &self,
        visible: &Visible,
        block: &Block,
        row: usize,
        keys: Range<usize>,
        scores: &mut [T],
        derivatives: Option<&mut [T]>,
    ) {
        if keys.is_empty() {
            return;
        }
        let (query, first) = (block.query + row, block.key + keys.start);
        let scores = &mut scores[keys.clone()];
        if self.bends() {
            let place = visible.place(block.batch, query);
            self.bend(
                &place,
                block.head,
                first,
                scores,
                derivatives.map(|derivatives| &mut derivatives[keys]),
            );
        }
        if let Some(slopes) = self.slopes {
            let (slope, diagonal) = (slopes[block.head], visible.row(block.batch, query).diagonal);
            for (i, score) in scores.iter_mut().enumerate() {
                *score -= slope * T::from_f64(diagonal.abs_diff((first + i) as isize) as f64);
            }
        }
        if let Some(bias) = &self.bias {
            let [b, h, t, s] = bias.strides;
            let Place { sequence, query, first_key } = visible.place(block.batch, query);
            let start = sequence * b + block.head * h + query * t + (first - first_key) * s;
            for (i, score) in scores.iter_mut().enumerate() {
                *score += bias.data[start + i * s];
            }
        }
    }

    /// The user's function and the softcap, on the scores of the keys from `first` on.
    fn bend(
        &self,
        place: &Place,
        head: usize,
        first: usize,
        scores: &mut [T],
        mut derivatives: Option<&mut [T]>,
    ) {
        let at = Position { batch: place.sequence, head, query: place.query, key: first - place.first_key };
        for (i, score) in scores.iter_mut().enumerate() {
            let mut dual = Dual::variable(score.to_f64());
            if let Some(function) = self.function {
                dual = function(Position { key: at.key + i, ..at }, dual);
            }
            if let Some(cap) = self.softcap {
                dual = (dual / cap).tanh() * cap;
            }
            *score = T::from_f64(dual.value);
            if let Some(derivatives) = &mut derivatives {
                derivatives[i] = T::from_f64(dual.slope);
            }
        }
    }
}

/// Which scores of a block a user's mask hides.
pub(super) struct Hidden(Vec<bool>);

impl Hidden {
    pub(super) fn new() -> Self {
        Hidden(Vec::new())
    }

    /// Whether the block's queries see any of its keys; asks the user's mask, where there is one, for all that they see
    /// otherwise.
    pub(super) fn look(&mut self, mask: Option<&MaskFunction<'_>>, visible: &Visible, block: &Block) -> bool {
        let Some(mask) = mask else {
            return (0..block.rows).any(|row| !visible.seen(block, row).is_empty());
        };
        self.0.clear();
        self.0.resize(block.rows * KEYS, true);
        let mut any = false;
        for row in 0..block.rows {
            let Place { sequence, query, first_key } = visible.place(block.batch, block.query + row);
            let at = Position { batch: sequence, head: block.head, query, key: 0 };
            for key in visible.seen(block, row) {
                let shown = mask(Position { key: block.key + key - first_key, ..at });
                self.0[row * KEYS + key] = !shown;
                any |= shown;
            }
        }
        any
    }

    /// Hides them from this query of the block.
    pub(super) fn apply<T: Real>(&self, row: usize, keys: Range<usize>, scores: &mut [T]) {
        let hidden = &self.0[row * KEYS..][keys.clone()];
        for (score, _) in scores[keys].iter_mut().zip(hidden).filter(|(_, hidden)| **hidden) {
            *score = T::NEG_INFINITY;
        }
    }
}
