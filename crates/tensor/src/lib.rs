//! A minimal tensor with automatic differentiation, over Longhand's kernels on the GPU and its own loops on the CPU.
//!
//! It has what a transformer needs. [`Tensor`] is a cheap handle; operations are methods or functions in [`ops`], all
//! of which return a [`Result`]; [`Tensor::backward`] returns the [`Gradients`]; [`AdamW`] applies them. An
//! operation of your own implements [`Operation`], as all of these do.
//!
//! Results on the CPU do not depend on the number of threads. `docs/autograd.md` in the repository is a guide, from the first
//! tensor to a kernel of one's own.
//!
//! ```
//! # fn main() -> longhand_tensor::Result<()> {
//! use longhand_tensor::{AdamW, AdamWOptions, Device, Tensor, ops};
//!
//! // Fit y = 2 x + 1.
//! let x = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0], &[4, 1], &Device::Cpu)?;
//! let y = Tensor::from_slice(&[1.0f32, 3.0, 5.0, 7.0], &[4, 1], &Device::Cpu)?;
//! let weight = Tensor::from_slice(&[0.0f32], &[1, 1], &Device::Cpu)?.requires_grad();
//! let bias = Tensor::from_slice(&[0.0f32], &[1], &Device::Cpu)?.requires_grad();
//! let parameters = vec![("weight".to_string(), weight.clone()), ("bias".to_string(), bias.clone())];
//! let mut optimiser = AdamW::new(parameters, AdamWOptions { weight_decay: 0.0, ..Default::default() })?;
//! for _ in 0..500 {
//!     let error = ops::linear(&x, &weight, Some(&bias))?.sub(&y)?;
//!     let loss = error.mul(&error)?.mean_all()?;
//!     optimiser.step(&loss.backward()?, 0.05)?;
//! }
//! assert!((weight.item()? - 2.0).abs() < 0.01);
//! # Ok(())
//! # }
//! ```

/// The guide, whose blocks are tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/autograd.md")]
mod guide {}

mod autograd;
mod cpu;
mod device;
mod display;
mod dtype;
mod error;
mod gpu;
mod gradcheck;
mod kv_cache;
mod layout;
pub mod memory;
mod operators;
pub mod ops;
mod optim;
pub mod profile;
pub mod safetensors;
mod storage;
mod tensor;

pub use autograd::{
    Backward, Forward, Gradients, Meta, Operation, apply, checkpoint, checkpoint_chunks, no_grad,
};
pub use device::Device;
pub use dtype::{Dtype, Element};
pub use error::{Error, Result};
pub use gpu::Gpu;
pub use gradcheck::{GradientError, check_gradient};
pub use half::{bf16, f16};
pub use kv_cache::KvCache;
pub use longhand_kernels::Random;
pub use longhand_kernels::kv_cache::Storage;
pub use longhand_kernels::random::Dropout;
pub use optim::{AdamW, AdamWOptions, Moments, Rounding, clip_grad_norm};
pub use tensor::{Tensor, TensorId};
