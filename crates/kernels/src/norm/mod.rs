//! Layer norm of a residual sum, forward and backward (`N` rows of width `W`).
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::norm::{LayerNormForward, LayerNormForwardArgs};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::cuda(0)?;
//! let stream = device.new_stream()?;
//! let plan = LayerNormForward::new(Dtype::Bf16, 768)?.plan(&device)?;
//!
//! let rows = 4096;
//! let [x, residual, sum, out] = [(); 4].map(|()| stream.alloc(rows * 768 * 2));
//! let (x, residual, sum, out) = (x?, residual?, sum?, out?);
//! let (weight, bias) = (stream.alloc(768 * 2)?, stream.alloc(768 * 2)?);
//! let (mean, rstd) = (stream.alloc(rows * 4)?, stream.alloc(rows * 4)?);
//! let args = LayerNormForwardArgs {
//!     rows,
//!     eps: 1e-5,
//!     x: x.ptr(),
//!     x_stride: 768,
//!     residual: residual.ptr(),
//!     weight: weight.ptr(),
//!     bias: bias.ptr(),
//!     sum: sum.ptr(),
//!     out: out.ptr(),
//!     mean: mean.ptr(),
//!     rstd: rstd.ptr(),
//! };
//! // SAFETY: all tensors lie within the allocations above, which outlive the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

mod backward;
mod forward;
mod tuning;

pub use backward::{LayerNormBackward, LayerNormBackwardArgs, LayerNormBackwardPlan};
pub use forward::{LayerNormForward, LayerNormForwardArgs, LayerNormForwardPlan};

use longhand_gpu::Constants;

use crate::check::Check;
use crate::{Dtype, Result, Variant};
use tuning::Block;

/// The widest row there are kernels for.
pub const MAX_WIDTH: usize = 65_536;

/// What the kernels are specialised on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Kind {
    dtype: Dtype,
    width: usize,
}

impl Kind {
    fn new(check: Check, dtype: Dtype, width: usize) -> Result<Kind> {
        check.size("width", width, 1, MAX_WIDTH)?;
        Ok(Kind { dtype, width })
    }

    /// Whether rows that lie one behind the other can all be 16-byte aligned.
    fn can_be_aligned(self) -> bool {
        self.width.is_multiple_of(8)
    }

    fn constants(self, vector: usize, block: Block) -> Constants {
        Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .int("W", self.width as i64)
            .int("VECTOR", vector as i64)
            .int("THREADS", block.threads)
            .int("ROW_THREADS", block.row_threads)
    }
}

/// Every kernel here, at the widest row of each class, which needs the most registers. Vectors of one element are
/// represented by the widths that have no other.
pub(crate) fn variants() -> Vec<Variant> {
    let widths = [1024, 4096, 8192, 16_384, 32_768, MAX_WIDTH].map(|width| (width, 8));
    let odd_widths = [7, 1023, 8191, 65_535].map(|width| (width, 1));
    let all = widths.into_iter().chain(odd_widths);
    all.flat_map(|(width, vector)| [Dtype::F32, Dtype::Bf16].map(|dtype| (Kind { dtype, width }, vector)))
        .chain([(Kind { dtype: Dtype::F16, width: 768 }, 8)])
        .flat_map(|(kind, vector)| {
            [forward::variant(kind, vector)].into_iter().chain(backward::variants(kind, vector))
        })
        .collect()
}
