use crate::draw::{check_all, precisions};
use longhand_kernels::cross_entropy::IGNORE;
use longhand_verify::cases::CrossEntropy;
use proptest::prelude::*;

#[test]
fn loss_and_gradient_are_as_close_to_the_reference_as_their_precision_allows() {
    check_all(48, cases());
}

prop_compose! {
    /// A fifth of the rows is ignored; some hundred thousand logits at most.
    fn cases()(
        precision in precisions(),
        vocabulary in prop::sample::select(vec![1, 2, 7, 255, 256, 257, 1000, 8200, 50_257]),
        draws in prop::collection::vec((0.0..1.0, prop::bool::weighted(0.8)), 0..300),
        gap in prop::sample::select(vec![0, 3, 8]), in_place: bool, dmean in -2.0..2.0f32, seed: u64,
    ) -> CrossEntropy {
        let target = |(draw, counts): (f64, bool)| if counts { (draw * vocabulary as f64) as u32 } else { IGNORE };
        let targets = draws.into_iter().take(1 + (1 << 17) / vocabulary).map(target).collect();
        CrossEntropy { precision, vocabulary, targets, gap, in_place, dmean, seed }
    }
}
