use crate::{check_len, check_rows, dot};

/// What [`softmax`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// `(N, W)`
    pub out: Vec<f64>,
    /// `(N)`
    pub lse: Vec<f64>,
}

/// Softmax of each row, and its log-sum-exp:
///
/// ```text
/// lse = ln Σ exp(x)        out = exp(x - lse)
/// ```
///
/// `x` is `(N, width)`. A row of -∞ has an `lse` of -∞ and an `out` of 0.
///
/// # Panics
/// When `x` is not rows of `width`.
///
/// ```
/// let result = longhand_reference::softmax(&[1.0, 1.0], 2);
/// assert!((result.out[0] - 0.5).abs() < 1e-15 && (result.lse[0] - (1.0 + 2f64.ln())).abs() < 1e-15);
/// ```
pub fn softmax(x: &[f64], width: usize) -> Softmax {
    check_rows("x (N, W)", x, width);
    let mut result = Softmax { out: Vec::with_capacity(x.len()), lse: Vec::new() };
    for row in x.chunks_exact(width) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            result.out.extend(vec![0.0; width]);
            result.lse.push(max);
            continue;
        }
        let lse = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        result.out.extend(row.iter().map(|x| (x - lse).exp()));
        result.lse.push(lse);
    }
    result
}

/// Backward of [`softmax`], from its `out`:
///
/// ```text
/// dx = out (dout - Σ out dout + dlse)
/// ```
///
/// `out` and `dout` are `(N, width)`, `dlse` is `(N)`; returns `(N, width)`.
///
/// # Panics
/// When a slice has not this size.
///
/// ```
/// let dx = longhand_reference::softmax_backward(&[0.5, 0.5], 2, &[1.0, 0.0], &[0.0]);
/// assert_eq!(dx, [0.25, -0.25]);
/// ```
pub fn softmax_backward(out: &[f64], width: usize, dout: &[f64], dlse: &[f64]) -> Vec<f64> {
    let rows = check_rows("out (N, W)", out, width);
    check_len("dout (N, W)", dout, out.len());
    check_len("dlse (N)", dlse, rows);
    let rows = out.chunks_exact(width).zip(dout.chunks_exact(width)).zip(dlse);
    rows.flat_map(|((out, dout), dlse)| {
        let rest = dlse - dot(out, dout);
        out.iter().zip(dout).map(move |(out, dout)| out * (dout + rest))
    })
    .collect()
}
