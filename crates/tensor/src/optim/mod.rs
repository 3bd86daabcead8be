//! What turns gradients into better parameters.

mod adamw;
mod clip;

pub use adamw::{AdamW, AdamWOptions};
pub use clip::clip_grad_norm;
