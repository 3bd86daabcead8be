//! How much of its work an iteration does in a second, in the unit that matters.

use std::cell::Cell;
use std::rc::Rc;

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};

/// Criterion's own words for times and bytes, and those of the bench for what it does some of: TFLOP/s, tokens/s.
/// Criterion does not tell which bench it asks about, so [`Rate::of`] is said before each.
#[derive(Clone, Default)]
pub(crate) struct Rate(Rc<Cell<&'static str>>);

impl Rate {
    /// What the next bench does some of.
    pub(crate) fn of(&self, unit: &'static str) {
        self.0.set(unit);
    }
}

macro_rules! rates {
    ($($unit:literal: $between:literal $plural:literal),*) => {
        /// Per second: as it is, and of thousands, millions, billions and trillions.
        fn rates(unit: &str) -> Option<[&'static str; 5]> {
            match unit {
                $($unit => Some([
                    concat!($plural, "/s"),
                    concat!("k", $between, $plural, "/s"),
                    concat!("M", $between, $plural, "/s"),
                    concat!("G", $between, $plural, "/s"),
                    concat!("T", $between, $plural, "/s"),
                ]),)*
                _ => None,
            }
        }
    };
}
rates!(
    "FLOP": "" "FLOP",
    "token": " " "tokens",
    "kernel": " " "kernels",
    "mma": " " "mmas",
    "lane-instruction": " " "lane-instructions",
    "call": " " "calls"
);

impl ValueFormatter for Rate {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        let (&Throughput::Elements(amount), Some(rates)) = (throughput, rates(self.0.get())) else {
            return WallTime.formatter().scale_throughputs(typical, throughput, values);
        };
        let per_second = |nanoseconds: f64| amount as f64 / nanoseconds * 1e9;
        let thousands = (per_second(typical).max(1.0).log10() / 3.0) as usize;
        let step = thousands.min(rates.len() - 1);
        for value in values {
            *value = per_second(*value) / 1e3f64.powi(step as i32);
        }
        rates[step]
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(unit: &'static str, amount: &Throughput, nanoseconds: f64) -> (f64, &'static str) {
        let rate = Rate::default();
        rate.of(unit);
        let mut values = [nanoseconds];
        let name = rate.scale_throughputs(nanoseconds, amount, &mut values);
        (values[0], name)
    }

    #[test]
    fn operations_are_told_in_flops_and_tokens_in_tokens() {
        assert_eq!(told("FLOP", &Throughput::Elements(3_000_000), 1e3), (3.0, "TFLOP/s"));
        assert_eq!(told("FLOP", &Throughput::Elements(5_000_000), 1e3), (5.0, "TFLOP/s"));
        assert_eq!(told("FLOP", &Throughput::Elements(7_000), 1e9), (7.0, "kFLOP/s"));
        assert_eq!(told("token", &Throughput::Elements(9_000), 1e9), (9.0, "k tokens/s"));
        assert_eq!(told("token", &Throughput::Elements(1), 1e10), (0.1, "tokens/s"));
    }

    #[test]
    fn bytes_are_told_as_criterion_does() {
        assert_eq!(told("byte", &Throughput::BytesDecimal(2_000_000_000), 1e9).0, 2.0);
    }
}
