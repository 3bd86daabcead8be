use longhand_models::Error;
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_models::sampling::Sampling;
use longhand_tensor::ops::IGNORE_INDEX;
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, Tensor};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::tiny;

fn ids(values: &[u32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn standard_deviation(values: &[f32]) -> f64 {
    (values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn a_new_model_starts_as_in_transformers() {
    let config = Gpt2Config {
        vocab_size: 300,
        n_positions: 100,
        n_embd: 64,
        n_layer: 8,
        n_head: 4,
        initializer_range: 0.05,
        ..Gpt2Config::default()
    };
    let model = Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(5)).unwrap();
    assert_eq!(model.parameters().len(), 2 + 8 * 12 + 2);
    for parameter in model.parameters() {
        let values: Vec<f32> = parameter.tensor.to_vec().unwrap();
        let name = &parameter.name;
        let expected = match name.rsplit_once('.').unwrap() {
            (_, "bias") => 0.0,
            (layer, _) if layer.contains("ln_") => 1.0,
            (layer, _) if layer.ends_with("c_proj") => 0.05 / 4.0, // √(2 · 8 layers) = 4
            _ => 0.05,
        };
        let spread = standard_deviation(&values);
        // 4,096 draws or more: their deviation is known to about 1 %.
        assert!((spread - expected).abs() <= 0.06 * expected, "{name}: {spread}, expected {expected}");
        assert_eq!(parameter.decay, expected != 0.0 && expected != 1.0, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn logits_do_not_depend_on_later_tokens(tokens in prop::collection::vec(0..61u32, 2..=24), seen in 1..24usize) {
        let seen = seen.min(tokens.len() - 1);
        let model = tiny();
        let all = model.forward(&ids(&tokens, &[1, tokens.len()])).unwrap().narrow(1, 0, seen).unwrap();
        let first = model.forward(&ids(&tokens[..seen], &[1, seen])).unwrap();
        crate::assert_close(&all.to_vec().unwrap(), &first.to_vec().unwrap(), 1e-4);
    }
}

#[test]
fn steps_of_an_optimiser_reach_the_model_and_lower_its_loss() {
    let model = tiny();
    let (inputs, targets) = (ids(&[5, 6, 7, 8], &[1, 4]), ids(&[6, 7, 8, 9], &[1, 4]));
    let named = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
    let mut optimiser = AdamW::new(named, AdamWOptions::default()).unwrap();
    let mut losses = Vec::new();
    for _ in 0..5 {
        let loss = model.loss(&inputs, &targets).unwrap();
        losses.push(loss.item().unwrap());
        optimiser.step(&loss.backward().unwrap(), 1e-3).unwrap();
    }
    assert!(losses.is_sorted_by(|before, after| after < before), "{losses:?}");
}

#[test]
fn gradient_checkpointing_gives_the_same_loss_and_gradients_bit_for_bit() {
    let mut model = tiny();
    let (inputs, targets) = (ids(&[5, 6, 7, 8, 9, 1], &[2, 3]), ids(&[6, 7, 8, 1, 2, 3], &[2, 3]));
    let mut run = |again: bool| {
        model.set_gradient_checkpointing(again);
        let loss = model.loss(&inputs, &targets).unwrap();
        let gradients = loss.backward().unwrap();
        let bits = |tensor: &Tensor| tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
        let all: Vec<Vec<u32>> =
            model.parameters().iter().map(|p| bits(gradients.get(&p.tensor).unwrap())).collect();
        (loss.item().unwrap(), all)
    };
    let kept = run(false);
    assert!(run(true) == kept);
}

/// A chunk of one token, chunks that do not divide the six, and one that holds them all.
#[test]
fn a_feed_forward_network_in_chunks_gives_the_same_loss_and_gradients() {
    let config = tiny().config().clone();
    let mut model = Gpt2::new(config, &Device::Cpu, Dtype::F64, &mut StdRng::seed_from_u64(3)).unwrap();
    let (inputs, targets) = (ids(&[5, 6, 7, 8, 9, 1], &[2, 3]), ids(&[6, 7, 8, 1, 2, 3], &[2, 3]));
    let mut run = |chunk: Option<usize>, checkpointing: bool| {
        model.set_mlp_chunk(chunk);
        model.set_gradient_checkpointing(checkpointing);
        let loss = model.loss(&inputs, &targets).unwrap();
        let gradients = loss.backward().unwrap();
        let of = |tensor: &Tensor| gradients.get(tensor).unwrap().to_vec::<f64>().unwrap();
        let mut all: Vec<f64> = model.parameters().iter().flat_map(|p| of(&p.tensor)).collect();
        all.push(loss.item().unwrap());
        all
    };
    let whole = run(None, false);
    for (chunk, checkpointing) in [(1, false), (4, false), (6, true), (5, true)] {
        let chunked = run(Some(chunk), checkpointing);
        let worst = whole.iter().zip(&chunked).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-14, "off by {worst} in chunks of {chunk}");
    }
    model.set_mlp_chunk(Some(0));
    let error = model.forward(&inputs).unwrap_err().to_string();
    assert!(error.contains("checkpoint_chunks: size is 0, expected at least 1"), "{error}");
    // No tokens are one chunk of none.
    model.set_mlp_chunk(Some(4));
    assert_eq!(model.forward(&ids(&[], &[2, 0])).unwrap().shape(), [2, 0, 61]);
}

#[test]
fn a_model_moves_and_is_converted_as_a_whole() {
    let model = tiny();
    let gpu = Device::emulated("sm_80".parse().unwrap(), Default::default()).unwrap();
    let moved = model.to_device(&gpu).unwrap();
    let back = moved.to_device(&Device::Cpu).unwrap();
    let narrow = back.to_dtype(Dtype::Bf16).unwrap();
    for (i, was) in model.parameters().iter().enumerate() {
        let [moved, back, narrow] = [&moved, &back, &narrow].map(|model| &model.parameters()[i]);
        assert_eq!((moved.tensor.device(), &back.name, back.decay), (&gpu, &was.name, was.decay));
        let values = |tensor: &Tensor| tensor.to_vec::<f32>().unwrap();
        assert_eq!(values(&back.tensor), values(&was.tensor), "{}", was.name);
        assert!(back.tensor.needs_gradient() && back.tensor.id() != was.tensor.id());
        assert_eq!(narrow.tensor.dtype(), Dtype::Bf16);
    }
    assert_eq!(back.forward(&ids(&[1, 2], &[1, 2])).unwrap().shape(), [1, 2, 61]);
}

#[test]
fn no_tokens_give_no_logits() {
    let logits = tiny().forward(&ids(&[], &[2, 0])).unwrap();
    assert_eq!(logits.shape(), [2, 0, 61]);
}

#[test]
fn a_context_longer_than_n_positions_is_an_error_naming_both() {
    let model = tiny();
    let long = ids(&[1; 25], &[1, 25]);
    let message = model.forward(&long).unwrap_err().to_string();
    assert!(message.contains("25 tokens") && message.contains("n_positions of 24"), "{message}");
    let error = model.generate(&[1; 25], Sampling::GREEDY, StdRng::seed_from_u64(0)).err();
    assert!(matches!(error, Some(Error::ContextTooLong { tokens: 25, n_positions: 24 })));
}

#[test]
fn ids_and_targets_that_do_not_fit_are_errors() {
    let model = tiny();
    let message = |result: longhand_models::Result<Tensor>| result.unwrap_err().to_string();
    assert!(message(model.forward(&ids(&[1, 2], &[2]))).contains("ids is of shape [2], expected (B, T)"));
    assert!(message(model.forward(&ids(&[61], &[1, 1]))).contains("61"));
    let targets = message(model.loss(&ids(&[1, 2], &[1, 2]), &ids(&[1, 2], &[2, 1])));
    assert!(targets.contains("targets is of shape [2, 1]"), "{targets}");
    let outside = model.loss(&ids(&[1, 2], &[1, 2]), &ids(&[1, 61], &[1, 2]));
    assert!(message(outside).contains("61"));
}

#[test]
fn ignored_targets_do_not_count() {
    let model = tiny();
    let loss = |ids: &Tensor, targets: &Tensor| model.loss(ids, targets).unwrap().item().unwrap();
    let short = loss(&ids(&[3, 4], &[1, 2]), &ids(&[4, 5], &[1, 2]));
    let long = loss(&ids(&[3, 4, 5], &[1, 3]), &ids(&[4, 5, IGNORE_INDEX], &[1, 3]));
    assert!((short - long).abs() < 1e-6, "{short} {long}");
}

#[test]
fn generation_ends_where_the_context_does() {
    let mut config = tiny().config().clone();
    config.eos_token_id.clear();
    let model = Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(2)).unwrap();
    let sampling = Sampling { temperature: 1.0, top_k: None, top_p: 1.0 };
    for prompt in [1, 23, 24] {
        let rng = StdRng::seed_from_u64(1);
        let generated = model.generate(&vec![7; prompt], sampling, rng).unwrap();
        assert_eq!(generated.map(Result::unwrap).count(), 24 - prompt);
    }
}

#[test]
fn generation_ends_before_an_end_of_text_token() {
    let tokens = |eos: Vec<u32>| {
        let mut config = tiny().config().clone();
        config.eos_token_id = eos;
        let model = Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(2)).unwrap();
        let sampling = Sampling { temperature: 1.0, top_k: None, top_p: 1.0 };
        let generated = model.generate(&[7], sampling, StdRng::seed_from_u64(1)).unwrap();
        generated.collect::<Result<Vec<u32>, _>>().unwrap()
    };
    let endless = tokens(vec![]);
    let eos = endless[4];
    let before = endless.iter().position(|token| *token == eos).unwrap();
    assert_eq!(tokens(vec![1000, eos]), endless[..before]);
}

#[test]
fn an_empty_prompt_is_an_error() {
    let model = tiny();
    let error = model.generate(&[], Sampling::GREEDY, StdRng::seed_from_u64(0)).unwrap_err();
    assert!(error.to_string().contains("prompt is empty"));
}
