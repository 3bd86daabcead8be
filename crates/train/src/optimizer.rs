//! The optimizer of a run, and its state in a checkpoint: `optimizer.safetensors`.

use std::{fs, path::Path};

use longhand_models::gpt2::Gpt2;
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, Tensor};
use safetensors::{SafeTensors, tensor::TensorView};

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
    let path = folder.join(FILE);
    let state = optimizer.state()?;
    let bytes = state.iter().map(|(_, tensor)| to_bytes(tensor)).collect::<Result<Vec<_>>>()?;
    let views = state.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        let dtype =
            if tensor.dtype() == Dtype::U32 { safetensors::Dtype::U32 } else { safetensors::Dtype::F32 };
        Ok((name, TensorView::new(dtype, tensor.shape().to_vec(), bytes)?))
    });
    let views = views.collect::<std::result::Result<Vec<_>, _>>();
    let content = views.and_then(|views| safetensors::serialize(views, None));
    let damaged = |error: safetensors::SafeTensorError| Error::Damaged {
        path: path.clone(),
        reason: error.to_string(),
    };
    files::write(&path, &content.map_err(damaged)?)
}

/// Gives the optimizer the state in a checkpoint's folder.
pub(crate) fn load(optimizer: &mut AdamW, folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    let damaged = |reason: &dyn ToString| Error::Damaged { path: path.clone(), reason: reason.to_string() };
    let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&error))?;
    let state = file.iter().map(|(name, view)| Ok((name.to_string(), from_bytes(&view)?)));
    let state = state.collect::<Result<Vec<_>>>()?;
    optimizer.load_state(&state).map_err(|error| damaged(&error))
}

fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(match tensor.dtype() {
        Dtype::U32 => tensor.to_vec::<u32>()?.into_iter().flat_map(u32::to_le_bytes).collect(),
        _ => tensor.to_vec::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect(),
    })
}

fn from_bytes(view: &TensorView) -> Result<Tensor> {
    let (words, _) = view.data().as_chunks::<4>();
    Ok(if view.dtype() == safetensors::Dtype::U32 {
        let values = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        Tensor::from_vec::<u32>(values, view.shape(), &Device::Cpu)?
    } else {
        let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        Tensor::from_vec::<f32>(values, view.shape(), &Device::Cpu)?
    })
}
