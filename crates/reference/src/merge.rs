use crate::{add_scaled, check_len, dot};

/// The result of attention over some of the keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartialAttention<'a> {
    /// `(B, T, H, D)`
    pub out: &'a [f64],
    /// `(B, H, T)`: the natural logarithm of the sum of `exp(score)` over the keys; minus infinity where there is none.
    pub lse: &'a [f64],
}

/// What [`attention_merge`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// `(B, T, H, D)`
    pub out: Vec<f64>,
    /// `(B, H, T)`
    pub lse: Vec<f64>,
}

/// What [`attention_merge_backward`] returns, each for every part.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeGradients {
    /// `(B, T, H, D)`
    pub dout: Vec<Vec<f64>>,
    /// `(B, H, T)`
    pub dlse: Vec<Vec<f64>>,
}

/// Results of attention over disjoint keys, merged into the one over all of them (Ye et al. 2025, FlashInfer, arXiv
/// 2501.01005, section 2.2), for each `b`, `h`, `t`:
///
/// ```text
/// lse    = ln Σ exp(lse[i])                 over the parts i
/// out[t] = Σ exp(lse[i] - lse) * out[i][t]
/// ```
///
/// Where no part has a key, `out = 0` and `lse = -∞`. `sizes` is `[B, T, H, D]`.
///
/// # Panics
/// When a slice's length contradicts `sizes`.
///
/// ```
/// use longhand_reference::{PartialAttention, attention_merge};
/// let parts = [PartialAttention { out: &[1.0], lse: &[0.0] }, PartialAttention { out: &[5.0], lse: &[3f64.ln()] }];
/// let merged = attention_merge([1, 1, 1, 1], &parts);
/// assert!((merged.out[0] - 4.0).abs() < 1e-15); // a quarter of the weight, and three quarters
/// ```
#[must_use]
pub fn attention_merge(sizes: [usize; 4], parts: &[PartialAttention<'_>]) -> Merged {
    let [batch, tokens, heads, dim] = sizes;
    check(sizes, parts);
    let mut merged = Merged {
        out: vec![0.0; batch * tokens * heads * dim],
        lse: vec![f64::NEG_INFINITY; batch * heads * tokens],
    };
    for (row, lse) in rows(sizes) {
        let (weights, total) = weights(parts, lse);
        merged.lse[lse] = total;
        for (part, weight) in parts.iter().zip(weights).filter(|(_, weight)| *weight > 0.0) {
            add_scaled(&mut merged.out[row..row + dim], weight, &part.out[row..row + dim]);
        }
    }
    merged
}

/// Backward of [`attention_merge`], from the gradients of `out` and `lse`, for each `b`, `h`, `t`:
///
/// ```text
/// weight[i]  = exp(lse[i] - lse)
/// dout[i][t] = weight[i] * dout[t]
/// dlse[i]    = weight[i] * (dlse + dout[t]·(out[i][t] - out[t]))
/// ```
///
/// # Panics
/// As [`attention_merge`].
#[must_use]
pub fn attention_merge_backward(
    sizes: [usize; 4],
    parts: &[PartialAttention<'_>],
    dout: &[f64],
    dlse: &[f64],
) -> MergeGradients {
    let dim = sizes[3];
    let merged = attention_merge(sizes, parts);
    check_len("dout (B, T, H, D)", dout, merged.out.len());
    check_len("dlse (B, H, T)", dlse, merged.lse.len());
    let mut gradients = MergeGradients {
        dout: vec![vec![0.0; dout.len()]; parts.len()],
        dlse: vec![vec![0.0; dlse.len()]; parts.len()],
    };
    for (row, lse) in rows(sizes) {
        let upstream = &dout[row..row + dim];
        let (weights, _) = weights(parts, lse);
        for (i, weight) in weights.into_iter().enumerate().filter(|(_, weight)| *weight > 0.0) {
            let (part, out) = (&parts[i].out[row..row + dim], &merged.out[row..row + dim]);
            add_scaled(&mut gradients.dout[i][row..row + dim], weight, upstream);
            gradients.dlse[i][lse] = weight * (dlse[lse] + dot(upstream, part) - dot(upstream, out));
        }
    }
    gradients
}

/// `exp(lse[i] - lse)` of each part, and `lse`.
fn weights(parts: &[PartialAttention<'_>], row: usize) -> (Vec<f64>, f64) {
    let max = parts.iter().fold(f64::NEG_INFINITY, |max, part| max.max(part.lse[row]));
    if max == f64::NEG_INFINITY {
        return (vec![0.0; parts.len()], max);
    }
    let lse = max + parts.iter().map(|part| (part.lse[row] - max).exp()).sum::<f64>().ln();
    (parts.iter().map(|part| (part.lse[row] - lse).exp()).collect(), lse)
}

/// Where each row begins in `out`, and its place in `lse`.
fn rows([batch, tokens, heads, dim]: [usize; 4]) -> impl Iterator<Item = (usize, usize)> {
    (0..batch * tokens * heads).map(move |row| {
        let (b, t, h) = (row / heads / tokens, row / heads % tokens, row % heads);
        (row * dim, (b * heads + h) * tokens + t)
    })
}

#[track_caller]
fn check([batch, tokens, heads, dim]: [usize; 4], parts: &[PartialAttention<'_>]) {
    for part in parts {
        check_len("out (B, T, H, D)", part.out, batch * tokens * heads * dim);
        check_len("lse (B, H, T)", part.lse, batch * heads * tokens);
    }
}
