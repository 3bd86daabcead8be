use crate::draw::{check_all, lengths, precisions};
use longhand_gpu::Device;
use longhand_kernels::Dtype;
use longhand_kernels::attention as kernel;
use longhand_reference::AttentionShape;
use longhand_verify::Precision;
use longhand_verify::cases::{Attention, Blocks, HeadLayout, Mask, Pass, Scores};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::HashSet;

#[test]
fn forward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(48, cases(Pass::Forward, lengths(), 1..3usize));
}

#[test]
fn backward_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(32, cases(Pass::Backward, lengths(), 1..3usize));
}

#[test]
fn forward_holds_at_any_head_dim() {
    check_all(6, any_head_dim(Pass::Forward));
}

#[test]
fn backward_holds_at_any_head_dim() {
    check_all(4, any_head_dim(Pass::Backward));
}

#[test]
fn forward_holds_for_combinations_of_features() {
    check_all(12, featured(Pass::Forward));
}

#[test]
fn backward_holds_for_combinations_of_features() {
    check_all(8, featured(Pass::Backward));
}

#[test]
fn forward_holds_with_block_masks() {
    check_all(3, blocked(Pass::Forward));
}

#[test]
fn backward_holds_with_block_masks() {
    check_all(3, blocked(Pass::Backward));
}

#[test]
fn forward_holds_at_lengths_of_many_tiles() {
    check_all(2, long(Pass::Forward));
}

#[test]
fn backward_holds_at_lengths_of_many_tiles() {
    check_all(2, long(Pass::Backward));
}

/// Whatever the deterministic one holds for; as for that one, dk and dv have the same bits everywhere.
#[test]
fn atomic_backward_is_as_close_to_the_reference_as_its_precision_allows() {
    let pass = Pass::Backward;
    let drawn = prop_oneof![cases(pass, lengths(), 1..3usize), any_head_dim(pass), featured(pass)];
    check_all(7, drawn.prop_map(|case| Attention { atomic: true, ..case }));
}

prop_compose! {
    /// Any head dim and type; half of the time values of another width. As with features, each is a kernel of its own.
    fn any_head_dim(pass: Pass)(
        case in cases(pass, 0..80usize, Just(1)), precision in prop::sample::select(Precision::ALL.to_vec()),
        head_dim in 1..=32usize, value_dim in prop::option::of(1..=32usize),
    ) -> Attention {
        let heads = case.shape.kv_heads;
        let shape = AttentionShape { heads, head_dim: 8 * head_dim, value_dim: 8 * value_dim.unwrap_or(head_dim), ..case.shape };
        Attention { precision, shape, ..case }
    }
}

fn long(pass: Pass) -> impl Strategy<Value = Attention> {
    cases(pass, 508..518usize, Just(1)).prop_map(|case| {
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
        kv_heads in 1..3usize, group in 1..4usize, head_dim in prop::sample::select(vec![64, 128]),
        causal: bool, scale in 0.03..0.3f32, layouts in [layouts(), layouts(), layouts()], lse_gradient: bool, seed: u64,
    ) -> Attention {
        let keys = keys.unwrap_or(queries);
        let heads = kv_heads * group;
        let shape = AttentionShape { batch, queries, keys, heads, kv_heads, head_dim, value_dim: head_dim };
        let lse_gradient = lse_gradient && pass == Pass::Backward;
        Attention { pass, lse_gradient, scale, layouts, seed, ..Attention::new(precision, shape, causal) }
    }
}

prop_compose! {
    /// A quarter each: full, causal, windows, prefixes.
    fn masks()(
        kind in 0..4usize, causal: bool, left in prop::option::of(0..200usize), right in prop::option::of(0..100usize),
        prefixes in prop::collection::vec(0..300usize, 1..3),
    ) -> Mask {
        match kind {
            0 => Mask::default(),
            1 => Mask { causal: true, ..Mask::default() },
            2 => Mask { causal, left, right, ..Mask::default() },
            _ => Mask { causal: causal || right.is_none(), left, right, prefixes, ..Mask::default() },
        }
    }
}

prop_compose! {
    /// Batches and heads have the same blocks where they may.
    fn blocks(of_batch: bool)(
        larger in 0..2usize, per_batch: bool, per_head: bool, chosen: bool,
    ) -> Blocks {
        Blocks { larger, per_batch: per_batch || of_batch, per_head, chosen }
    }
}

prop_compose! {
    /// Block masks alone, of lengths with several blocks: each feature has a kernel of its own.
    fn blocked(pass: Pass)(
        case in cases(pass, 100..400usize, Just(1)), blocks in blocks(false), mask_expression: bool, atomic: bool,
    ) -> Attention {
        let atomic = atomic && pass == Pass::Backward;
        let shape = AttentionShape { kv_heads: 1, heads: case.shape.heads / case.shape.kv_heads, ..case.shape };
        let mask = Mask { blocks: Some(blocks), ..case.mask };
        let scores = Scores { mask_expression, ..Scores::default() };
        Attention { precision: Precision::Bf16, shape, mask, scores, atomic, ..case }
    }
}

/// Half of the time none.
fn documents() -> impl Strategy<Value = Vec<[usize; 2]>> {
    let lengths = prop_oneof![1 => Just(0usize), 1 => Just(1usize), 4 => 0..200usize];
    let document = (lengths, prop::option::of(0..200usize)).prop_map(|(t, s)| [t, s.unwrap_or(t)]);
    prop_oneof![Just(Vec::new()), prop::collection::vec(document, 1..5)]
}

prop_compose! {
    /// Each feature half of the time.
    fn scores()(
        softcap in prop::option::of(1.0..20.0f32), expression: bool, mask_expression: bool, alibi: bool, sinks: bool,
        dropout in prop::option::of(0.0..0.9f32), bias in prop::option::of(any::<[bool; 4]>()),
    ) -> Scores {
        Scores { softcap, expression, mask_expression, alibi, sinks, dropout, bias }
    }
}

prop_compose! {
    /// Any features together. There are as many kernels as combinations of them, and each takes a second to compile: so
    /// there are few cases, and more for whoever sets `PROPTEST_CASES`.
    fn featured(pass: Pass)(
        case in cases(pass, lengths(), 1..3usize), dims in dims(), mask in masks(), documents in documents(),
        blocks in prop::option::weighted(0.3, blocks(true)), scores in scores(),
    ) -> Attention {
        let mask = Mask { documents, blocks, ..mask };
        let (precision, head_dim, value_dim) = dims;
        let shape = AttentionShape { head_dim, value_dim, ..mask.shape(case.shape) };
        Attention { precision, shape, mask, scores, ..case }
    }
}

/// Three quarters of the time those that are tuned.
fn dims() -> impl Strategy<Value = (Precision, usize, usize)> {
    let tuned = prop::sample::select(vec![64, 128]).prop_map(|dim| (dim, dim));
    let any = (1..=32usize, 1..=32usize).prop_map(|(head_dim, value_dim)| (8 * head_dim, 8 * value_dim));
    let sixteen = prop::sample::select(vec![Precision::Bf16, Precision::F16]);
    prop_oneof![
        3 => (sixteen, tuned).prop_map(|(precision, (head_dim, value_dim))| (precision, head_dim, value_dim)),
        1 => (precisions(), any).prop_map(|(precision, (head_dim, value_dim))| (precision, head_dim, value_dim)),
    ]
}

/// What a case has.
fn features(case: &Attention) -> [(&'static str, bool); 15] {
    let Attention { mask, scores, .. } = case;
    [
        ("causal", mask.causal),
        ("left", mask.left.is_some()),
        ("right", mask.right.is_some()),
        ("prefix", !mask.prefixes.is_empty()),
        ("documents", !mask.documents.is_empty()),
        ("blocks", mask.blocks.is_some()),
        ("mask expression", scores.mask_expression),
        ("score expression", scores.expression),
        ("softcap", scores.softcap.is_some()),
        ("alibi", scores.alibi),
        ("bias", scores.bias.is_some()),
        ("sinks", scores.sinks),
        ("dropout", scores.dropout.is_some()),
        ("f32", case.precision == Precision::F32),
        ("values of another width", case.shape.value_dim != case.shape.head_dim),
    ]
}

#[test]
fn every_two_features_are_drawn_together_and_without_each_other() {
    let mut runner = TestRunner::deterministic();
    let mut seen = HashSet::new();
    let mut configurations = HashSet::new();
    for _ in 0..2000 {
        let features = features(&featured(Pass::Forward).new_tree(&mut runner).unwrap().current());
        configurations.insert(features);
        seen.extend(features.iter().flat_map(|&one| features.map(|other| (one, other))));
    }
    let named = features(&featured(Pass::Forward).new_tree(&mut runner).unwrap().current());
    for ((one, _), (other, _)) in named.iter().flat_map(|one| named.iter().map(move |other| (one, other))) {
        for (with_one, with_other) in [(false, false), (false, true), (true, false), (true, true)] {
            if one != other {
                let drawn = seen.contains(&((*one, with_one), (*other, with_other)));
                assert!(drawn, "{one}: {with_one}, {other}: {with_other}");
            }
        }
    }
    assert!(configurations.len() > 1000, "{} different ones", configurations.len());
}

#[test]
fn an_expression_that_does_not_compile_is_an_error_that_points_into_it() {
    let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
    if let Err(reason) = device.compiler() {
        return println!("skipped: {reason}");
    }
    let new = || kernel::Attention::new(Dtype::Bf16, 64);
    for (attention, place) in [
        (new().score("score +\n  slop[h]"), "score expression(2): error: identifier \"slop\" is undefined"),
        (new().mask("q >= k;"), "mask expression(1): error: expected a \")\""),
    ] {
        for error in [attention.forward(&device).unwrap_err(), attention.backward(&device).unwrap_err()] {
            assert!(error.to_string().contains(place), "{error}");
        }
    }
}

#[test]
fn gradients_of_biases_hold_however_they_broadcast() {
    let bias = any::<[bool; 4]>().prop_map(Some);
    let case = (cases(Pass::Backward, lengths(), 1..3usize), bias).prop_map(|(case, bias)| Attention {
        scores: Scores { bias, ..Scores::default() },
        precision: Precision::Bf16,
        shape: AttentionShape { head_dim: 64, value_dim: 64, ..case.shape },
        ..case
    });
    check_all(8, case);
}
