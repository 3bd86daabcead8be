use crate::draw::check_all;
use longhand_verify::cases::{AdamW, ParameterSize};
use proptest::prelude::*;

#[test]
fn steps_are_as_close_to_the_reference_as_their_precision_allows() {
    check_all(48, cases());
}

prop_compose! {
    fn sizes()(
        count in prop::sample::select(vec![0, 1, 7, 8, 9, 1000, 16_383, 16_384, 16_385, 40_000]),
        shift in prop::sample::select(vec![0, 0, 1, 4]),
        weight_decay in prop::sample::select(vec![0.0, 0.1f32]),
    ) -> ParameterSize {
        ParameterSize { count, shift, weight_decay }
    }
}

prop_compose! {
    fn cases()(
        (parameter, gradient, master) in prop::sample::select(AdamW::TYPES.to_vec()),
        tensors in prop::collection::vec(sizes(), 0..6),
        steps_before in prop::sample::select(vec![0, 1, 10, 1000, 1_000_000]),
        steps in 1..4u32, lr in 1e-4..1e-1f32, eps in prop::sample::select(vec![1e-8, 1e-3f32]),
        gradient_scale in prop::option::of(0.1..1.0f32), seed: u64,
    ) -> AdamW {
        AdamW { parameter, gradient, master, tensors, steps_before, steps, lr, eps, gradient_scale, seed }
    }
}
