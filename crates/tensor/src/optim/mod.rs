//! What turns gradients into better parameters.

mod adamw;
mod clip;
mod norm;

pub use adamw::{AdamW, AdamWOptions, Moments, Rounding};
pub use clip::clip_grad_norm;
