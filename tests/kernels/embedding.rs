use crate::devices::Devices;
use crate::draw::{check_all, precisions};
use longhand_verify::cases::Embedding;
use proptest::prelude::*;

#[test]
fn rows_are_looked_up_and_their_gradients_added_up() {
    check_all(32, cases());
}

/// More ids than one block sorts, of more digits than one pass sorts by.
#[test]
fn thousands_of_ids_of_a_large_vocabulary_are_sorted() {
    let Some(devices) = Devices::open() else { return };
    let large = Embedding::telling().into_iter().filter(|case| case.ids.len() > 2048);
    large.for_each(|case| devices.check(&case));
}

prop_compose! {
    /// More ids than a block looks through at a time; small ones more often than large ones.
    fn cases()(
        precision in precisions(), vocabulary in prop::sample::select(vec![1, 2, 31, 64, 65, 300, 70_000]),
        width in prop::sample::select(vec![1, 7, 8, 33, 256, 257, 520]),
        draws in prop::collection::vec(0.0..1.0, 0..600), pads: bool, accumulate: bool,
        shift in prop::sample::select(vec![0, 0, 1]), seed: u64,
    ) -> Embedding {
        let id = |draw: f64| (draw * draw * vocabulary as f64) as u32;
        let width = if vocabulary > 300 { width % 16 + 1 } else { width };
        let ids: Vec<u32> = draws.into_iter().take(1 + (1 << 15) / width).map(id).collect();
        let padding = ids.first().copied().filter(|_| pads);
        Embedding { precision, vocabulary, width, ids, padding, accumulate, shift, seed }
    }
}
