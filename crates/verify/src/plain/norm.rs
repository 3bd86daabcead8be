use super::{to_f32, to_f64};
use crate::Precision;
use longhand_reference::{LayerNorm, NormGradients};
use std::iter::zip;

/// Layer norm or RMSNorm of a residual sum in two steps: the sum, rounded; then the norm of that, in f32, rounded once.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Whether rows are centred: layer norm, or RMSNorm, whose mean is 0.
    pub layer: bool,
    /// Of the rows.
    pub precision: Precision,
    /// Of weight and bias.
    pub weights: Precision,
    /// Added to the variance.
    pub eps: f64,
}

impl Norm {
    /// The arguments are those of `longhand_reference::layer_norm`. `mean` and `rstd` are f32.
    #[must_use]
    pub fn forward(&self, x: &[f64], residual: Option<&[f64]>, weight: &[f64], bias: &[f64]) -> LayerNorm {
        let width = weight.len();
        let mut sum = to_f32(x);
        if let Some(residual) = residual {
            for (sum, residual) in zip(&mut sum, to_f32(residual)) {
                *sum = self.precision.round(*sum + residual);
            }
        }
        let (weight, bias) = (to_f32(weight), to_f32(bias));
        let (mean, rstd) = self.statistics(&sum, width);
        let out: Vec<f32> = (0..sum.len())
            .map(|i| (sum[i] - mean[i / width]) * rstd[i / width] * weight[i % width] + bias[i % width])
            .map(|out| self.precision.round(out))
            .collect();
        LayerNorm { sum: to_f64(&sum), out: to_f64(&out), mean: to_f64(&mean), rstd: to_f64(&rstd) }
    }

    /// Backward in two steps: the norm's gradient, rounded; then `dsum` added, rounded. `dweight` and `dbias` are summed
    /// in f32, row by row.
    ///
    /// The arguments are those of `longhand_reference::layer_norm_backward`.
    #[must_use]
    pub fn backward(&self, sum: &[f64], weight: &[f64], dout: &[f64], dsum: Option<&[f64]>) -> NormGradients {
        let (width, precision) = (weight.len(), self.precision);
        let (sum, weight, dout) = (to_f32(sum), to_f32(weight), to_f32(dout));
        let (mean, rstd) = self.statistics(&sum, width);
        let mut dx = Vec::with_capacity(sum.len());
        let mut dweight = vec![0.0; width];
        let mut dbias = vec![0.0; width];
        for (row, dout) in dout.chunks_exact(width).enumerate() {
            let xhat: Vec<f32> =
                sum[row * width..][..width].iter().map(|s| (s - mean[row]) * rstd[row]).collect();
            let g: Vec<f32> = zip(dout, &weight).map(|(dout, weight)| dout * weight).collect();
            let mean_g = if self.layer { average(g.iter().copied()) } else { 0.0 };
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
        let rounded = |x: Vec<f32>| x.into_iter().map(|x| self.weights.round(x).into()).collect();
        NormGradients { dx: to_f64(&dx), dweight: rounded(dweight), dbias: rounded(dbias) }
    }

    /// `(mean, rstd)` of each row.
    fn statistics(&self, sum: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
        sum.chunks_exact(width)
            .map(|row| {
                let mean = if self.layer { average(row.iter().copied()) } else { 0.0 };
                let variance = average(row.iter().map(|s| (s - mean) * (s - mean)));
                (mean, 1.0 / (variance + self.eps as f32).sqrt())
            })
            .unzip()
    }
}

fn average(x: impl ExactSizeIterator<Item = f32>) -> f32 {
    let len = x.len() as f32;
    x.sum::<f32>() / len
}
