use super::{log_sum_exp, sum, to_f32};
use crate::Precision;
use longhand_reference::Softmax;

/// Softmax of each row, rounded at the end, and its log-sum-exp: in f32.
pub fn softmax(precision: Precision, x: &[f64], width: usize) -> Softmax {
    let mut result = Softmax { out: Vec::with_capacity(x.len()), lse: Vec::new() };
    for row in to_f32(x).chunks_exact(width) {
        let lse = log_sum_exp(row.iter().copied());
        result.out.extend(row.iter().map(|x| f64::from(precision.round((x - lse).exp()))));
        result.lse.push(lse.into());
    }
    result
}

/// Backward of [`softmax`]: in f32, rounded at the end.
pub fn softmax_backward(
    precision: Precision,
    out: &[f64],
    width: usize,
    dout: &[f64],
    dlse: &[f64],
) -> Vec<f64> {
    let (out, dout) = (to_f32(out), to_f32(dout));
    let mut dx = Vec::with_capacity(out.len());
    for ((out, dout), dlse) in out.chunks_exact(width).zip(dout.chunks_exact(width)).zip(dlse) {
        let dot = sum(out.iter().zip(dout).map(|(out, dout)| out * dout));
        let gradient =
            |(out, dout): (&f32, &f32)| f64::from(precision.round(out * (dout - dot + *dlse as f32)));
        dx.extend(out.iter().zip(dout).map(gradient));
    }
    dx
}
