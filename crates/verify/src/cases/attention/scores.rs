//! What becomes of products before the softmax, and of probabilities after it.

use super::blocks::{Blocks, Kinds};
use super::{Mask, mask::Local};
use crate::{Draw, Error, Layout, Precision, Trial, View};
use longhand_kernels::Random;
use longhand_kernels::attention::{self as kernel, Bias, BlockKind, Named, NamedType};
use longhand_reference::{self as reference, AttentionShape, Scoring};
use std::fmt;

/// Features of scores, in any combination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// The cap of a soft capping.
    pub softcap: Option<f32>,
    /// Whether `SCORE` is applied.
    pub expression: bool,
    /// Whether `MASK` is applied.
    pub mask_expression: bool,
    /// Whether far keys are penalised, in each head with half the slope of the one before.
    pub alibi: bool,
    /// Which dimensions of a bias (B, H, T, S) there are; the others broadcast.
    pub bias: Option<[bool; 4]>,
    /// Whether each head has a sink.
    pub sinks: bool,
    /// The probability of dropout.
    pub dropout: Option<f32>,
}

/// Half of it is a product with a number of the head, half has a derivative of its own.
const SCORE: &str = "(q + k) % 2 == 0 ? score * table[h] : strength * tanhf(score) - 0.5";
const STRENGTH: f32 = 0.75;

/// Of squares of this size, every third is hidden, every third is seen, and of every third two of five places are. Which
/// depends on batch and head, where blocks may.
const SQUARE: usize = 128;

fn mask_text(of_batch: bool, of_head: bool) -> String {
    let [b, h] = [(of_batch, " + b"), (of_head, " + h")].map(|(of, text)| if of { text } else { "" });
    let third = format!("(q / square + k / square * 2{b}{h}) % 3");
    format!("{third} == 2 || {third} == 0 && (q * 7 + k * 3) % 5 < 2")
}

/// The values of one case.
pub(super) struct Drawn<'a> {
    scores: &'a Scores,
    mask: &'a Mask,
    shape: AttentionShape,
    table: Vec<f64>,
    pub sinks: Vec<f64>,
    bias: Vec<f64>,
    random: Random,
    /// Of blocks that are chosen.
    pub kinds: Option<Kinds>,
}

/// Its tensors.
pub(super) struct ScoresOperands {
    table: View,
    slopes: View,
    sinks: View,
    bias: View,
}

impl Scores {
    /// As the kernels are told.
    pub(super) fn describe(&self, mut attention: kernel::Attention, mask: &Mask) -> kernel::Attention {
        if self.expression {
            attention = attention.score(SCORE);
            attention = attention.named("table", NamedType::Tensor(longhand_kernels::Dtype::F16));
            attention = attention.named("strength", NamedType::Float);
        }
        if self.mask_expression {
            let [of_batch, of_head] = mask_depends(mask);
            attention = attention.mask(&mask_text(of_batch, of_head)).named("square", NamedType::Integer);
        }
        attention
            .softcap(self.softcap)
            .alibi(self.alibi)
            .bias(self.bias.is_some())
            .sinks(self.sinks)
            .dropout(self.dropout)
    }

    pub(super) fn draw<'a>(
        &'a self,
        mask: &'a Mask,
        precision: Precision,
        shape: AttentionShape,
        seed: u64,
    ) -> Drawn<'a> {
        let mut draw = Draw::new(Precision::F16, seed ^ 1);
        let table = draw.vec(shape.heads);
        let sinks = if self.sinks { draw.vec(shape.heads) } else { Vec::new() };
        let bias = Draw::new(precision, seed ^ 3).vec(self.bias_layout(mask, shape).count());
        let longest = mask.longest([shape.queries, shape.keys]);
        let sequences = mask.sequences(shape.batch);
        let kinds =
            mask.blocks.and_then(|blocks| Kinds::chosen(blocks, sequences, shape.heads, longest, seed ^ 4));
        let random = Random { seed, offset: seed ^ 2 };
        Drawn { scores: self, mask, shape, table, sinks, bias, random, kinds }
    }
}

impl Scores {
    /// Of the bias, and of its gradient, which has size 1 where it broadcasts.
    pub(super) fn bias_layout(&self, mask: &Mask, shape: AttentionShape) -> Layout {
        let Some(there) = self.bias else { return Layout::contiguous(&[0]) };
        let [queries, keys] = mask.longest([shape.queries, shape.keys]);
        let sizes = [mask.sequences(shape.batch), shape.heads, queries, keys];
        Layout::contiguous(&[0, 1, 2, 3].map(|dim| if there[dim] { sizes[dim] } else { 1.min(sizes[dim]) }))
    }

    /// As kernels take it.
    pub(super) fn bias(&self, view: &View) -> Bias {
        match (self.bias, view.strides()) {
            (Some(there), &[batch, head, query, key]) => {
                let strides = [batch, head, query, key];
                Bias {
                    data: view.ptr(),
                    strides: [0, 1, 2, 3].map(|dim| if there[dim] { strides[dim] } else { 0 }),
                }
            }
            _ => Bias::default(),
        }
    }
}

impl Drawn<'_> {
    /// Where the bias of a score lies among its values.
    fn bias_index(&self, [b, h, t, s]: [usize; 4]) -> Option<usize> {
        let there = self.scores.bias?;
        let local = self.mask.local(&self.shape, b, t, s)?;
        let layout = self.scores.bias_layout(self.mask, self.shape);
        let place = [local.sequence, h, local.query, local.key];
        Some((0..4).filter(|&dim| there[dim]).map(|dim| place[dim] * layout.strides()[dim] as usize).sum())
    }

    /// The gradient of the bias, from that of the scores (B, H, T, S).
    pub(super) fn dbias(&self, dscore: &[f64]) -> Vec<f64> {
        let mut dbias = vec![0.0; self.bias.len()];
        let AttentionShape { heads, queries, keys, .. } = self.shape;
        for (i, d) in dscore.iter().enumerate() {
            let row = i / keys;
            let place = [row / queries / heads, row / queries % heads, row % queries, i % keys];
            if let Some(index) = self.bias_index(place) {
                dbias[index] += d;
            }
        }
        dbias
    }

    /// Calls `body` with what the reference is told.
    pub(super) fn with_scoring<R>(&self, body: impl FnOnce(&Scoring<'_>) -> R) -> R {
        let visible = |b, h, t, s| self.visible(b, h, t, s);
        let score = |product, place| self.score(product, place);
        let keep = |b, h, t, s| self.keep(b, h, t, s);
        body(&Scoring { visible: &visible, score: &score, sinks: &self.sinks, keep: &keep })
    }

    pub(super) fn visible(&self, b: usize, h: usize, t: usize, s: usize) -> bool {
        if !self.mask.visible(&self.shape, b, t, s) {
            return false;
        }
        let Some(local) = self.mask.local(&self.shape, b, t, s) else { return false };
        let kind = |kinds: &Kinds| kinds.get(local.sequence, h, local.query, local.key);
        match self.kinds.as_ref().map_or(BlockKind::Partial, kind) {
            BlockKind::Empty => false,
            BlockKind::Full => true,
            BlockKind::Partial => !self.scores.mask_expression || self.by_expression(&local, h),
        }
    }

    /// As [`mask_text`].
    fn by_expression(&self, local: &Local, h: usize) -> bool {
        let (q, k) = (local.query, local.key);
        let [of_batch, of_head] = mask_depends(self.mask);
        let own = usize::from(of_batch) * local.sequence + usize::from(of_head) * h;
        match (q / SQUARE + k / SQUARE * 2 + own) % 3 {
            0 => (q * 7 + k * 3) % 5 < 2,
            third => third == 2,
        }
    }

    /// The score of a scaled product, and its derivative by it.
    pub(super) fn score(&self, product: f64, [b, h, t, s]: [usize; 4]) -> (f64, f64) {
        let Some(local) = self.mask.local(&self.shape, b, t, s) else { return (f64::NEG_INFINITY, 0.0) };
        let (mut score, mut slope) = (product, 1.0);
        if self.scores.expression {
            if (local.query + local.key).is_multiple_of(2) {
                (score, slope) = (score * self.table[h], slope * self.table[h]);
            } else {
                let (t, strength) = (score.tanh(), f64::from(STRENGTH));
                (score, slope) = (strength * t - 0.5, slope * strength * (1.0 - t * t));
            }
        }
        if let Some(cap) = self.scores.softcap.map(f64::from) {
            let t = (score / cap).tanh();
            (score, slope) = (cap * t, slope * (1.0 - t * t));
        }
        if self.scores.alibi {
            let distance = (local.query + local.keys).abs_diff(local.queries + local.key);
            score -= alibi_slope(h) * distance as f64;
        }
        if let Some(index) = self.bias_index([b, h, t, s]) {
            score += self.bias[index];
        }
        (score, slope)
    }

    /// Philox, by the place of the probability in its sequence.
    pub(super) fn keep(&self, b: usize, h: usize, t: usize, s: usize) -> f64 {
        let Some(probability) = self.scores.dropout else { return 1.0 };
        let Some(local) = self.mask.local(&self.shape, b, t, s) else { return 1.0 };
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let [low, high] = halves(self.random.offset);
        let [first, second, ..] = reference::philox(halves(self.random.seed), [low, high, 0, 0]);
        let patch = |n: usize| (n / 16 * 8 + n % 8) as u32;
        let head = (local.sequence * self.shape.heads + h) as u32;
        let words = reference::philox([first, second], [patch(local.query), patch(local.key), head, 0]);
        let word = words[local.query / 8 % 2 * 2 + local.key / 8 % 2];
        if f64::from(word) < f64::from(probability) * 4_294_967_296.0 {
            0.0
        } else {
            1.0 / (1.0 - f64::from(probability))
        }
    }

    pub(super) fn upload(&self, trial: &Trial, precision: Precision) -> Result<ScoresOperands, Error> {
        let slopes: Vec<f64> = (0..self.shape.heads).map(alibi_slope).collect();
        Ok(ScoresOperands {
            table: trial.vector("table", Precision::F16, &self.table)?,
            slopes: trial.vector("slopes", Precision::F32, &slopes)?,
            sinks: trial.vector("sinks", Precision::F32, &self.sinks)?,
            bias: trial.input(
                "bias",
                precision,
                &self.scores.bias_layout(self.mask, self.shape),
                &self.bias,
            )?,
        })
    }

    /// Values for names.
    pub(super) fn named(&self, tensors: &ScoresOperands) -> Vec<(&'static str, Named)> {
        let mut named = Vec::new();
        if self.scores.expression {
            named.push(("strength", Named::Float(STRENGTH)));
            named.push(("table", Named::Tensor(tensors.table.ptr())));
        }
        if self.scores.mask_expression {
            named.push(("square", Named::Integer(SQUARE as i64)));
        }
        named
    }

    pub(super) fn operands<'a>(
        &self,
        tensors: &ScoresOperands,
        named: &'a [(&'a str, Named)],
        masks: kernel::Operands<'a>,
    ) -> kernel::Operands<'a> {
        let mut operands = kernel::Operands { random: self.random, named, ..masks };
        if self.scores.alibi {
            operands.slopes = tensors.slopes.ptr();
        }
        operands.bias = self.scores.bias(&tensors.bias);
        if self.scores.sinks {
            operands.sinks = tensors.sinks.ptr();
        }
        operands
    }
}

/// Whether the mask expression depends on batch and head.
fn mask_depends(mask: &Mask) -> [bool; 2] {
    mask.blocks.map_or([true; 2], |Blocks { per_batch, per_head, .. }| [per_batch, per_head])
}

fn alibi_slope(head: usize) -> f64 {
    0.5f64.powi(head as i32 + 1)
}

/// Such as ` softcap 20 alibi`.
impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(softcap) = self.softcap {
            write!(f, " softcap {softcap}")?;
        }
        for (name, given) in [
            ("score expression", self.expression),
            ("mask expression", self.mask_expression),
            ("alibi", self.alibi),
            ("sinks", self.sinks),
        ] {
            if given {
                write!(f, " {name}")?;
            }
        }
        if let Some(there) = self.bias {
            let dims: String =
                "BHTS".chars().zip(there).filter(|&(_, there)| there).map(|(dim, _)| dim).collect();
            write!(f, " bias ({dims})")?;
        }
        self.dropout.map_or(Ok(()), |dropout| write!(f, " dropout {dropout}"))
    }
}
