use crate::draw::{check_all, precisions};
use longhand_verify::cases::Embedding;
use proptest::prelude::*;

#[test]
fn rows_are_looked_up_and_their_gradients_added_up() {
    check_all(48, cases());
}

prop_compose! {
    /// More ids than a block looks through at a time; small ones more often than large ones.
    fn cases()(
        precision in precisions(), vocabulary in prop::sample::select(vec![1, 2, 31, 64, 65, 300]),
        width in prop::sample::select(vec![1, 7, 8, 33, 256, 257, 520]),
        draws in prop::collection::vec(0.0..1.0, 0..600), shift in prop::sample::select(vec![0, 0, 1]), seed: u64,
    ) -> Embedding {
        let id = |draw: f64| (draw * draw * vocabulary as f64) as u32;
        let ids = draws.into_iter().take(1 + (1 << 15) / width).map(id).collect();
        Embedding { precision, vocabulary, width, ids, shift, seed }
    }
}
