use crate::check::{Draw, assert_close, assert_gradient, dot};
use longhand_reference::{
    gated, gated_backward, gelu_erf, gelu_erf_backward, relu_squared, relu_squared_backward, silu,
    silu_backward,
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn gradients_agree_with_finite_differences(x in -8.0..8.0, dout in -2.0..2.0) {
        assert_gradient("silu", &[x], &silu_backward(&[x], &[dout]), |x| dout * silu(x)[0]);
        // Its slope has a corner at 0.
        if f64::abs(x) > 1e-4 {
            assert_gradient("relu²", &[x], &relu_squared_backward(&[x], &[dout]), |x| dout * relu_squared(x)[0]);
        }
    }

    #[test]
    fn gradients_of_a_gate_agree_with_finite_differences(len in 0..8usize, seed: u64) {
        let mut draw = Draw::new(seed);
        let [x, up, dout] = [(); 3].map(|()| draw.vec(len));
        for (f, backward) in [(silu as fn(&[f64]) -> _, silu_backward as fn(&[f64], &[f64]) -> _), (gelu_erf, gelu_erf_backward)] {
            let (dx, dup) = gated_backward(f, backward, &x, &up, &dout);
            assert_gradient("dx", &x, &dx, |x| dot(&gated(f, x, &up), &dout));
            assert_gradient("dup", &up, &dup, |up| dot(&gated(f, &x, up), &dout));
        }
    }

    /// `σ(x) + σ(-x) = 1`.
    #[test]
    fn silu_of_opposite_numbers_differs_by_the_number(x in -8.0..8.0) {
        assert_close(&[silu(&[x])[0] - silu(&[-x])[0]], &[x]);
    }
}

#[test]
fn activations_have_their_known_values() {
    assert_close(&silu(&[1.0, -1.0]), &[0.7310585786300049, -0.2689414213699951]);
    assert_eq!(relu_squared(&[-1.0, 0.0, 1.5]), [0.0, 0.0, 2.25]);
}
