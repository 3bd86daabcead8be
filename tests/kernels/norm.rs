use crate::devices::Devices;
use crate::draw::{check_all, precisions};
use longhand_verify::Precision;
use longhand_verify::cases::{Norm, Pass};
use proptest::prelude::*;

#[test]
fn forward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(12, cases(Pass::Forward));
}

#[test]
fn backward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(12, cases(Pass::Backward));
}

/// Forward as far as registers and shared memory hold a row; backward as far as one block does, and beyond, where several
/// share a row: of these, more rows than there are clusters.
#[test]
fn rows_that_wait_in_shared_memory_are_as_close_as_others() {
    let Some(devices) = Devices::open() else { return };
    devices.check(&Norm::rms(Pass::Forward, Precision::Bf16, 2, 131_072));
    devices.check(&Norm::layer(Pass::Backward, Precision::Bf16, 3, 16_384));
    devices.check(&Norm::layer(Pass::Backward, Precision::F32, 1, 131_072));
    devices.check(&Norm::rms(Pass::Backward, Precision::Bf16, 19, 100_000));
}

prop_compose! {
    /// Widths at and around the edges of what one warp and one block hold, and any other up to 2000; rows of up to
    /// some hundred thousand elements in all; any combination of features.
    fn cases(pass: Pass)(
        precision in precisions(), f32_weights: bool, layer: bool,
        width in prop_oneof![
            2 => prop::sample::select(vec![
                1, 2, 7, 8, 32, 33, 100, 256, 768, 1024, 1025, 1600, 4096, 4097, 4104, 8192, 8193, 8200, 16_384, 16_392,
                20_480, 32_768, 32_769, 65_536, 81_920, 131_071, 131_072,
            ]),
            1 => 1..2000usize,
        ],
        rows in prop::sample::select(vec![0, 1, 2, 3, 7, 8, 9, 31, 33, 255, 257, 2100]),
        gap in prop::sample::select(vec![0, 0, 8, 3]),
        (residual, in_place) in any::<(bool, bool)>(), wanted: [bool; 2],
        (weight, bias) in prop::sample::select(vec![(true, true), (true, false), (true, true), (false, true), (false, false)]),
        dropout in prop::option::of(prop::sample::select(vec![0.0, 0.1, 0.5])),
        eps in prop::sample::select(vec![1e-5, 1e-2f32]), seed: u64,
    ) -> Norm {
        let rows = rows.min(1 + (1 << 17) / width);
        let weights = if f32_weights { Precision::F32 } else { precision };
        // Dropout in a row that wide takes seconds to compile forward.
        let dropout = dropout.filter(|_| pass == Pass::Backward || width <= 16_392);
        Norm {
            pass, layer, precision, weights, rows, width, gap, residual, in_place, weight, bias, wanted, dropout, eps, seed,
        }
    }
}
