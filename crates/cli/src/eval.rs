//! `longhand eval`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use longhand_models::gpt2::Gpt2;
use longhand_train::{Document, Precision, Tokenizer, evaluate};
use serde_json::json;

use crate::device::DeviceChoice;

/// Measure how well a model predicts a text
#[derive(Args)]
pub struct Eval {
    /// Hugging Face GPT-2 folder: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// UTF-8 text file
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens in a window; windows follow one another without overlap [default: the model's positions, or the text]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Where to compute
    #[arg(long, value_enum, default_value_t)]
    device: DeviceChoice,
}

impl Eval {
    pub fn run(self) -> anyhow::Result<()> {
        let text = Document::read(&self.text)?.text;
        let device = self.device.open()?;
        let model = Gpt2::from_pretrained(&self.model, &device, Precision::usual(&device).dtype())?;
        let tokenizer = Tokenizer::load(&self.model)?;
        let tokens = tokenizer.encode(&text)?;
        let longest = model.config().n_positions.min(tokens.len().saturating_sub(1)).max(1);
        let found = evaluate(&model, &tokenizer, &tokens, self.context.unwrap_or(longest))?;
        let mut out = io::stdout().lock();
        if self.json {
            let object = json!({
                "loss": found.loss,
                "perplexity": found.perplexity,
                "bits_per_byte": found.bits_per_byte,
                "tokens": found.tokens,
            });
            writeln!(out, "{object}")?;
        } else {
            writeln!(out, "loss           {:.4} nats per token", found.loss)?;
            writeln!(out, "perplexity     {:.2}", found.perplexity)?;
            writeln!(out, "bits per byte  {:.4}", found.bits_per_byte)?;
            writeln!(out, "tokens         {}", found.tokens)?;
        }
        Ok(())
    }
}
