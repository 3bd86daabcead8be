use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use longhand_tensor::ops::LossOptions;
use longhand_tensor::{Device, Dtype, Tensor, checkpoint, no_grad, ops};
use rand::Rng;

use super::block::{Block, LayerNorm};
use super::parameters::{self, Tensors};
use super::{Gpt2Config, KvCache, Parameter};
use crate::{Error, Result};

/// A GPT-2 language model.
///
/// Token ids are u32 tensors (B, T) on the model's device, each below `vocab_size`, with T at most `n_positions`.
pub struct Gpt2 {
    config: Gpt2Config,
    parameters: Vec<Parameter>,
    wte: Tensor,
    wpe: Tensor,
    blocks: Vec<Arc<Block>>,
    ln_f: LayerNorm,
    /// (V, C): the output head, which is `wte` where the configuration ties them.
    head: Tensor,
    gradient_checkpointing: bool,
    mlp_chunk: Option<usize>,
}

impl Gpt2 {
    /// A new model, initialised as transformers does: weights and embeddings N(0, `initializer_range`²), projections
    /// onto the residual stream smaller by √(2 · `n_layer`), biases 0, norms 1.
    ///
    /// The same `rng` gives the same model on every device; a narrower `dtype` rounds it.
    ///
    /// # Errors
    ///
    /// A configuration that is not valid; no memory left on the device.
    pub fn new(config: Gpt2Config, device: &Device, dtype: Dtype, rng: &mut impl Rng) -> Result<Self> {
        config.validate()?;
        let mut tensors = BTreeMap::new();
        for spec in parameters::specs(&config) {
            let tensor = spec.initialize(device, dtype, rng)?;
            tensors.insert(spec.name, tensor);
        }
        Self::from_tensors(config, tensors)
    }

    /// A model with these parameters, named as in a Hugging Face file, without `transformer.`. It shares their
    /// elements, so that an optimiser's step changes both.
    ///
    /// # Errors
    ///
    /// A configuration that is not valid; parameters missing, unexpected, or of another shape.
    pub fn from_tensors(config: Gpt2Config, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        config.validate()?;
        let specs = parameters::specs(&config);
        let shapes = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape())).collect();
        let misfit = parameters::misfit(&specs, &shapes);
        if !misfit.is_empty() {
            return Err(Error::Tensors(misfit));
        }

        let leaves = tensors.into_iter().map(|(name, tensor)| (name, tensor.requires_grad())).collect();
        let tensors = Tensors(leaves);
        let mut listed = Vec::with_capacity(specs.len());
        for spec in &specs {
            let tensor = tensors.get(&spec.name)?;
            listed.push(Parameter { name: spec.full_name(), tensor, decay: spec.shape.len() > 1 });
        }
        let wte = tensors.get("wte.weight")?;
        Ok(Self {
            parameters: listed,
            wpe: tensors.get("wpe.weight")?,
            blocks: (0..config.n_layer)
                .map(|layer| Block::new(&config, layer, &tensors).map(Arc::new))
                .collect::<Result<_>>()?,
            ln_f: LayerNorm::new("ln_f", &config, &tensors)?,
            head: if config.tie_word_embeddings { wte.clone() } else { tensors.get("lm_head.weight")? },
            wte,
            config,
            gradient_checkpointing: false,
            mlp_chunk: None,
        })
    }

    /// The same model on `device`. Its parameters are new leaves, which want an optimiser of their own; where they are on
    /// `device` already, they share the elements.
    ///
    /// ```
    /// # use longhand_models::gpt2::{Gpt2, Gpt2Config};
    /// # use longhand_tensor::{Device, Dtype};
    /// # use rand::{SeedableRng, rngs::StdRng};
    /// # let config = Gpt2Config { vocab_size: 50, n_positions: 8, n_embd: 32, n_layer: 1, n_head: 2, ..Gpt2Config::default() };
    /// # let model = Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(1))?;
    /// let model = model.to_device(&Device::default_device())?.to_dtype(Dtype::Bf16)?;
    /// # Ok::<(), longhand_models::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// No memory left on the device, or it does not take the element type.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        self.with_each(|tensor| tensor.to_device(device))
    }

    /// The same model with parameters of another type, each rounded to the nearest; new leaves, as with
    /// [`to_device`](Self::to_device).
    ///
    /// # Errors
    ///
    /// No memory left on the device, or it does not take the element type.
    pub fn to_dtype(&self, dtype: Dtype) -> Result<Self> {
        self.with_each(|tensor| tensor.to_dtype(dtype))
    }

    fn with_each(&self, change: impl Fn(&Tensor) -> longhand_tensor::Result<Tensor>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for Parameter { name, tensor, .. } in &self.parameters {
            let name = name.strip_prefix("transformer.").unwrap_or(name);
            tensors.insert(name.to_owned(), change(&tensor.detach())?);
        }
        let &Self { gradient_checkpointing, mlp_chunk, .. } = self;
        Ok(Self { gradient_checkpointing, mlp_chunk, ..Self::from_tensors(self.config.clone(), tensors)? })
    }

    /// The configuration.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Every parameter once, in an order that depends on the configuration alone: embeddings, blocks from the first
    /// to the last, final norm, and the output head where it is not tied.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Whether training keeps of each block its input alone, (B, T, C), and computes the block again in backward (Chen et
    /// al. 2016, arXiv 1604.06174): less memory for a third more arithmetic, and the same gradients bit for bit. Off in a
    /// new model; inference keeps nothing anyway.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.gradient_checkpointing = on;
    }

    /// How many tokens the feed-forward network of a block takes at a time, all of them with `None`, as in a new model. Their
    /// hidden layer, 4 C wide, is computed again in backward instead of kept (Liu and Abbeel 2023, arXiv 2305.19370), so that
    /// it never takes more memory than so many tokens of one block do. The gradients are the same but for rounding: those of
    /// the weights are added up chunk by chunk.
    ///
    /// With 0 tokens, what computes with the model returns an error.
    pub fn set_mlp_chunk(&mut self, tokens: Option<usize>) {
        self.mlp_chunk = tokens;
    }

    /// Logits (B, T, V) of the token after each of `ids` (B, T).
    ///
    /// # Errors
    ///
    /// `ids` of another rank or type, T above `n_positions`, an id outside the vocabulary.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.logits(&self.hidden(ids)?)
    }

    /// What the output head is applied to: the final norm's output (B, T, C), for `ids` (B, T).
    ///
    /// # Errors
    ///
    /// Those of [`forward`](Self::forward).
    pub fn hidden(&self, ids: &Tensor) -> Result<Tensor> {
        self.run(ids, None)
    }

    /// Mean cross-entropy in nats per token between the logits for `ids` (B, T) and `targets` (B, T), the token
    /// after each; those equal to [`IGNORE_INDEX`](ops::IGNORE_INDEX) do not count. The logits are never held all at
    /// once.
    ///
    /// # Errors
    ///
    /// Those of [`forward`](Self::forward); `targets` of another shape or type, or outside the vocabulary.
    pub fn loss(&self, ids: &Tensor, targets: &Tensor) -> Result<Tensor> {
        if targets.shape() != ids.shape() {
            return Err(Error::Argument {
                operation: "Gpt2::loss",
                argument: "targets",
                was: format!("of shape {:?}", targets.shape()),
                expected: format!("the shape of ids, {:?}", ids.shape()),
            });
        }
        let rows = targets.numel();
        let hidden = self.hidden(ids)?.reshape(&[rows, self.config.n_embd])?;
        let targets = targets.reshape(&[rows])?;
        Ok(ops::linear_cross_entropy(&hidden, &self.head, &targets, &LossOptions::default())?)
    }

    /// Logits (B, V) of the token after the last of `ids` (B, T), which follow the tokens in `cache`; appends them
    /// to it. For inference: the result has no gradient.
    ///
    /// The result is what [`forward`](Self::forward) gives for the last position of all tokens together. After an
    /// error the cache is as it was.
    ///
    /// # Errors
    ///
    /// Those of [`forward`](Self::forward), where T counts the tokens in the cache too; T of 0; another B than the
    /// cache's.
    pub fn forward_with_cache(&self, ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let &[batch, tokens @ (1..)] = ids.shape() else {
            return Err(ids_shape("Gpt2::forward_with_cache", ids, "(B, T) with T at least 1"));
        };
        let seen = cache.tokens();
        let logits = no_grad(|| {
            let last = self.run(ids, Some(cache))?.narrow(1, tokens - 1, 1)?;
            self.logits(&last.reshape(&[batch, self.config.n_embd])?)
        });
        if logits.is_err() {
            cache.truncate(seen)?;
        }
        logits
    }

    fn run(&self, ids: &Tensor, mut cache: Option<&mut KvCache>) -> Result<Tensor> {
        let &[batch, tokens] = ids.shape() else {
            return Err(ids_shape("Gpt2::forward", ids, "(B, T)"));
        };
        let seen = cache.as_ref().map_or(0, |cache| cache.tokens());
        if seen + tokens > self.config.n_positions {
            let n_positions = self.config.n_positions;
            return Err(Error::ContextTooLong { tokens: seen + tokens, n_positions });
        }
        if let Some(cache) = &mut cache {
            cache.prepare(batch, self.blocks.len())?;
        }

        let positions = self.wpe.narrow(0, seen, tokens)?;
        let mut x = ops::embedding(&self.wte, ids)?.add(&positions)?;
        if self.gradient_checkpointing && cache.is_none() {
            return self.run_checkpointed(x);
        }
        let mut residual = None;
        for (layer, block) in self.blocks.iter().enumerate() {
            let cache = cache.as_deref_mut().map(|cache| &mut cache.layers[layer]);
            let (out, stream) = block.forward(&x, residual.as_ref(), cache, self.mlp_chunk)?;
            (x, residual) = (out, Some(stream));
        }
        Ok(self.ln_f.forward(&x, residual.as_ref())?.0)
    }

    /// The final norm's output, from the embeddings `x`; of each block the residual stream before it is kept.
    fn run_checkpointed(&self, x: Tensor) -> Result<Tensor> {
        let mut stream = x;
        for block in &self.blocks {
            let (block, mlp_chunk) = (Arc::clone(block), self.mlp_chunk);
            let body = move |stream: &[Tensor]| {
                let (out, residual) = block.forward(&stream[0], None, None, mlp_chunk)?;
                Ok(vec![out.add(&residual)?])
            };
            stream = checkpoint(body, &[&stream])?.swap_remove(0);
        }
        Ok(self.ln_f.forward(&stream, None)?.0)
    }

    /// (.., C) -> (.., V).
    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(hidden, &self.head.transpose(0, 1)?, None)?)
    }
}

impl fmt::Debug for Gpt2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpt2").field("config", &self.config).finish_non_exhaustive()
    }
}

fn ids_shape(operation: &'static str, ids: &Tensor, expected: &str) -> Error {
    let was = format!("of shape {:?}", ids.shape());
    Error::Argument { operation, argument: "ids", was, expected: expected.into() }
}
