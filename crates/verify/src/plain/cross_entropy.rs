use super::{log_sum_exp, to_f32};
use crate::Precision;

/// Cross-entropy of one row of logits, in f32.
pub fn cross_entropy(logits: &[f64], target: usize) -> f64 {
    let logits = to_f32(logits);
    (log_sum_exp(logits.iter().copied()) - logits[target]).into()
}

/// Backward of [`cross_entropy`] for a gradient of `dloss`: in f32, rounded at the end.
pub fn cross_entropy_backward(precision: Precision, logits: &[f64], target: usize, dloss: f32) -> Vec<f64> {
    let logits = to_f32(logits);
    let lse = log_sum_exp(logits.iter().copied());
    let gradient =
        |(i, logit): (usize, &f32)| dloss * ((logit - lse).exp() - f32::from(u8::from(i == target)));
    logits.iter().enumerate().map(gradient).map(|x| precision.round(x).into()).collect()
}
