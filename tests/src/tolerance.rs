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
use std::iter::zip;

/// One output of a kernel, beside what it is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    name: &'a str,
    precision: Precision,
    kernel: &'a [f64],
    plain: &'a [f64],
    reference: &'a [f64],
    cancellation: f64,
}

impl<'a> Output<'a> {
    /// What the kernel wrote, in `precision`; what the plain algorithm says in the kernel's precision; and the float64
    /// reference. All three in one order. `name` is for the failure.
    #[must_use]
    pub fn new(
        name: &'a str,
        precision: Precision,
        kernel: &'a [f64],
        plain: &'a [f64],
        reference: &'a [f64],
    ) -> Output<'a> {
        Output { name, precision, kernel, plain, reference, cancellation: 0.0 }
    }

    /// Allows as much more, absolutely: what f32 sums may leave where the terms of the true value cancel.
    #[must_use]
    pub fn cancellation(self, cancellation: f64) -> Output<'a> {
        Output { cancellation, ..self }
    }

    /// Judges a value that a forward pass returns.
    ///
    /// # Panics
    /// When the kernel does not pass: with the worst element, its values and the limit.
    #[track_caller]
    pub fn assert_forward(&self) {
        self.assert(2.0);
    }

    /// Judges a gradient.
    ///
    /// # Panics
    /// As [`Output::assert_forward`].
    #[track_caller]
    pub fn assert_gradient(&self) {
        self.assert(3.0);
    }

    #[track_caller]
    fn assert(&self, factor: f64) {
        let Output { name, precision, kernel, plain, reference, cancellation } = *self;
        assert_eq!(kernel.len(), reference.len(), "{name}: elements of the kernel and of the reference");
        assert_eq!(
            plain.len(),
            reference.len(),
            "{name}: elements of the plain algorithm and of the reference"
        );
        let Some((worst, kernel_error)) = largest(zip(kernel, reference).map(|(x, r)| error(*x, *r))) else {
            return;
        };
        let plain_error = largest(zip(plain, reference).map(|(x, r)| error(*x, *r))).map_or(0.0, |(_, e)| e);
        assert!(
            plain_error.is_finite(),
            "{name}: plain {precision:?} leaves its range here and gives no measure"
        );
        let finite = reference.iter().filter(|r| r.is_finite());
        let spacing = precision.spacing(finite.fold(0.0, |max, r| max.max(r.abs())));
        let spacings = if precision == Precision::F32 { 8.0 } else { 1.0 };
        let limit = factor * plain_error + spacings * spacing + cancellation;
        assert!(
            kernel_error <= limit,
            "{name}[{worst}] of {}: the kernel says {}, the reference {}, plain {precision:?} {}; the error is \
             {kernel_error:.3e}, the limit {limit:.3e} ({factor} times {plain_error:.3e}, the largest error of plain \
             {precision:?}, and {spacings} spacings of {spacing:.3e})",
            kernel.len(),
            kernel[worst],
            reference[worst],
            plain[worst],
        );
    }
}

/// The distance of two values; infinite where one of them is not finite and the other is not the same.
fn error(x: f64, reference: f64) -> f64 {
    match (x - reference).abs() {
        _ if x == reference => 0.0,
        error if error.is_nan() => f64::INFINITY,
        error => error,
    }
}

/// The largest of the errors and where it is.
fn largest(errors: impl Iterator<Item = f64>) -> Option<(usize, f64)> {
    errors.enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    /// The reference is 1, 2, 4 and plain f32 is off by 0.001: the limits are 0.002 and 0.003, and a little.
    fn output(kernel: &[f64]) -> Output<'_> {
        let (plain, reference) = (&[1.0, 2.001, 4.0], &[1.0, 2.0, 4.0]);
        Output::new("out", Precision::F32, kernel, plain, reference)
    }

    fn failure(output: Output<'_>) -> String {
        *catch_unwind(|| output.assert_forward()).unwrap_err().downcast().unwrap()
    }

    #[test]
    fn a_forward_output_may_be_off_by_twice_the_plain_error() {
        output(&[1.002, 1.998, 4.0]).assert_forward();
        assert!(catch_unwind(|| output(&[1.0, 2.0021, 4.0]).assert_forward()).is_err());
    }

    #[test]
    fn a_gradient_may_be_off_by_three_times_the_plain_error() {
        output(&[1.003, 1.997, 4.0]).assert_gradient();
        assert!(catch_unwind(|| output(&[1.0, 2.0, 3.9969]).assert_gradient()).is_err());
    }

    #[test]
    fn without_a_plain_error_the_spacing_at_the_largest_value_is_allowed() {
        let reference = &[0.5, 1.0];
        let judged =
            |kernel| Output { plain: reference, reference, precision: Precision::Bf16, ..output(kernel) };
        judged(&[0.5, 1.0 - 1.0 / 128.0]).assert_forward();
        assert!(catch_unwind(|| judged(&[0.5, 1.01]).assert_forward()).is_err());
    }

    #[test]
    fn where_terms_cancel_what_they_leave_is_allowed() {
        let reference = &[0.0];
        let judged = |kernel| Output { plain: reference, reference, cancellation: 1e-5, ..output(kernel) };
        judged(&[1e-5]).assert_gradient();
        assert!(catch_unwind(|| judged(&[1.1e-5]).assert_gradient()).is_err());
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
        judged(&[f64::NEG_INFINITY, 1.0]).assert_forward();
        failure(judged(&[f64::INFINITY, 1.0]));
        failure(judged(&[-1e30, 1.0]));
        failure(judged(&[f64::NEG_INFINITY, f64::NEG_INFINITY]));
    }
}
