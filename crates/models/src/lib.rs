//! Transformer architectures exactly as Hugging Face transformers has them, on Longhand's tensors: weights come from
//! and go to ordinary Hugging Face folders (`config.json` and `model.safetensors`).
//!
//! - [`gpt2`]: GPT-2, to train, evaluate and generate with;
//! - [`sampling`]: choosing the next token from logits.
//!
//! Models run without dropout, in training as well; the probabilities in a `config.json` are kept, not applied.

#![forbid(unsafe_code)]

mod error;
mod files;
pub mod gpt2;
pub mod sampling;
mod weights;

pub use error::{ConfigError, Error, Misfit, Result, WrongShape};
