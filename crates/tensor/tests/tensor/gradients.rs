//! Every operation's backward rule against finite differences in f64, over drawn shapes, strides and values.

use longhand_tensor::ops::{
    Activation, AttentionOptions, Gelu, IGNORE_INDEX, LossOptions, NormOptions, Rope,
};
use longhand_tensor::{Device, Dropout, Dtype, Gradients, Random, Result, Tensor, check_gradient, ops};
use proptest::prelude::*;

use crate::{indices, strided, tensor};

/// The backward of `function` agrees with finite differences.
fn agrees(
    function: impl Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
) -> std::result::Result<(), TestCaseError> {
    agrees_all(|x| Ok(vec![function(x)?]), inputs)
}

fn agrees_all(
    function: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Tensor],
) -> std::result::Result<(), TestCaseError> {
    let worst = check_gradient(function, inputs).map_err(|error| TestCaseError::fail(error.to_string()))?;
    match worst {
        Some(worst) => {
            prop_assert!(worst.error < 1e-6, "{worst}");
            Ok(())
        }
        None => Ok(()),
    }
}

/// A shape and another that broadcasts with it: sizes become 1, and leading dimensions fall away.
fn broadcasting() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    prop::collection::vec((0..4usize, any::<bool>(), any::<bool>()), 0..4).prop_flat_map(|dims| {
        (0..=dims.len()).prop_map(move |cut| {
            let a = dims.iter().map(|&(size, one, _)| if one { 1 } else { size }).collect();
            let b = dims.iter().map(|&(size, _, one)| if one { 1 } else { size }).skip(cut).collect();
            (a, b)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn add_sub_and_mul_of_broadcast_shapes_match((a, b) in broadcasting(), seed: u64) {
        let inputs = [tensor(&a, seed), tensor(&b, seed ^ 1)];
        agrees(|x| x[0].add(&x[1]), &inputs)?;
        agrees(|x| x[0].sub(&x[1]), &inputs)?;
        agrees(|x| x[0].mul(&x[1]), &inputs)?;
        agrees(|x| x[1].mul(&x[0]), &inputs)?;
        agrees(|x| x[0].add_scaled(&x[1], -0.7), &inputs)?;
    }

    #[test]
    fn slices_and_views_match(a in 1..4usize, b in 0..4usize, c in 0..4usize, seed: u64) {
        let x = [strided(&[a, b, c], 0, 2, seed)];
        agrees(|x| x[0].slice((a - 1, ..b.div_ceil(2), 1.min(c)..)), &x)?;
        agrees(|x| x[0].permute(&[2, 0, 1]), &x)?;
        agrees(|x| x[0].unsqueeze(3)?.broadcast_to(&[2, a, b, c, 2]), &x)?;
        agrees(|x| x[0].unsqueeze(1)?.squeeze(1), &x)?;
        agrees(|x| x[0].flatten(1..), &x)?;
        agrees(|x| { let parts = x[0].chunk(2, 0)?; parts[0].mul(&parts[0]) }, &x)?;
        agrees(|x| Tensor::stack(&[&x[0], &x[0]], 1), &x)?;
    }

    #[test]
    fn an_input_used_twice_gets_both_gradients(n in 0..6usize, seed: u64) {
        agrees(|x| x[0].mul(&x[0])?.add(&x[0]), &[tensor(&[n], seed)])?;
    }

    #[test]
    fn scale_and_reductions_match(rows in 0..4usize, cols in 1..5usize, seed: u64) {
        let x = [strided(&[rows, cols], 0, 1, seed)];
        agrees(|x| x[0].scale(-2.5), &x)?;
        agrees(|x| { let y = (&x[0] + 2.0)?; &y * &(&y - 0.5)? }, &x)?;
        agrees(|x| x[0].mul(&x[0])?.sum_all(), &x)?;
        if rows > 0 {
            agrees(|x| x[0].mul(&x[0])?.mean_all(), &x)?;
        }
    }

    #[test]
    fn sums_and_means_along_a_dimension_match(a in 0..4usize, b in 1..4usize, c in 0..5usize, dim in 0..3usize, seed: u64) {
        let x = [strided(&[a, b, c], 0, 2, seed)];
        agrees(|x| { let sum = x[0].sum(dim)?; sum.mul(&sum) }, &x)?;
        if x[0].shape()[dim] > 0 {
            agrees(|x| { let mean = x[0].mean(dim)?; mean.mul(&mean) }, &x)?;
        }
    }

    #[test]
    fn picking_and_adding_up_by_index_match(ids in prop::collection::vec(0..4u32, 0..7), dim in 0..3usize, seed: u64) {
        let shape = |size: usize| { let mut shape = [2, 3, 2]; shape[dim] = size; shape };
        let inputs = [strided(&shape(4), 0, 1, seed), tensor(&shape(ids.len()), seed ^ 1)];
        let ids = indices(&ids, &[ids.len()]);
        agrees(|x| { let picked = x[0].index_select(dim, &ids)?; picked.mul(&picked) }, &inputs[..1])?;
        agrees(|x| { let sums = x[0].index_add(dim, &ids, &x[1])?; sums.mul(&sums) }, &inputs)?;
    }

    #[test]
    fn views_match(a in 0..4usize, b in 1..4usize, c in 2..5usize, start in 0..2usize, seed: u64) {
        let x = [strided(&[a, b, c], 1, 2, seed)];
        let square = |x: &Tensor| x.mul(x);
        agrees(|x| square(&x[0].reshape(&[b * c, a])?), &x)?;
        agrees(|x| square(&x[0].transpose(0, 2)?), &x)?;
        agrees(|x| square(&x[0].narrow(2, start, c - 2)?), &x)?;
        agrees(|x| square(&x[0].transpose(0, 1)?.contiguous()?), &x)?;
        agrees_all(|x| x[0].split(&[1, 0, c - 1], 2)?.iter().map(square).collect(), &x)?;
        // A part that nothing depends on gets zeros.
        agrees(|x| square(&x[0].split(&[1, c - 1], 2)?[1]), &x)?;
    }

    #[test]
    fn cat_matches(sizes in prop::collection::vec(0..3usize, 1..4), dim in 0..3usize, seed: u64) {
        let inputs: Vec<Tensor> = sizes.iter().enumerate().map(|(i, &size)| {
            let mut shape = [2, 3, 2];
            shape[dim] = size;
            strided(&shape, 0, 2, seed ^ i as u64)
        }).collect();
        agrees(|x| { let joined = Tensor::cat(&x.iter().collect::<Vec<_>>(), dim)?; joined.mul(&joined) }, &inputs)?;
    }

    #[test]
    fn matmul_matches(batch in 0..3usize, m in 0..4usize, k in 0..4usize, n in 0..4usize, seed: u64) {
        let rank = |batch: usize, rows: usize, cols: usize| [batch, rows, cols];
        agrees(|x| x[0].matmul(&x[1]), &[tensor(&[m, k], seed), strided(&[k, n], 0, 1, seed ^ 1)])?;
        agrees(|x| x[0].matmul(&x[1]), &[
            strided(&rank(batch, m, k), 1, 2, seed), strided(&rank(batch, k, n), 0, 2, seed ^ 1)])?;
        agrees(|x| x[0].matmul(&x[1]), &[tensor(&rank(batch, m, k), seed), tensor(&[k, n], seed ^ 1)])?;
        agrees(|x| x[0].matmul(&x[1]), &[tensor(&[batch, 1, m, k], seed), tensor(&[1, 2, k, n], seed ^ 1)])?;
    }

    #[test]
    fn linear_matches(rows in 0..4usize, k in 0..4usize, n in 0..4usize, seed: u64) {
        let (x, weight, bias) = (tensor(&[rows, 2, k], seed), strided(&[k, n], 0, 1, seed ^ 1), tensor(&[n], seed ^ 2));
        agrees(|x| ops::linear(&x[0], &x[1], Some(&x[2])), &[x.clone(), weight.clone(), bias])?;
        agrees(|x| ops::linear(&x[0].transpose(0, 1)?, &x[1], None), &[x, weight])?;
    }

    #[test]
    fn norms_match(
        rows in 0..4usize, width in 1..11usize, weight: bool, bias: bool,
        probability in prop::option::of(prop::sample::select(vec![0.0, 0.4])), seed: u64,
    ) {
        let of = |shape: &[usize], i| tensor(shape, seed ^ i);
        let inputs = [strided(&[rows, width], 0, 1, seed), of(&[rows, width], 1), of(&[width], 2), of(&[width], 3)];
        let dropout = probability.map(|probability| Dropout { probability, random: Random { seed, offset: 3 } });
        let options = NormOptions { dropout, ..NormOptions::new(1e-2) };
        let layer = |x: &[Tensor], residual: bool| {
            let (weight, bias) = (weight.then_some(&x[2]), bias.then_some(&x[3]));
            ops::layer_norm(&x[0], residual.then_some(&x[1]), weight, bias, &options)
        };
        let rms = |x: &[Tensor], residual: bool| {
            ops::rms_norm(&x[0], residual.then_some(&x[1]), weight.then_some(&x[2]), &options)
        };
        let both = |(y, r): (Tensor, Tensor)| vec![y, r];
        agrees_all(|x| Ok(both(layer(x, true)?)), &inputs)?;
        agrees_all(|x| Ok(both(rms(x, true)?)), &inputs)?;
        agrees_all(|x| Ok(both(rms(x, false)?)), &inputs)?;
        agrees(|x| Ok(layer(x, false)?.0), &inputs)?;
        agrees(|x| Ok(layer(x, true)?.1), &inputs)?;
    }

    #[test]
    fn gelu_matches(n in 0..20usize, seed: u64) {
        let x = [tensor(&[n], seed).scale(3.0).unwrap()];
        agrees(|x| x[0].gelu(Gelu::Tanh), &x)?;
        agrees(|x| x[0].gelu(Gelu::Erf), &x)?;
    }

    #[test]
    fn activations_match(rows in 0..4usize, width in 0..6usize, bias: bool, which in 0..4usize, seed: u64) {
        let function = [Activation::GeluTanh, Activation::GeluErf, Activation::Silu, Activation::ReluSquared][which];
        let (x, up) = (strided(&[rows, 2, width], 0, 1, seed), tensor(&[rows, 2, width], seed ^ 1));
        let (b, up_b) = (tensor(&[width], seed ^ 2), tensor(&[width], seed ^ 3));
        let (both, both_b) = (tensor(&[rows, 2 * width], seed ^ 4), tensor(&[2 * width], seed ^ 5));
        let inputs = [x, b, up, up_b];
        agrees(|x| ops::activation(&x[0], bias.then_some(&x[1]), function), &inputs)?;
        agrees(|x| {
            let biases = bias.then_some((&x[1], &x[3]));
            ops::gated(&x[0], &x[2], biases, function)
        }, &inputs)?;
        agrees(|x| ops::gated_halves(&x[0], bias.then_some(&x[1]), function), &[both, both_b])?;
    }

    #[test]
    fn embedding_matches(ids in prop::collection::vec(0..5u32, 0..8), width in 0..4usize, seed: u64) {
        let ids = indices(&ids, &[ids.len(), 1]);
        let inputs = [strided(&[5, width], 0, 1, seed), ids];
        agrees(|x| ops::embedding(&x[0], &x[1]), &inputs)?;
        // No id is the padding here, or the row that got no gradient would differ.
        agrees(|x| ops::embedding_with_padding(&x[0], &x[1], 7), &inputs)?;
    }

    #[test]
    fn rope_matches(
        tokens in 0..4usize, heads in 0..4usize, kv_heads in 0..3usize, spare in 0..3usize, interleaved: bool, seed: u64
    ) {
        let dim = 4 + spare;
        let rope = Rope { factor: 1.25, interleaved, ..Rope::new(4, 100.0, &Device::Cpu).unwrap() };
        let positions: Vec<u32> = (0..2 * tokens as u32).map(|i| i * i * 1000).collect();
        let positions = indices(&positions, &[2, tokens]);
        let (q, k) = (strided(&[2, tokens, heads, dim], 1, 2, seed), tensor(&[2, tokens, kv_heads, dim], seed ^ 1));
        agrees_all(|x| {
            let (q, k) = ops::rope(&x[0], &x[1], &positions, &rope)?;
            Ok(vec![q, k])
        }, &[q, k])?;
    }

    #[test]
    fn softmax_and_log_sum_exp_match(a in 0..3usize, b in 0..3usize, width in 0..6usize, seed: u64) {
        let x = [strided(&[a, b, width], 0, 1, seed)];
        agrees(|x| ops::softmax(&x[0]), &x)?;
        agrees(|x| ops::log_sum_exp(&x[0]), &x)?;
        agrees(|x| ops::log_softmax(&x[0]), &x)?;
        agrees_all(|x| Ok(vec![ops::softmax(&x[0])?, ops::log_sum_exp(&x[0])?]), &x)?;
    }

    #[test]
    fn cross_entropy_matches(
        targets in prop::collection::vec(0..6u32, 0..6),
        label_smoothing in prop::sample::select(vec![0.0, 0.25, 1.0]),
        z_loss in prop::sample::select(vec![0.0, 0.125]), softcap in prop::option::of(0.5..3.0f32), seed: u64,
    ) {
        // 5 stands for a row that does not count.
        let targets: Vec<u32> = targets.iter().map(|&t| if t == 5 { IGNORE_INDEX } else { t }).collect();
        let options = LossOptions { label_smoothing, z_loss, softcap };
        let rows = targets.len();
        let targets = indices(&targets, &[rows]);
        let logits = strided(&[rows, 5], 0, 1, seed);
        agrees(|x| ops::cross_entropy(&x[0], &x[1], &options), &[logits, targets.clone()])?;
        let logits = strided(&[rows, 5], 0, 1, seed);
        agrees(|x| ops::cross_entropy_per_row(&x[0], &x[1], &options), &[logits, targets.clone()])?;
        // Scaled, so that the gradient of the mean is not 1.
        let (hidden, weight) = (strided(&[rows, 3], 0, 1, seed), strided(&[5, 3], 0, 1, seed ^ 1));
        agrees(
            |x| ops::linear_cross_entropy(&x[0], &x[1], &x[2], &options)?.scale(-1.5),
            &[hidden, weight, targets],
        )?;
    }

    /// Several chunks of rows, the last of them short.
    #[test]
    fn a_chunked_loss_is_that_of_all_logits(rows in 250..700usize, frozen in 0..3usize, seed: u64) {
        let targets: Vec<u32> = (0..rows as u32).map(|i| if i % 7 == 0 { IGNORE_INDEX } else { i % 11 }).collect();
        let targets = indices(&targets, &[rows]);
        let options = LossOptions { label_smoothing: 0.1, ..LossOptions::default() };
        let leaf = |tensor: Tensor, i| if frozen == i { tensor } else { tensor.requires_grad() };
        let (hidden, weight) = (leaf(tensor(&[rows, 6], seed), 1), leaf(tensor(&[11, 6], seed ^ 1), 2));
        let logits = ops::linear(&hidden, &weight.transpose(0, 1).unwrap(), None).unwrap();
        let losses = [
            ops::cross_entropy(&logits, &targets, &options).unwrap(),
            ops::linear_cross_entropy(&hidden, &weight, &targets, &options).unwrap(),
        ];
        prop_assert!((losses[0].item().unwrap() - losses[1].item().unwrap()).abs() < 1e-13);
        let [whole, chunked] = losses.map(|loss| loss.backward().unwrap());
        for leaf in [&hidden, &weight] {
            let of = |gradients: &Gradients| gradients.get(leaf).map(|gradient| gradient.to_vec::<f64>().unwrap());
            match (of(&whole), of(&chunked)) {
                (Some(a), Some(b)) => prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-13)),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }

    #[test]
    fn attention_merge_matches(tokens in 0..4usize, heads in 1..3usize, parts in 2..5usize, seed: u64) {
        let outs = (0..parts as u64).map(|i| strided(&[2, tokens, heads, 3], 1, 2, seed ^ i));
        let lses = (0..parts as u64).map(|i| strided(&[2, heads, tokens], 0, 2, seed ^ (i + 9)));
        let inputs: Vec<Tensor> = outs.chain(lses).collect();
        agrees_all(|x| {
            let (outs, lses) = x.split_at(parts);
            let (out, lse) = ops::attention_merge(&outs.iter().cloned().zip(lses.iter().cloned()).collect::<Vec<_>>())?;
            Ok(vec![out, lse])
        }, &inputs)?;
        // Without the LSE, and where a part has no key, whatever its out is.
        let blind = Tensor::full(&[2, heads, tokens], f64::NEG_INFINITY, Dtype::F64, &Device::Cpu).unwrap();
        let nothing = Tensor::full(&[2, tokens, heads, 3], f64::NAN, Dtype::F64, &Device::Cpu).unwrap();
        agrees(|x| {
            let (outs, lses) = x.split_at(parts);
            let mut all: Vec<_> = outs.iter().cloned().zip(lses.iter().cloned()).collect();
            all.push((nothing.clone(), blind.clone()));
            Ok(ops::attention_merge(&all)?.0)
        }, &inputs)?;
    }

    #[test]
    fn attention_matches(
        t in 0..5usize, s in 0..5usize, group in 1..3usize, kv_heads in 1..3usize, causal: bool, seed: u64,
    ) {
        let q = strided(&[2, t, group * kv_heads, 3], 1, 2, seed);
        let (k, v) = (tensor(&[2, s, kv_heads, 3], seed ^ 1), strided(&[2, s, kv_heads, 3], 2, 3, seed ^ 2));
        let options = AttentionOptions { causal, scale: causal.then_some(0.7), ..Default::default() };
        agrees(|x| ops::attention(&x[0], &x[1], &x[2], &options), &[q, k, v])?;
    }
}

#[test]
fn the_row_of_padding_gets_no_gradient() {
    let table = tensor(&[4, 2], 1).requires_grad();
    let rows = ops::embedding_with_padding(&table, &indices(&[3, 1, 3, 0], &[4]), 3).unwrap();
    assert_eq!(
        rows.narrow(0, 0, 1).unwrap().to_vec::<f64>().unwrap(),
        table.narrow(0, 3, 1).unwrap().to_vec::<f64>().unwrap()
    );
    let gradients = rows.sum_all().unwrap().backward().unwrap();
    let expected = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(gradients.get(&table).unwrap().to_vec::<f64>().unwrap(), expected);
}

#[test]
fn the_gradient_of_a_conversion_is_converted_back() {
    let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::Cpu).unwrap().requires_grad();
    let y = x.to_dtype(Dtype::Bf16).unwrap().scale(3.0).unwrap().to_dtype(Dtype::F64).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [3.0, 3.0]);
}
