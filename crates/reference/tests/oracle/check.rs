//! Drawn inputs and finite differences.

/// Numbers in [-2, 2), drawn from a seed (SplitMix64, Steele et al. 2014).
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn vec(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| 4.0 * self.fraction() - 2.0).collect()
    }

    /// In [0, 1).
    pub fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Asserts that `gradient` is the derivative of `f` at `x`, element by element, by central differences.
#[track_caller]
pub fn assert_gradient(name: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    assert_eq!(x.len(), gradient.len(), "{name}: a gradient has the shape of its variable");
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        moved[i] = x[i] + STEP;
        let above = f(&moved);
        moved[i] = x[i] - STEP;
        let below = f(&moved);
        moved[i] = x[i];
        let difference = (above - below) / (2.0 * STEP);
        let tolerance = 1e-7 * (1.0 + gradient[i].abs());
        assert!(
            (difference - gradient[i]).abs() <= tolerance,
            "{name}[{i}]: the gradient is {}, by finite differences {difference}",
            gradient[i]
        );
    }
}

#[track_caller]
pub fn assert_close(was: &[f64], expected: &[f64]) {
    assert_eq!(was.len(), expected.len());
    for (i, (was, expected)) in was.iter().zip(expected).enumerate() {
        if was != expected {
            // infinities are equal above, and anything else is a number
            let tolerance = 1e-12 * (1.0 + expected.abs());
            assert!((was - expected).abs() <= tolerance, "[{i}] is {was}, must be {expected}");
        }
    }
}

#[test]
fn finite_differences_catch_a_wrong_gradient() {
    let square = |x: &[f64]| x[0] * x[0];
    assert_gradient("right", &[3.0], &[6.0], square);
    let wrong = std::panic::catch_unwind(|| assert_gradient("wrong", &[3.0], &[6.001], square));
    assert!(wrong.is_err());
}
