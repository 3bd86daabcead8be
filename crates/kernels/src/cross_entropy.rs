//! `kernels/cross_entropy/`: cross-entropy of softmax over `N` rows of `V` logits, its gradient, and their mean.
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::cross_entropy::{CrossEntropy, CrossEntropyArgs, Gradient, Logits, LossOptions, MeanLoss};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The mean loss of 512 rows of 50,257 logits in bf16, which are overwritten by its gradient.
//! let device = Device::emulated("sm_80".parse()?)?;
//! let stream = device.new_stream()?;
//! let (rows, vocabulary) = (512, 50_257);
//! let logits = stream.alloc(2 * rows * vocabulary)?;
//! let [targets, loss, share, mean] = [rows, rows, 1, 1].map(|n| stream.alloc(4 * n));
//! let (targets, loss, share, mean) = (targets?, loss?, share?, mean?);
//! let rows_plan = CrossEntropy::new(Dtype::Bf16, vocabulary).gradient(true).plan(&device)?;
//! let mean_plan = MeanLoss::new().plan(&device)?;
//! let stride = vocabulary as i64;
//! let args = CrossEntropyArgs {
//!     logits: Logits { rows, data: logits.ptr(), stride, targets: targets.ptr() },
//!     options: LossOptions::default(),
//!     loss: loss.ptr(),
//!     lse: DevicePtr::NULL,
//!     gradient: Some(Gradient {
//!         scale: 1.0,
//!         dmean: DevicePtr::NULL,
//!         share: share.ptr(),
//!         dlogits: logits.ptr(),
//!         stride,
//!     }),
//! };
//! // SAFETY: all tensors lie within the allocations above, which outlive the launches.
//! unsafe {
//!     mean_plan.share(&stream, rows, targets.ptr(), share.ptr())?;
//!     rows_plan.launch(&stream, &args)?;
//!     mean_plan.mean(&stream, rows, loss.ptr(), share.ptr(), mean.ptr())?;
//! }
//! # Ok(())
//! # }
//! ```

mod mean;
mod rows;

pub use mean::{GradientScale, GradientScalePlan, MeanLoss, MeanLossPlan};
pub use rows::{CrossEntropy, CrossEntropyArgs, CrossEntropyPlan, Gradient, Logits, LossOptions};

use longhand_gpu::Arch;

use crate::Variant;

/// The target of a row that does not count.
pub const IGNORE: u32 = u32::MAX;

pub(crate) fn variants(arch: Arch) -> Vec<Variant> {
    [rows::variants(arch), mean::variants()].concat()
}
