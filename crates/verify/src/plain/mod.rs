//! The textbook algorithms in the kernels' own precision, as a framework runs them without fusing anything: every
//! tensor that would be written to memory is rounded to the type, every operation in between is f32.
//!
//! They take and return f64 slices that hold values of the type, in the layouts of `longhand-reference`.

mod activation;
mod adamw;
mod attention;
mod cross_entropy;
mod merge;
mod norm;
mod quantise;
mod rope;
mod softmax;

pub use activation::{activation, activation_slope};
pub use adamw::adamw;
pub use attention::{attention, attention_backward};
pub use cross_entropy::{cross_entropy, cross_entropy_backward};
pub use merge::{attention_merge, attention_merge_backward};
pub use norm::Norm;
pub use quantise::requantised;
pub use rope::rope;
pub use softmax::{softmax, softmax_backward};

/// Values of a type that f32 holds exactly.
fn to_f32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

fn to_f64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

fn log_sum_exp(x: impl Iterator<Item = f32> + Clone) -> f32 {
    let max = x.clone().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY { max } else { max + sum(x.map(|x| (x - max).exp())).ln() }
}

/// In f32, from the first to the last, from +0.
fn sum(x: impl Iterator<Item = f32>) -> f32 {
    x.fold(0.0, |sum, x| sum + x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Draw, Precision};
    use longhand_kernels::cross_entropy::LossOptions;
    use longhand_reference::{
        self as reference, AdamWOptions, AttentionShape, CrossEntropyOptions, Scoring, causal,
    };
    use proptest::prelude::*;

    /// Asserts that the plain algorithm is off by at most `spacings` of its type at the largest value, or at the terms
    /// that it is a sum of, which are of size 1.
    fn assert_near(name: &str, precision: Precision, spacings: f64, plain: &[f64], reference: &[f64]) {
        assert_eq!(plain.len(), reference.len());
        let largest = reference.iter().filter(|x| x.is_finite()).fold(1.0, |max: f64, x| max.max(x.abs()));
        let limit = spacings * precision.spacing(largest);
        for (plain, reference) in plain.iter().zip(reference) {
            assert!(
                plain == reference || (plain - reference).abs() <= limit,
                "{name} in {precision:?}: plain says {plain}, the reference {reference}, the limit is {limit:e}"
            );
        }
    }

    fn precisions() -> impl Strategy<Value = Precision> {
        prop_oneof![Just(Precision::F32), Just(Precision::Bf16), Just(Precision::F16)]
    }

    prop_compose! {
        fn shapes()(batch in 1..3usize, queries in 0..9usize, keys in 0..9usize,
                    kv_heads in 1..3usize, group in 1..3usize, value_dim in 1..9usize) -> AttentionShape {
            AttentionShape { batch, queries, keys, heads: kv_heads * group, kv_heads, head_dim: 8, value_dim }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn plain_attention_is_attention_but_for_rounding(precision in precisions(), shape in shapes(), seed: u64) {
            let mut draw = Draw::new(precision, seed);
            let AttentionShape { batch, queries, keys, heads, kv_heads, head_dim, value_dim } = shape;
            let (query_heads, key_heads) = (batch * queries * heads, batch * keys * kv_heads);
            let lengths =
                [query_heads * head_dim, key_heads * head_dim, key_heads * value_dim, query_heads * value_dim];
            let [q, k, v, dout] = lengths.map(|len| draw.vec(len));
            let visible = causal(shape.queries, shape.keys);
            let scoring = Scoring { visible: &visible, ..Scoring::PLAIN };
            let expected = reference::attention(&shape, &q, &k, &v, 0.25, visible);
            let plain = attention(precision, &shape, &q, &k, &v, 0.25, &scoring);
            assert_near("out", precision, 10.0, &plain.out, &expected.out);
            assert_near("lse", Precision::F32, 10.0, &plain.lse, &expected.lse);
            let expected = reference::attention_backward(&shape, &q, &k, &v, 0.25, visible, &dout);
            let plain = attention_backward(precision, &shape, &q, &k, &v, 0.25, &scoring, [&dout, &[]]);
            assert_near("dq", precision, 30.0, &plain.dq, &expected.dq);
            assert_near("dk", precision, 30.0, &plain.dk, &expected.dk);
            assert_near("dv", precision, 30.0, &plain.dv, &expected.dv);
        }

        #[test]
        fn plain_layer_norm_is_layer_norm_but_for_rounding(
            precision in precisions(), rows in 0..5usize, width in 1..9usize, seed: u64
        ) {
            let mut draw = Draw::new(precision, seed);
            let [x, residual, dout, dsum] = [(); 4].map(|()| draw.vec(rows * width));
            let [weight, bias] = [(); 2].map(|()| draw.vec(width));
            let norm = Norm { layer: true, precision, weights: precision, eps: 1.0 };
            let expected = reference::layer_norm(&x, Some(&residual), &weight, &bias, 1.0);
            let plain = norm.forward(&x, Some(&residual), &weight, &bias);
            assert_near("sum", precision, 1.0, &plain.sum, &expected.sum);
            assert_near("out", precision, 10.0, &plain.out, &expected.out);
            assert_near("mean", precision, 10.0, &plain.mean, &expected.mean);
            assert_near("rstd", precision, 10.0, &plain.rstd, &expected.rstd);
            let expected = reference::layer_norm_backward(&x, &weight, 1.0, &dout, Some(&dsum));
            let plain = norm.backward(&x, &weight, &dout, Some(&dsum));
            assert_near("dx", precision, 10.0, &plain.dx, &expected.dx);
            assert_near("dweight", precision, 10.0, &plain.dweight, &expected.dweight);
            assert_near("dbias", precision, 10.0, &plain.dbias, &expected.dbias);
        }

        #[test]
        fn plain_rms_norm_is_rms_norm_but_for_rounding(
            precision in precisions(), rows in 0..5usize, width in 1..9usize, seed: u64
        ) {
            let mut draw = Draw::new(precision, seed);
            let [x, residual, dout, dsum] = [(); 4].map(|()| draw.vec(rows * width));
            let [weight, bias] = [(); 2].map(|()| draw.vec(width));
            let norm = Norm { layer: false, precision, weights: precision, eps: 1.0 };
            let expected = reference::rms_norm(&x, Some(&residual), &weight, &bias, 1.0);
            let plain = norm.forward(&x, Some(&residual), &weight, &bias);
            assert_near("sum", precision, 1.0, &plain.sum, &expected.sum);
            assert_near("out", precision, 10.0, &plain.out, &expected.out);
            assert_near("rstd", precision, 10.0, &plain.rstd, &expected.rstd);
            let expected = reference::rms_norm_backward(&x, &weight, 1.0, &dout, Some(&dsum));
            let plain = norm.backward(&x, &weight, &dout, Some(&dsum));
            assert_near("dx", precision, 10.0, &plain.dx, &expected.dx);
            assert_near("dweight", precision, 10.0, &plain.dweight, &expected.dweight);
            assert_near("dbias", precision, 10.0, &plain.dbias, &expected.dbias);
        }

        #[test]
        fn plain_cross_entropy_is_cross_entropy_but_for_rounding(
            precision in precisions(), vocabulary in 1..9usize, seed: u64
        ) {
            let logits = Draw::new(precision, seed).vec(vocabulary);
            let target = seed as usize % vocabulary;
            let options = LossOptions { label_smoothing: 0.25, z_loss: 0.125, softcap: Some(2.0) };
            let exact = CrossEntropyOptions { label_smoothing: 0.25, z_loss: 0.125, softcap: Some(2.0) };
            let targets = &[target as u32];
            let expected = reference::cross_entropy(&logits, vocabulary, targets, u32::MAX, &exact);
            let (loss, lse) = cross_entropy(&logits, target, &options);
            assert_near("loss", Precision::F32, 10.0, &[loss], &[expected.mean]);
            assert_near("lse", Precision::F32, 10.0, &[lse], &expected.lse);
            let expected = reference::cross_entropy_backward(&logits, vocabulary, targets, u32::MAX, &exact, 0.7);
            let plain = cross_entropy_backward(precision, &logits, target, &options, 0.7);
            assert_near("dlogits", precision, 10.0, &plain, &expected);
        }

        #[test]
        fn plain_adamw_is_adamw_but_for_rounding(precision in precisions(), steps in 1..9u64, seed: u64) {
            let mut draw = Draw::new(precision, seed);
            let param = draw.vec(4);
            let options = AdamWOptions { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-4, weight_decay: 0.1 };
            let (mut expected, mut m, mut v) = (param.clone(), vec![0.0; 4], vec![0.0; 4]);
            let (mut plain, mut plain_m, mut plain_v) = (param, vec![0.0; 4], vec![0.0; 4]);
            for step in 1..=steps {
                let grad = draw.vec(4);
                reference::adamw(&options, step, &mut expected, &grad, &mut m, &mut v);
                adamw(precision, &options, step, &mut plain, &grad, &mut plain_m, &mut plain_v);
            }
            assert_near("param", precision, 10.0, &plain, &expected);
            assert_near("m", Precision::F32, 10.0, &plain_m, &m);
            assert_near("v", Precision::F32, 10.0, &plain_v, &v);
        }
    }

    #[test]
    fn scores_and_probabilities_are_rounded_on_the_way() {
        let shape = AttentionShape {
            batch: 1,
            queries: 1,
            keys: 3,
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            value_dim: 1,
        };
        let weights =
            attention(Precision::Bf16, &shape, &[1.0], &[0.0; 3], &[1.0, 0.0, 0.0], 1.0, &Scoring::PLAIN);
        assert_eq!(weights.out, [f64::from(Precision::Bf16.round(1.0 / 3.0))]);
        let twice = attention(Precision::Bf16, &shape, &[1.0], &[0.0; 3], &[1.0; 3], 1.0, &Scoring::PLAIN);
        assert_eq!(twice.out, [1.0], "three times the rounded third, 0.33398, rounds to 1");
    }
}
