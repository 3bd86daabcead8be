use crate::check_len;
use std::iter::zip;

/// SiLU (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2; Ramachandran et al. 2017, arXiv 1710.05941), elementwise:
/// `x σ(x)`, with `σ(x) = 1 / (1 + exp(-x))`.
///
/// ```
/// assert_eq!(longhand_reference::silu(&[0.0, 40.0]), [0.0, 40.0]);
/// ```
pub fn silu(x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| x * sigmoid(x)).collect()
}

/// Backward of [`silu`]: `dx = dout (σ(x) + x σ(x) (1 - σ(x)))`.
///
/// # Panics
/// When `dout` is not as long as `x`.
///
/// ```
/// assert_eq!(longhand_reference::silu_backward(&[0.0], &[3.0]), [1.5]);
/// ```
pub fn silu_backward(x: &[f64], dout: &[f64]) -> Vec<f64> {
    check_len("dout", dout, x.len());
    // 1 - σ(x) is σ(-x), which keeps its digits.
    zip(x, dout).map(|(&x, dout)| dout * (sigmoid(x) + x * sigmoid(x) * sigmoid(-x))).collect()
}

/// Squared ReLU (So et al. 2021, Primer, arXiv 2109.08668, section 4.1), elementwise: `max(x, 0)²`.
///
/// ```
/// assert_eq!(longhand_reference::relu_squared(&[-2.0, 3.0]), [0.0, 9.0]);
/// ```
pub fn relu_squared(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.max(0.0) * x.max(0.0)).collect()
}

/// Backward of [`relu_squared`]: `dx = 2 dout max(x, 0)`.
///
/// # Panics
/// When `dout` is not as long as `x`.
///
/// ```
/// assert_eq!(longhand_reference::relu_squared_backward(&[-2.0, 3.0], &[1.0, 0.5]), [0.0, 3.0]);
/// ```
pub fn relu_squared_backward(x: &[f64], dout: &[f64]) -> Vec<f64> {
    check_len("dout", dout, x.len());
    zip(x, dout).map(|(x, dout)| 2.0 * dout * x.max(0.0)).collect()
}

/// A gated linear unit without its matrices (Shazeer 2020, "GLU variants improve transformer", arXiv 2002.05202, eq. 6):
/// `f(x) * up`, elementwise. With `f` SiLU this is SwiGLU's, with GELU GeGLU's.
///
/// # Panics
/// When `up` is not as long as `x`.
///
/// ```
/// use longhand_reference::{gated, relu_squared};
/// assert_eq!(gated(relu_squared, &[3.0], &[0.5]), [4.5]);
/// ```
pub fn gated(f: fn(&[f64]) -> Vec<f64>, x: &[f64], up: &[f64]) -> Vec<f64> {
    check_len("up", up, x.len());
    zip(f(x), up).map(|(f, up)| f * up).collect()
}

/// Backward of [`gated`], the gradients of `x` and of `up`, from `f` and its backward: `dx = f'(x) dout up`,
/// `dup = f(x) dout`.
///
/// # Panics
/// When `up` or `dout` is not as long as `x`.
///
/// ```
/// use longhand_reference::{gated_backward, relu_squared, relu_squared_backward};
/// let gradients = gated_backward(relu_squared, relu_squared_backward, &[3.0], &[0.5], &[2.0]);
/// assert_eq!(gradients, (vec![6.0], vec![18.0]));
/// ```
pub fn gated_backward(
    f: fn(&[f64]) -> Vec<f64>,
    backward: fn(&[f64], &[f64]) -> Vec<f64>,
    x: &[f64],
    up: &[f64],
    dout: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    check_len("up", up, x.len());
    check_len("dout", dout, x.len());
    let through: Vec<f64> = zip(dout, up).map(|(dout, up)| dout * up).collect();
    (backward(x, &through), zip(f(x), dout).map(|(f, dout)| f * dout).collect())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
