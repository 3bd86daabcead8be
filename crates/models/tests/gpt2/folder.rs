use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use longhand_models::Error;
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::{Device, Dtype};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::{tiny, tiny_copy, tiny_folder};

fn load(folder: &Path) -> Result<Gpt2, Error> {
    Gpt2::from_pretrained(folder, &Device::Cpu, Dtype::F32)
}

fn error(folder: &Path) -> Error {
    load(folder).unwrap_err()
}

/// Values of every parameter, by name.
fn values(model: &Gpt2) -> BTreeMap<String, Vec<f32>> {
    let widened =
        |p: &longhand_models::gpt2::Parameter| p.tensor.to_dtype(Dtype::F32).unwrap().to_vec().unwrap();
    model.parameters().iter().map(|p| (p.name.clone(), widened(p))).collect()
}

/// A stored tensor: type, shape, bytes.
type Stored = (safetensors::Dtype, Vec<usize>, Vec<u8>);

/// What a safetensors file holds, by name.
fn stored(file: &Path) -> BTreeMap<String, Stored> {
    let bytes = fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let own = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, own(view))).collect()
}

/// Writes a safetensors file, by the safetensors crate and not by ours.
fn store(file: &Path, tensors: &BTreeMap<String, Stored>) {
    let view = |(dtype, shape, data): &'_ Stored| (*dtype, shape.clone(), data.clone());
    let views: Vec<(String, Stored)> =
        tensors.iter().map(|(name, tensor)| (name.clone(), view(tensor))).collect();
    let views = views.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Changes what the weights file in a copy of the golden folder holds.
fn with_tensors(change: impl FnOnce(&mut BTreeMap<String, Stored>)) -> tempfile::TempDir {
    let copy = tiny_copy();
    let file = copy.path().join("model.safetensors");
    let mut tensors = stored(&file);
    change(&mut tensors);
    store(&file, &tensors);
    copy
}

/// Changes fields of the configuration in a copy of the golden folder; `null` takes one out.
fn with_config(changes: Value) -> tempfile::TempDir {
    let copy = tiny_copy();
    let file = copy.path().join("config.json");
    let mut config: serde_json::Map<_, _> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let Value::Object(changes) = changes else { panic!() };
    config.extend(changes);
    fs::write(&file, Value::Object(config).to_string()).unwrap();
    copy
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks();
    elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn saving_writes_the_names_shapes_and_bytes_that_transformers_writes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made/on/the/way");
    tiny().save(&folder).unwrap();
    assert_eq!(stored(&folder.join("model.safetensors")), stored(&tiny_folder().join("model.safetensors")));

    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let (header_length, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(header_length % 8, 0);

    let json = |file: &Path| serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap();
    assert_eq!(json(&folder.join("config.json")), json(&tiny_folder().join("config.json")));
}

#[test]
fn saving_and_loading_changes_nothing_in_any_type() {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for tie_word_embeddings in [true, false] {
            let config = Gpt2Config { tie_word_embeddings, n_inner: None, ..tiny().config().clone() };
            let model = Gpt2::new(config, &Device::Cpu, dtype, &mut StdRng::seed_from_u64(9)).unwrap();
            let folder = tempfile::tempdir().unwrap();
            model.save(folder.path()).unwrap();
            let loaded = Gpt2::from_pretrained(folder.path(), &Device::Cpu, dtype).unwrap();
            assert_eq!(values(&loaded), values(&model));
            assert!(loaded.parameters().iter().all(|p| p.tensor.dtype() == dtype));
        }
    }
}

#[test]
fn the_saved_config_names_the_type_of_the_weights() {
    let folder = with_config(json!({ "torch_dtype": "float32", "dtype": "float32", "keep": [1, "me"] }));
    let model = Gpt2::from_pretrained(folder.path(), &Device::Cpu, Dtype::Bf16).unwrap();
    model.save(folder.path()).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "bfloat16");
    assert_eq!(config.get("torch_dtype"), None);
    assert_eq!(config["keep"], json!([1, "me"]));
    assert_eq!(config["resid_pdrop"], 0.1);
}

#[test]
fn saving_replaces_what_was_there_and_leaves_nothing_else() {
    let folder = tiny_copy();
    let model =
        Gpt2::new(tiny().config().clone(), &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(1)).unwrap();
    model.save(folder.path()).unwrap();
    assert_eq!(values(&load(folder.path()).unwrap()), values(&model));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn weights_stored_in_16_bits_load_as_those_very_numbers() {
    type Round = fn(f32) -> ([u8; 2], f32);
    let types: [(safetensors::Dtype, Round); 2] = [
        (safetensors::Dtype::BF16, |x| (bf16::from_f32(x).to_le_bytes(), bf16::from_f32(x).to_f32())),
        (safetensors::Dtype::F16, |x| (f16::from_f32(x).to_le_bytes(), f16::from_f32(x).to_f32())),
    ];
    for (dtype, round) in types {
        let folder = with_tensors(|tensors| {
            for tensor in tensors.values_mut() {
                let narrow = f32s(&tensor.2).into_iter().flat_map(|x| round(x).0).collect();
                *tensor = (dtype, tensor.1.clone(), narrow);
            }
        });
        let loaded = values(&load(folder.path()).unwrap());
        for (name, exact) in values(&tiny()) {
            let rounded: Vec<f32> = exact.into_iter().map(|x| round(x).1).collect();
            assert_eq!(loaded[&name], rounded, "{name}");
        }
    }
}

#[test]
fn names_without_the_prefix_and_old_mask_buffers_and_a_copied_head_load_the_same() {
    let folder = with_tensors(|tensors| {
        let mut renamed: BTreeMap<_, _> = tensors
            .iter()
            .map(|(name, tensor)| (name.strip_prefix("transformer.").unwrap().to_owned(), tensor.clone()))
            .collect();
        renamed.insert("lm_head.weight".into(), renamed["wte.weight"].clone());
        renamed.insert("h.0.attn.bias".into(), (safetensors::Dtype::U8, vec![1, 1, 24, 24], vec![1; 576]));
        renamed.insert("h.1.attn.masked_bias".into(), (safetensors::Dtype::F32, vec![], vec![0; 4]));
        *tensors = renamed;
    });
    assert_eq!(values(&load(folder.path()).unwrap()), values(&tiny()));
}

/// Splits the golden weights in two files; the second holds what belongs to block 1.
fn sharded() -> tempfile::TempDir {
    let folder = tiny_copy();
    let whole = folder.path().join("model.safetensors");
    let names = ["one.safetensors", "two.safetensors"];
    let mut shards = [BTreeMap::new(), BTreeMap::new()];
    let mut weight_map = serde_json::Map::new();
    for (name, tensor) in stored(&whole) {
        let shard = usize::from(name.contains("h.1."));
        weight_map.insert(name.clone(), names[shard].into());
        shards[shard].insert(name, tensor);
    }
    fs::remove_file(whole).unwrap();
    for (name, shard) in names.iter().zip(&shards) {
        store(&folder.path().join(name), shard);
    }
    write_index(folder.path(), &weight_map);
    folder
}

fn write_index(folder: &Path, weight_map: &serde_json::Map<String, Value>) {
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_load_as_one_file_does() {
    assert_eq!(values(&load(sharded().path()).unwrap()), values(&tiny()));
}

#[test]
fn an_index_that_contradicts_its_shards_is_an_error_naming_the_tensor() {
    for (shard, says) in [
        ("one.safetensors", "`one.safetensors`, which does not hold it"),
        ("../one.safetensors", "`../one.safetensors`, which is not the name of a file in the same folder"),
    ] {
        let folder = sharded();
        let map = json!({ "transformer.h.1.ln_1.bias": shard });
        write_index(folder.path(), map.as_object().unwrap());
        let message = error(folder.path()).to_string();
        assert!(message.contains("index.json") && message.contains("h.1.ln_1.bias"), "{message}");
        assert!(message.contains(says), "{message}");
    }
    let folder = sharded();
    fs::remove_file(folder.path().join("two.safetensors")).unwrap();
    assert!(error(folder.path()).to_string().contains("two.safetensors"));
    fs::write(folder.path().join("model.safetensors.index.json"), "{}").unwrap();
    assert!(error(folder.path()).to_string().contains("weight_map"));
}

#[test]
fn files_that_are_not_there_are_named() {
    let nowhere = Path::new("no/such/folder");
    assert!(error(nowhere).to_string().contains("no/such/folder/config.json"));

    let folder = tiny_copy();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let message = error(folder.path()).to_string();
    assert!(message.contains("neither model.safetensors nor model.safetensors.index.json"), "{message}");
    assert!(!message.contains("pytorch_model.bin"), "{message}");

    fs::write(folder.path().join("pytorch_model.bin"), "pickle").unwrap();
    assert!(error(folder.path()).to_string().contains("convert its pytorch_model.bin"));
}

#[test]
fn a_file_truncated_anywhere_is_an_error_naming_it() {
    let whole = fs::read(tiny_folder().join("model.safetensors")).unwrap();
    let folder = tiny_copy();
    let file = folder.path().join("model.safetensors");
    for length in [0, 7, 8, 100, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        let error = error(folder.path());
        if length < 8 {
            assert!(matches!(error, Error::NotSafetensors { .. }), "{error}");
        } else {
            assert!(matches!(error, Error::WrongLength { was, .. } if was == length as u64), "{error}");
        }
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    fs::write(&file, [whole.as_slice(), &[0]].concat()).unwrap();
    assert!(matches!(error(folder.path()), Error::WrongLength { .. }));
}

proptest! {
    /// Whatever a byte of the header or of the configuration is changed to.
    #[test]
    fn a_damaged_folder_loads_or_is_an_error_and_never_a_panic(at in 0..4000usize, byte: u8, in_config: bool) {
        let folder = tiny_copy();
        let file = folder.path().join(if in_config { "config.json" } else { "model.safetensors" });
        let mut bytes = fs::read(&file).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        fs::write(&file, bytes).unwrap();
        if let Err(error) = load(folder.path()) {
            prop_assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{}", error);
        }
    }
}

#[test]
fn a_file_of_another_format_is_an_error_naming_it() {
    let folder = tiny_copy();
    let file = folder.path().join("model.safetensors");
    let not_json = [&16u64.to_le_bytes()[..], &[b'{'; 16]].concat();
    let no_tensors = [&16u64.to_le_bytes()[..], br#"{"wte": [1, 2]} "#].concat();
    for foreign in [b"version https://git-lfs.github.com/spec/v1".to_vec(), not_json, no_tensors] {
        fs::write(&file, foreign).unwrap();
        let error = error(folder.path());
        assert!(matches!(error, Error::NotSafetensors { .. }), "{error}");
        assert!(error.to_string().contains("model.safetensors is not a safetensors file"), "{error}");
    }
}

#[test]
fn tensors_missing_or_unexpected_or_of_another_shape_are_all_listed() {
    let folder = with_tensors(|tensors| {
        tensors.remove("transformer.ln_f.bias");
        tensors.remove("transformer.h.1.mlp.c_fc.weight");
        let norm = tensors.remove("transformer.h.0.ln_1.weight").unwrap();
        tensors.insert("transformer.h.0.ln_7.weight".into(), norm.clone());
        tensors.insert("wpe.weight".into(), norm);
        let (_, shape, _) = tensors.get_mut("transformer.h.0.attn.c_attn.weight").unwrap();
        shape.reverse();
    });
    let error = error(folder.path());
    let Error::Misfit { misfit, path } = &error else { panic!("{error}") };
    assert!(path.ends_with("model.safetensors"));
    assert_eq!(misfit.missing, ["h.0.ln_1.weight", "h.1.mlp.c_fc.weight", "ln_f.bias"]);
    let wrong: Vec<_> = misfit.shapes.iter().map(|wrong| wrong.name.as_str()).collect();
    assert!(wrong.contains(&"h.0.attn.c_attn.weight"), "{error}");
    assert_eq!(misfit.unexpected[0], "h.0.ln_7.weight");
    assert!(misfit.unexpected[1].ends_with("wpe.weight"), "held twice: {error}");
    let message = error.to_string();
    assert!(message.contains("missing (3): h.0.ln_1.weight, h.1.mlp.c_fc.weight, ln_f.bias"), "{message}");
    assert!(
        message.contains("h.0.attn.c_attn.weight is [96, 32] where the configuration gives [32, 96]"),
        "{message}"
    );
}

#[test]
fn a_config_that_contradicts_the_weights_is_an_error_naming_what_differs() {
    for (changes, says) in [
        (json!({ "vocab_size": 62 }), "wte.weight is [61, 32] where the configuration gives [62, 32]"),
        (json!({ "n_positions": 1024 }), "wpe.weight is [24, 32] where the configuration gives [1024, 32]"),
        (json!({ "n_embd": 64 }), "ln_f.weight is [32] where the configuration gives [64]"),
        (json!({ "n_inner": null }), "h.0.mlp.c_fc.bias is [80] where the configuration gives [128]"),
        (json!({ "n_layer": 3 }), "missing (12): h.2.ln_1.weight"),
        (json!({ "n_layer": 1 }), "unexpected (12): h.1."),
        (json!({ "tie_word_embeddings": false }), "missing (1): lm_head.weight"),
    ] {
        let error = error(with_config(changes).path());
        assert!(matches!(error, Error::Misfit { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("config.json") && message.contains("model.safetensors"), "{message}");
        assert!(message.contains(says), "{message}\nlacks\n{says}");
    }
}

#[test]
fn a_head_that_differs_from_the_embedding_it_is_tied_to_is_an_error() {
    let folder = with_tensors(|tensors| {
        let mut head = tensors["transformer.wte.weight"].clone();
        head.2[0] ^= 1;
        tensors.insert("lm_head.weight".into(), head);
    });
    let error = error(folder.path());
    assert!(matches!(error, Error::HeadNotTied { .. }), "{error}");
}

#[test]
fn a_tensor_stored_in_a_type_that_is_not_read_is_named() {
    let folder = with_tensors(|tensors| {
        tensors.insert("transformer.ln_f.bias".into(), (safetensors::Dtype::I8, vec![32], vec![0; 32]));
    });
    let message = error(folder.path()).to_string();
    assert!(message.contains("`transformer.ln_f.bias` is stored as I8, expected"), "{message}");
}

#[test]
fn a_config_that_is_not_a_gpt2_is_an_error_naming_file_field_value_and_what_was_expected() {
    for (changes, says) in [
        (json!({ "model_type": "bert" }), "model_type is \"bert\", expected \"gpt2\""),
        (
            json!({ "architectures": ["GPT2ForSequenceClassification"] }),
            "expected GPT2LMHeadModel or GPT2Model",
        ),
        (json!({ "n_embd": 30 }), "n_head is 4, expected a divisor of n_embd, which is 30"),
        (json!({ "n_head": 0 }), "n_head is 0, expected 1 to"),
        (json!({ "vocab_size": -5 }), "vocab_size is -5, expected a whole number"),
        (json!({ "n_layer": "two" }), "n_layer is \"two\", expected a whole number"),
        (json!({ "n_layer": 9e15 as u64 }), "n_layer is 9000000000000000, expected 1 to"),
        (json!({ "n_embd": u64::MAX }), "n_embd is 18446744073709551615, expected 1 to"),
        (
            json!({ "activation_function": "relu" }),
            "activation_function is \"relu\", expected gelu_new or gelu",
        ),
        (json!({ "layer_norm_epsilon": 0 }), "layer_norm_epsilon is 0, expected a number above 0"),
        (json!({ "initializer_range": -0.1 }), "initializer_range is -0.1, expected a number, 0 or above"),
        (json!({ "add_cross_attention": true }), "add_cross_attention is true, expected false"),
        (json!({ "scale_attn_weights": 1 }), "scale_attn_weights is 1, expected true or false"),
        (json!({ "eos_token_id": "end" }), "eos_token_id is \"end\", expected a token id"),
    ] {
        let message = error(with_config(changes).path()).to_string();
        assert!(message.contains("config.json: ") && message.contains(says), "{message}\nlacks\n{says}");
    }
}

#[test]
fn a_config_that_is_not_a_json_object_is_an_error_naming_the_file() {
    let folder = tiny_copy();
    for text in ["", "{", "[]", "{\"n_embd\": }"] {
        fs::write(folder.path().join("config.json"), text).unwrap();
        let error = error(folder.path());
        assert!(matches!(error, Error::Json { .. }) && error.to_string().contains("config.json"), "{error}");
    }
    fs::write(folder.path().join("config.json"), [0xff, 0xfe]).unwrap();
    assert!(error(folder.path()).to_string().contains("config.json"));
}

#[test]
fn fields_left_out_have_the_defaults_of_transformers() {
    let map = json!({ "model_type": "gpt2" }).as_object().unwrap().clone();
    assert_eq!(Gpt2Config::from_json(map).unwrap(), Gpt2Config::default());
}

#[test]
fn end_of_text_tokens_are_kept_as_none_one_or_several() {
    for (written, ids) in [(json!(null), vec![]), (json!(7), vec![7]), (json!([7, 8]), vec![7, 8])] {
        let map = json!({ "model_type": "gpt2", "eos_token_id": written }).as_object().unwrap().clone();
        let config = Gpt2Config::from_json(map).unwrap();
        assert_eq!(config.eos_token_id, ids);
        assert_eq!(config.to_json()["eos_token_id"], written);
    }
}
