//! The judge of Longhand's kernels: an operation, run on a device with drawn inputs, against the float64 reference.
//!
//! A kernel passes when its error against the reference is at most twice the error of the [`plain`] algorithm in the
//! kernel's own precision (three times for gradients), plus rounding of the output type: see [`tolerance`]. On an
//! emulated device it must also be free of faults.
//!
//! It is a crate of its own so that the tests, which draw shapes by the hundred, and `longhand verify`, which a kernel
//! engineer watches, say the same of the same kernel. A [`Case`] is one operation with its sizes, types and strides;
//! [`verify`] runs it and returns an [`Outcome`]; [`Op::cases`] lists the telling ones of each operation.
//!
//! ```
//! use longhand_gpu::Device;
//! use longhand_verify::{Op, verify};
//!
//! # fn main() -> Result<(), longhand_gpu::Error> {
//! let device = Device::emulated("sm_90a".parse()?)?;
//! if let Err(reason) = device.compiler() {
//!     return Ok(println!("skipped: {reason}"));
//! }
//! let case = &Op::Reduction.cases()[0];
//! let outcome = verify(&**case, &device);
//! assert!(outcome.passed(), "{} {case}: {:?}", case.operation(), outcome.failures());
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_op_in_unsafe_fn)]

mod canonical;
pub mod cards;
pub mod cases;
mod compare;
mod draw;
mod error;
mod layout;
mod op;
mod outcome;
pub mod plain;
mod precision;
pub mod tolerance;
mod trial;
mod view;

pub use canonical::Canonical;
pub use compare::{Difference, compare};
pub use draw::Draw;
pub use error::Error;
pub use layout::Layout;
pub use op::Op;
pub use outcome::{Case, Outcome, verify};
pub use precision::Precision;
pub use trial::{Trial, Written};
pub use view::View;
