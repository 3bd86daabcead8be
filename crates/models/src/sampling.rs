//! Choosing the next token from a model's logits.

use std::fmt::Display;

use rand::{Rng, RngExt};

use crate::{Error, Result};

/// How the next token is chosen: the highest logit, or a draw from the softmax of `logits / temperature`, cut to the
/// most likely tokens. The cuts apply in this order, as in Hugging Face transformers: temperature, top-k, top-p.
///
/// Of equal logits the smaller token id counts as the more likely. The same seed gives the same tokens.
///
/// ```
/// use longhand_models::sampling::Sampling;
/// use rand::{SeedableRng, rngs::StdRng};
///
/// let logits = [0.1, 2.0, -1.0];
/// let mut rng = StdRng::seed_from_u64(7);
/// assert_eq!(Sampling::GREEDY.choose(&logits, &mut rng)?, 1);
///
/// let sampling = Sampling { temperature: 0.8, top_k: Some(2), top_p: 0.95 };
/// assert_ne!(sampling.choose(&logits, &mut rng)?, 2);
/// # Ok::<(), longhand_models::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the highest logit and draws nothing.
    pub temperature: f64,
    /// Keeps only this many most likely tokens.
    pub top_k: Option<usize>,
    /// Keeps only the fewest most likely tokens whose probabilities add up to this (Holtzman et al. 2020,
    /// arXiv 1904.09751, §3.1); 1 keeps all.
    pub top_p: f64,
}

impl Sampling {
    /// The highest logit, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, top_p: 1.0 };

    /// Checks the fields.
    ///
    /// # Errors
    ///
    /// A temperature that is negative or not finite, `top_k` of 0, `top_p` outside (0, 1].
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(argument("temperature", &self.temperature, "a finite number, 0 or above"));
        }
        if self.top_k == Some(0) {
            return Err(argument("top_k", &0, "at least 1"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(argument("top_p", &self.top_p, "above 0 and at most 1"));
        }
        Ok(())
    }

    /// Chooses a token id: an index into `logits`. A logit of -∞ is never chosen.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate); logits that are empty, hold NaN or +∞, or are all -∞.
    pub fn choose(&self, logits: &[f32], rng: &mut impl Rng) -> Result<u32> {
        self.validate()?;
        let mut candidates = candidates(logits)?;
        if self.temperature == 0.0 {
            candidates.truncate(1);
        }
        if let Some(k) = self.top_k {
            candidates.truncate(k);
        }
        let mut weights = self.weights(&candidates);
        weights.truncate(nucleus(&weights, self.top_p));
        Ok(candidates[draw(&weights, rng)].0)
    }

    /// Softmax numerators of the candidates, at this temperature; the first is 1.
    fn weights(&self, candidates: &[(u32, f32)]) -> Vec<f64> {
        let highest = f64::from(candidates[0].1);
        // At temperature 0 there is one candidate, and 0 / 0 must not decide its weight.
        let temperature = if self.temperature == 0.0 { 1.0 } else { self.temperature };
        candidates.iter().map(|&(_, logit)| ((f64::from(logit) - highest) / temperature).exp()).collect()
    }
}

fn argument(argument: &'static str, was: &impl Display, expected: &str) -> Error {
    Error::Argument { operation: "sampling", argument, was: was.to_string(), expected: expected.into() }
}

/// Token ids with their logits, most likely first; at least one.
fn candidates(logits: &[f32]) -> Result<Vec<(u32, f32)>> {
    if let Some(at) = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        return Err(argument("logits", &format!("{} at token {at}", logits[at]), "finite numbers or -inf"));
    }
    let mut candidates: Vec<_> =
        (0..).zip(logits.iter().copied()).filter(|(_, l)| *l > f32::NEG_INFINITY).collect();
    if candidates.is_empty() {
        return Err(argument("logits", &format!("{} of -inf", logits.len()), "at least one finite number"));
    }
    candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    Ok(candidates)
}

/// How many of the leading `weights` (descending) make up the share `top_p` of them all.
fn nucleus(weights: &[f64], top_p: f64) -> usize {
    let needed = top_p * weights.iter().sum::<f64>();
    let mut held = 0.0;
    let enough = weights.iter().position(|weight| {
        held += weight;
        held >= needed
    });
    enough.map_or(weights.len(), |last| last + 1)
}

/// An index drawn in proportion to `weights`.
fn draw(weights: &[f64], rng: &mut impl Rng) -> usize {
    if weights.len() == 1 {
        return 0;
    }
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    let chosen = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave a sliver past the end.
    chosen.unwrap_or(weights.len() - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-8.0..8.0f32, 1..40)
    }

    fn sampling() -> impl Strategy<Value = Sampling> {
        let top_k = prop::option::of(1..50usize);
        (0.05..3.0, top_k, 0.01..=1.0).prop_map(|(temperature, top_k, top_p)| Sampling {
            temperature,
            top_k,
            top_p,
        })
    }

    proptest! {
        #[test]
        fn greedy_takes_the_highest_logit(logits in logits(), seed: u64) {
            let chosen = Sampling::GREEDY.choose(&logits, &mut StdRng::seed_from_u64(seed)).unwrap() as usize;
            prop_assert!(logits.iter().all(|logit| *logit <= logits[chosen]));
        }

        #[test]
        fn the_same_seed_chooses_the_same_token(logits in logits(), sampling in sampling(), seed: u64) {
            let choose = || sampling.choose(&logits, &mut StdRng::seed_from_u64(seed)).unwrap();
            prop_assert_eq!(choose(), choose());
        }

        #[test]
        fn fewer_than_k_tokens_are_likelier_than_the_chosen_one(logits in logits(), sampling in sampling(), seed: u64) {
            let chosen = sampling.choose(&logits, &mut StdRng::seed_from_u64(seed)).unwrap() as usize;
            let likelier = logits.iter().filter(|logit| **logit > logits[chosen]).count();
            prop_assert!(likelier < sampling.top_k.unwrap_or(usize::MAX));
        }

        /// The definition of a nucleus, computed another way: what is likelier than the chosen token has not yet
        /// reached `top_p`.
        #[test]
        fn tokens_likelier_than_the_chosen_one_hold_less_than_top_p(logits in logits(), top_p in 0.01..1.0f64, seed: u64) {
            let sampling = Sampling { temperature: 1.0, top_k: None, top_p };
            let chosen = sampling.choose(&logits, &mut StdRng::seed_from_u64(seed)).unwrap() as usize;
            let mass = |keep: &dyn Fn(f32) -> bool| -> f64 {
                logits.iter().filter(|l| keep(**l)).map(|l| f64::from(*l).exp()).sum()
            };
            let likelier = mass(&|logit| logit > logits[chosen]) / mass(&|_| true);
            prop_assert!(likelier < top_p + 1e-12, "{likelier}");
        }

        #[test]
        fn minus_infinity_is_never_chosen(logits in logits(), banned in 0..40usize, sampling in sampling(), seed: u64) {
            let mut logits = logits;
            logits.push(0.0);
            let banned = banned % (logits.len() - 1);
            logits[banned] = f32::NEG_INFINITY;
            let chosen = sampling.choose(&logits, &mut StdRng::seed_from_u64(seed)).unwrap();
            prop_assert_ne!(chosen as usize, banned);
        }
    }

    #[test]
    fn draws_follow_the_softmax_at_the_temperature() {
        let logits = [1.0f32, 0.0, 2.0];
        let sampling = Sampling { temperature: 0.7, top_k: None, top_p: 1.0 };
        let mut rng = StdRng::seed_from_u64(3);
        let draws = 20_000;
        let mut counts = [0.0f64; 3];
        for _ in 0..draws {
            counts[sampling.choose(&logits, &mut rng).unwrap() as usize] += 1.0;
        }
        let exp = logits.map(|logit| (f64::from(logit) / 0.7).exp());
        for (count, exp_logit) in counts.iter().zip(exp) {
            let expected = exp_logit / exp.iter().sum::<f64>();
            // Four standard deviations of a binomial share.
            let tolerance = 4.0 * (expected * (1.0 - expected) / f64::from(draws)).sqrt();
            assert!((count / f64::from(draws) - expected).abs() < tolerance, "{counts:?}");
        }
    }

    #[test]
    fn what_cannot_be_sampled_from_is_an_error_naming_it() {
        let fails = |sampling: Sampling, logits: &[f32]| {
            sampling.choose(logits, &mut StdRng::seed_from_u64(0)).unwrap_err().to_string()
        };
        let plain = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        let one = &[0.0];
        assert!(fails(Sampling { temperature: -1.0, ..plain }, one).contains("temperature is -1"));
        assert!(fails(Sampling { temperature: f64::NAN, ..plain }, one).contains("temperature is NaN"));
        assert!(fails(Sampling { top_k: Some(0), ..plain }, one).contains("top_k is 0"));
        assert!(fails(Sampling { top_p: 0.0, ..plain }, one).contains("top_p is 0"));
        assert!(fails(Sampling { top_p: 1.5, ..plain }, one).contains("top_p is 1.5"));
        assert!(fails(plain, &[0.0, f32::NAN]).contains("NaN at token 1"));
        assert!(fails(plain, &[]).contains("0 of -inf"));
        assert!(fails(Sampling::GREEDY, &[f32::NEG_INFINITY; 2]).contains("2 of -inf"));
    }
}
