use super::{to_f32, to_f64};
use crate::Precision;
use longhand_reference::{LayerNorm, LayerNormGradients};
use std::iter::zip;

/// Layer norm of a residual sum in two steps: the sum, rounded; then the norm of that, in f32, rounded once.
///
/// The arguments are those of `longhand_reference::layer_norm`. `mean` and `rstd` are f32.
pub fn layer_norm(
    precision: Precision,
    x: &[f64],
    residual: Option<&[f64]>,
    weight: &[f64],
    bias: &[f64],
    eps: f64,
) -> LayerNorm {
    let width = weight.len();
    let mut sum = to_f32(x);
    if let Some(residual) = residual {
        for (sum, residual) in zip(&mut sum, to_f32(residual)) {
            *sum = precision.round(*sum + residual);
        }
    }
    let (weight, bias) = (to_f32(weight), to_f32(bias));
    let (mean, rstd) = statistics(&sum, width, eps as f32);
    let out: Vec<f32> = (0..sum.len())
        .map(|i| (sum[i] - mean[i / width]) * rstd[i / width] * weight[i % width] + bias[i % width])
        .map(|out| precision.round(out))
        .collect();
    LayerNorm { sum: to_f64(&sum), out: to_f64(&out), mean: to_f64(&mean), rstd: to_f64(&rstd) }
}

/// Backward of [`layer_norm`] in two steps: the norm's gradient, rounded; then `dsum` added, rounded. `dweight` and
/// `dbias` are summed in f32, row by row.
///
/// The arguments are those of `longhand_reference::layer_norm_backward`.
pub fn layer_norm_backward(
    precision: Precision,
    sum: &[f64],
    weight: &[f64],
    eps: f64,
    dout: &[f64],
    dsum: Option<&[f64]>,
) -> LayerNormGradients {
    let width = weight.len();
    let (sum, weight, dout) = (to_f32(sum), to_f32(weight), to_f32(dout));
    let (mean, rstd) = statistics(&sum, width, eps as f32);
    let mut dx = Vec::with_capacity(sum.len());
    let mut dweight = vec![0.0; width];
    let mut dbias = vec![0.0; width];
    for (row, dout) in dout.chunks_exact(width).enumerate() {
        let xhat: Vec<f32> =
            sum[row * width..][..width].iter().map(|s| (s - mean[row]) * rstd[row]).collect();
        let g: Vec<f32> = zip(dout, &weight).map(|(dout, weight)| dout * weight).collect();
        let mean_g = average(g.iter().copied());
        let mean_g_xhat = average(zip(&g, &xhat).map(|(g, xhat)| g * xhat));
        for i in 0..width {
            dx.push(precision.round(rstd[row] * (g[i] - mean_g - xhat[i] * mean_g_xhat)));
            dweight[i] += dout[i] * xhat[i];
            dbias[i] += dout[i];
        }
    }
    if let Some(dsum) = dsum {
        for (dx, dsum) in zip(&mut dx, to_f32(dsum)) {
            *dx = precision.round(*dx + dsum);
        }
    }
    let rounded = |x: Vec<f32>| x.into_iter().map(|x| precision.round(x).into()).collect();
    LayerNormGradients { dx: to_f64(&dx), dweight: rounded(dweight), dbias: rounded(dbias) }
}

/// `(mean, rstd)` of each row.
fn statistics(sum: &[f32], width: usize, eps: f32) -> (Vec<f32>, Vec<f32>) {
    sum.chunks_exact(width)
        .map(|row| {
            let mean = average(row.iter().copied());
            let variance = average(row.iter().map(|s| (s - mean) * (s - mean)));
            (mean, 1.0 / (variance + eps).sqrt())
        })
        .unzip()
}

fn average(x: impl ExactSizeIterator<Item = f32>) -> f32 {
    let len = x.len() as f32;
    x.sum::<f32>() / len
}
