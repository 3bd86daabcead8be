use crate::Precision;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::f64::consts::TAU;

/// Draws values of one type from the standard normal distribution.
#[derive(Debug)]
pub struct Draw {
    precision: Precision,
    rng: StdRng,
}

impl Draw {
    /// The same seed draws the same values.
    #[must_use]
    pub fn new(precision: Precision, seed: u64) -> Draw {
        Draw { precision, rng: StdRng::seed_from_u64(seed) }
    }

    /// `len` values, each rounded to the type.
    pub fn vec(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.precision.round(self.normal() as f32).into()).collect()
    }

    /// Box & Muller 1958.
    fn normal(&mut self) -> f64 {
        let (radius, angle): (f64, f64) = self.rng.random();
        (-2.0 * (1.0 - radius).ln()).sqrt() * (TAU * angle).cos()
    }
}
