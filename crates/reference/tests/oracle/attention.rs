use crate::check::{Draw, assert_close, assert_gradient, dot};
use longhand_reference::{
    AttentionShape, Scoring, attention, attention_backward, attention_scored, attention_scored_backward,
    causal, full, window,
};
use proptest::prelude::*;

prop_compose! {
    fn shapes()(batch in 1..3usize, queries in 0..5usize, keys in 0..5usize,
                kv_heads in 1..3usize, group in 1..4usize, head_dim in 1..4usize,
                value_dim in 1..4usize) -> AttentionShape {
        AttentionShape { batch, queries, keys, heads: kv_heads * group, kv_heads, head_dim, value_dim }
    }
}

/// A mask that hides about half of the keys, and every key from some queries.
fn drawn_mask(seed: u64) -> impl Fn(usize, usize, usize, usize) -> bool {
    let coin = move |a: usize, b: usize, c: usize, d: usize| {
        Draw::new(seed ^ (((a * 64 + b) * 64 + c) * 64 + d) as u64).fraction()
    };
    move |b, h, t, s| coin(b, h, t, 63) < 0.8 && coin(b, h, t, s) < 0.5
}

fn inputs(shape: &AttentionShape, seed: u64) -> [Vec<f64>; 4] {
    let mut draw = Draw::new(seed);
    let AttentionShape { batch, queries, keys, heads, kv_heads, head_dim, value_dim } = *shape;
    let (query_heads, key_heads) = (batch * queries * heads, batch * keys * kv_heads);
    [query_heads * head_dim, key_heads * head_dim, key_heads * value_dim, query_heads * value_dim]
        .map(|len| draw.vec(len))
}

fn check_gradients(
    shape: &AttentionShape,
    scale: f64,
    visible: &impl Fn(usize, usize, usize, usize) -> bool,
    seed: u64,
) {
    let [q, k, v, dout] = inputs(shape, seed);
    let gradients = attention_backward(shape, &q, &k, &v, scale, visible, &dout);
    let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&attention(shape, q, k, v, scale, visible).out, &dout);
    assert_gradient("dq", &q, &gradients.dq, |q| loss(q, &k, &v));
    assert_gradient("dk", &k, &gradients.dk, |k| loss(&q, k, &v));
    assert_gradient("dv", &v, &gradients.dv, |v| loss(&q, &k, v));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn gradients_agree_with_finite_differences_when_causal(shape in shapes(), scale in 0.1..1.5, seed: u64) {
        check_gradients(&shape, scale, &causal(shape.queries, shape.keys), seed);
    }

    #[test]
    fn gradients_agree_with_finite_differences_under_any_mask(shape in shapes(), scale in 0.1..1.5, seed: u64) {
        check_gradients(&shape, scale, &drawn_mask(seed), seed);
    }

    #[test]
    fn gradients_agree_with_finite_differences_through_scores_sinks_and_dropout(
        shape in shapes(), scale in 0.1..1.5, seed: u64
    ) {
        let [q, k, v, dout] = inputs(&shape, seed);
        let mut draw = Draw::new(seed ^ 1);
        let sinks = draw.vec(shape.heads);
        let dlse = draw.vec(shape.batch * shape.heads * shape.queries);
        let bias = draw.vec(shape.batch * shape.heads * shape.queries * shape.keys);
        let kept = |b, h, t, s| if drawn_mask(seed ^ 2)(b, h, t, s) { 2.0 } else { 0.0 };
        let index = |[b, h, t, s]: [usize; 4]| {
            ((b * shape.heads + h) * shape.queries + t) * shape.keys + s
        };
        let visible = drawn_mask(seed);
        let with = |q: &[f64], k: &[f64], v: &[f64], sinks: &[f64], bias: &[f64]| {
            let score = |x: f64, place: [usize; 4]| (2.0 * (x / 2.0).tanh() + bias[index(place)], 0.0);
            let scoring = Scoring { visible: &visible, score: &score, sinks, keep: &kept };
            let result = attention_scored(&shape, q, k, v, scale, &scoring);
            dot(&result.out, &dout) + dot(&result.lse, &dlse)
        };
        let score = |x: f64, place: [usize; 4]| {
            let t = (x / 2.0).tanh();
            (2.0 * t + bias[index(place)], 1.0 - t * t)
        };
        let scoring = Scoring { visible: &visible, score: &score, sinks: &sinks, keep: &kept };
        let gradients = attention_scored_backward(&shape, &q, &k, &v, scale, &scoring, [&dout, &dlse]);
        assert_gradient("dq", &q, &gradients.dq, |q| with(q, &k, &v, &sinks, &bias));
        assert_gradient("dk", &k, &gradients.dk, |k| with(&q, k, &v, &sinks, &bias));
        assert_gradient("dv", &v, &gradients.dv, |v| with(&q, &k, v, &sinks, &bias));
        assert_gradient("dsinks", &sinks, &gradients.dsinks, |sinks| with(&q, &k, &v, sinks, &bias));
        assert_gradient("dbias", &bias, &gradients.dscore, |bias| with(&q, &k, &v, &sinks, bias));
    }

    #[test]
    fn a_query_that_sees_nothing_gives_zero_and_no_gradient(shape in shapes(), seed: u64) {
        let [q, k, v, dout] = inputs(&shape, seed);
        let blind = |_, _, t, _| t != 0;
        let result = attention(&shape, &q, &k, &v, 1.0, blind);
        let gradients = attention_backward(&shape, &q, &k, &v, 1.0, blind, &dout);
        for (values, dim) in [(&result.out, shape.value_dim), (&gradients.dq, shape.head_dim)] {
            let row = shape.heads * dim;
            for b in (0..shape.batch).filter(|_| shape.queries > 0) {
                let start = b * shape.queries * row;
                prop_assert!(values[start..start + row].iter().all(|&x| x == 0.0));
            }
        }
        for (i, &lse) in result.lse.iter().enumerate() {
            prop_assert_eq!(lse == f64::NEG_INFINITY, i % shape.queries == 0 || shape.keys == 0);
        }
    }

    /// `out` is a weighted mean: moving every value by the same amount moves `out` by it, wherever a key is seen.
    #[test]
    fn weights_add_up_to_one(shape in shapes(), seed: u64) {
        let [q, k, v, _] = inputs(&shape, seed);
        let mask = drawn_mask(seed);
        let ones = vec![1.0; v.len()];
        let result = attention(&shape, &q, &k, &ones, 0.7, &mask);
        for b in 0..shape.batch {
            for t in 0..shape.queries {
                for h in 0..shape.heads {
                    let sees = f64::from((0..shape.keys).any(|s| mask(b, h, t, s)));
                    let start = ((b * shape.queries + t) * shape.heads + h) * shape.value_dim;
                    assert_close(&result.out[start..start + shape.value_dim], &vec![sees; shape.value_dim]);
                }
            }
        }
    }

    /// Grouped queries are shared keys: repeating each key head once for every query head changes nothing.
    #[test]
    fn grouped_queries_read_the_key_head_of_their_group(shape in shapes(), seed: u64) {
        let [q, k, v, _] = inputs(&shape, seed);
        let group = shape.heads / shape.kv_heads;
        let repeat = |x: &[f64], dim: usize| -> Vec<f64> {
            x.chunks_exact(dim).flat_map(|head| head.repeat(group)).collect()
        };
        let every = AttentionShape { kv_heads: shape.heads, ..shape };
        prop_assert_eq!(
            attention(&shape, &q, &k, &v, 0.7, full),
            attention(&every, &q, &repeat(&k, shape.head_dim), &repeat(&v, shape.value_dim), 0.7, full)
        );
    }
}

const ONE_HEAD: AttentionShape =
    AttentionShape { batch: 1, queries: 3, keys: 3, heads: 1, kv_heads: 1, head_dim: 1, value_dim: 1 };

#[test]
fn a_zero_query_takes_the_mean_of_what_it_sees() {
    let result = attention(&ONE_HEAD, &[0.0; 3], &[4.0, 5.0, 6.0], &[3.0, 6.0, 12.0], 1.0, causal(3, 3));
    assert_close(&result.out, &[3.0, 4.5, 7.0]);
    assert_close(&result.lse, &[0.0, 2f64.ln(), 3f64.ln()]);
}

#[test]
fn scores_far_beyond_the_range_of_exp_do_not_overflow() {
    let result = attention(&ONE_HEAD, &[1000.0; 3], &[1000.0, 0.0, 0.0], &[7.0, 1.0, 1.0], 1.0, full);
    assert_eq!(result.out, [7.0; 3]);
    assert_eq!(result.lse, [1e6; 3]);
}

#[test]
fn the_causal_mask_is_aligned_to_the_last_query_and_the_last_key() {
    let drawn = |t: usize, s: usize| -> Vec<String> {
        let visible = causal(t, s);
        (0..t).map(|i| (0..s).map(|j| if visible(0, 0, i, j) { '1' } else { '0' }).collect()).collect()
    };
    assert_eq!(drawn(2, 4), ["1110", "1111"]);
    assert_eq!(drawn(4, 2), ["00", "00", "10", "11"]);
}

#[test]
fn a_window_is_as_wide_as_said_around_the_place_of_the_query() {
    let drawn = |t: usize, s: usize, left, right| -> Vec<String> {
        let visible = window(t, s, left, right);
        (0..t).map(|i| (0..s).map(|j| if visible(0, 0, i, j) { '1' } else { '0' }).collect()).collect()
    };
    assert_eq!(drawn(2, 4, Some(1), Some(0)), ["0110", "0011"]);
    assert_eq!(drawn(4, 2, Some(0), Some(1)), ["00", "10", "11", "01"]);
    assert_eq!(drawn(2, 3, None, Some(0)), ["110", "111"]);
    assert_eq!(drawn(2, 3, Some(0), None), ["011", "001"]);
}

#[test]
#[should_panic(expected = "k (B, S, Hkv, D) has 2 elements, must have 3")]
fn a_slice_of_the_wrong_length_is_named() {
    attention(&ONE_HEAD, &[0.0; 3], &[0.0; 2], &[0.0; 3], 1.0, full);
}
