use crate::draw::check_all;
use longhand_verify::cases::{Addend, Matmul};
use proptest::prelude::*;

#[test]
fn products_are_as_close_to_the_reference_as_their_precision_allows() {
    check_all(32, cases());
}

prop_compose! {
    fn sizes()(size in prop::sample::select(vec![0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 128, 130])) -> usize {
        size
    }
}

prop_compose! {
    fn cases()(
        (precision, output) in prop::sample::select(Matmul::TYPES.to_vec()),
        orders in prop::sample::select(Matmul::ORDERS.to_vec()), batch in 1..4usize, sizes in [sizes(), sizes(), sizes()],
        bias: bool, addend in prop::sample::select(Addend::ALL.to_vec()),
        gap in prop::sample::select(vec![0, 0, 8, 3]), shift in prop::sample::select(vec![0, 0, 1]),
        seed: u64,
    ) -> Matmul {
        Matmul { precision, output, batch, sizes, orders, bias, addend, gap, shift, seed }
    }
}
