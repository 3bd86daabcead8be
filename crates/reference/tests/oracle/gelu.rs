use crate::check::{assert_close, assert_gradient};
use approx::assert_relative_eq;
use longhand_reference::{erf, erfc, gelu_erf, gelu_erf_backward, gelu_tanh, gelu_tanh_backward};
use proptest::prelude::*;

type Forward = fn(&[f64]) -> Vec<f64>;
type Backward = fn(&[f64], &[f64]) -> Vec<f64>;

const BOTH: [(Forward, Backward); 2] = [(gelu_tanh, gelu_tanh_backward), (gelu_erf, gelu_erf_backward)];

proptest! {
    #[test]
    fn gradients_agree_with_finite_differences(x in -8.0..8.0, dout in -2.0..2.0) {
        for (forward, backward) in BOTH {
            assert_gradient("dx", &[x], &backward(&[x], &[dout]), |x| dout * forward(x)[0]);
        }
    }

    /// `Φ(x) + Φ(-x) = 1`, and tanh is odd.
    #[test]
    fn gelu_of_opposite_numbers_differs_by_the_number(x in -8.0..8.0) {
        for (forward, _) in BOTH {
            assert_close(&[forward(&[x])[0] - forward(&[-x])[0]], &[x]);
        }
    }

    #[test]
    fn erf_is_odd_and_erfc_its_complement(x in -6.0..6.0f64) {
        prop_assert_eq!(erf(-x), -erf(x));
        assert_relative_eq!(erfc(x), 1.0 - erf(x), epsilon = 1e-15);
    }
}

/// Abramowitz & Stegun 1964, tables 7.1 and 7.2, and their continuation by arbitrary-precision arithmetic.
#[test]
fn erf_has_its_tabulated_values() {
    for (x, expected) in [
        (0.1, 0.1124629160182849),
        (0.5, 0.5204998778130465),
        (0.999, 0.8422852702064969),
        (1.0, 0.8427007929497149),
        (1.5, 0.9661051464753108),
        (2.0, 0.9953222650189527),
        (3.0, 0.9999779095030014),
        (6.0, 1.0),
    ] {
        assert_relative_eq!(erf(x), expected, max_relative = 1e-15);
    }
    for (x, expected) in [
        (1.0, 0.15729920705028513),
        (2.0, 0.004677734981047266),
        (5.0, 1.537459794428035e-12),
        (10.0, 2.088487583762545e-45),
        (25.0, 8.300172571196523e-274),
    ] {
        assert_relative_eq!(erfc(x), expected, max_relative = 1e-13);
    }
}

/// The approximation is a different function: at 1 it is 0.00015 below.
#[test]
fn gelu_has_its_known_values() {
    assert_close(&gelu_erf(&[1.0, -1.0]), &[0.8413447460685429, -0.15865525393145705]);
    assert_close(&gelu_tanh(&[1.0, -1.0]), &[0.8411919906082767, -0.1588080093917233]);
}
