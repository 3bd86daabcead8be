use crate::draw::{check_all, precisions};
use longhand_kernels::activation::Function;
use longhand_verify::cases::{Activation, Pass};
use proptest::prelude::*;

#[test]
fn forward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(16, cases(Pass::Forward));
}

#[test]
fn backward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(16, cases(Pass::Backward));
}

prop_compose! {
    /// Widths at and around what a warp takes, rows at and around what a block takes, any combination of features.
    fn cases(pass: Pass)(
        function in prop::sample::select(Function::ALL.to_vec()), precision in precisions(),
        (gated, bias, in_place) in any::<(bool, bool, bool)>(),
        rows in prop::sample::select(vec![0, 1, 2, 7, 8, 9, 33, 500]),
        width in prop_oneof![
            2 => prop::sample::select(vec![0, 1, 8, 31, 33, 128, 256, 264, 1024]),
            1 => 0..600usize,
        ],
        gap in prop::sample::select(vec![0, 8, 3, 1024]), wanted: [bool; 3], seed: u64,
    ) -> Activation {
        Activation { pass, function, precision, gated, bias, rows, width, gap, in_place, wanted, seed }
    }
}
