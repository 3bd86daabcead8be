use crate::draw::{check_all, precisions};
use longhand_verify::cases::{LayerNorm, Pass};
use proptest::prelude::*;

#[test]
fn forward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(48, cases(Pass::Forward));
}

#[test]
fn backward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(48, cases(Pass::Backward));
}

prop_compose! {
    /// Widths at and around the edges of what one warp and one block hold, and any other up to 2000; rows of up to
    /// some hundred thousand elements in all.
    fn cases(pass: Pass)(
        precision in precisions(),
        width in prop_oneof![
            2 => prop::sample::select(vec![
                1, 2, 7, 8, 32, 33, 100, 256, 768, 1024, 1025, 1600, 4096, 4097, 4104, 8192, 8193, 8200, 16_384, 16_392,
                32_768, 32_769, 65_536,
            ]),
            1 => 1..2000usize,
        ],
        rows in prop::sample::select(vec![0, 1, 2, 3, 7, 8, 9, 31, 33, 255, 257, 2100]),
        gap in prop::sample::select(vec![0, 0, 8, 3]),
        residual: bool, in_place: bool, eps in prop::sample::select(vec![1e-5, 1e-2f32]), seed: u64,
    ) -> LayerNorm {
        let rows = rows.min(1 + (1 << 17) / width);
        LayerNorm { pass, precision, rows, width, gap, residual, in_place, eps, seed }
    }
}
