//! One transformer block: attention and a feed-forward network, each after a layer norm.

use longhand_tensor::ops::{self, AttentionOptions, Gelu, NormOptions};
use longhand_tensor::{KvCache, Tensor, checkpoint_chunks};

use super::parameters::Tensors;
use super::{Activation, Gpt2Config};
use crate::Result;

pub(super) struct Block {
    ln_1: LayerNorm,
    c_attn: Linear,
    attn_c_proj: Linear,
    ln_2: LayerNorm,
    mlp: Mlp,
    heads: usize,
    head_dim: usize,
    attention: AttentionOptions,
}

impl Block {
    pub(super) fn new(config: &Gpt2Config, layer: usize, tensors: &Tensors) -> Result<Self> {
        let linear = |name: &str| Linear::new(&format!("h.{layer}.{name}"), tensors);
        let (c_attn, attn_c_proj) = (linear("attn.c_attn")?, linear("attn.c_proj")?);
        let gelu = match config.activation_function {
            Activation::GeluNew => Gelu::Tanh,
            Activation::Gelu => Gelu::Erf,
        };
        Ok(Self {
            ln_1: LayerNorm::new(&format!("h.{layer}.ln_1"), config, tensors)?,
            c_attn,
            attn_c_proj,
            ln_2: LayerNorm::new(&format!("h.{layer}.ln_2"), config, tensors)?,
            mlp: Mlp { c_fc: linear("mlp.c_fc")?, c_proj: linear("mlp.c_proj")?, gelu },
            heads: config.n_head,
            head_dim: config.head_dim(),
            attention: AttentionOptions {
                causal: true,
                scale: Some(config.attention_scale(layer)),
                ..Default::default()
            },
        })
    }

    /// `x`, `residual`: (B, T, C), whose sum is the residual stream before the block. Returns two whose sum is the
    /// stream after it: the last addition is left to the next norm, which does it in the same pass. The feed-forward
    /// network takes `mlp_chunk` tokens at a time, or all of them.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        cache: Option<&mut KvCache>,
        mlp_chunk: Option<usize>,
    ) -> longhand_tensor::Result<(Tensor, Tensor)> {
        let (normed, residual) = self.ln_1.forward(x, residual)?;
        let attended = self.attend(&normed, cache)?;
        let (normed, residual) = self.ln_2.forward(&attended, Some(&residual))?;
        let out = match mlp_chunk {
            None => self.mlp.forward(&normed)?,
            Some(tokens) => self.mlp.forward_in_chunks(&normed, tokens)?,
        };
        Ok((out, residual))
    }

    /// (B, T, C) -> (B, T, C). Queries, keys and values, each (B, T, H, D), are views of the one product that makes
    /// all three.
    fn attend(&self, x: &Tensor, cache: Option<&mut KvCache>) -> longhand_tensor::Result<Tensor> {
        let (batch, tokens) = (x.shape()[0], x.shape()[1]);
        let qkv = self.c_attn.forward(x)?.reshape(&[batch, tokens, 3 * self.heads, self.head_dim])?;
        let views = qkv.split(&[self.heads; 3], 2)?;
        let (q, k, v) = (&views[0], &views[1], &views[2]);
        let out = match cache {
            None => ops::attention(q, k, v, &self.attention)?,
            Some(cache) => {
                cache.append(k, v, None)?;
                ops::attention_decode(q, cache, &self.attention)?
            }
        };
        self.attn_c_proj.forward(&out.reshape(x.shape())?)
    }
}

/// The feed-forward network, of each token by itself.
#[derive(Clone)]
struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
    gelu: Gelu,
}

impl Mlp {
    fn forward(&self, x: &Tensor) -> longhand_tensor::Result<Tensor> {
        self.c_proj.forward(&ops::gelu(&self.c_fc.forward(x)?, self.gelu)?)
    }

    /// So many tokens at a time, of which alone there is the hidden layer, four times as wide as `x`.
    fn forward_in_chunks(&self, x: &Tensor, tokens: usize) -> longhand_tensor::Result<Tensor> {
        let (batch, length, width) = (x.shape()[0], x.shape()[1], x.shape()[2]);
        let mlp = self.clone();
        let rows = x.reshape(&[batch * length, width])?;
        checkpoint_chunks(move |x| mlp.forward(x), &rows, 0, tokens)?.reshape(x.shape())
    }
}

/// `y = x · weight + bias`, weight (in, out): the layout of transformers' `Conv1D`.
#[derive(Clone)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(name: &str, tensors: &Tensors) -> Result<Self> {
        Ok(Self {
            weight: tensors.get(&format!("{name}.weight"))?,
            bias: tensors.get(&format!("{name}.bias"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> longhand_tensor::Result<Tensor> {
        ops::linear(x, &self.weight, Some(&self.bias))
    }
}

pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    pub(super) fn new(name: &str, config: &Gpt2Config, tensors: &Tensors) -> Result<Self> {
        Ok(Self {
            weight: tensors.get(&format!("{name}.weight"))?,
            bias: tensors.get(&format!("{name}.bias"))?,
            epsilon: config.layer_norm_epsilon,
        })
    }

    /// The norm of `x + residual`, and that sum.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
    ) -> longhand_tensor::Result<(Tensor, Tensor)> {
        let options = NormOptions::new(self.epsilon);
        ops::layer_norm(x, residual, Some(&self.weight), Some(&self.bias), &options)
    }
}
