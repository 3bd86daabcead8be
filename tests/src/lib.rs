//! What the tests that cross crates share: the rule by which a kernel is judged, and the plain algorithms that set
//! its measure.
//!
//! A kernel passes when its error against the float64 reference is at most twice the error of the [`plain`]
//! algorithm in the kernel's own precision (three times for gradients), plus rounding of the output type: see
//! [`tolerance`].
#![forbid(unsafe_code)]

mod draw;
pub mod plain;
mod precision;
pub mod tolerance;

pub use draw::Draw;
pub use precision::Precision;
