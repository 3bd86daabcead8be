use super::{log_sum_exp, sum, to_f32};
use crate::Precision;
use longhand_reference::{MergeGradients, Merged, PartialAttention};

/// Merging by LSE in f32: the weights in memory, then the weighted sum, rounded once.
#[must_use]
pub fn attention_merge(precision: Precision, sizes: [usize; 4], parts: &[PartialAttention<'_>]) -> Merged {
    let [batch, tokens, heads, dim] = sizes;
    let (outs, lses) = in_f32(parts);
    let mut merged =
        Merged { out: vec![0.0; batch * tokens * heads * dim], lse: vec![0.0; batch * heads * tokens] };
    for (row, place) in rows(sizes) {
        let (weights, lse) = weights(&lses, place);
        merged.lse[place] = lse.into();
        for column in row..row + dim {
            let terms = outs.iter().zip(&weights).map(|(out, weight)| weighted(*weight, out[column]));
            merged.out[column] = precision.round(sum(terms)).into();
        }
    }
    merged
}

/// Backward of [`attention_merge`], from its rounded output.
#[must_use]
pub fn attention_merge_backward(
    precision: Precision,
    sizes: [usize; 4],
    parts: &[PartialAttention<'_>],
    dout: &[f64],
    dlse: &[f64],
) -> MergeGradients {
    let dim = sizes[3];
    let (outs, lses) = in_f32(parts);
    let merged = to_f32(&attention_merge(precision, sizes, parts).out);
    let (dout, dlse) = (to_f32(dout), to_f32(dlse));
    let mut gradients = MergeGradients {
        dout: vec![vec![0.0; dout.len()]; parts.len()],
        dlse: vec![vec![0.0; dlse.len()]; parts.len()],
    };
    for (row, place) in rows(sizes) {
        let (weights, _) = weights(&lses, place);
        for (i, weight) in weights.into_iter().enumerate().filter(|(_, weight)| *weight > 0.0) {
            let columns = row..row + dim;
            let terms = columns.clone().map(|column| dout[column] * (outs[i][column] - merged[column]));
            gradients.dlse[i][place] = (weight * (dlse[place] + sum(terms))).into();
            for column in columns {
                gradients.dout[i][column] = precision.round(weight * dout[column]).into();
            }
        }
    }
    gradients
}

fn in_f32(parts: &[PartialAttention<'_>]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    parts.iter().map(|part| (to_f32(part.out), to_f32(part.lse))).unzip()
}

/// A part that has no weight may hold anything.
fn weighted(weight: f32, x: f32) -> f32 {
    if weight == 0.0 { 0.0 } else { weight * x }
}

fn weights(lses: &[Vec<f32>], place: usize) -> (Vec<f32>, f32) {
    let lse = log_sum_exp(lses.iter().map(|lse| lse[place]));
    let weight = |part: &Vec<f32>| if lse == f32::NEG_INFINITY { 0.0 } else { (part[place] - lse).exp() };
    (lses.iter().map(weight).collect(), lse)
}

/// Where each row begins in `out`, and its place in `lse`.
fn rows([batch, tokens, heads, dim]: [usize; 4]) -> impl Iterator<Item = (usize, usize)> {
    (0..batch * tokens * heads).map(move |row| {
        let (b, t, h) = (row / heads / tokens, row / heads % tokens, row % heads);
        (row * dim, (b * heads + h) * tokens + t)
    })
}
