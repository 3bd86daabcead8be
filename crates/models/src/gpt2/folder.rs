//! A model to and from a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::Path;

use longhand_tensor::{Device, Dtype, Tensor};
use serde_json::{Value, json};

use super::{Gpt2, Gpt2Config, parameters};
use crate::files::{self, Staged};
use crate::weights::{self, Weights};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "wte.weight";

impl Gpt2 {
    /// Reads a model from a folder with `config.json` and `model.safetensors` (or `model.safetensors.index.json` and
    /// its shards), as `GPT2LMHeadModel` or `GPT2Model` saves it. Parameters stored as f64, f32, bf16 or f16 are
    /// converted to `dtype`.
    ///
    /// # Errors
    ///
    /// Files that are missing, truncated or of another format; a configuration that is not GPT-2's or that
    /// contradicts the weights. Each names the file and what in it.
    pub fn from_pretrained(folder: &Path, device: &Device, dtype: Dtype) -> Result<Self> {
        let config = Gpt2Config::from_file(&folder.join(CONFIG))?;
        let weights = Weights::open(folder)?;
        let names = stored_names(&config, &weights)?;
        let mut tensors = BTreeMap::new();
        for (name, stored) in names {
            tensors.insert(name.to_owned(), weights.read(stored, device, dtype)?);
        }
        Self::from_tensors(config, tensors)
    }

    /// Writes `config.json` and `model.safetensors` into a folder, which is made where there is none. transformers'
    /// `GPT2LMHeadModel.from_pretrained` reads them. Parameters are stored in the type they have.
    ///
    /// Both files are written in full under temporary names first: an error leaves those that stood there.
    ///
    /// # Errors
    ///
    /// The folder cannot be written to, or the disk is full.
    pub fn save(&self, folder: &Path) -> Result<()> {
        files::create_folder(folder)?;
        let tensors: Vec<(String, Tensor)> =
            self.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
        let weights = Staged::write(folder.join(weights::FILE), weights::serialize(&tensors))?;
        let config =
            Staged::write(folder.join(CONFIG), std::iter::once(Ok(self.config_text().into_bytes())))?;
        weights.commit()?;
        config.commit()?;
        files::sync_folder(folder)
    }

    fn config_text(&self) -> String {
        let mut map = self.config().to_json();
        let dtype = match self.parameters()[0].tensor.dtype() {
            Dtype::F64 => "float64",
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
            Dtype::F32 | Dtype::U32 => "float32",
        };
        // transformers loads the weights in the type that the configuration names; it was torch_dtype before 4.56.
        map.remove("torch_dtype");
        map.insert("dtype".into(), json!(dtype));
        format!("{:#}\n", Value::Object(map))
    }
}

/// Under which name each parameter is stored, after checking that names and shapes are those of the configuration.
fn stored_names<'w>(config: &Gpt2Config, weights: &'w Weights) -> Result<BTreeMap<&'w str, &'w str>> {
    let mut names = BTreeMap::new();
    let mut twice = Vec::new();
    for stored in weights.names().filter(|name| !is_buffer(name)) {
        let name = stored.strip_prefix("transformer.").unwrap_or(stored);
        if names.insert(name, stored).is_some() {
            twice.push(stored.to_owned());
        }
    }
    // Files of a tied model may hold the head all the same.
    let tied_head = if config.tie_word_embeddings { names.remove(HEAD) } else { None };

    let shapes = names.iter().filter_map(|(name, stored)| Some((*name, weights.shape(stored)?))).collect();
    let mut misfit = parameters::misfit(&parameters::specs(config), &shapes);
    misfit.unexpected.extend(twice);
    if !misfit.is_empty() {
        return Err(Error::Misfit { path: weights.path.clone(), misfit });
    }
    if let Some(head) = tied_head
        && !weights.same(head, names[EMBEDDING])?
    {
        return Err(Error::HeadNotTied { path: weights.path.clone() });
    }
    Ok(names)
}

/// Causal masks that older versions of transformers stored with the weights: `h.0.attn.bias`, `h.0.attn.masked_bias`.
fn is_buffer(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}
