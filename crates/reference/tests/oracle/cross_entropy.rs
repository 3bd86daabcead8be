use crate::check::{Draw, assert_close, assert_gradient};
use longhand_reference::{CrossEntropyOptions, cross_entropy, cross_entropy_backward};
use proptest::prelude::*;

const IGNORED: u32 = u32::MAX;
const PLAIN: CrossEntropyOptions = CrossEntropyOptions { label_smoothing: 0.0, z_loss: 0.0, softcap: None };

prop_compose! {
    /// Logits and targets of `rows` rows, about a third of them ignored.
    fn rows()(rows in 0..6usize, vocabulary in 1..6usize, seed: u64) -> (usize, Vec<f64>, Vec<u32>) {
        let mut draw = Draw::new(seed);
        let logits = draw.vec(rows * vocabulary);
        let target = |_| match draw.fraction() {
            ignored if ignored < 0.3 => IGNORED,
            _ => (draw.fraction() * vocabulary as f64) as u32,
        };
        (vocabulary, logits, (0..rows).map(target).collect())
    }
}

prop_compose! {
    fn options()(
        label_smoothing in prop::sample::select(vec![0.0, 0.1, 1.0]), z_loss in prop::sample::select(vec![0.0, 0.03]),
        softcap in prop::option::of(0.5..3.0),
    ) -> CrossEntropyOptions {
        CrossEntropyOptions { label_smoothing, z_loss, softcap }
    }
}

proptest! {
    #[test]
    fn gradients_agree_with_finite_differences(
        (vocabulary, logits, targets) in rows(), options in options(), dmean in -2.0..2.0
    ) {
        let gradient = cross_entropy_backward(&logits, vocabulary, &targets, IGNORED, &options, dmean);
        assert_gradient("dlogits", &logits, &gradient, |logits| {
            dmean * cross_entropy(logits, vocabulary, &targets, IGNORED, &options).mean
        });
    }

    #[test]
    fn ignored_rows_change_nothing((vocabulary, logits, targets) in rows(), options in options()) {
        let kept = |row: &usize| targets[*row] != IGNORED;
        let logits_kept: Vec<f64> =
            (0..targets.len()).filter(kept).flat_map(|row| logits[row * vocabulary..][..vocabulary].to_vec()).collect();
        let targets_kept: Vec<u32> = (0..targets.len()).filter(kept).map(|row| targets[row]).collect();
        let kept = cross_entropy(&logits_kept, vocabulary, &targets_kept, IGNORED, &options);
        let all = cross_entropy(&logits, vocabulary, &targets, IGNORED, &options);
        assert_close(&[all.mean], &[kept.mean]);
    }

    /// Label smoothing another way: the mean, over targets drawn from the smoothed distribution, of the plain loss.
    #[test]
    fn a_smoothed_target_is_a_mixture_of_targets((vocabulary, logits, _) in rows(), smoothing in 0.0..1.0) {
        if logits.is_empty() {
            return Ok(());
        }
        let row = &logits[..vocabulary];
        let loss = |target: usize, options| cross_entropy(row, vocabulary, &[target as u32], IGNORED, options).mean;
        let plain: Vec<f64> = (0..vocabulary).map(|target| loss(target, &PLAIN)).collect();
        let mixture = (1.0 - smoothing) * plain[0] + smoothing * plain.iter().sum::<f64>() / vocabulary as f64;
        let smoothed = loss(0, &CrossEntropyOptions { label_smoothing: smoothing, ..PLAIN });
        assert_close(&[smoothed], &[mixture]);
    }
}

#[test]
fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
    let result = cross_entropy(&[0.3; 50], 10, &[0, 1, 2, 3, 4], IGNORED, &PLAIN);
    assert_close(&[result.mean], &[10f64.ln()]);
    assert_close(&result.lse, &[0.3 + 10f64.ln(); 5]);
    let z_loss = CrossEntropyOptions { z_loss: 0.5, ..PLAIN };
    let result = cross_entropy(&[-(10f64.ln()); 10], 10, &[3], IGNORED, &z_loss);
    assert_close(&[result.mean], &[10f64.ln()]); // the log-sum-exp is 0, as the z-loss wants it
}

#[test]
fn logits_far_beyond_the_range_of_exp_do_not_overflow() {
    let logits = [5000.0, -5000.0];
    assert_eq!(cross_entropy(&logits, 2, &[1], IGNORED, &PLAIN).mean, 10_000.0);
    assert_eq!(cross_entropy_backward(&logits, 2, &[1], IGNORED, &PLAIN, 1.0), [1.0, -1.0]);
    let capped = CrossEntropyOptions { softcap: Some(3.0), ..PLAIN };
    assert_close(&[cross_entropy(&logits, 2, &[1], IGNORED, &capped).mean], &[6.0 + (-6f64).exp().ln_1p()]);
}

#[test]
fn with_every_row_ignored_loss_and_gradient_are_zero() {
    assert_eq!(cross_entropy(&[1.0, 2.0], 2, &[IGNORED], IGNORED, &PLAIN).mean, 0.0);
    assert_eq!(cross_entropy_backward(&[1.0, 2.0], 2, &[IGNORED], IGNORED, &PLAIN, 1.0), [0.0, 0.0]);
}

#[test]
#[should_panic(expected = "a target is 2, must be below V = 2")]
fn a_target_outside_the_vocabulary_is_named() {
    cross_entropy(&[1.0, 2.0], 2, &[2], IGNORED, &PLAIN);
}
