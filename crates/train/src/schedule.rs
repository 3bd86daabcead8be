//! The learning rate over a run.

use std::f64::consts::PI;

/// Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5) down to a tenth of
/// the peak at the last step.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// The highest learning rate, reached at the end of the warm-up.
    pub peak: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Steps of the whole run.
    pub steps: u64,
}

impl Schedule {
    /// The learning rate of the step after `step` steps were made.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let length = self.steps.saturating_sub(self.warmup).max(1);
        let progress = (step - self.warmup).min(length) as f64 / length as f64;
        let floor = self.peak / 10.0;
        floor + (self.peak - floor) * 0.5 * (1.0 + (PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_to_the_peak_then_falls_to_a_tenth_of_it() {
        let schedule = Schedule { peak: 1e-3, warmup: 10, steps: 100 };
        let rates: Vec<f64> = (0..=100).map(|step| schedule.at(step)).collect();
        assert!(rates[..10].is_sorted() && rates[10..].is_sorted_by(|a, b| a >= b));
        assert_eq!(rates[0], 1e-4);
        assert_eq!(rates[9], 1e-3);
        assert_eq!(rates[10], 1e-3);
        assert!((rates[100] - 1e-4).abs() < 1e-12);
    }

    #[test]
    fn it_is_finite_and_at_most_the_peak_at_any_step() {
        for (warmup, steps) in [(0, 0), (0, 1), (5, 5), (10, 3), (u64::MAX, 1)] {
            let schedule = Schedule { peak: 1.0, warmup, steps };
            for step in [0, 1, 4, 5, 6, 1000, u64::MAX - 1] {
                assert!((0.0..=1.0).contains(&schedule.at(step)), "{schedule:?} at {step}");
            }
        }
    }
}
