use crate::draw::{check_all, lengths};
use longhand_kernels::attention::HEAD_DIMS;
use longhand_reference::AttentionShape;
use longhand_verify::Precision;
use longhand_verify::cases::{Attention, HeadLayout, Pass};
use proptest::prelude::*;

#[test]
fn forward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(48, cases(Pass::Forward, lengths(), 1..3usize));
}

#[test]
fn backward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(48, cases(Pass::Backward, lengths(), 1..3usize));
}

#[test]
fn forward_holds_at_lengths_around_a_thousand() {
    check_all(2, long(Pass::Forward));
}

#[test]
fn backward_holds_at_lengths_around_a_thousand() {
    check_all(2, long(Pass::Backward));
}

fn long(pass: Pass) -> impl Strategy<Value = Attention> {
    cases(pass, 1020..1030usize, Just(1)).prop_map(|case| {
        let shape = AttentionShape { heads: 2, kv_heads: 1, ..case.shape };
        Attention { shape, ..case }
    })
}

prop_compose! {
    fn layouts()(heads_before_tokens: bool, gap in prop::sample::select(vec![0, 8, 24])) -> HeadLayout {
        HeadLayout { heads_before_tokens, gap }
    }
}

prop_compose! {
    /// Half of the cases have as many keys as queries.
    fn cases(pass: Pass, lengths: impl Strategy<Value = usize> + Clone, batches: impl Strategy<Value = usize>)(
        precision in prop::sample::select(vec![Precision::Bf16, Precision::F16]),
        batch in batches, queries in lengths.clone(), keys in prop::option::of(lengths),
        kv_heads in 1..3usize, group in 1..4usize, head_dim in prop::sample::select(HEAD_DIMS.to_vec()),
        causal: bool, scale in 0.03..0.3f32, layouts in [layouts(), layouts(), layouts()], seed: u64,
    ) -> Attention {
        let keys = keys.unwrap_or(queries);
        let heads = kv_heads * group;
        let shape = AttentionShape { batch, queries, keys, heads, kv_heads, head_dim, value_dim: head_dim };
        Attention { pass, precision, shape, causal, scale, layouts, seed }
    }
}
