//! Activations of a linear layer's output, with its bias, gated or not; forward and backward (`N` rows of width `W`).
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::activation::{Activation, ActivationForwardArgs, Function, Rows};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::cuda(0)?;
//! let stream = device.new_stream()?;
//! // SwiGLU of the halves of one tensor.
//! let plan = Activation::new(Function::Silu, Dtype::Bf16).gated(true).plan_forward(&device)?;
//!
//! let (rows, width) = (4096, 11_008);
//! let (both, out) = (stream.alloc(rows * 2 * width * 2)?, stream.alloc(rows * width * 2)?);
//! let half = |data| Rows { data, stride: 2 * width as i64 };
//! let args = ActivationForwardArgs {
//!     rows,
//!     width,
//!     x: half(both.ptr()),
//!     up: half(both.ptr().offset(2 * width as i64)),
//!     bias: DevicePtr::NULL,
//!     up_bias: DevicePtr::NULL,
//!     out: out.ptr(),
//! };
//! // SAFETY: both tensors lie within the allocations above, which outlive the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

mod backward;
mod forward;

pub use backward::{ActivationBackwardArgs, ActivationBackwardPlan};
pub use forward::{ActivationForwardArgs, ActivationForwardPlan};

use longhand_gpu::{Constants, DevicePtr};

use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::extent::Extent;
use crate::source::cuda_files;
use crate::{Dtype, Result, Variant};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))` (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2).
    GeluTanh,
    /// `x/2 (1 + erf(x / √2))` (there too).
    GeluErf,
    /// `x / (1 + exp(-x))` (there too; Ramachandran et al. 2017, arXiv 1710.05941).
    Silu,
    /// `max(x, 0)²` (So et al. 2021, arXiv 2109.08668, section 4.1).
    ReluSquared,
}

impl Function {
    /// All of them.
    pub const ALL: [Function; 4] =
        [Function::GeluTanh, Function::GeluErf, Function::Silu, Function::ReluSquared];
}

/// `out = f(x + bias)`, or gated, `out = f(x + bias) * (up + up_bias)`: SwiGLU, GeGLU (Shazeer 2020, arXiv 2002.05202,
/// eq. 6). Backward computes `f` again: only the inputs are kept.
///
/// Deterministic, forward and backward: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Activation {
    function: Function,
    dtype: Dtype,
    gated: bool,
    bias: bool,
}

impl Activation {
    /// Without a gate and without a bias.
    #[must_use]
    pub fn new(function: Function, dtype: Dtype) -> Activation {
        Activation { function, dtype, gated: false, bias: false }
    }

    /// Whether it is multiplied with a second input.
    #[must_use]
    pub fn gated(self, gated: bool) -> Activation {
        Activation { gated, ..self }
    }

    /// Whether there is a bias, of each input.
    #[must_use]
    pub fn bias(self, bias: bool) -> Activation {
        Activation { bias, ..self }
    }

    /// The elements of 16 bytes.
    fn vector(&self) -> usize {
        16 / self.dtype.size()
    }

    fn constants(&self, vector: usize) -> Constants {
        Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .int("VECTOR", vector as i64)
            .int("FUNCTION", self.function as i64)
            .bool("GATED", self.gated)
            .bool("HAS_BIAS", self.bias)
    }

    /// Blocks across the columns, and parts of the rows. It does not depend on the device, so neither does the order of
    /// the sums. 1024 blocks of 8 warps are all that 132 multiprocessors hold; with 48 rows for each, what a block reads
    /// and writes once for each column is little beside them.
    fn grid(rows: usize, width: usize, vector: usize) -> [usize; 2] {
        let across = width.div_ceil(LANES * vector);
        [across, rows.div_ceil(48).clamp(1, (1024 / across.max(1)).max(1))]
    }

    fn check_size(check: Check, rows: usize, width: usize) -> Result<()> {
        check.size("rows", rows, 0, MAX_BLOCKS)?;
        check.size("width", width, 0, MAX_BLOCKS)
    }

    /// A bias is there if it `exists`, and null otherwise; so is the gradient of one, but where nobody wants it.
    fn check_bias(&self, check: Check, name: &str, data: DevicePtr, exists: bool) -> Result<()> {
        match exists {
            true => check.tensor(name, data, self.dtype),
            false if !data.is_null() => Err(check.error(name, "given", "null: this activation has none")),
            false => Ok(()),
        }
    }

    /// Rows of the second input, or of its gradient, where it is gated.
    fn check_rows(
        &self,
        check: Check,
        [name, stride]: [&str; 2],
        rows: Rows,
        exists: bool,
        count: usize,
    ) -> Result<()> {
        if !exists && rows.data.is_null() {
            return Ok(());
        }
        if !exists {
            return Err(check.error(name, "given", "null: this activation is not gated"));
        }
        check.tensor(name, rows.data, self.dtype)?;
        check.stride(stride, rows.stride, count)
    }

    /// `(N, W)`.
    fn matrix(&self, name: &'static str, rows: Rows, shape: [usize; 2]) -> Extent {
        Extent::rows(name, rows.data, shape, rows.stride, self.dtype.size())
    }

    /// A bias, or the gradient of one.
    fn column(&self, name: &'static str, data: DevicePtr, width: usize) -> Extent {
        Extent::contiguous(name, data, width, self.dtype.size())
    }

    /// Whether 16-byte accesses are possible in every row.
    fn is_aligned<const N: usize>(&self, width: usize, tensors: [DevicePtr; N], strides: &[i64]) -> bool {
        let vector = self.vector();
        let whole = |stride: &i64| stride % vector as i64 == 0;
        aligned(tensors) && width.is_multiple_of(vector) && strides.iter().all(whole)
    }
}

/// Threads of every kernel here: `WARPS` of `LANES`.
const THREADS: u32 = (WARPS * LANES) as u32;
const WARPS: usize = 8;
const LANES: usize = 32;

const HEADERS: &[(&str, &str)] = cuda_files!["activation/columns.cuh", "activation/functions.cuh"];

/// Where rows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The first element of the first row.
    pub data: DevicePtr,
    /// Elements from one row to the next.
    pub stride: i64,
}

impl Rows {
    /// What is given where there are none.
    pub const NONE: Rows = Rows { data: DevicePtr::NULL, stride: 0 };
}

/// Every function; each feature with one of them.
pub(crate) fn variants() -> Vec<Variant> {
    let bf16 = |function| Activation::new(function, Dtype::Bf16);
    let each = Function::ALL.into_iter().map(|function| (bf16(function).gated(true).bias(true), 8));
    let silu = |dtype| Activation::new(Function::Silu, dtype);
    let features = [
        (silu(Dtype::F32).gated(true).bias(true), 4),
        (silu(Dtype::F16).gated(true), 8),
        (silu(Dtype::Bf16).bias(true), 8),
        (silu(Dtype::Bf16).gated(true).bias(true), 1),
        (silu(Dtype::F32), 1),
    ];
    each.chain(features)
        .flat_map(|(activation, vector)| {
            let backward = backward::variants(&activation, vector).into_iter();
            let backward = backward.take(if activation.bias { 2 } else { 1 });
            [forward::variant(&activation, vector)].into_iter().chain(backward)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_the_numbers_that_the_kernel_gives_them() {
        let [_, (_, code)] = HEADERS else { panic!("two headers") };
        let names = code.split_once("enum Function {").unwrap().1.split_once('}').unwrap().0;
        let names: Vec<String> =
            names.split(',').map(|name| name.trim().replace('_', "").to_lowercase()).collect();
        assert_eq!(names, Function::ALL.map(|function| format!("{function:?}").to_lowercase()));
        assert!(Function::ALL.into_iter().enumerate().all(|(i, function)| function as usize == i));
    }

    #[test]
    fn there_are_as_many_parts_as_keep_a_gpu_busy_and_no_more() {
        assert_eq!(Activation::grid(0, 512, 8), [2, 1]);
        assert_eq!(Activation::grid(97, 512, 8), [2, 3]);
        assert_eq!(Activation::grid(1 << 20, 512, 8), [2, 512]);
        assert_eq!(Activation::grid(1 << 20, 1 << 20, 8), [4096, 1]);
        assert_eq!(Activation::grid(8, 0, 8), [0, 1]);
    }
}
