use crate::check::{Draw, assert_close};
use longhand_reference::{AdamWOptions, adamw};
use proptest::prelude::*;

const OPTIONS: AdamWOptions = AdamWOptions { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 0.0, weight_decay: 0.0 };

proptest! {
    /// Bias correction makes the moments of a constant gradient exact, so every step is `lr` against its sign.
    #[test]
    fn a_constant_gradient_moves_by_the_learning_rate(gradient in prop_oneof![-9.0..-0.1, 0.1..9.0], steps in 1..40u64) {
        let (mut p, mut m, mut v) = ([0.0], [0.0], [0.0]);
        for step in 1..=steps {
            adamw(&OPTIONS, step, &mut p, &[gradient], &mut m, &mut v);
        }
        assert_close(&p, &[-0.1 * gradient.signum() * steps as f64]);
    }

    /// Decay is decoupled: without a gradient, parameters shrink by `1 - lr * weight_decay` and moments stay zero.
    #[test]
    fn without_gradient_only_decay_acts(seed: u64, len in 0..5usize, weight_decay in 0.0..1.0) {
        let before = Draw::new(seed).vec(len);
        let (mut p, mut m, mut v) = (before.clone(), vec![0.0; len], vec![0.0; len]);
        let options = AdamWOptions { eps: 1e-8, weight_decay, ..OPTIONS };
        adamw(&options, 1, &mut p, &vec![0.0; len], &mut m, &mut v);
        let expected: Vec<f64> = before.iter().map(|p| p * (1.0 - 0.1 * weight_decay)).collect();
        assert_close(&p, &expected);
        prop_assert!(m.iter().chain(&v).all(|&x| x == 0.0));
    }
}

#[test]
#[should_panic(expected = "step is 0, must be at least 1")]
fn steps_count_from_one() {
    adamw(&OPTIONS, 0, &mut [1.0], &[1.0], &mut [0.0], &mut [0.0]);
}
