use super::{log_sum_exp, sum, to_f32};
use crate::Precision;
use longhand_kernels::cross_entropy::LossOptions;

/// Cross-entropy of one row of logits, in f32, and its log-sum-exp.
pub fn cross_entropy(logits: &[f64], target: usize, options: &LossOptions) -> (f64, f64) {
    let z = capped(logits, options);
    let lse = log_sum_exp(z.iter().copied());
    let mut loss = lse - (1.0 - options.label_smoothing) * z[target] + options.z_loss * lse * lse;
    if options.label_smoothing > 0.0 {
        loss -= options.label_smoothing * (sum(z.iter().copied()) / z.len() as f32);
    }
    (loss.into(), lse.into())
}

/// Backward of [`cross_entropy`] for a gradient of `dloss`: in f32, rounded at the end.
pub fn cross_entropy_backward(
    precision: Precision,
    logits: &[f64],
    target: usize,
    options: &LossOptions,
    dloss: f32,
) -> Vec<f64> {
    let z = capped(logits, options);
    let lse = log_sum_exp(z.iter().copied());
    let LossOptions { label_smoothing, z_loss, softcap } = *options;
    let gradient = |(i, z): (usize, &f32)| {
        let onehot = f32::from(u8::from(i == target));
        let dz = (1.0 + 2.0 * z_loss * lse) * (z - lse).exp()
            - (1.0 - label_smoothing) * onehot
            - label_smoothing / logits.len() as f32;
        dloss * dz * softcap.map_or(1.0, |cap| 1.0 - (z / cap) * (z / cap))
    };
    z.iter().enumerate().map(gradient).map(|x| precision.round(x).into()).collect()
}

fn capped(logits: &[f64], options: &LossOptions) -> Vec<f32> {
    let cap = |x: f32| options.softcap.map_or(x, |cap| cap * (x / cap).tanh());
    to_f32(logits).into_iter().map(cap).collect()
}
