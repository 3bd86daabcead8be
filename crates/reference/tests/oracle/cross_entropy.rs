use crate::check::{Draw, assert_close, assert_gradient};
use longhand_reference::{cross_entropy, cross_entropy_backward};
use proptest::prelude::*;

const IGNORED: u32 = u32::MAX;

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

proptest! {
    #[test]
    fn gradients_agree_with_finite_differences((vocabulary, logits, targets) in rows(), dloss in -2.0..2.0) {
        let gradient = cross_entropy_backward(&logits, vocabulary, &targets, IGNORED, dloss);
        assert_gradient("dlogits", &logits, &gradient, |logits| {
            dloss * cross_entropy(logits, vocabulary, &targets, IGNORED)
        });
    }

    #[test]
    fn ignored_rows_change_nothing((vocabulary, logits, targets) in rows()) {
        let kept = |row: &usize| targets[*row] != IGNORED;
        let logits_kept: Vec<f64> =
            (0..targets.len()).filter(kept).flat_map(|row| logits[row * vocabulary..][..vocabulary].to_vec()).collect();
        let targets_kept: Vec<u32> = (0..targets.len()).filter(kept).map(|row| targets[row]).collect();
        prop_assert_eq!(
            cross_entropy(&logits, vocabulary, &targets, IGNORED),
            cross_entropy(&logits_kept, vocabulary, &targets_kept, IGNORED)
        );
    }
}

#[test]
fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
    assert_close(&[cross_entropy(&[0.3; 50], 10, &[0, 1, 2, 3, 4], IGNORED)], &[10f64.ln()]);
}

#[test]
fn logits_far_beyond_the_range_of_exp_do_not_overflow() {
    assert_eq!(cross_entropy(&[5000.0, -5000.0], 2, &[1], IGNORED), 10_000.0);
    assert_eq!(cross_entropy_backward(&[5000.0, -5000.0], 2, &[1], IGNORED, 1.0), [1.0, -1.0]);
}

#[test]
fn with_every_row_ignored_loss_and_gradient_are_zero() {
    assert_eq!(cross_entropy(&[1.0, 2.0], 2, &[IGNORED], IGNORED), 0.0);
    assert_eq!(cross_entropy_backward(&[1.0, 2.0], 2, &[IGNORED], IGNORED, 1.0), [0.0, 0.0]);
}

#[test]
#[should_panic(expected = "a target is 2, must be below V = 2")]
fn a_target_outside_the_vocabulary_is_named() {
    cross_entropy(&[1.0, 2.0], 2, &[2], IGNORED);
}
