use crate::devices::Devices;
use crate::draw::{check_all, precisions};
use longhand_verify::cases::{AxisSum, ColumnSum, GradientNorm, GradientSize, Sum};
use proptest::prelude::*;

#[test]
fn a_sum_along_an_axis_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(48, axis_sums());
}

#[test]
fn a_sum_over_rows_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(48, column_sums());
}

#[test]
fn a_sum_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(48, sums());
}

#[test]
fn a_gradient_that_is_not_finite_shows_in_the_norm() {
    let Some(devices) = Devices::open() else { return };
    let cases = GradientNorm::telling().into_iter().filter(|case| case.last.is_some());
    cases.for_each(|case| devices.check(&case));
}

#[test]
fn a_norm_and_its_factor_are_as_close_to_the_reference_as_their_precision_allows() {
    check_all(32, norms());
}

prop_compose! {
    fn axis_sums()(
        precision in precisions(), outer in 0..4usize,
        axis in prop::sample::select(vec![0, 1, 7, 8, 9, 63, 129, 1000, 1025, 2100, 16_390]),
        inner in prop::sample::select(vec![0, 1, 1, 1, 7, 8, 33, 256, 264]),
        shift in prop::sample::select(vec![0, 0, 1, 3]), factor in prop::sample::select(vec![1.0, 0.01, -2.0]), seed: u64,
    ) -> AxisSum {
        AxisSum { precision, shape: [outer, axis.min(1 + (1 << 15) / (inner + 1)), inner], shift, factor, seed }
    }
}

prop_compose! {
    /// Up to more rows than all partial sums take at a time.
    fn column_sums()(
        precision in precisions(), rows in prop::sample::select(vec![0, 1, 7, 8, 9, 63, 64, 65, 129, 1000, 8300]),
        width in prop::sample::select(vec![0, 1, 7, 8, 31, 32, 33, 255, 256, 264, 520, 1000]),
        gap in prop::sample::select(vec![0, 0, 8, 3]), seed: u64,
    ) -> ColumnSum {
        ColumnSum { precision, rows: rows.min(1 + (1 << 16) / (width + 1)), width, gap, seed }
    }
}

prop_compose! {
    fn sums()(
        precision in precisions(),
        count in prop_oneof![
            prop::sample::select(vec![0, 1, 7, 8, 9, 255, 256, 2047, 2048, 2049, 10_000, 100_000]),
            0..5000usize,
        ],
        shift in prop::sample::select(vec![0, 0, 1, 3, 8]), factor in prop::sample::select(vec![1.0, 1e-3, -2.0]),
        seed: u64,
    ) -> Sum {
        Sum { precision, count, shift, factor, seed }
    }
}

prop_compose! {
    fn gradients()(
        precision in precisions(),
        count in prop::sample::select(vec![0, 1, 7, 8, 9, 1000, 16_383, 16_384, 16_385, 33_000]),
        shift in prop::sample::select(vec![0, 0, 1, 4]),
    ) -> GradientSize {
        GradientSize { precision, count, shift }
    }
}

prop_compose! {
    /// Values that are not finite are tried by `GradientNorm::telling`.
    fn norms()(
        tensors in prop::collection::vec(gradients(), 0..6),
        max_norm in prop::sample::select(vec![0.5, 10.0, 1e6, f32::INFINITY]), seed: u64,
    ) -> GradientNorm {
        GradientNorm { tensors, max_norm, last: None, seed }
    }
}
