use crate::{check_len, check_rows};

/// What the loss of a row is made of, beside the cross-entropy: nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropyOptions {
    /// ε, the share of the target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    pub label_smoothing: f64,
    /// ζ, the weight of the z-loss (Chowdhery et al. 2022, section 5).
    pub z_loss: f64,
    /// c, where logits are softly capped (Gemma 2, arXiv 2408.00118, section 2).
    pub softcap: Option<f64>,
}

/// What [`cross_entropy`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Over the rows that count.
    pub mean: f64,
    /// `(N)`, 0 for a row that is ignored.
    pub loss: Vec<f64>,
    /// `(N)`, 0 for a row that is ignored.
    pub lse: Vec<f64>,
}

/// Cross-entropy of softmax (Bishop 2006, eq. 4.108), in nats, and its mean:
///
/// ```text
/// z    = logits[row], or c tanh(logits[row] / c)
/// lse  = ln Σ exp(z)
/// loss = lse - (1 - ε) z[target] - ε mean(z) + ζ lse²
/// ```
///
/// `logits` is `(N, V)`, `targets` `(N)`. Rows whose target is `ignore_index` do not count; with no row left the mean is
/// 0.
///
/// # Panics
/// When `logits` is not `targets.len()` rows of `vocabulary`, or a target is neither below `vocabulary` nor
/// `ignore_index`.
///
/// ```
/// use longhand_reference::{CrossEntropyOptions, cross_entropy};
///
/// let logits = [1.0, 1.0, 1.0, 1.0];
/// let result = cross_entropy(&logits, 2, &[0, u32::MAX], u32::MAX, &CrossEntropyOptions::default());
/// assert!((result.mean - 2f64.ln()).abs() < 1e-15);
/// ```
pub fn cross_entropy(
    logits: &[f64],
    vocabulary: usize,
    targets: &[u32],
    ignore_index: u32,
    options: &CrossEntropyOptions,
) -> CrossEntropy {
    check(logits, vocabulary, targets, ignore_index);
    let CrossEntropyOptions { label_smoothing, z_loss, softcap } = *options;
    let mut result =
        CrossEntropy { mean: 0.0, loss: vec![0.0; targets.len()], lse: vec![0.0; targets.len()] };
    for (row, &target) in targets.iter().enumerate().filter(|&(_, &target)| target != ignore_index) {
        let z: Vec<f64> = logits[row * vocabulary..][..vocabulary].iter().map(|&x| cap(x, softcap)).collect();
        let lse = log_sum_exp(&z);
        let mean = z.iter().sum::<f64>() / vocabulary as f64;
        result.lse[row] = lse;
        result.loss[row] = lse - (1.0 - label_smoothing) * z[target as usize] + z_loss * lse * lse;
        if label_smoothing > 0.0 {
            result.loss[row] -= label_smoothing * mean;
        }
    }
    result.mean = result.loss.iter().sum::<f64>() / counted(targets, ignore_index);
    result
}

/// Backward of the mean of [`cross_entropy`] (Bishop 2006, eq. 4.109), with `N'` the rows that count:
///
/// ```text
/// dlogits[row] = dmean / N' ((1 + 2 ζ lse) softmax(z) - (1 - ε) onehot(target) - ε / V) (1 - (z / c)²)
/// ```
///
/// 0 for a row that is ignored. `dmean` is the gradient of the mean; returns `(N, V)`.
///
/// # Panics
/// As [`cross_entropy`].
///
/// ```
/// use longhand_reference::{CrossEntropyOptions, cross_entropy_backward};
///
/// let dlogits = cross_entropy_backward(&[1.0, 1.0], 2, &[0], u32::MAX, &CrossEntropyOptions::default(), 1.0);
/// assert!((dlogits[0] + 0.5).abs() < 1e-15 && (dlogits[1] - 0.5).abs() < 1e-15);
/// ```
pub fn cross_entropy_backward(
    logits: &[f64],
    vocabulary: usize,
    targets: &[u32],
    ignore_index: u32,
    options: &CrossEntropyOptions,
    dmean: f64,
) -> Vec<f64> {
    check(logits, vocabulary, targets, ignore_index);
    let CrossEntropyOptions { label_smoothing, z_loss, softcap } = *options;
    let counted = counted(targets, ignore_index);
    let mut dlogits = vec![0.0; logits.len()];
    for (row, &target) in targets.iter().enumerate().filter(|&(_, &target)| target != ignore_index) {
        let start = row * vocabulary;
        let z: Vec<f64> = logits[start..start + vocabulary].iter().map(|&x| cap(x, softcap)).collect();
        let lse = log_sum_exp(&z);
        for (i, z) in z.iter().enumerate() {
            let onehot = f64::from(i == target as usize);
            let dz = (1.0 + 2.0 * z_loss * lse) * (z - lse).exp()
                - (1.0 - label_smoothing) * onehot
                - label_smoothing / vocabulary as f64;
            let slope = softcap.map_or(1.0, |c| 1.0 - (z / c) * (z / c));
            dlogits[start + i] = dmean / counted * dz * slope;
        }
    }
    dlogits
}

fn cap(x: f64, softcap: Option<f64>) -> f64 {
    softcap.map_or(x, |c| c * (x / c).tanh())
}

/// The number of rows that count, at least 1.
fn counted(targets: &[u32], ignore_index: u32) -> f64 {
    targets.iter().filter(|&&target| target != ignore_index).count().max(1) as f64
}

/// `ln Σ exp(row)`, with the largest taken out so that nothing overflows.
fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

#[track_caller]
fn check(logits: &[f64], vocabulary: usize, targets: &[u32], ignore_index: u32) {
    check_rows("logits (N, V)", logits, vocabulary);
    check_len("logits (N, V)", logits, targets.len() * vocabulary);
    for &target in targets.iter().filter(|&&target| target != ignore_index) {
        assert!((target as usize) < vocabulary, "a target is {target}, must be below V = {vocabulary}");
    }
}
