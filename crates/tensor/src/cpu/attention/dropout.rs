//! Weights dropped at random, by position.

use std::ops::Range;

use longhand_kernels::random::{Dropout, philox};

use super::Block;
use crate::cpu::Real;

/// Which weights are dropped: the same ones forward and backward, and on a GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropping {
    key: u64,
    drop_below: u32,
    /// What those that stay are multiplied by.
    scale: f64,
}

impl Dropping {
    pub(crate) fn new(dropout: Dropout) -> Self {
        let key = dropout.random.key();
        Dropping { key, drop_below: dropout.drop_below(), scale: dropout.scale() }
    }

    /// For one query of the block: multiplies what is at these keys by the scale, or by 0.
    pub(super) fn apply<T: Real>(&self, block: &Block, row: usize, keys: Range<usize>, values: &mut [T]) {
        let scale = T::from_f64(self.scale);
        let counter =
            |quad: usize| [quad as u32, (block.query + row) as u32, block.head as u32, block.batch as u32];
        let (mut words, mut quad) = ([0; 4], usize::MAX);
        for key in keys {
            let absolute = block.key + key;
            if absolute / 4 != quad {
                quad = absolute / 4;
                words = philox(self.key, counter(quad));
            }
            values[key] = if words[absolute % 4] < self.drop_below { T::ZERO } else { values[key] * scale };
        }
    }
}
