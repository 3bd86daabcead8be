//! What each feature means, by the formula, key by key.

use longhand_tensor::Tensor;
use longhand_tensor::ops::{Dual, Position};

use super::case::{CAP, Case, PROBABILITY, RANDOM, scored, shown};
use crate::doubles;

impl Case {
    /// Within the sequence that both are in, and how many queries and keys that has.
    pub fn local(&self, at: Position) -> Option<(Position, usize, usize)> {
        if self.documents.is_empty() {
            return Some((at, self.queries, self.keys));
        }
        let mut local = Position { batch: 0, ..at };
        for &[queries, keys] in &self.documents {
            if local.query < queries || local.key < keys {
                return (local.query < queries && local.key < keys).then_some((local, queries, keys));
            }
            local.query -= queries;
            local.key -= keys;
            local.batch += 1;
        }
        None
    }

    pub fn kept(&self, at: Position) -> bool {
        let Some((Position { batch, head, query, key }, ..)) = self.local(at) else { return false };
        let patch = |place: usize| (place / 16 * 8 + place % 8) as u32;
        let words = RANDOM.words([patch(query), patch(key), (batch * self.heads() + head) as u32, 0]);
        f64::from(words[query / 8 % 2 * 2 + key / 8 % 2]) >= PROBABILITY * 4_294_967_296.0
    }

    /// The score, by the formula; `None` where the key is hidden.
    pub fn score(&self, at: Position, product: f64, bias: Option<&[f64]>) -> Option<f64> {
        let (local, queries, keys) = self.local(at)?;
        let Position { batch: sequence, head, query: t, key: s } = local;
        let distance = s as i64 - (t + keys) as i64 + queries as i64;
        let right = if self.causal { Some(0) } else { self.right };
        let early = self.prefix.is_some_and(|prefix| s < prefix + sequence);
        if self.left.is_some_and(|left| distance < -(left as i64))
            || !early && right.is_some_and(|right| distance > right as i64)
            || self.mask && !shown(local)
        {
            return None;
        }
        let mut score = product * 0.8;
        if self.score {
            score = scored(local, Dual::variable(score)).value;
        }
        if self.softcap {
            score = CAP * (score / CAP).tanh();
        }
        if self.alibi {
            score -= self.slopes()[head] * distance.abs() as f64;
        }
        if let (Some(one), Some(bias)) = (self.bias, bias) {
            let sizes = self.bias_sizes();
            let index = (0..4).fold(0, |index, dim| match one[dim] {
                true => index,
                false => index * sizes[dim] + [sequence, head, t, s][dim],
            });
            score += bias[index];
        }
        Some(score)
    }

    /// `out` and the log-sum-exp.
    pub fn plain(&self, inputs: &[Tensor]) -> (Vec<f64>, Vec<f64>) {
        let Case { batch, queries, keys, kv_heads, group, dim, value_dim, .. } = *self;
        let heads = self.heads();
        let data: Vec<Vec<f64>> = inputs.iter().map(doubles).collect();
        let bias = self.bias.map(|_| &data[3][..]);
        let mut out = vec![0.0; batch * queries * heads * value_dim];
        let mut lse = Vec::new();
        for b in 0..batch {
            for h in 0..heads {
                for t in 0..queries {
                    let q = &data[0][((b * queries + t) * heads + h) * dim..][..dim];
                    let row = |s: usize| (b * keys + s) * kv_heads + h / group;
                    let scores: Vec<f64> = (0..keys)
                        .map(|s| {
                            let product = q.iter().zip(&data[1][row(s) * dim..]).map(|(q, k)| q * k).sum();
                            let at = Position { batch: b, head: h, query: t, key: s };
                            self.score(at, product, bias).unwrap_or(f64::NEG_INFINITY)
                        })
                        .collect();
                    let sink = if self.sinks { data[data.len() - 1][h].exp() } else { 0.0 };
                    let sum = scores.iter().map(|score| score.exp()).sum::<f64>() + sink;
                    lse.push(sum.ln());
                    for (s, score) in scores.iter().enumerate().filter(|(_, score)| score.is_finite()) {
                        let kept = self.kept(Position { batch: b, head: h, query: t, key: s });
                        let factor = if !self.dropout {
                            1.0
                        } else if kept {
                            1.0 / (1.0 - PROBABILITY)
                        } else {
                            0.0
                        };
                        let target = &mut out[((b * queries + t) * heads + h) * value_dim..][..value_dim];
                        for (target, v) in target.iter_mut().zip(&data[2][row(s) * value_dim..]) {
                            *target += factor * score.exp() / sum * v;
                        }
                    }
                }
            }
        }
        (out, lse)
    }
}
