//! Whatever is written in a folder, loading it gives a model that computes, or an error: never a panic.

use std::fs;
use std::path::Path;

use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::{Device, Dtype, Tensor};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{tiny_copy, tiny_folder};

const FIELDS: [&str; 18] = [
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "layer_norm_epsilon",
    "initializer_range",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "model_type",
    "architectures",
    "add_cross_attention",
    "something_else",
];

fn value() -> impl Strategy<Value = Value> {
    let values = [
        json!(null),
        json!(0),
        json!(1),
        json!(2),
        json!(7),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(u64::MAX),
        json!(1u64 << 40),
        json!(16_777_216),
        json!("gelu"),
        json!(""),
        json!([]),
        json!([0, -1]),
        json!({}),
        json!(true),
        json!(false),
    ];
    prop::sample::select(values.to_vec())
}

/// A model of the folder computes, if there is one.
fn load(folder: &Path) -> Result<(), String> {
    let model = Gpt2::from_pretrained(folder, &Device::Cpu, Dtype::F32).map_err(|error| error.to_string())?;
    let ids = Tensor::from_slice(&[0u32], &[1, 1], &Device::Cpu).unwrap();
    model.loss(&ids, &ids).and_then(|loss| Ok(loss.backward()?)).map_err(|error| error.to_string())?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_config_makes_loading_panic(changes in prop::collection::vec((prop::sample::select(FIELDS.to_vec()), value()), 1..3)) {
        let folder = tiny_copy();
        let path = folder.path().join("config.json");
        let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config.extend(changes.iter().map(|(field, value)| ((*field).to_owned(), value.clone())));
        if let Err(error) = Gpt2Config::from_json(config.clone()) {
            let error = error.to_string();
            // Another size than that which was changed may be what no longer fits.
            prop_assert!(FIELDS.iter().any(|field| error.contains(field)), "{error}");
        }
        fs::write(&path, Value::Object(config).to_string()).unwrap();
        if let Err(error) = load(folder.path()) {
            prop_assert!(!error.is_empty());
        }
    }

    #[test]
    fn no_bytes_of_weights_make_loading_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let folder = tiny_copy();
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(tiny_folder().join("model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (place, byte, in_length) in changes {
            // A digit in the place of another makes another shape or offset.
            let at = if in_length { place.index(8) } else { 8 + place.index(header - 8) };
            bytes[at] = if !in_length && bytes[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, bytes).unwrap();
        if let Err(error) = load(folder.path()) {
            prop_assert!(error.contains("safetensors") || error.contains("tensor"), "{error}");
        }
    }
}
