//! What a run is made with.

use std::path::{Path, PathBuf};

use longhand_models::gpt2::Gpt2Config;
use longhand_tensor::{Device, Dtype};
use serde::{Deserialize, Serialize};

use crate::{Corpus, Error, Result, Schedule, repository};

/// What a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// Weights and activations of 16 bits, which sums and the optimizer widen.
    Bf16,
}

impl Precision {
    /// What a device computes in where nothing else is asked for: f32 on the CPU, and bf16 on GPUs, whose kernels are made
    /// for 16 bits.
    #[must_use]
    pub fn usual(device: &Device) -> Precision {
        if device.is_cpu() { Precision::F32 } else { Precision::Bf16 }
    }

    /// Of weights and activations.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::Bf16,
        }
    }
}

/// Everything that decides what a run computes. Kept with each checkpoint, so that a resumed run has the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Files and folders to train on; none for Longhand's own sources.
    pub text: Vec<PathBuf>,
    /// Optimizer steps.
    pub steps: u64,
    /// Windows per forward pass.
    pub batch: usize,
    /// Forward passes per optimizer step, whose gradients are averaged.
    pub accumulate: usize,
    /// Tokens in a window, and positions of the model.
    pub context: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Tokens in the tokenizer, at most.
    pub vocab: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Steps over which the learning rate rises.
    pub warmup: u64,
    /// Weight decay, decoupled (of matrices and embeddings, not of biases and norms).
    pub weight_decay: f64,
    /// The largest gradient norm; greater gradients are scaled down to it.
    pub clip: f64,
    /// Steps between evaluations on the held-out text, each followed by a checkpoint.
    pub eval_every: u64,
    /// Stops after this many evaluations in a row without a better one, and keeps the best model instead of the
    /// last.
    pub patience: Option<u64>,
    /// Whether blocks are computed again in backward instead of kept: less memory, the same losses bit for bit.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Tokens that the feed-forward network of a block takes at a time, whose hidden layer is computed again in backward;
    /// `None` for all of them, kept.
    #[serde(default)]
    pub mlp_chunk: Option<usize>,
    /// What the model computes in; `None` for f32 on the CPU, and bf16 on GPUs.
    #[serde(default)]
    pub precision: Option<Precision>,
    /// Decides the initial weights and the order of the text.
    pub seed: u64,
}

impl Default for Settings {
    /// A small GPT-2 that learns Longhand's own text on two CPU cores in two minutes.
    fn default() -> Self {
        Self {
            text: Vec::new(),
            steps: 850,
            batch: 4,
            accumulate: 1,
            context: 256,
            layers: 4,
            heads: 2,
            width: 128,
            vocab: 2048,
            lr: 2e-3,
            warmup: 50,
            weight_decay: 0.1,
            clip: 1.0,
            eval_every: 100,
            patience: None,
            gradient_checkpointing: false,
            mlp_chunk: None,
            precision: None,
            seed: 1,
        }
    }
}

/// In one forward pass.
const MOST_TOKENS: usize = 1 << 31;

impl Settings {
    /// Whether a run can be made with these.
    ///
    /// # Errors
    /// Names the first that cannot be, its value and what it has to be.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("steps", self.steps),
            ("batch", self.batch as u64),
            ("accumulate", self.accumulate as u64),
            ("context", self.context as u64),
            ("layers", self.layers as u64),
            ("heads", self.heads as u64),
            ("width", self.width as u64),
            ("eval-every", self.eval_every),
            ("patience", self.patience.unwrap_or(1)),
            ("mlp-chunk", self.mlp_chunk.unwrap_or(1) as u64),
        ];
        for (name, value) in positive {
            check(value >= 1, name, &value, "at least 1")?;
        }
        let tokens = self.batch.checked_mul(self.context);
        let fits = tokens.is_some_and(|tokens| tokens <= MOST_TOKENS);
        check(fits, "batch", &self.batch, "no more than 2^31 tokens with the context")?;
        let divides = self.width.is_multiple_of(self.heads);
        check(divides, "heads", &self.heads, "a divisor of the width")?;
        check(self.lr.is_finite() && self.lr > 0.0, "lr", &self.lr, "a number above 0")?;
        check(self.clip.is_finite() && self.clip > 0.0, "clip", &self.clip, "a number above 0")?;
        let decay = self.weight_decay;
        check(decay.is_finite() && decay >= 0.0, "weight-decay", &decay, "0 or a number above")
    }

    /// Reads the text, without what is in the run folder.
    pub(crate) fn read_text(&self, run_folder: &Path) -> Result<Corpus> {
        if self.text.is_empty() {
            Corpus::read_repository(&repository()?)
        } else {
            Corpus::read(&self.text, Some(run_folder))
        }
    }

    /// The element type of weights and activations.
    pub(crate) fn dtype(&self, device: &Device) -> Dtype {
        self.precision.unwrap_or(Precision::usual(device)).dtype()
    }

    /// The learning rate over the run.
    pub fn schedule(&self) -> Schedule {
        Schedule { peak: self.lr, warmup: self.warmup, steps: self.steps }
    }

    /// The model, for a tokenizer of `vocabulary` tokens in which `end_of_text` begins and ends a text.
    pub(crate) fn model(&self, vocabulary: usize, end_of_text: Option<u32>) -> Gpt2Config {
        Gpt2Config {
            vocab_size: vocabulary,
            n_positions: self.context,
            n_embd: self.width,
            n_layer: self.layers,
            n_head: self.heads,
            bos_token_id: end_of_text,
            eos_token_id: end_of_text.into_iter().collect(),
            ..Gpt2Config::default()
        }
    }
}

fn check(holds: bool, name: &'static str, value: &impl ToString, expected: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Setting { name, value: value.to_string(), expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_no_run_can_have_is_an_error_that_names_it_and_its_value() {
        let good = Settings::default();
        let bad = [
            (Settings { steps: 0, ..good.clone() }, "steps is 0"),
            (Settings { batch: 0, ..good.clone() }, "batch is 0"),
            (Settings { context: 0, ..good.clone() }, "context is 0"),
            (Settings { batch: usize::MAX, ..good.clone() }, "batch is 18446744073709551615"),
            (Settings { batch: 1 << 30, ..good.clone() }, "batch is 1073741824"),
            (Settings { heads: 7, ..good.clone() }, "heads is 7"),
            (Settings { lr: f64::NAN, ..good.clone() }, "lr is NaN"),
            (Settings { clip: 0.0, ..good.clone() }, "clip is 0"),
            (Settings { weight_decay: -1.0, ..good.clone() }, "weight-decay is -1"),
            (Settings { patience: Some(0), ..good.clone() }, "patience is 0"),
            (Settings { mlp_chunk: Some(0), ..good.clone() }, "mlp-chunk is 0"),
        ];
        good.validate().unwrap();
        for (settings, message) in bad {
            let error = settings.validate().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
