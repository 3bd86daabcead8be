use crate::check_len;

/// The hyperparameters of [`adamw`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// α, the learning rate, the schedule's multiplier included
    pub lr: f64,
    /// β₁, the decay of the first moment
    pub beta1: f64,
    /// β₂, the decay of the second moment
    pub beta2: f64,
    /// ε, added to the root of the second moment
    pub eps: f64,
    /// λ, multiplied with `lr` (PyTorch's convention; the paper multiplies it with the schedule alone)
    pub weight_decay: f64,
}

/// One step of AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), in place:
///
/// ```text
/// p -= lr * weight_decay * p
/// m  = beta1 * m + (1 - beta1) * grad
/// v  = beta2 * v + (1 - beta2) * grad²
/// p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
/// ```
///
/// `step` counts from 1; `m` and `v` are zero before the first.
///
/// # Panics
/// When `step` is 0, or `grad`, `m` or `v` is not as long as `param`.
///
/// ```
/// use longhand_reference::{AdamWOptions, adamw};
/// let options = AdamWOptions { lr: 0.5, beta1: 0.9, beta2: 0.99, eps: 0.0, weight_decay: 0.0 };
/// let (mut p, mut m, mut v) = ([1.0], [0.0], [0.0]);
/// adamw(&options, 1, &mut p, &[-7.0], &mut m, &mut v);
/// assert!((p[0] - 1.5_f64).abs() < 1e-15); // the first step is lr against the sign of the gradient
/// ```
pub fn adamw(
    options: &AdamWOptions,
    step: u64,
    param: &mut [f64],
    grad: &[f64],
    m: &mut [f64],
    v: &mut [f64],
) {
    assert!(step > 0, "step is 0, must be at least 1");
    check_len("grad", grad, param.len());
    check_len("m", m, param.len());
    check_len("v", v, param.len());
    let AdamWOptions { lr, beta1, beta2, eps, weight_decay } = *options;
    let correction1 = 1.0 - beta1.powf(step as f64);
    let correction2 = 1.0 - beta2.powf(step as f64);
    for i in 0..param.len() {
        param[i] -= lr * weight_decay * param[i];
        m[i] = beta1 * m[i] + (1.0 - beta1) * grad[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * grad[i] * grad[i];
        param[i] -= lr * (m[i] / correction1) / ((v[i] / correction2).sqrt() + eps);
    }
}
