//! Prints the token ids of a text and a model's logits for them, as JSON: what `tests/check_logits.py` compares with
//! Hugging Face transformers.
//!
//! `cargo run --release -p longhand-train --example logits -- MODEL_FOLDER TEXT`

use std::{error::Error, path::Path};

use longhand_models::gpt2::Gpt2;
use longhand_tensor::{Device, Dtype, Tensor, no_grad};
use longhand_train::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, text] = arguments.as_slice() else {
        return Err("expected two arguments: MODEL_FOLDER TEXT".into());
    };
    let model = Gpt2::from_pretrained(Path::new(folder), &Device::Cpu, Dtype::F32)?;
    let ids = Tokenizer::load(Path::new(folder))?.encode(text)?;
    let input = Tensor::from_slice(&ids, &[1, ids.len()], &Device::Cpu)?;
    let logits = no_grad(|| model.forward(&input))?.to_vec::<f32>()?;
    println!("{}", serde_json::json!({ "ids": ids, "logits": logits }));
    Ok(())
}
