use crate::check_len;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};
use std::iter::zip;

/// GELU by its definition (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2), elementwise:
/// `x Φ(x) = x/2 (1 + erf(x / √2))`, with `Φ` the normal distribution function.
///
/// ```
/// assert_eq!(longhand_reference::gelu_erf(&[0.0, 40.0, -40.0]), [0.0, 40.0, 0.0]);
/// ```
pub fn gelu_erf(x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| x * normal(x)).collect()
}

/// Backward of [`gelu_erf`]: `dx = dout (Φ(x) + x φ(x))`, with `φ` the normal density.
///
/// # Panics
/// When `dout` is not as long as `x`.
///
/// ```
/// assert_eq!(longhand_reference::gelu_erf_backward(&[0.0], &[3.0]), [1.5]);
/// ```
pub fn gelu_erf_backward(x: &[f64], dout: &[f64]) -> Vec<f64> {
    check_len("dout", dout, x.len());
    zip(x, dout)
        .map(|(&x, dout)| {
            let density = (-x * x / 2.0).exp() / (2.0 * PI).sqrt();
            dout * (normal(x) + x * density)
        })
        .collect()
}

/// GELU's tanh approximation (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2), elementwise:
/// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`. This is GPT-2's.
///
/// ```
/// assert_eq!(longhand_reference::gelu_tanh(&[0.0, 40.0, -40.0]), [0.0, 40.0, 0.0]);
/// ```
pub fn gelu_tanh(x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| x / 2.0 * (1.0 + inner(x).tanh())).collect()
}

/// Backward of [`gelu_tanh`], with `u = √(2/π) (x + 0.044715 x³)`:
/// `dx = dout/2 (1 + tanh u + x (1 - tanh² u) √(2/π) (1 + 3 * 0.044715 x²))`.
///
/// # Panics
/// When `dout` is not as long as `x`.
///
/// ```
/// assert_eq!(longhand_reference::gelu_tanh_backward(&[0.0], &[3.0]), [1.5]);
/// ```
pub fn gelu_tanh_backward(x: &[f64], dout: &[f64]) -> Vec<f64> {
    check_len("dout", dout, x.len());
    zip(x, dout)
        .map(|(&x, dout)| {
            let tanh = inner(x).tanh();
            let dinner = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            dout / 2.0 * (1.0 + tanh + x * (1.0 - tanh * tanh) * dinner)
        })
        .collect()
}

/// The error function `2/√π ∫₀ˣ exp(-t²) dt`, to a few times 1e-16.
///
/// ```
/// assert!((longhand_reference::erf(0.5) - 0.520499877813046537683).abs() < 1e-15);
/// ```
pub fn erf(x: f64) -> f64 {
    if x.abs() < 1.0 { erf_series(x) } else { (1.0 - erfc_fraction(x.abs())).copysign(x) }
}

/// The complementary error function `1 - erf(x)`, to a relative error of a few times `1e-16 (1 + x²)`, also
/// where it is tiny (the rounding of `x²` is what `exp` magnifies).
///
/// ```
/// assert!((longhand_reference::erfc(5.0) / 1.5374597944280348502e-12 - 1.0).abs() < 1e-14);
/// ```
pub fn erfc(x: f64) -> f64 {
    if x.abs() < 1.0 {
        1.0 - erf_series(x)
    } else if x < 0.0 {
        2.0 - erfc_fraction(-x)
    } else {
        erfc_fraction(x)
    }
}

/// `√(2/π) (x + 0.044715 x³)`.
fn inner(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// `Φ(x)`, the normal distribution function. `erfc` keeps its precision where `1 + erf` would cancel.
fn normal(x: f64) -> f64 {
    erfc(-x * FRAC_1_SQRT_2) / 2.0
}

/// NIST Digital Library of Mathematical Functions, eq. 7.6.2, whose terms all have one sign:
/// `erf(x) = 2/√π exp(-x²) Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1))`. For `|x| < 1`, 30 terms leave less than 1e-30.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..30 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// Abramowitz & Stegun 1964, eq. 7.1.14, for `x >= 1`:
/// `√π exp(x²) erfc(x) = 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + 2/(x + …)))))`, evaluated from the inside out. At
/// `x = 1`, where it converges slowest, 200 levels leave about 1e-17.
fn erfc_fraction(x: f64) -> f64 {
    let denominator = (1..=200).rev().fold(x, |inner, n| x + f64::from(n) / 2.0 / inner);
    (-x * x).exp() / (PI.sqrt() * denominator)
}
