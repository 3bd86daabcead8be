//! Weights dropped at random, by position.

use std::ops::Range;

use longhand_kernels::random::{Dropout, philox};

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
        // Kernels have the probability in f32.
        let dropout = Dropout { probability: f64::from(dropout.probability as f32), ..dropout };
        let key = dropout.random.key();
        Dropping { key, drop_below: dropout.drop_below(), scale: dropout.scale() }
    }

    /// For one query of head `head` (`sequence * H + h`): multiplies what is at `values[key]` for these keys by the scale, or
    /// by 0. Bits are those of `kernels/attention/dropout.cuh`; `first` is where in the sequence key 0 is.
    pub(super) fn apply<T: Real>(
        &self,
        head: usize,
        query: usize,
        first: isize,
        keys: Range<usize>,
        values: &mut [T],
    ) {
        let scale = T::from_f64(self.scale);
        let (mut words, mut group) = ([[0; 4]; 8], usize::MAX);
        for key in keys {
            let place = (first + key as isize) as usize;
            if place / 16 != group {
                group = place / 16;
                for (i, words) in words.iter_mut().enumerate() {
                    *words = philox(self.key, [patch(query), (group * 8 + i) as u32, head as u32, 0]);
                }
            }
            let word = words[place % 8][query / 8 % 2 * 2 + place / 8 % 2];
            values[key] = if word < self.drop_below { T::ZERO } else { values[key] * scale };
        }
    }
}

/// What brings a place and the one 8 further on together.
fn patch(place: usize) -> u32 {
    (place / 16 * 8 + place % 8) as u32
}
