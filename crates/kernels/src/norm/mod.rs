//! Layer norm and RMSNorm of a residual sum, forward and backward (`N` rows of width `W`).
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::norm::{Norm, NormForwardArgs};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::cuda(0)?;
//! let stream = device.new_stream()?;
//! let plan = Norm::rms(Dtype::Bf16, 4096).plan_forward(&device)?;
//!
//! let rows = 8192;
//! let [x, residual, sum, out] = [(); 4].map(|()| stream.alloc(rows * 4096 * 2));
//! let (x, residual, sum, out) = (x?, residual?, sum?, out?);
//! let (weight, rstd) = (stream.alloc(4096 * 2)?, stream.alloc(rows * 4)?);
//! let args = NormForwardArgs {
//!     rows,
//!     eps: 1e-6,
//!     x: x.ptr(),
//!     x_stride: 4096,
//!     residual: residual.ptr(),
//!     dropout: None,
//!     weight: weight.ptr(),
//!     bias: DevicePtr::NULL,
//!     sum: sum.ptr(),
//!     out: out.ptr(),
//!     mean: DevicePtr::NULL,
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

pub use backward::{NormBackwardArgs, NormBackwardPlan};
pub use forward::{NormForwardArgs, NormForwardPlan};

use longhand_gpu::{Arch, Constants, DevicePtr, params};

use crate::check::Check;
use crate::extent::Extent;
use crate::random::Dropout;
use crate::{Dtype, Result, Variant};
use tuning::Block;

/// The widest row there are kernels for.
pub const MAX_WIDTH: usize = 131_072;

/// Layer norm (Ba, Kiros & Hinton 2016, arXiv 1607.06450, eq. 4) or RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467,
/// eq. 4) of a residual sum, in one pass over memory: `sum = residual + dropout(x)`,
/// `out = (sum - mean) / sqrt(variance + eps) * weight + bias`; RMSNorm takes 0 for the mean. Residual, dropout, weight
/// and bias are optional.
///
/// Deterministic, forward and backward: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Norm {
    layer: bool,
    dtype: Dtype,
    width: usize,
    weight: bool,
    bias: bool,
    weight_dtype: Dtype,
    dropout: bool,
}

impl Norm {
    /// Layer norm with weight and bias, of rows of `width` elements.
    #[must_use]
    pub fn layer(dtype: Dtype, width: usize) -> Norm {
        Norm { layer: true, dtype, width, weight: true, bias: true, weight_dtype: dtype, dropout: false }
    }

    /// RMSNorm with weight and without bias, of rows of `width` elements.
    #[must_use]
    pub fn rms(dtype: Dtype, width: usize) -> Norm {
        Norm { layer: false, bias: false, ..Norm::layer(dtype, width) }
    }

    /// Whether there is a weight; without, it is 1.
    #[must_use]
    pub fn weight(self, weight: bool) -> Norm {
        Norm { weight, ..self }
    }

    /// Whether there is a bias.
    #[must_use]
    pub fn bias(self, bias: bool) -> Norm {
        Norm { bias, ..self }
    }

    /// Of weight, bias and their gradients: that of the rows, or [`Dtype::F32`].
    #[must_use]
    pub fn weight_dtype(self, weight_dtype: Dtype) -> Norm {
        Norm { weight_dtype, ..self }
    }

    /// Whether elements of `x` are dropped before the sum.
    #[must_use]
    pub fn dropout(self, dropout: bool) -> Norm {
        Norm { dropout, ..self }
    }

    fn check(&self, check: Check) -> Result<()> {
        check.size("width", self.width, 1, MAX_WIDTH)?;
        if self.weight_dtype != self.dtype && self.weight_dtype != Dtype::F32 {
            let expected = format!("that of the rows ({}) or f32", self.dtype);
            return Err(check.error("weight dtype", self.weight_dtype, expected));
        }
        Ok(())
    }

    /// Dropout is asked for when the kernel is compiled, and given when it is launched.
    fn check_dropout(&self, check: Check, dropout: Option<Dropout>) -> Result<()> {
        match dropout {
            Some(_) if !self.dropout => Err(check.error("dropout", "given", "none: it was not planned")),
            None if self.dropout => Err(check.error("dropout", "none", "given: it was planned")),
            Some(dropout) => check.dropout(dropout),
            None => Ok(()),
        }
    }

    /// A tensor is there if it `exists`, and null otherwise; so is the gradient of one, but where nobody wants it.
    fn check_part(check: Check, name: &str, data: DevicePtr, dtype: Dtype, exists: bool) -> Result<()> {
        match exists {
            true => check.tensor(name, data, dtype),
            false if !data.is_null() => Err(check.error(name, "given", "null: this norm has none")),
            false => Ok(()),
        }
    }

    /// A contiguous tensor of so many rows.
    fn whole(&self, name: &'static str, data: DevicePtr, rows: usize) -> Extent {
        Extent::contiguous(name, data, rows * self.width, self.dtype.size())
    }

    /// Weight, bias, or the gradient of one.
    fn column(&self, name: &'static str, data: DevicePtr) -> Extent {
        Extent::contiguous(name, data, self.width, self.weight_dtype.size())
    }

    /// The elements of 16 bytes.
    fn vector(&self) -> usize {
        16 / self.dtype.size()
    }

    /// Whether rows that lie one behind the other can all be 16-byte aligned.
    fn can_be_aligned(&self) -> bool {
        self.width.is_multiple_of(self.vector())
    }

    fn constants(&self, vector: usize, block: Block) -> Constants {
        Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .alias("Weight", self.weight_dtype.cuda_name())
            .int("W", self.width as i64)
            .int("SLICES", block.slices as i64)
            .int("COLUMNS", self.columns(vector, block.slices) as i64)
            .int("VECTOR", vector as i64)
            .int("THREADS", block.threads)
            .int("ROW_THREADS", block.row_threads)
            .int("IN_REGISTERS", block.in_registers as i64)
            .int("IN_SHARED", block.in_shared as i64)
            .bool("SHARES_COLUMNS", block.shares_columns)
            .bool("LAYER", self.layer)
            .bool("HAS_WEIGHT", self.weight)
            .bool("HAS_BIAS", self.bias)
            .bool("DROPOUT", self.dropout)
    }

    /// Of a row, those that one of so many blocks has.
    fn columns(&self, vector: usize, slices: usize) -> usize {
        self.width.div_ceil(slices).next_multiple_of(vector)
    }
}

params! {
    struct DropoutParams {
        key: u64,
        drop_below: u32,
        scale: f32,
    }
}

impl DropoutParams {
    fn new(dropout: Option<Dropout>) -> DropoutParams {
        let dropout = dropout.unwrap_or_default();
        DropoutParams {
            key: dropout.random.key(),
            drop_below: dropout.drop_below(),
            scale: dropout.scale() as f32,
        }
    }
}

/// Every kernel here, for `arch`, at the widest row of each class, which needs the most registers; each feature at one width.
/// Vectors of one element are represented by the widths that have no other.
pub(crate) fn variants(arch: Arch) -> Vec<Variant> {
    let wide = [1024, 8192, 16_384, 32_768, 65_536, MAX_WIDTH].map(|width| Norm::layer(Dtype::Bf16, width));
    let odd = [1023, 16_383, 65_535].map(|width| Norm::layer(Dtype::Bf16, width));
    let features = [
        Norm::layer(Dtype::F32, 8192),
        Norm::layer(Dtype::F32, MAX_WIDTH).dropout(true),
        Norm::layer(Dtype::Bf16, 16_384).weight_dtype(Dtype::F32),
        Norm::layer(Dtype::Bf16, 1024).dropout(true).weight_dtype(Dtype::F32),
        Norm::rms(Dtype::F16, 16_384).dropout(true),
        Norm::rms(Dtype::F32, 1023).weight(false).bias(true).dropout(true),
    ];
    wide.into_iter()
        .chain(odd)
        .chain(features)
        .flat_map(|norm| {
            let vector = if norm.can_be_aligned() { norm.vector() } else { 1 };
            [forward::variant(&norm, vector, arch)].into_iter().chain(backward::variants(&norm, vector, arch))
        })
        .collect()
}
