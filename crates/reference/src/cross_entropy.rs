use crate::{check_len, check_rows};

/// Mean cross-entropy of softmax (Bishop 2006, eq. 4.108), in nats:
///
/// ```text
/// loss = mean over rows of  ln Σ exp(logits[row]) - logits[row][target]
/// ```
///
/// `logits` is `(N, V)`, `targets` `(N)`. Rows whose target is `ignore_index` do not count; with no row left the
/// loss is 0.
///
/// # Panics
/// When `logits` is not `targets.len()` rows of `vocabulary`, or a target is neither below `vocabulary` nor
/// `ignore_index`.
///
/// ```
/// let loss = longhand_reference::cross_entropy(&[1.0, 1.0, 1.0, 1.0], 2, &[0, u32::MAX], u32::MAX);
/// assert!((loss - 2f64.ln()).abs() < 1e-15);
/// ```
pub fn cross_entropy(logits: &[f64], vocabulary: usize, targets: &[u32], ignore_index: u32) -> f64 {
    check(logits, vocabulary, targets, ignore_index);
    let counted = counted(targets, ignore_index);
    logits
        .chunks_exact(vocabulary)
        .zip(targets)
        .filter(|&(_, &target)| target != ignore_index)
        .map(|(row, &target)| (log_sum_exp(row) - row[target as usize]) / counted)
        .sum()
}

/// Backward of [`cross_entropy`] (Bishop 2006, eq. 4.109), with `N'` the rows that count:
///
/// ```text
/// dlogits[row] = dloss / N' * (softmax(logits[row]) - onehot(target))     0 for a row that is ignored
/// ```
///
/// `dloss` is the gradient of the loss; returns `(N, V)`.
///
/// # Panics
/// As [`cross_entropy`].
///
/// ```
/// let dlogits = longhand_reference::cross_entropy_backward(&[1.0, 1.0], 2, &[0], u32::MAX, 1.0);
/// assert!((dlogits[0] + 0.5).abs() < 1e-15 && (dlogits[1] - 0.5).abs() < 1e-15);
/// ```
pub fn cross_entropy_backward(
    logits: &[f64],
    vocabulary: usize,
    targets: &[u32],
    ignore_index: u32,
    dloss: f64,
) -> Vec<f64> {
    check(logits, vocabulary, targets, ignore_index);
    let counted = counted(targets, ignore_index);
    let mut dlogits = vec![0.0; logits.len()];
    for (row, &target) in targets.iter().enumerate().filter(|&(_, &target)| target != ignore_index) {
        let start = row * vocabulary;
        let logits = &logits[start..start + vocabulary];
        let lse = log_sum_exp(logits);
        for (i, logit) in logits.iter().enumerate() {
            let onehot = f64::from(i == target as usize);
            dlogits[start + i] = dloss / counted * ((logit - lse).exp() - onehot);
        }
    }
    dlogits
}

/// The number of rows that count.
fn counted(targets: &[u32], ignore_index: u32) -> f64 {
    targets.iter().filter(|&&target| target != ignore_index).count() as f64
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
