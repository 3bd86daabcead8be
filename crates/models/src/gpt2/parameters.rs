//! Which parameters a configuration describes: their names, order, shapes, and how they start.

use std::collections::{BTreeMap, BTreeSet};

use longhand_tensor::{Device, Dtype, Tensor};
use rand::Rng;

use super::Gpt2Config;
use crate::{Error, Misfit, Result, WrongShape};

/// A parameter of a model.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its Hugging Face name, such as `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// Its value; a leaf whose gradient is wanted.
    pub tensor: Tensor,
    /// Whether weight decay applies: to matrices and embeddings, not to biases and norms.
    pub decay: bool,
}

/// What a configuration says about one parameter. Names are without `transformer.`.
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    start: Start,
}

#[derive(Clone, Copy)]
enum Start {
    Zero,
    One,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
}

/// Every parameter, in the order in which a model lists them.
pub(super) fn specs(config: &Gpt2Config) -> Vec<Spec> {
    let (width, inner) = (config.n_embd, config.inner());
    let std = config.initializer_range;
    // What adds to the residual stream starts smaller, by the number of additions (GPT-2 report, §2.3).
    let residual_std = std / (2.0 * config.n_layer as f64).sqrt();

    let mut specs = Vec::new();
    let mut add =
        |name: String, shape: &[usize], start| specs.push(Spec { name, shape: shape.to_vec(), start });
    add("wte.weight".into(), &[config.vocab_size, width], Start::Normal(std));
    add("wpe.weight".into(), &[config.n_positions, width], Start::Normal(std));
    for layer in 0..config.n_layer {
        let mut in_block =
            |name: &str, shape: &[usize], start| add(format!("h.{layer}.{name}"), shape, start);
        in_block("ln_1.weight", &[width], Start::One);
        in_block("ln_1.bias", &[width], Start::Zero);
        in_block("attn.c_attn.weight", &[width, 3 * width], Start::Normal(std));
        in_block("attn.c_attn.bias", &[3 * width], Start::Zero);
        in_block("attn.c_proj.weight", &[width, width], Start::Normal(residual_std));
        in_block("attn.c_proj.bias", &[width], Start::Zero);
        in_block("ln_2.weight", &[width], Start::One);
        in_block("ln_2.bias", &[width], Start::Zero);
        in_block("mlp.c_fc.weight", &[width, inner], Start::Normal(std));
        in_block("mlp.c_fc.bias", &[inner], Start::Zero);
        in_block("mlp.c_proj.weight", &[inner, width], Start::Normal(residual_std));
        in_block("mlp.c_proj.bias", &[width], Start::Zero);
    }
    add("ln_f.weight".into(), &[width], Start::One);
    add("ln_f.bias".into(), &[width], Start::Zero);
    if !config.tie_word_embeddings {
        add("lm_head.weight".into(), &[config.vocab_size, width], Start::Normal(std));
    }
    specs
}

impl Spec {
    /// A new value.
    pub(super) fn initialize(&self, device: &Device, dtype: Dtype, rng: &mut impl Rng) -> Result<Tensor> {
        Ok(match self.start {
            Start::Zero => Tensor::zeros(&self.shape, dtype, device),
            Start::One => Tensor::full(&self.shape, 1.0, dtype, device),
            Start::Normal(std) => Tensor::randn(&self.shape, std, dtype, device, rng),
        }?)
    }

    /// The name in the file of a `GPT2LMHeadModel`.
    pub(super) fn full_name(&self) -> String {
        if self.name == "lm_head.weight" { self.name.clone() } else { format!("transformer.{}", self.name) }
    }
}

/// Compares what is described with what is there.
pub(super) fn misfit(specs: &[Spec], shapes: &BTreeMap<&str, &[usize]>) -> Misfit {
    let mut misfit = Misfit::default();
    for spec in specs {
        match shapes.get(spec.name.as_str()) {
            None => misfit.missing.push(spec.name.clone()),
            Some(shape) if *shape != spec.shape => misfit.shapes.push(WrongShape {
                name: spec.name.clone(),
                was: shape.to_vec(),
                expected: spec.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    let described: BTreeSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let unexpected = shapes.keys().filter(|name| !described.contains(*name));
    misfit.unexpected = unexpected.map(|name| (*name).to_owned()).collect();
    misfit
}

/// Tensors by name.
pub(super) struct Tensors(pub(super) BTreeMap<String, Tensor>);

impl Tensors {
    pub(super) fn get(&self, name: &str) -> Result<Tensor> {
        let missing = || Error::Tensors(Misfit { missing: vec![name.into()], ..Misfit::default() });
        self.0.get(name).cloned().ok_or_else(missing)
    }
}
