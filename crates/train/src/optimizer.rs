//! The optimizer of a run, and its state in a checkpoint: `optimizer.safetensors`.

use std::{fs, path::Path};

use longhand_models::gpt2::Gpt2;
use longhand_tensor::{AdamW, AdamWOptions, Device, safetensors};

use crate::{Error, Result, Settings, files};

const FILE: &str = "optimizer.safetensors";

/// AdamW for all parameters of a model, with GPT-3's constants (Brown et al. 2020, arXiv 2005.14165, app. B).
pub(crate) fn new(model: &Gpt2, settings: &Settings) -> Result<AdamW> {
    let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
    let options = AdamWOptions {
        betas: (0.9, 0.95),
        eps: 1e-8,
        weight_decay: settings.weight_decay,
        max_grad_norm: Some(settings.clip),
        ..AdamWOptions::default()
    };
    let decays =
        |name: &str| model.parameters().iter().any(|parameter| parameter.name == name && parameter.decay);
    Ok(AdamW::new(parameters, options)?.decay_where(|name, _| decays(name))?)
}

/// Writes the state into a checkpoint's folder.
pub(crate) fn save(optimizer: &AdamW, folder: &Path) -> Result<()> {
    let state = optimizer.state()?;
    let content = safetensors::serialize(state.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
    files::write(&folder.join(FILE), &content)
}

/// Gives the optimizer the state in a checkpoint's folder.
pub(crate) fn load(optimizer: &mut AdamW, folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
    let loaded = safetensors::deserialize(&bytes, &Device::Cpu).and_then(|state| {
        let state: Vec<_> = state.into_iter().collect();
        optimizer.load_state(&state)
    });
    loaded.map_err(|error| Error::Damaged { path, reason: error.to_string() })
}
