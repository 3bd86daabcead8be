//! `longhand generate`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use longhand_models::{gpt2::Gpt2, sampling::Sampling};
use longhand_train::{Ended, Precision, Tokenizer, generate};

use crate::device::DeviceChoice;

/// Continue a text with a model
#[derive(Args)]
pub struct Generate {
    /// Hugging Face GPT-2 folder: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text to continue; empty to start a new one
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Tokens to generate, at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_tokens: usize,
    /// Divides the logits: below 1 surer, above 1 wilder
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    temperature: f64,
    /// Draw from this many most likely tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the fewest most likely tokens whose probabilities add up to this
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// The same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Always take the most likely token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "seed"])]
    greedy: bool,
    /// Where to compute
    #[arg(long, value_enum, default_value_t)]
    device: DeviceChoice,
}

impl Generate {
    pub fn run(self) -> anyhow::Result<()> {
        let sampling = if self.greedy {
            Sampling::GREEDY
        } else {
            Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p }
        };
        sampling.validate()?;
        let device = self.device.open()?;
        let model = Gpt2::from_pretrained(&self.model, &device, Precision::usual(&device).dtype())?;
        let tokenizer = Tokenizer::load(&self.model)?;
        print(&self.prompt)?;
        let ended = generate(&model, &tokenizer, &self.prompt, self.max_tokens, sampling, self.seed, print)?;
        print("\n")?;
        if ended == Ended::ContextFull {
            let positions = model.config().n_positions;
            eprintln!("stopped: prompt and text fill the model's context of {positions} tokens");
        }
        Ok(())
    }
}

/// Shows text at once, not when the line is full.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
