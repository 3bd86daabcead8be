//! GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), as Hugging Face transformers
//! has it: pre-norm blocks, learned positions, an output head tied to the token embedding.
//!
//! ```
//! use longhand_models::gpt2::{Gpt2, Gpt2Config};
//! use longhand_tensor::{Device, Dtype, Tensor};
//! use rand::{SeedableRng, rngs::StdRng};
//!
//! let config = Gpt2Config {
//!     vocab_size: 50,
//!     n_positions: 16,
//!     n_embd: 32,
//!     n_layer: 2,
//!     n_head: 2,
//!     ..Gpt2Config::default()
//! };
//! let model = Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(1))?;
//!
//! let ids = Tensor::from_slice(&[3u32, 1, 4, 1, 5, 9], &[2, 3], &Device::Cpu)?; // (B, T)
//! let targets = Tensor::from_slice(&[1u32, 4, 1, 5, 9, 2], &[2, 3], &Device::Cpu)?;
//! assert_eq!(model.forward(&ids)?.shape(), [2, 3, 50]);
//!
//! let loss = model.loss(&ids, &targets)?;
//! let gradients = loss.backward()?;
//! let embedding = &model.parameters()[0];
//! assert_eq!(embedding.name, "transformer.wte.weight");
//! assert!(gradients.get(&embedding.tensor).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block;
mod cache;
mod config;
mod folder;
mod generate;
mod model;
mod parameters;

pub use cache::KvCache;
pub use config::{Activation, Gpt2Config};
pub use generate::Generation;
pub use model::Gpt2;
pub use parameters::Parameter;
