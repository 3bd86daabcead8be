use std::collections::BTreeMap;

use longhand_models::gpt2::{Activation, Gpt2, Gpt2Config};
use longhand_models::sampling::Sampling;
use longhand_tensor::{Device, Dtype, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::{Expected, assert_close, tiny, tiny_folder};

#[test]
fn logits_are_those_of_transformers() {
    let expected = Expected::load();
    let logits = tiny().forward(&expected.ids("ids")).unwrap();
    assert_eq!(logits.shape(), expected.shape("logits"));
    assert_close(&logits.to_vec().unwrap(), &expected.floats("logits"), 1e-4);
}

#[test]
fn other_types_stay_as_close_as_their_precision_allows() {
    let expected = Expected::load();
    // The logits are below 5 in magnitude, where bf16 steps by 1/32 and f16 by 1/256.
    for (dtype, tolerance) in [(Dtype::F64, 1e-4), (Dtype::F16, 4.0 / 256.0), (Dtype::Bf16, 4.0 / 32.0)] {
        let model = Gpt2::from_pretrained(&tiny_folder(), &Device::Cpu, dtype).unwrap();
        let logits = model.forward(&expected.ids("ids")).unwrap();
        assert_eq!(logits.dtype(), dtype);
        let logits: Vec<f32> = logits.to_dtype(Dtype::F32).unwrap().to_vec().unwrap();
        assert_close(&logits, &expected.floats("logits"), tolerance);
    }
}

#[test]
fn loss_and_gradients_are_those_of_transformers() {
    let expected = Expected::load();
    let model = tiny();
    let loss = model.loss(&expected.ids("ids"), &expected.ids("targets")).unwrap();
    assert_close(&loss.to_vec().unwrap(), &expected.floats("loss"), 1e-5);

    let gradients = loss.backward().unwrap();
    let mut compared = 0;
    for parameter in model.parameters() {
        let gradient = gradients.get(&parameter.tensor).expect("a gradient for every parameter");
        let name = format!("gradient.{}", parameter.name);
        if expected.has(&name) {
            assert_eq!(gradient.shape(), expected.shape(&name), "{name}");
            assert_close(&gradient.to_vec().unwrap(), &expected.floats(&name), 1e-5);
            compared += 1;
        }
    }
    assert_eq!(compared, 10);
}

#[test]
fn greedy_generation_is_that_of_transformers() {
    let expected = Expected::load();
    let tokens: Vec<u32> = expected.ids("greedy").to_vec().unwrap();
    let (prompt, continuation) = tokens.split_at(3);
    let model = tiny();
    let rng = StdRng::seed_from_u64(0);
    let generated = model.generate(prompt, Sampling::GREEDY, rng).unwrap().take(continuation.len());
    assert_eq!(generated.collect::<Result<Vec<_>, _>>().unwrap(), continuation);
}

#[test]
fn each_config_field_changes_the_logits_as_in_transformers() {
    type Change = fn(&mut Gpt2Config);
    let changes: [(&str, Change); 5] = [
        ("gelu", |config| config.activation_function = Activation::Gelu),
        ("unscaled", |config| config.scale_attn_weights = false),
        ("inverse_layer", |config| config.scale_attn_by_inverse_layer_idx = true),
        ("epsilon", |config| config.layer_norm_epsilon = 0.1),
        ("upcast", |config| {
            config.other.insert("reorder_and_upcast_attn".into(), true.into());
        }),
    ];
    let expected = Expected::load();
    let model = tiny();
    for (name, change) in changes {
        let mut config = model.config().clone();
        change(&mut config);
        let variant = Gpt2::from_tensors(config, tensors(&model)).unwrap();
        let logits = variant.forward(&expected.ids("ids")).unwrap();
        assert_close(&logits.to_vec().unwrap(), &expected.floats(&format!("logits.{name}")), 1e-4);
    }
}

#[test]
fn an_untied_head_gives_the_logits_of_transformers() {
    let expected = Expected::load();
    let model = tiny();
    let config = Gpt2Config { tie_word_embeddings: false, ..model.config().clone() };
    let head =
        Tensor::from_vec(expected.floats("lm_head"), &expected.shape("lm_head"), &Device::Cpu).unwrap();
    let mut tensors = tensors(&model);
    tensors.insert("lm_head.weight".into(), head);
    let untied = Gpt2::from_tensors(config, tensors).unwrap();

    let logits = untied.forward(&expected.ids("ids")).unwrap();
    assert_close(&logits.to_vec().unwrap(), &expected.floats("logits.untied"), 1e-4);
    assert_eq!(untied.parameters().last().unwrap().name, "lm_head.weight");
}

fn tensors(model: &Gpt2) -> BTreeMap<String, Tensor> {
    let short = |name: &str| name.strip_prefix("transformer.").unwrap().to_owned();
    model.parameters().iter().map(|p| (short(&p.name), p.tensor.detach())).collect()
}
