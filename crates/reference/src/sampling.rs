/// How [`sample`] chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// Divides the logits; 0 takes the highest.
    pub temperature: f64,
    /// Keeps only this many tokens.
    pub top_k: usize,
    /// Keeps only the fewest most likely tokens whose probabilities add up to this (Holtzman et al. 2020, arXiv
    /// 1904.09751, section 3.1).
    pub top_p: f64,
}

/// A token of one row of logits: the first at which the probabilities, in the order of the tokens, of softmax of
/// `logits / temperature` cut to what is kept, add up to more than `draw`, in `0.0..1.0`.
///
/// Of equal logits the smaller token counts as the more likely. `None` where a logit is NaN or +∞, or all are -∞.
///
/// ```
/// use longhand_reference::{SampleOptions, sample};
///
/// let options = SampleOptions { temperature: 1.0, top_k: 2, top_p: 1.0 };
/// assert_eq!(sample(&[0.0, 0.0, -1.0], &options, 0.6), Some(1));
/// ```
pub fn sample(logits: &[f64], options: &SampleOptions, draw: f64) -> Option<usize> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY || logits.iter().any(|x| x.is_nan() || *x == f64::INFINITY) {
        return None;
    }
    let mut kept: Vec<usize> = (0..logits.len()).collect();
    kept.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap_or(std::cmp::Ordering::Equal));
    kept.truncate(if options.temperature == 0.0 { 1 } else { options.top_k });
    let weight =
        |&i: &usize| if logits[i] == max { 1.0 } else { ((logits[i] - max) / options.temperature).exp() };
    let total: f64 = kept.iter().map(weight).sum();
    let mut held = 0.0;
    let enough = kept.iter().position(|i| {
        held += weight(i);
        held >= options.top_p * total
    });
    kept.truncate(enough.map_or(kept.len(), |last| last + 1));
    kept.sort_unstable();
    let total: f64 = kept.iter().map(weight).sum();
    let mut left = draw * total;
    let chosen = kept.iter().find(|i| {
        left -= weight(i);
        left < 0.0
    });
    chosen.or(kept.last()).copied()
}
