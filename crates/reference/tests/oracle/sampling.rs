use crate::check::Draw;
use longhand_reference::{SampleOptions, sample, softmax};
use proptest::prelude::*;

const ALL: SampleOptions = SampleOptions { temperature: 1.0, top_k: usize::MAX, top_p: 1.0 };

proptest! {
    /// Evenly spaced draws fall on a token as often as it is likely.
    #[test]
    fn tokens_are_drawn_as_often_as_softmax_says(vocabulary in 1..8usize, temperature in 0.3..3.0f64, seed: u64) {
        const DRAWS: usize = 4000;
        let logits = Draw::new(seed).vec(vocabulary);
        let options = SampleOptions { temperature, ..ALL };
        let mut counts = vec![0.0; vocabulary];
        for i in 0..DRAWS {
            counts[sample(&logits, &options, i as f64 / DRAWS as f64).unwrap()] += 1.0 / DRAWS as f64;
        }
        let scaled: Vec<f64> = logits.iter().map(|x| x / temperature).collect();
        for (count, probability) in counts.iter().zip(softmax(&scaled, vocabulary).out) {
            prop_assert!((count - probability).abs() <= 1.5 / DRAWS as f64);
        }
    }

    /// Fewer than k tokens are likelier than the chosen one, and they hold less than the share top_p.
    #[test]
    fn what_is_likelier_than_the_chosen_token_is_less_than_the_cuts(
        vocabulary in 1..12usize, top_k in 1..12usize, top_p in 0.01..1.0f64, draw in 0.0..1.0f64, seed: u64
    ) {
        let logits = Draw::new(seed).vec(vocabulary);
        let chosen = sample(&logits, &SampleOptions { top_k, ..ALL }, draw).unwrap();
        prop_assert!(logits.iter().filter(|x| **x > logits[chosen]).count() < top_k);
        let chosen = sample(&logits, &SampleOptions { top_p, ..ALL }, draw).unwrap();
        let probabilities = softmax(&logits, vocabulary).out;
        let held: f64 = probabilities.iter().filter(|p| **p > probabilities[chosen]).sum();
        prop_assert!(held < top_p + 1e-12);
    }
}

#[test]
fn of_equal_logits_the_first_are_kept_and_nothing_is_drawn_from_what_is_not_finite() {
    let options = SampleOptions { top_k: 2, ..ALL };
    assert_eq!(sample(&[1.0, 3.0, 3.0, 3.0], &options, 0.999), Some(2));
    assert_eq!(sample(&[1.0, 3.0, 3.0], &SampleOptions { temperature: 0.0, ..ALL }, 0.9), Some(1));
    assert_eq!(sample(&[1.0, f64::NAN], &ALL, 0.5), None);
    assert_eq!(sample(&[f64::NEG_INFINITY; 3], &ALL, 0.5), None);
}
