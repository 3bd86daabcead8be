//! Rotary position embedding, of queries and keys.

use super::Pass;
use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_kernels::attention::{Heads, Strides};
use longhand_kernels::rope::{Direction, Rope as Kernel, RopeArgs};
use longhand_reference as reference;
use std::fmt;

/// One rotation.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Forward or backward.
    pub pass: Pass,
    /// Of the heads.
    pub precision: Precision,
    /// Batches, tokens, query heads and key heads.
    pub sizes: [usize; 4],
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of it that turn.
    pub rotary: usize,
    /// Whether neighbours turn together.
    pub interleaved: bool,
    /// Position of the first token of the first batch.
    pub start: u32,
    /// Whether every batch has positions of its own.
    pub own_positions: bool,
    /// Elements between heads.
    pub gap: usize,
    /// Whether outputs overwrite inputs.
    pub in_place: bool,
    /// The attention factor.
    pub factor: f32,
    /// Of the inputs.
    pub seed: u64,
}

impl Rope {
    /// The cases that tell the most: each type; then both ways to pair, parts of a head, one token, and long positions.
    #[must_use]
    pub fn telling() -> Vec<Rope> {
        let base = Rope {
            pass: Pass::Forward,
            precision: Precision::Bf16,
            sizes: [2, 37, 4, 2],
            head_dim: 64,
            rotary: 64,
            interleaved: false,
            start: 0,
            own_positions: false,
            gap: 0,
            in_place: false,
            factor: 1.0,
            seed: 1,
        };
        let mut cases: Vec<Rope> = Precision::ALL.map(|precision| Rope { precision, ..base.clone() }).into();
        cases.extend([
            Rope { interleaved: true, in_place: true, ..base.clone() },
            Rope { rotary: 16, factor: 1.2, ..base.clone() },
            Rope { rotary: 32, interleaved: true, gap: 8, own_positions: true, ..base.clone() },
            Rope { head_dim: 10, rotary: 6, gap: 3, ..base.clone() },
            Rope { sizes: [1, 1, 32, 8], head_dim: 128, rotary: 128, start: 1 << 20, ..base.clone() },
            Rope { precision: Precision::F32, start: u32::MAX - 100, own_positions: true, ..base.clone() },
            Rope { sizes: [1, 9, 12, 0], ..base.clone() },
            Rope { sizes: [1, 0, 4, 2], ..base },
        ]);
        let backward = |case: &Rope| Rope { pass: Pass::Backward, ..case.clone() };
        cases.iter().cloned().chain(cases.iter().map(backward)).collect()
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let [batch, tokens, heads, kv_heads] = [1, 32, 32, 8];
        let case = Rope {
            pass: Pass::Forward,
            precision: Precision::Bf16,
            sizes: [batch, tokens, heads, kv_heads],
            head_dim: 128,
            rotary: 128,
            interleaved: false,
            start: 0,
            own_positions: false,
            gap: 0,
            in_place: true,
            factor: 1.0,
            seed: 1,
        };
        // Every head is read and written; positions and frequencies are read.
        let bytes = 2 * 2 * batch * tokens * (heads + kv_heads) * 128 + 4 * (tokens + 64);
        vec![Canonical::moving("rope", case, bytes)]
    }

    /// 10000^(-2 i / rotary), rounded to f32.
    fn frequencies(&self) -> Vec<f64> {
        let frequency = |i| 10_000f64.powf(-2.0 * f64::from(i) / self.rotary as f64) as f32;
        (0..self.rotary as u32 / 2).map(|i| frequency(i).into()).collect()
    }

    /// `(B, T)`; wrapping, so that the largest positions are among them.
    fn positions(&self) -> Vec<u32> {
        let [batch, tokens, ..] = self.sizes.map(|size| size as u32);
        let own = u32::from(self.own_positions);
        (0..batch)
            .flat_map(|b| (0..tokens).map(move |t| self.start.wrapping_add(own * b * 1000 + t)))
            .collect()
    }

    fn layout(&self, heads: usize) -> Layout {
        let [batch, tokens, ..] = self.sizes;
        let row = (self.head_dim + self.gap) as i64;
        let strides = [tokens as i64 * heads as i64 * row, heads as i64 * row, row, 1];
        Layout::strided(&[batch, tokens, heads, self.head_dim], &strides)
    }
}

impl Case for Rope {
    fn operation(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "rope forward",
            Pass::Backward => "rope backward",
        }
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Rope { precision, sizes: [batch, tokens, heads, kv_heads], head_dim, rotary, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let values = [heads, kv_heads].map(|heads| draw.vec(batch * tokens * heads * head_dim));
        let (frequencies, positions) = (self.frequencies(), self.positions());

        let tensor = |name, out, heads, values: &[f64]| -> Result<(View, Option<View>), Error> {
            let layout = self.layout(heads);
            let out = if self.in_place { None } else { Some(trial.output(out, precision, &layout)?) };
            Ok((trial.input(if self.in_place { "out" } else { name }, precision, &layout, values)?, out))
        };
        let (q, q_out) = tensor("q", "q_out", heads, &values[0])?;
        let (k, k_out) = tensor("k", "k_out", kv_heads, &values[1])?;
        let (q_out, k_out) = (q_out.as_ref().unwrap_or(&q), k_out.as_ref().unwrap_or(&k));
        let device_frequencies = trial.vector("frequencies", Precision::F32, &frequencies)?;
        let own = if self.own_positions { positions.len() } else { tokens };
        let device_positions = trial.integers(&positions[..own.min(positions.len())])?;
        let kernel = Kernel::new(precision.dtype(), head_dim).rotary(rotary).interleaved(self.interleaved);
        let plan = kernel.plan(trial.stream().device())?;
        let args = RopeArgs {
            direction: if self.pass == Pass::Forward { Direction::Forward } else { Direction::Backward },
            batch,
            tokens,
            heads,
            kv_heads,
            q: view(&q),
            k: view(&k),
            q_out: view(q_out),
            k_out: view(k_out),
            positions: device_positions.ptr(),
            positions_stride: if self.own_positions { tokens as i64 } else { 0 },
            frequencies: device_frequencies.ptr(),
            factor: self.factor,
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;

        let rope = reference::Rope {
            frequencies: &frequencies,
            factor: self.factor.into(),
            interleaved: self.interleaved,
        };
        for (out, heads, values) in [(q_out, heads, &values[0]), (k_out, kv_heads, &values[1])] {
            let (rule, expected) = match self.pass {
                Pass::Forward => (Forward, reference::rope(values, &positions, heads, head_dim, &rope)),
                Pass::Backward => {
                    (Gradient, reference::rope_backward(values, &positions, heads, head_dim, &rope))
                }
            };
            let backward = self.pass == Pass::Backward;
            let plain = plain::rope(precision, values, &positions, heads, head_dim, &rope, backward);
            trial.judge(rule, out, &plain, &expected)?;
        }
        Ok(())
    }
}

fn view(tensor: &View) -> Heads {
    let [batch, token, head] = [0, 1, 2].map(|dim| tensor.strides()[dim]);
    Heads { data: tensor.ptr(), strides: Strides { batch, token, head } }
}

impl fmt::Display for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rope { precision, sizes: [batch, tokens, heads, kv_heads], head_dim, rotary, .. } = self;
        write!(f, "{precision} B{batch} T{tokens} H{heads}/{kv_heads} D{head_dim}")?;
        if rotary != head_dim {
            write!(f, " rotary {rotary}")?;
        }
        let words = [
            (self.interleaved, " interleaved"),
            (self.own_positions, " own positions"),
            (self.in_place, " in place"),
        ];
        words.iter().filter(|(is, _)| *is).try_for_each(|(_, word)| f.write_str(word))?;
        if self.start > 0 {
            write!(f, " from {}", self.start)?;
        }
        if self.gap > 0 { write!(f, " gap {}", self.gap) } else { Ok(()) }
    }
}
