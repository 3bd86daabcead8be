use crate::draw::{check_all, lengths};
use longhand_kernels::kv_cache::Storage;
use longhand_verify::Precision;
use longhand_verify::cases::{AttentionDecode, HeadLayout, Mask, Scores};
use proptest::prelude::*;

#[test]
fn decoding_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(16, cases());
}

#[test]
fn decoding_holds_for_combinations_of_features() {
    check_all(4, featured());
}

/// Kernels are specialised on all of these, and each takes a second to compile: so there are few.
fn kernels() -> impl Strategy<Value = AttentionDecode> {
    use Precision::{Bf16, F16};
    use Storage::{E4m3, Int8, Plain};
    let kernel = |precision, storage, dims, page_tokens, causal| AttentionDecode {
        precision,
        storage,
        dims,
        page_tokens,
        mask: Mask { causal, ..Mask::default() },
        ..AttentionDecode::new([1, 1], 64, &[])
    };
    prop::sample::select(vec![
        kernel(Bf16, Plain, [64, 64], None, true),
        kernel(Bf16, Plain, [128, 128], Some(16), true),
        kernel(F16, Plain, [64, 64], Some(16), false),
        kernel(F16, Int8, [128, 128], Some(16), true),
        kernel(Bf16, E4m3, [64, 128], None, true),
        kernel(Bf16, Plain, [8, 256], Some(16), true),
    ])
}

fn page_tokens() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![1, 3, 16, 17, 64, 500])
}

prop_compose! {
    /// What does not take another kernel.
    fn cases()(
        kernel in kernels(), page_tokens in page_tokens(), lost: bool, queries in prop_oneof![Just(1usize), 1..=16usize],
        kv_heads in 1..3usize, group in prop::sample::select(vec![1, 2, 3, 8, 20]),
        lengths in prop::collection::vec(lengths(), 0..4), heads_first: bool, gap in 0..2usize, layout in layouts(),
        splits in prop_oneof![Just(1usize), 2..6usize, Just(40)], seed: u64,
    ) -> AttentionDecode {
        let page_tokens = kernel.page_tokens.map(|_| page_tokens);
        let lost = lost && page_tokens.is_some();
        let heads = [kv_heads * group, kv_heads];
        let queries = queries.min(1 + 40 / group);
        AttentionDecode {
            queries, heads, lengths, page_tokens, lost, layout, heads_first, gap, splits: Some(splits), seed, ..kernel
        }
    }
}

prop_compose! {
    fn layouts()(heads_before_tokens: bool, gap in prop::sample::select(vec![0, 8, 24])) -> HeadLayout {
        HeadLayout { heads_before_tokens, gap }
    }
}

prop_compose! {
    /// Each half of the time, any together.
    fn featured()(
        case in cases(), precision in prop::sample::select(vec![Precision::Bf16, Precision::F16]),
        storage in prop::sample::select(vec![Storage::Plain, Storage::Int8, Storage::E4m3]),
        head_dim in 1..=32usize, value_dim in prop::option::of(1..=32usize), page_tokens in prop::option::of(page_tokens()),
        causal: bool, left in prop::option::of(0..200usize), right in prop::option::of(0..20usize),
        softcap in prop::option::of(1.0..20.0f32), alibi: bool, sinks: bool, expression: bool, mask_expression: bool,
    ) -> AttentionDecode {
        AttentionDecode {
            precision,
            storage,
            dims: [8 * head_dim, 8 * value_dim.unwrap_or(head_dim)],
            page_tokens,
            lost: case.lost && page_tokens.is_some(),
            mask: Mask { causal, left, right, ..Mask::default() },
            scores: Scores { softcap, alibi, sinks, expression, mask_expression, ..Scores::default() },
            ..case
        }
    }
}
