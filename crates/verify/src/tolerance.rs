//! The rule by which a kernel passes (FlashAttention-2's tests are judged by the same):
//!
//! ```text
//! max |kernel - reference| <= factor * max |plain - reference| + rounding of the output type at max |reference|
//! ```
//!
//! The factor is 2 for what a forward pass returns and 3 for gradients. The plain algorithm's error says what the
//! precision costs on these very inputs, which no fixed tolerance knows. The rounding is one spacing of a 16-bit type,
//! to which a result is rounded once, and eight of f32, to which every step rounds: on few elements the plain
//! algorithm may be lucky. An infinity of the reference must be met exactly, and NaN never passes.

use crate::Precision;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter::zip;

/// How far off an output may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A value that a forward pass returns: twice the plain error.
    Forward,
    /// A gradient: three times the plain error.
    Gradient,
    /// Not at all: nothing is computed, only moved or counted.
    Exact,
}

/// One output of a kernel, beside what it is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    name: &'static str,
    precision: Precision,
    kernel: &'a [f64],
    plain: &'a [f64],
    reference: &'a [f64],
    cancellation: f64,
}

/// What was found of one output.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Its name.
    pub name: &'static str,
    /// Its number of elements.
    pub elements: usize,
    /// The largest distance from the reference: infinite for a NaN, or for an infinity that the reference has not.
    pub error: f64,
    /// The largest distance allowed.
    pub limit: f64,
    /// Of all its bits, to tell whether two runs wrote the same.
    pub digest: u64,
    /// Why it does not pass, if it does not: the worst element, its values, and the limit.
    pub failure: Option<String>,
}

impl Judged {
    /// The error over the limit: 1 is just allowed.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.limit }
    }
}

impl<'a> Output<'a> {
    /// What the kernel wrote, in `precision`; what the plain algorithm says in the kernel's precision; and the float64
    /// reference. All three in one order.
    ///
    /// # Panics
    /// When they are not of one length.
    #[must_use]
    pub fn new(
        name: &'static str,
        precision: Precision,
        kernel: &'a [f64],
        plain: &'a [f64],
        reference: &'a [f64],
    ) -> Output<'a> {
        assert_eq!(kernel.len(), reference.len(), "{name}: elements of the kernel and of the reference");
        assert_eq!(
            plain.len(),
            reference.len(),
            "{name}: elements of the plain algorithm and of the reference"
        );
        Output { name, precision, kernel, plain, reference, cancellation: 0.0 }
    }

    /// Allows as much more, absolutely: what f32 sums may leave where the terms of the true value cancel.
    #[must_use]
    pub fn cancellation(self, cancellation: f64) -> Output<'a> {
        Output { cancellation, ..self }
    }

    /// Judges it.
    #[must_use]
    pub fn judge(&self, rule: Rule) -> Judged {
        let Output { name, kernel, plain, reference, .. } = *self;
        let (worst, error) = largest_error(kernel, reference).unwrap_or((0, 0.0));
        let (_, plain_error) = largest_error(plain, reference).unwrap_or((0, 0.0));
        let (limit, allowed) = self.limit(rule, plain_error);
        let failure = if !plain_error.is_finite() {
            let precision = self.precision;
            Some(format!("{name}: plain {precision:?} leaves its range here and gives no measure"))
        } else if error <= limit {
            None
        } else {
            Some(format!(
                "{name}[{worst}] of {}: the kernel says {}, the reference {}, plain {:?} {}; the error is {error:.3e}, \
                 the limit {limit:.3e}{allowed}",
                kernel.len(),
                kernel[worst],
                reference[worst],
                self.precision,
                plain[worst],
            ))
        };
        Judged { name, elements: kernel.len(), error, limit, digest: digest(kernel), failure }
    }

    /// The limit, and what it is made of.
    fn limit(&self, rule: Rule, plain_error: f64) -> (f64, String) {
        let factor = match rule {
            Rule::Forward => 2.0,
            Rule::Gradient => 3.0,
            Rule::Exact => return (0.0, String::new()),
        };
        let precision = self.precision;
        let finite = self.reference.iter().filter(|r| r.is_finite());
        let spacing = precision.spacing(finite.fold(0.0, |max, r| max.max(r.abs())));
        let spacings = if precision == Precision::F32 { 8.0 } else { 1.0 };
        let limit = factor * plain_error + spacings * spacing + self.cancellation;
        let allowed = format!(
            " ({factor} times {plain_error:.3e}, the largest error of plain {precision:?}, and {spacings} spacings of \
             {spacing:.3e})"
        );
        (limit, allowed)
    }
}

fn largest_error(values: &[f64], reference: &[f64]) -> Option<(usize, f64)> {
    let errors = zip(values, reference).map(|(x, r)| error(*x, *r));
    errors.enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b))
}

fn digest(values: &[f64]) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.iter().for_each(|value| value.to_bits().hash(&mut hasher));
    hasher.finish()
}

/// The distance of two values; infinite where one of them is not finite and the other is not the same.
fn error(x: f64, reference: f64) -> f64 {
    match (x - reference).abs() {
        _ if x == reference => 0.0,
        error if error.is_nan() => f64::INFINITY,
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Rule::{Exact, Forward, Gradient};

    /// The reference is 1, 2, 4 and plain f32 is off by 0.001: the limits are 0.002 and 0.003, and a little.
    fn output(kernel: &[f64]) -> Output<'_> {
        let (plain, reference) = (&[1.0, 2.001, 4.0], &[1.0, 2.0, 4.0]);
        Output { name: "out", precision: Precision::F32, kernel, plain, reference, cancellation: 0.0 }
    }

    fn passes(output: Output<'_>, rule: Rule) -> bool {
        output.judge(rule).failure.is_none()
    }

    fn failure(output: Output<'_>) -> String {
        output.judge(Forward).failure.unwrap()
    }

    #[test]
    fn a_forward_output_may_be_off_by_twice_the_plain_error() {
        assert!(passes(output(&[1.002, 1.998, 4.0]), Forward));
        assert!(!passes(output(&[1.0, 2.0021, 4.0]), Forward));
    }

    #[test]
    fn a_gradient_may_be_off_by_three_times_the_plain_error() {
        assert!(passes(output(&[1.003, 1.997, 4.0]), Gradient));
        assert!(!passes(output(&[1.0, 2.0, 3.9969]), Gradient));
    }

    #[test]
    fn what_is_only_moved_may_not_be_off_at_all() {
        assert!(passes(output(&[1.0, 2.0, 4.0]), Exact));
        assert!(!passes(output(&[1.0, 2.0, 4.0f64.next_up()]), Exact));
    }

    #[test]
    fn without_a_plain_error_the_spacing_at_the_largest_value_is_allowed() {
        let reference = &[0.5, 1.0];
        let judged =
            |kernel| Output { plain: reference, reference, precision: Precision::Bf16, ..output(kernel) };
        assert!(passes(judged(&[0.5, 1.0 - 1.0 / 128.0]), Forward));
        assert!(!passes(judged(&[0.5, 1.01]), Forward));
    }

    #[test]
    fn where_terms_cancel_what_they_leave_is_allowed() {
        let reference = &[0.0];
        let judged = |kernel| Output { plain: reference, reference, cancellation: 1e-5, ..output(kernel) };
        assert!(passes(judged(&[1e-5]), Gradient));
        assert!(!passes(judged(&[1.1e-5]), Gradient));
    }

    #[test]
    fn a_failure_names_the_worst_element() {
        let message = failure(output(&[1.5, 2.0, 9.0]));
        assert!(message.contains("out[2] of 3: the kernel says 9, the reference 4"), "{message}");
    }

    #[test]
    fn nan_never_passes() {
        assert!(failure(output(&[1.0, f64::NAN, 4.0])).contains("out[1] of 3: the kernel says NaN"));
        let reference = &[f64::NAN];
        failure(Output { plain: reference, reference, ..output(&[0.0]) });
    }

    #[test]
    fn a_plain_algorithm_that_overflows_is_no_measure() {
        let message = failure(Output { plain: &[1.0, f64::INFINITY, 4.0], ..output(&[1.0, 2.0, 4.0]) });
        assert!(message.contains("gives no measure"), "{message}");
    }

    #[test]
    fn infinity_is_met_exactly_or_not_at_all() {
        let reference = &[f64::NEG_INFINITY, 1.0];
        let judged = |kernel| Output { plain: reference, reference, ..output(kernel) };
        assert!(passes(judged(&[f64::NEG_INFINITY, 1.0]), Forward));
        failure(judged(&[f64::INFINITY, 1.0]));
        failure(judged(&[-1e30, 1.0]));
        failure(judged(&[f64::NEG_INFINITY, f64::NEG_INFINITY]));
    }

    #[test]
    fn the_ratio_says_how_much_of_the_limit_is_used() {
        let judged = output(&[1.0, 2.0, 4.0]).judge(Forward);
        assert_eq!((judged.error, judged.ratio()), (0.0, 0.0));
        let judged = output(&[1.0, 2.001, 4.0]).judge(Forward);
        assert!((0.49..0.51).contains(&judged.ratio()), "{judged:?}");
    }

    #[test]
    fn one_bit_changes_the_digest() {
        let digest = |kernel: &[f64]| output(kernel).judge(Forward).digest;
        assert_eq!(digest(&[1.0, 2.0, 4.0]), digest(&[1.0, 2.0, 4.0]));
        assert_ne!(digest(&[1.0, 2.0, 4.0]), digest(&[1.0, 2.0f64.next_up(), 4.0]));
        assert_ne!(digest(&[0.0, 2.0, 4.0]), digest(&[-0.0, 2.0, 4.0]));
    }
}
