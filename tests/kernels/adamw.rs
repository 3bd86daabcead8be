use crate::devices::Devices;
use crate::draw::check_all;
use longhand_kernels::adamw::Moments;
use longhand_verify::cases::{AdamW, ParameterSize};
use proptest::prelude::*;

#[test]
fn steps_are_as_close_to_the_reference_as_their_precision_allows() {
    check_all(32, cases());
}

#[test]
fn a_step_whose_norm_is_not_finite_changes_nothing_and_is_counted() {
    let Some(devices) = Devices::open() else { return };
    let skipped = AdamW::telling().into_iter().filter(|case| case.norm.is_some_and(|norm| !norm.is_finite()));
    skipped.for_each(|case| devices.check(&case));
}

prop_compose! {
    fn sizes()(
        count in prop::sample::select(vec![0, 1, 7, 8, 9, 255, 256, 257, 1000, 16_383, 16_384, 16_385]),
        shift in prop::sample::select(vec![0, 0, 1, 4]),
        weight_decay in prop::sample::select(vec![0.0, 0.1f32]),
    ) -> ParameterSize {
        ParameterSize { count, shift, weight_decay }
    }
}

prop_compose! {
    fn cases()(
        ((parameter, gradient, rounding), moments) in prop_oneof![
            2 => (prop::sample::select(AdamW::TYPES.to_vec()), Just(Moments::F32)),
            1 => (prop::sample::select(AdamW::EIGHT_BIT_TYPES.to_vec()), Just(Moments::EightBit)),
        ],
        tensors in prop::collection::vec(sizes(), 0..5),
        steps_before in prop::sample::select(vec![0, 1, 10, 1000, 1_000_000]),
        steps in 1..3u32, lr in 1e-4..1e-1f32, eps in prop::sample::select(vec![1e-8, 1e-3f32]),
        gradient_scale in prop::option::of(0.1..1.0f32), norm in prop::option::of(Just(1.0)), seed: u64,
    ) -> AdamW {
        AdamW {
            parameter, gradient, rounding, moments, tensors, steps_before, steps, lr, eps, gradient_scale, norm, seed,
        }
    }
}
