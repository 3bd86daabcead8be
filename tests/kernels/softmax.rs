use crate::devices::Devices;
use crate::draw::{check_all, precisions};
use longhand_verify::cases::Softmax;
use proptest::prelude::*;

#[test]
fn softmax_and_its_gradient_are_as_close_to_the_reference_as_their_precision_allows() {
    check_all(24, cases());
}

#[test]
fn rows_that_no_block_holds_are_as_close_as_others() {
    let Some(devices) = Devices::open() else { return };
    Softmax::telling().iter().filter(|case| case.width > 10_000).for_each(|case| devices.check(case));
}

prop_compose! {
    fn cases()(
        precision in precisions(), width in prop::sample::select(vec![1, 2, 7, 255, 256, 257, 1000, 8200]),
        rows in 0..40usize, gap in prop::sample::select(vec![0, 3, 8]), shift in 0..2usize, in_place: bool,
        gradients: (bool, bool), seed: u64,
    ) -> Softmax {
        let rows = rows.min(1 + (1 << 14) / width);
        Softmax { precision, rows, width, gap, shift, in_place, gradients, seed }
    }
}
