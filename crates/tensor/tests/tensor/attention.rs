//! Attention against the plain algorithm in `f64`.

use longhand_reference as reference;
use longhand_tensor::ops::AttentionOptions;
use longhand_tensor::{Device, Dtype, Tensor, ops};
use proptest::prelude::*;

use crate::{doubles, tensor};

#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    queries: usize,
    keys: usize,
    kv_heads: usize,
    group: usize,
    dim: usize,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let tokens = || prop_oneof![0..4usize, 60..70usize, 120..135usize, 255..260usize];
    (1..3usize, tokens(), tokens(), 1..3usize, 1..4usize, prop_oneof![Just(1usize), Just(5), Just(16)])
        .prop_map(|(batch, queries, keys, kv_heads, group, dim)| Shape {
            batch,
            queries,
            keys,
            kv_heads,
            group,
            dim,
        })
}

/// Queries, keys and values as views of one tensor, as a fused product makes them, when there are as many of each.
fn inputs(shape: Shape, seed: u64) -> [Tensor; 3] {
    let Shape { batch, queries, keys, kv_heads, group, dim } = shape;
    let heads = kv_heads * group;
    if queries == keys {
        let packed = tensor(&[batch, queries, heads + 2 * kv_heads, dim], seed);
        let [q, k, v] = packed.split(&[heads, kv_heads, kv_heads], 2).unwrap().try_into().unwrap();
        return [q, k, v];
    }
    let kv = |i: u64| tensor(&[batch, keys, kv_heads, dim], seed ^ i);
    [tensor(&[batch, queries, heads, dim], seed), kv(1), kv(2)]
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn blocks_give_what_the_plain_algorithm_gives(shape in shapes(), causal: bool, seed: u64) {
        let Shape { batch, queries, keys, kv_heads, group, dim } = shape;
        let heads = kv_heads * group;
        let inputs = inputs(shape, seed);
        let grad = tensor(&[batch, queries, heads, dim], seed ^ 9);
        let scale = 0.6;

        let [q, k, v] = inputs.each_ref().map(doubles);
        let plain =
            reference::AttentionShape { batch, queries, keys, heads, kv_heads, head_dim: dim, value_dim: dim };
        let visible = |_: usize, _: usize, t: usize, s: usize| !causal || s + queries <= t + keys;
        let expected = reference::attention(&plain, &q, &k, &v, scale, visible);
        let expected_grads =
            reference::attention_backward(&plain, &q, &k, &v, scale, visible, &doubles(&grad));

        for (dtype, tolerance) in [(Dtype::F64, 1e-11), (Dtype::F32, 2e-5)] {
            let leaves = inputs.each_ref().map(|input| {
                // The conversion would lose the strides, and they are part of what is tested.
                if dtype == Dtype::F64 { input.requires_grad() } else { input.to_dtype(dtype).unwrap().requires_grad() }
            });
            let options = AttentionOptions { causal, scale: Some(scale), ..Default::default() };
            let out = ops::attention(&leaves[0], &leaves[1], &leaves[2], &options).unwrap();
            prop_assert!(largest_difference(&doubles(&out), &expected.out) < tolerance);
            let gradients =
                out.mul(&grad.to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
            let expected = [&expected_grads.dq, &expected_grads.dk, &expected_grads.dv];
            for (leaf, expected) in leaves.iter().zip(expected) {
                let found = doubles(gradients.get(leaf).unwrap());
                prop_assert!(largest_difference(&found, expected) < 30.0 * tolerance, "{dtype}");
            }
        }
    }
}

/// Two queries and one key: causal hides the key from the first query.
#[test]
fn a_query_that_sees_no_key_gives_0_and_gradients_of_0() {
    let (q, k) = (tensor(&[1, 2, 1, 4], 1).requires_grad(), tensor(&[1, 1, 1, 4], 2));
    let options = AttentionOptions { causal: true, ..Default::default() };
    let out = ops::attention(&q, &k, &k, &options).unwrap();
    let values = doubles(&out);
    assert_eq!(values[..4], [0.0; 4]);
    assert_eq!(values[4..], doubles(&k));
    let gradients = out.sum_all().unwrap().backward().unwrap();
    assert_eq!(doubles(gradients.get(&q).unwrap())[..4], [0.0; 4]);
}

/// Scores of several thousands, where a softmax without its maximum taken off would overflow.
#[test]
fn large_scores_do_not_overflow() {
    let q = Tensor::full(&[1, 3, 1, 2], 100.0, Dtype::F32, &Device::Cpu).unwrap();
    let out = ops::attention(
        &q,
        &q,
        &q,
        &AttentionOptions { causal: false, scale: Some(1.0), ..Default::default() },
    )
    .unwrap();
    assert!(out.to_vec::<f32>().unwrap().iter().all(|x| (x - 100.0).abs() < 1e-3));
}
