use crate::draw::check_all;
use longhand_kernels::kv_cache::Storage;
use longhand_verify::Precision;
use longhand_verify::cases::KvAppend;
use proptest::prelude::*;

#[test]
fn new_tokens_land_in_their_places_and_nothing_else_is_written() {
    check_all(24, cases());
}

prop_compose! {
    /// Tokens without a place in the cache among them: before its first, or past its last.
    fn cases()(
        kernel in kernels(), tokens in 0..6usize, kv_heads in 1..4usize, factor in 0.5..2.0f32,
        sequences in prop::collection::vec((0..40usize, 0..8usize), 0..4), room in 1..45usize,
        page_tokens in prop::sample::select(vec![1, 3, 16, 50]), lost: bool,
        gap in prop::sample::select(vec![0, 3, 8]), seed: u64,
    ) -> KvAppend {
        let sequences = sequences.into_iter().map(|(length, count)| [length, count]).collect();
        let page_tokens = kernel.page_tokens.map(|_| page_tokens);
        let lost = lost && page_tokens.is_some();
        KvAppend { sizes: [tokens, kv_heads], factor, sequences, room, page_tokens, lost, gap, seed, ..kernel }
    }
}

/// Kernels are specialised on all of these, and each takes its time to compile.
fn kernels() -> impl Strategy<Value = KvAppend> {
    use Precision::{Bf16, F16, F32};
    use Storage::{E4m3, Int8, Plain};
    let kernel = |precision, storage, dims, rotary, interleaved, page_tokens| {
        let new = KvAppend::new(precision, dims);
        KvAppend { storage, rotary, interleaved, page_tokens, ..new }
    };
    prop::sample::select(vec![
        kernel(Bf16, Plain, [64, 64], 64, false, None),
        kernel(F16, Int8, [128, 64], 32, true, Some(16)),
        kernel(Bf16, E4m3, [80, 80], 80, false, Some(16)),
        kernel(F32, Plain, [7, 10], 6, true, Some(16)),
        kernel(F32, Int8, [128, 128], 0, false, None),
        kernel(F16, E4m3, [1, 1], 0, false, Some(16)),
    ])
}
