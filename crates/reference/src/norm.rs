use crate::{check_len, check_rows};
use std::iter::zip;

/// What [`layer_norm`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// `(N, W)`: `x + residual`
    pub sum: Vec<f64>,
    /// `(N, W)`
    pub out: Vec<f64>,
    /// `(N)`
    pub mean: Vec<f64>,
    /// `(N)`: one over the standard deviation
    pub rstd: Vec<f64>,
}

/// What [`layer_norm_backward`] and [`rms_norm_backward`] return.
#[derive(Clone, Debug, PartialEq)]
pub struct NormGradients {
    /// `(N, W)`: the gradient of `sum`, hence of `x` and of `residual` alike
    pub dx: Vec<f64>,
    /// `(W)`
    pub dweight: Vec<f64>,
    /// `(W)`
    pub dbias: Vec<f64>,
}

/// Layer norm (Ba et al. 2016, arXiv 1607.06450, eq. 4) of a residual sum, for each row:
///
/// ```text
/// sum  = x + residual
/// mean = Σ sum / W
/// rstd = 1 / sqrt(Σ (sum - mean)² / W + eps)
/// out  = (sum - mean) * rstd * weight + bias
/// ```
///
/// `x` and `residual` are `(N, W)`, `weight` and `bias` `(W)`. Without a residual, `sum = x`.
///
/// # Panics
/// When a slice's length contradicts `W = weight.len()`, or `W` is 0.
///
/// ```
/// let result = longhand_reference::layer_norm(&[1.0, 3.0], Some(&[1.0, 1.0]), &[1.0, 2.0], &[0.0, 0.5], 0.0);
/// assert_eq!(result.sum, [2.0, 4.0]);
/// assert_eq!((result.mean[0], result.rstd[0]), (3.0, 1.0));
/// assert_eq!(result.out, [-1.0, 2.5]);
/// ```
pub fn layer_norm(x: &[f64], residual: Option<&[f64]>, weight: &[f64], bias: &[f64], eps: f64) -> LayerNorm {
    let width = weight.len();
    check_rows("x (N, W)", x, width);
    check_len("bias (W)", bias, width);
    let sum = add(x, residual);
    let (mean, rstd) = statistics(&sum, width, eps);
    let out = sum
        .iter()
        .enumerate()
        .map(|(i, s)| (s - mean[i / width]) * rstd[i / width] * weight[i % width] + bias[i % width])
        .collect();
    LayerNorm { sum, out, mean, rstd }
}

/// Backward of [`layer_norm`], by the chain rule through `mean` and `rstd`, for each row, with `<·>` the mean
/// over the row:
///
/// ```text
/// xhat     = (sum - mean) * rstd
/// g        = dout * weight
/// dx       = rstd * (g - <g> - xhat * <g * xhat>) + dsum
/// dweight += dout * xhat
/// dbias   += dout
/// ```
///
/// `sum` is what [`layer_norm`] returned; `dout` is `(N, W)`, and so is `dsum`, the gradient that reaches `sum`
/// through its other use as the next layer's residual.
///
/// # Panics
/// When a slice's length contradicts `W = weight.len()`, or `W` is 0.
///
/// ```
/// use longhand_reference::layer_norm_backward;
/// let gradients = layer_norm_backward(&[2.0, 4.0], &[1.0, 2.0], 0.0, &[3.0, 5.0], Some(&[0.5, 0.25]));
/// assert_eq!(gradients.dweight, [-3.0, 5.0]);
/// assert_eq!(gradients.dbias, [3.0, 5.0]);
/// assert_eq!(gradients.dx, [0.5, 0.25]); // two numbers normalise to -1 and 1 whatever they are
/// ```
pub fn layer_norm_backward(
    sum: &[f64],
    weight: &[f64],
    eps: f64,
    dout: &[f64],
    dsum: Option<&[f64]>,
) -> NormGradients {
    let width = weight.len();
    let rows = check_rows("sum (N, W)", sum, width);
    check_len("dout (N, W)", dout, sum.len());
    let (mean, rstd) = statistics(sum, width, eps);
    let mut dx = add(&vec![0.0; sum.len()], dsum);
    let mut dweight = vec![0.0; width];
    let mut dbias = vec![0.0; width];
    for row in 0..rows {
        let (mean, rstd, start) = (mean[row], rstd[row], row * width);
        let dout = &dout[start..start + width];
        let xhat: Vec<f64> = sum[start..start + width].iter().map(|s| (s - mean) * rstd).collect();
        let g: Vec<f64> = zip(dout, weight).map(|(dout, weight)| dout * weight).collect();
        let mean_g = g.iter().sum::<f64>() / width as f64;
        let mean_g_xhat = crate::dot(&g, &xhat) / width as f64;
        for i in 0..width {
            dx[start + i] += rstd * (g[i] - mean_g - xhat[i] * mean_g_xhat);
            dweight[i] += dout[i] * xhat[i];
            dbias[i] += dout[i];
        }
    }
    NormGradients { dx, dweight, dbias }
}

/// What [`rms_norm`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// `(N, W)`: `x + residual`
    pub sum: Vec<f64>,
    /// `(N, W)`
    pub out: Vec<f64>,
    /// `(N)`: one over the root mean square
    pub rstd: Vec<f64>,
}

/// RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4) of a residual sum, for each row:
///
/// ```text
/// sum  = x + residual
/// rstd = 1 / sqrt(Σ sum² / W + eps)
/// out  = sum * rstd * weight + bias
/// ```
///
/// `x` and `residual` are `(N, W)`, `weight` and `bias` `(W)`. Without a residual, `sum = x`.
///
/// # Panics
/// When a slice's length contradicts `W = weight.len()`, or `W` is 0.
///
/// ```
/// let result = longhand_reference::rms_norm(&[0.0, 3.0], Some(&[1.0, 4.0]), &[1.0, 2.0], &[0.0, 0.5], 0.0);
/// assert_eq!((result.sum, result.rstd), (vec![1.0, 7.0], vec![0.2]));
/// assert!((result.out[1] - (7.0 / 5.0 * 2.0 + 0.5)).abs() < 1e-15);
/// ```
pub fn rms_norm(x: &[f64], residual: Option<&[f64]>, weight: &[f64], bias: &[f64], eps: f64) -> RmsNorm {
    let width = weight.len();
    check_rows("x (N, W)", x, width);
    check_len("bias (W)", bias, width);
    let sum = add(x, residual);
    let rstd = root_mean_squares(&sum, width, eps);
    let out =
        (0..sum.len()).map(|i| sum[i] * rstd[i / width] * weight[i % width] + bias[i % width]).collect();
    RmsNorm { sum, out, rstd }
}

/// Backward of [`rms_norm`], by the chain rule through `rstd`, for each row, with `<·>` the mean over the row:
///
/// ```text
/// xhat     = sum * rstd
/// g        = dout * weight
/// dx       = rstd * (g - xhat * <g * xhat>) + dsum
/// dweight += dout * xhat
/// dbias   += dout
/// ```
///
/// `sum` is what [`rms_norm`] returned; `dout` is `(N, W)`, and so is `dsum`, the gradient that reaches `sum` through
/// its other use as the next layer's residual.
///
/// # Panics
/// When a slice's length contradicts `W = weight.len()`, or `W` is 0.
///
/// ```
/// let gradients = longhand_reference::rms_norm_backward(&[-2.0], &[3.0], 0.0, &[5.0], Some(&[0.5]));
/// assert_eq!((gradients.dweight[0], gradients.dbias[0]), (-5.0, 5.0));
/// assert_eq!(gradients.dx, [0.5]); // one number normalises to its sign whatever it is
/// ```
pub fn rms_norm_backward(
    sum: &[f64],
    weight: &[f64],
    eps: f64,
    dout: &[f64],
    dsum: Option<&[f64]>,
) -> NormGradients {
    let width = weight.len();
    let rows = check_rows("sum (N, W)", sum, width);
    check_len("dout (N, W)", dout, sum.len());
    let rstd = root_mean_squares(sum, width, eps);
    let mut dx = add(&vec![0.0; sum.len()], dsum);
    let mut dweight = vec![0.0; width];
    let mut dbias = vec![0.0; width];
    for row in 0..rows {
        let (rstd, start) = (rstd[row], row * width);
        let dout = &dout[start..start + width];
        let xhat: Vec<f64> = sum[start..start + width].iter().map(|s| s * rstd).collect();
        let g: Vec<f64> = zip(dout, weight).map(|(dout, weight)| dout * weight).collect();
        let mean_g_xhat = crate::dot(&g, &xhat) / width as f64;
        for i in 0..width {
            dx[start + i] += rstd * (g[i] - xhat[i] * mean_g_xhat);
            dweight[i] += dout[i] * xhat[i];
            dbias[i] += dout[i];
        }
    }
    NormGradients { dx, dweight, dbias }
}

/// `x + residual`.
fn add(x: &[f64], residual: Option<&[f64]>) -> Vec<f64> {
    match residual {
        Some(residual) => {
            check_len("residual (N, W)", residual, x.len());
            zip(x, residual).map(|(x, r)| x + r).collect()
        }
        None => x.to_vec(),
    }
}

/// One over the root mean square of each row.
fn root_mean_squares(sum: &[f64], width: usize, eps: f64) -> Vec<f64> {
    let mean_square = |row: &[f64]| row.iter().map(|s| s * s).sum::<f64>() / width as f64;
    sum.chunks_exact(width).map(|row| 1.0 / (mean_square(row) + eps).sqrt()).collect()
}

/// `(mean, rstd)` of each row.
fn statistics(sum: &[f64], width: usize, eps: f64) -> (Vec<f64>, Vec<f64>) {
    sum.chunks_exact(width)
        .map(|row| {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / width as f64;
            (mean, 1.0 / (variance + eps).sqrt())
        })
        .unzip()
}
