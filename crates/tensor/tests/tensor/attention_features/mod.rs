//! Masks, scores, sinks and dropout of attention, in every combination, against the formula and finite differences.

mod case;
mod formula;

use longhand_tensor::ops::{AttentionOptions, BlockKind, BlockMask, Blocks, Documents};
use longhand_tensor::{Device, Dropout, Dtype, Result, Tensor, check_gradient, ops};
use proptest::prelude::*;

use crate::gpu::gpus;
use crate::{doubles, indices, tensor};
use case::{Case, Choice, PLAIN, RANDOM, cases};

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() }).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Over several blocks of queries and keys.
    #[test]
    fn every_combination_of_features_gives_what_the_formula_gives(case in cases(220)) {
        let inputs = case.inputs();
        let found = case.run(&inputs).unwrap();
        let (out, lse) = case.plain(&inputs);
        prop_assert!(largest_difference(&doubles(&found[0]), &out) < 1e-11);
        prop_assert!(largest_difference(&doubles(&found[1]), &lse) < 1e-11);
    }

    #[test]
    fn every_combination_of_features_has_the_gradients_of_finite_differences(case in cases(5)) {
        let inputs = case.inputs();
        case.agrees(&inputs, |inputs| Ok(inputs.to_vec()))?;
    }

    /// Over several blocks: along one direction, since there are many elements.
    #[test]
    fn gradients_over_several_blocks_are_those_of_finite_differences(case in cases(220)) {
        let inputs = case.inputs();
        let step = Tensor::from_slice(&[0.0], &[1], &Device::Cpu).unwrap();
        case.agrees(&[step], |step| {
            let moved = |(i, input): (usize, &Tensor)| {
                input.add(&tensor(input.shape(), case.seed ^ (20 + i as u64)).mul(&step[0])?)
            };
            inputs.iter().enumerate().map(moved).collect()
        })?;
    }
}

impl Case {
    /// The gradients by `variables`, of which the inputs are made, agree with finite differences.
    fn agrees(
        &self,
        variables: &[Tensor],
        inputs: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> std::result::Result<(), TestCaseError> {
        let error = |error: longhand_tensor::Error| TestCaseError::fail(error.to_string());
        let lse = doubles(&self.run(&inputs(variables).map_err(error)?).map_err(error)?[1]);
        let function = |variables: &[Tensor]| {
            let mut outputs = self.run(&inputs(variables)?)?;
            // Where it is that of no key, the log-sum-exp has no gradient to check.
            if !lse.iter().all(|lse| lse.is_finite()) {
                outputs.pop();
            }
            Ok(outputs)
        };
        if let Some(worst) = check_gradient(function, variables).map_err(error)? {
            prop_assert!(worst.error < 5e-6, "{worst}");
        }
        Ok(())
    }
}

#[test]
fn features_on_a_gpu_are_those_on_the_cpu() {
    let packed =
        Case { batch: 1, queries: 90, keys: 107, documents: vec![[70, 37], [0, 40], [20, 30]], ..PLAIN };
    let cases = [
        Case { left: Some(20), right: Some(9), ..PLAIN },
        Case { causal: true, mask: true, blocks: Some(Choice::Found), ..PLAIN },
        Case { mask: true, blocks: Some(Choice::Chosen), ..PLAIN },
        Case { causal: true, prefix: Some(80), ..PLAIN },
        Case { causal: true, left: Some(12), ..packed.clone() },
        Case { right: Some(3), prefix: Some(5), ..packed.clone() },
        Case {
            softcap: true,
            alibi: true,
            sinks: true,
            causal: true,
            bias: Some([true, false, false, false]),
            ..PLAIN
        },
        Case { bias: Some([false, true, false, true]), ..packed.clone() },
        Case { mask: true, score: true, softcap: true, dropout: true, sinks: true, ..packed },
    ];
    for device in gpus() {
        for case in &cases {
            // A bias and sinks may be of another type than what is attended to.
            let dtype = |i| if i < 3 { Dtype::Bf16 } else { Dtype::F32 };
            let inputs = case.inputs();
            let inputs: Vec<Tensor> =
                inputs.iter().enumerate().map(|(i, input)| input.to_dtype(dtype(i)).unwrap()).collect();
            let run = |device: &Device| -> Result<Vec<Vec<f64>>> {
                let leaves: Vec<Tensor> = inputs
                    .iter()
                    .map(|input| Ok(input.to_device(device)?.requires_grad()))
                    .collect::<Result<_>>()?;
                let outputs = case.run(&leaves)?;
                let weighed = |output: &Tensor, seed| {
                    let weights = tensor(output.shape(), seed).to_dtype(output.dtype())?.to_device(device)?;
                    output.mul(&weights)?.sum_all()?.to_dtype(Dtype::F32)
                };
                let loss = weighed(&outputs[0], 77)?.add(&weighed(&outputs[1], 78)?)?;
                let gradients = loss.backward()?;
                let gradients = leaves.iter().filter_map(|leaf| gradients.get(leaf));
                Ok(outputs.iter().chain(gradients).map(doubles).collect())
            };
            let (found, expected) = (run(&device).unwrap(), run(&Device::Cpu).unwrap());
            assert_eq!(found.len(), 2 + inputs.len());
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let largest =
                    expected.iter().filter(|x| x.is_finite()).fold(1.0, |max: f64, x| max.max(x.abs()));
                let error = largest_difference(found, expected) / largest;
                assert!(error < 0.02, "{device}, {case:?}: tensor {i} is off by {error}");
            }
        }
    }
}

#[test]
fn a_block_mask_is_for_its_masks_and_sizes() {
    let x = tensor(&[1, 130, 2, 2], 1);
    let causal = AttentionOptions { causal: true, ..Default::default() };
    let sizes = [1, 2, 130, 130];
    let find = |options, sizes| BlockMask::find(options, sizes, Blocks::default(), &Device::Cpu).unwrap();
    let message = |blocks: BlockMask| {
        let options = AttentionOptions { blocks: Some(blocks), ..causal.clone() };
        ops::attention(&x, &x, &x, &options).map_or_else(|error| error.to_string(), |_| "fine".to_string())
    };
    assert_eq!(message(find(&causal, sizes)), "fine");
    assert!(
        message(find(&causal, [1, 2, 130, 129]))
            .starts_with("attention: blocks is a block mask for [1, 2, 130, 129]")
    );
    assert!(message(find(&Default::default(), sizes)).contains("a block mask for other masks"));
    let kinds = [BlockKind::Full; 3];
    let error = BlockMask::choose(&causal, sizes, Blocks::default(), &kinds, &Device::Cpu).unwrap_err();
    assert_eq!(error.to_string(), "attention: kinds of blocks is 3 of them, expected 4: [1, 1, 2, 2]");

    let kinds = [BlockKind::Full, BlockKind::Empty, BlockKind::Empty, BlockKind::Full];
    let chosen = BlockMask::choose(&causal, sizes, Blocks::default(), &kinds, &Device::Cpu).unwrap();
    let options = AttentionOptions { blocks: Some(chosen), ..causal.clone() };
    let last = doubles(&ops::attention(&x, &x, &x, &options).unwrap())[129 * 4..].to_vec();
    let window = AttentionOptions { causal: true, window_left: Some(1), ..Default::default() };
    let expected = doubles(&ops::attention(&x, &x, &x, &window).unwrap())[129 * 4..].to_vec();
    assert!(largest_difference(&last, &expected) < 1e-12);
}

/// What ring attention and cascades do, with all gradients through the log-sum-exp of each half.
#[test]
fn halves_of_the_keys_merge_to_attention_over_all_of_them_forward_and_backward() {
    let inputs = [tensor(&[1, 40, 2, 64], 1), tensor(&[1, 100, 1, 64], 2), tensor(&[1, 100, 1, 64], 3)];
    let options = AttentionOptions::default();
    let run = |device: &Device, dtype: Dtype, halved: bool| -> Result<Vec<Vec<f64>>> {
        let leaves =
            inputs.each_ref().map(|x| x.to_dtype(dtype).unwrap().to_device(device).unwrap().requires_grad());
        let [q, k, v] = &leaves;
        let (out, lse) = if halved {
            let half = |start, len| {
                ops::attention_with_lse(q, &k.narrow(1, start, len)?, &v.narrow(1, start, len)?, &options)
            };
            ops::attention_merge(&[half(0, 37)?, half(37, 63)?])?
        } else {
            ops::attention_with_lse(q, k, v, &options)?
        };
        let weighed =
            |x: &Tensor, seed| x.mul(&tensor(x.shape(), seed).to_dtype(dtype)?.to_device(device)?)?.sum_all();
        let gradients = weighed(&out, 4)?.add(&weighed(&lse, 5)?)?.backward()?;
        let gradients = leaves.iter().filter_map(|leaf| gradients.get(leaf));
        Ok([&out, &lse].into_iter().chain(gradients).map(doubles).collect())
    };
    let expected = run(&Device::Cpu, Dtype::F64, false).unwrap();
    assert_eq!(expected.len(), 5);
    let on_gpus = gpus().into_iter().map(|device| (device, Dtype::F32, 1e-5));
    for (device, dtype, tolerance) in [(Device::Cpu, Dtype::F64, 1e-12)].into_iter().chain(on_gpus) {
        for (found, expected) in run(&device, dtype, true).unwrap().iter().zip(&expected) {
            let error = largest_difference(found, expected);
            assert!(error < tolerance, "off by {error} on {device}");
        }
    }
}

/// With a bias of minus infinity, as masks are often made.
#[test]
fn a_bias_of_minus_infinity_hides_keys_and_whole_rows() {
    let x = tensor(&[1, 3, 1, 2], 1);
    let hidden = f64::NEG_INFINITY;
    let bias = [0.0, hidden, hidden, 0.0, 0.0, hidden, hidden, hidden, hidden];
    let bias = Tensor::from_slice(&bias, &[3, 3], &Device::Cpu).unwrap();
    let leaves = [x.requires_grad(), bias.requires_grad()];
    let options = AttentionOptions { bias: Some(leaves[1].clone()), ..Default::default() };
    let out = ops::attention(&leaves[0], &leaves[0], &leaves[0], &options).unwrap();
    let causal = AttentionOptions { causal: true, ..Default::default() };
    let expected = doubles(&ops::attention(&x, &x, &x, &causal).unwrap());
    assert_eq!(doubles(&out)[..4], expected[..4]);
    assert_eq!(doubles(&out)[4..], [0.0; 2]);
    let gradients = out.sum_all().unwrap().backward().unwrap();
    for leaf in &leaves {
        assert!(doubles(gradients.get(leaf).unwrap()).iter().all(|gradient| gradient.is_finite()));
    }
}

#[test]
fn options_that_do_not_fit_are_named() {
    let x = tensor(&[2, 3, 4, 2], 1);
    let message = |options: AttentionOptions| ops::attention(&x, &x, &x, &options).unwrap_err().to_string();
    let new = AttentionOptions::default;
    let documents = |lengths: &[usize]| Some(Documents::new(lengths, &Device::Cpu).unwrap());
    let dropout = |probability| Some(Dropout { probability, random: RANDOM });
    let found = [
        (
            message(AttentionOptions { alibi: Some(tensor(&[3], 1)), ..new() }),
            "attention: alibi is of shape [3], expected of shape [4], one for each head of q",
        ),
        (
            message(AttentionOptions { sinks: Some(tensor(&[4, 1], 1)), ..new() }),
            "attention: sinks is of shape [4, 1], expected of shape [4], one for each head of q",
        ),
        (
            message(AttentionOptions { bias: Some(tensor(&[4, 2, 3], 1)), ..new() }),
            "attention: shapes [4, 2, 3] and [2, 4, 3, 3] do not fit: the bias must broadcast to (B, H, T, S)",
        ),
        (
            message(AttentionOptions { bias: Some(indices(&[1], &[1])), ..new() }),
            "attention: elements are u32, expected a floating-point type",
        ),
        (
            message(AttentionOptions { documents: documents(&[1, 2]), ..new() }),
            "attention: documents is given with a batch of 2, expected given with one batch",
        ),
        (
            message(AttentionOptions { causal: true, prefix: Some(indices(&[1], &[1])), ..new() }),
            "attention: prefix is of shape [1], expected of shape [2], one for each batch or document",
        ),
        (
            message(AttentionOptions { prefix: Some(indices(&[1, 1], &[2])), ..new() }),
            "attention: prefix is given with neither, expected given with `causal` or `window_right`",
        ),
        (
            message(AttentionOptions { causal: true, prefix: Some(tensor(&[2], 1)), ..new() }),
            "attention: elements are f64, expected u32 for the prefix",
        ),
        (
            message(AttentionOptions { softcap: Some(0.0), ..new() }),
            "attention: softcap is 0, expected positive and finite",
        ),
        (
            message(AttentionOptions { scale: Some(f64::NAN), ..new() }),
            "attention: scale is NaN, expected positive and finite",
        ),
        (
            message(AttentionOptions { dropout: dropout(1.0), ..new() }),
            "attention: dropout probability is 1, expected 0 to less than 1",
        ),
    ];
    for (found, expected) in found {
        assert!(found.starts_with(expected), "{found:?} does not start with {expected:?}");
    }
    let one = tensor(&[1, 3, 4, 2], 1);
    let options = AttentionOptions { documents: documents(&[1, 1]), ..new() };
    assert_eq!(
        ops::attention(&one, &one, &one, &options).unwrap_err().to_string(),
        "attention: number of queries in documents is 2, expected as many as the tensors have, 3"
    );
    let error = Documents::with_keys(&[1], &[1, 2], &Device::Cpu).unwrap_err().to_string();
    assert_eq!(
        error,
        "attention: documents is lengths of 1 in queries and of 2 in keys, expected as many of each"
    );
}
