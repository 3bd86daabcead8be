//! `kernels/softmax/`: softmax of rows, and their log-sum-exp.
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::softmax::{SoftmaxArgs, SoftmaxForward};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Of 64 rows of 1000, in place.
//! let device = Device::emulated("sm_80".parse()?)?;
//! let stream = device.new_stream()?;
//! let x = stream.alloc(2 * 64 * 1000)?;
//! let plan = SoftmaxForward::new(Dtype::Bf16).plan(&device)?;
//! let args = SoftmaxArgs {
//!     rows: 64,
//!     width: 1000,
//!     x: x.ptr(),
//!     stride: 1000,
//!     out: x.ptr(),
//!     out_stride: 1000,
//!     lse: DevicePtr::NULL,
//! };
//! // SAFETY: the tensor is the allocation above, which outlives the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

use longhand_gpu::{Constants, Device, DevicePtr, Launch, Stream, params};

use crate::check::{Check, MAX_BLOCKS};
use crate::held::{Holding, REDUCTIONS, held};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const FORWARD: Check = Check("softmax forward");
const BACKWARD: Check = Check("softmax backward");
const THREADS: u32 = 512;

mod forward {
    use super::{DevicePtr, params};

    params! {
        pub struct Params {
            pub x: DevicePtr,
            pub out: DevicePtr,
            pub lse: DevicePtr,
            pub stride: i64,
            pub out_stride: i64,
            pub width: i32,
            pub held: i32,
        }
    }
}

mod backward {
    use super::{DevicePtr, params};

    params! {
        pub struct Params {
            pub out: DevicePtr,
            pub dout: DevicePtr,
            pub dlse: DevicePtr,
            pub dx: DevicePtr,
            pub width: i32,
            pub held: i32,
            pub aligned: i32,
            pub _pad: u32,
        }
    }
}

fn variant(dtype: Dtype, backward: bool, shared_bytes: u32) -> Variant {
    let [forward_file, backward_file] = *cuda_files!["softmax/forward.cu", "softmax/backward.cu"];
    let (file, entry, layout) = match backward {
        false => (forward_file, "softmax_forward", forward::Params::LAYOUT),
        true => (backward_file, "softmax_backward", backward::Params::LAYOUT),
    };
    let constants = Constants::new().alias("Element", dtype.cuda_name()).int("THREADS", THREADS);
    Variant { program: program(file, &[], constants).params(layout), entry, threads: THREADS, shared_bytes }
}

/// Softmax of each row, `out = exp(x - lse)` with `lse = log(sum(exp(x)))`. Statistics are f32. A row of -inf gives an
/// `lse` of -inf and an `out` of 0.
///
/// As much of a row as fits stays in shared memory between its statistics and its softmax; the rest is read twice.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxForward(Dtype);

impl SoftmaxForward {
    /// Of elements of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> SoftmaxForward {
        SoftmaxForward(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<SoftmaxForwardPlan> {
        let holding = Holding::new(device, &variant(self.0, false, 0), Some(REDUCTIONS))?;
        Ok(SoftmaxForwardPlan { dtype: self.0, holding })
    }
}

/// What [`SoftmaxForwardPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxArgs {
    /// `N`, at most 2³¹ - 1.
    pub rows: usize,
    /// `W`, 1 to 2³¹ - 1.
    pub width: usize,
    /// `(N, W)`, rows `stride` elements apart, at any alignment.
    pub x: DevicePtr,
    /// Elements from one row of `x` to the next.
    pub stride: i64,
    /// `(N, W)`, rows `out_stride` elements apart, overwritten; it may be `x` itself. [`DevicePtr::NULL`] where only the
    /// log-sum-exp is wanted.
    pub out: DevicePtr,
    /// Elements from one row of `out` to the next.
    pub out_stride: i64,
    /// `(N)` f32, overwritten: the log-sum-exp; [`DevicePtr::NULL`] where it is not wanted.
    pub lse: DevicePtr,
}

/// A compiled [`SoftmaxForward`].
#[derive(Clone, Debug)]
pub struct SoftmaxForwardPlan {
    dtype: Dtype,
    holding: Holding,
}

impl SoftmaxForwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no rows.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; no output overlaps another tensor, but for what is said of `out`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &SoftmaxArgs) -> Result<()> {
        let SoftmaxArgs { rows, width, x, stride, out, out_stride, lse } = *args;
        check_forward(self.dtype, args)?;
        if rows == 0 {
            return Ok(());
        }
        // Without `out` there is no second pass.
        let (shared_bytes, held) =
            if out.is_null() { (0, 0) } else { self.holding.held(self.dtype, width, 1) };
        let params = forward::Params { x, out, lse, stride, out_stride, width: width as i32, held };
        let shape = Launch { grid: [rows as u32, 1, 1], block: [THREADS, 1, 1], shared_bytes };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        Ok(unsafe { self.holding.kernel.launch(stream, shape, &params) }?)
    }
}

fn check_sizes(check: Check, rows: usize, width: usize) -> Result<()> {
    check.size("rows", rows, 0, MAX_BLOCKS)?;
    check.size("width", width, 1, MAX_BLOCKS)
}

fn check_forward(dtype: Dtype, args: &SoftmaxArgs) -> Result<()> {
    let SoftmaxArgs { rows, width, x, stride, out, out_stride, lse } = *args;
    check_sizes(FORWARD, rows, width)?;
    if rows == 0 {
        return Ok(());
    }
    FORWARD.tensor("x", x, dtype)?;
    FORWARD.stride("stride", stride, rows)?;
    FORWARD.optional("lse", lse, Dtype::F32)?;
    if out.is_null() {
        return Ok(());
    }
    FORWARD.tensor("out", out, dtype)?;
    if out == x && out_stride != stride {
        return Err(FORWARD.error("out_stride", out_stride, format!("{stride}, that of x, in its place")));
    }
    FORWARD.written_stride("out_stride", out_stride, rows, width)
}

/// The gradient of [`SoftmaxForward`]: `dx = out * (dout - sum(out * dout) + dlse)`. Sums are f32.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxBackward(Dtype);

impl SoftmaxBackward {
    /// Of elements of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> SoftmaxBackward {
        SoftmaxBackward(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<SoftmaxBackwardPlan> {
        let holding = Holding::new(device, &variant(self.0, true, 0), Some(REDUCTIONS))?;
        Ok(SoftmaxBackwardPlan { dtype: self.0, holding })
    }
}

/// What [`SoftmaxBackwardPlan::launch`] computes with. The matrices are contiguous, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxBackwardArgs {
    /// `N`, at most 2³¹ - 1.
    pub rows: usize,
    /// `W`, 1 to 2³¹ - 1.
    pub width: usize,
    /// `(N, W)`, of forward.
    pub out: DevicePtr,
    /// `(N, W)`, the gradient of `out`; [`DevicePtr::NULL`] for 0.
    pub dout: DevicePtr,
    /// `(N)` f32, the gradient of the log-sum-exp; [`DevicePtr::NULL`] for 0.
    pub dlse: DevicePtr,
    /// `(N, W)`, overwritten; it may be `dout` itself.
    pub dx: DevicePtr,
}

/// A compiled [`SoftmaxBackward`].
#[derive(Clone, Debug)]
pub struct SoftmaxBackwardPlan {
    dtype: Dtype,
    holding: Holding,
}

impl SoftmaxBackwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no rows.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with this size, in memory of the stream's device that stays allocated until the stream has come
    /// to this point; `dx` overlaps no other tensor, but for what is said there.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &SoftmaxBackwardArgs) -> Result<()> {
        let SoftmaxBackwardArgs { rows, width, out, dout, dlse, dx } = *args;
        check_sizes(BACKWARD, rows, width)?;
        if rows == 0 {
            return Ok(());
        }
        BACKWARD.tensor("out", out, self.dtype)?;
        BACKWARD.optional("dout", dout, self.dtype)?;
        BACKWARD.optional("dlse", dlse, Dtype::F32)?;
        BACKWARD.tensor("dx", dx, self.dtype)?;
        let alike = |other: DevicePtr| (out.0 ^ other.0).is_multiple_of(16);
        let aligned = alike(dx) && (dout.is_null() || alike(dout));
        // Without `dout`, one pass is enough.
        let (shared_bytes, held) =
            if aligned && !dout.is_null() { self.holding.held(self.dtype, width, 2) } else { (0, 0) };
        let aligned = i32::from(aligned);
        let params = backward::Params { out, dout, dlse, dx, width: width as i32, held, aligned, _pad: 0 };
        let shape = Launch { grid: [rows as u32, 1, 1], block: [THREADS, 1, 1], shared_bytes };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        Ok(unsafe { self.holding.kernel.launch(stream, shape, &params) }?)
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    let of_dtype = |dtype| {
        [(false, 1), (true, 2)].map(|(backward, tensors)| {
            let (shared_bytes, _) = held(dtype, 8192, tensors, u32::MAX);
            variant(dtype, backward, shared_bytes)
        })
    };
    [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().flat_map(of_dtype).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_cannot_take_is_named() {
        let at = DevicePtr(4096);
        let args = SoftmaxArgs { rows: 2, width: 10, x: at, stride: 10, out: at, out_stride: 10, lse: at };
        let message = |args: SoftmaxArgs| {
            check_forward(Dtype::Bf16, &args).map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(message(args), "fine");
        assert_eq!(
            message(SoftmaxArgs { out_stride: 12, ..args }),
            "softmax forward: out_stride is 12, it has to be 10, that of x, in its place"
        );
        assert_eq!(
            message(SoftmaxArgs { out: DevicePtr(8192), out_stride: 9, ..args }),
            "softmax forward: out_stride is 9, it has to be at least 10: rows would overlap"
        );
        assert_eq!(
            message(SoftmaxArgs { width: 0, ..args }),
            "softmax forward: width is 0, it has to be 1 to 2147483647"
        );
        assert!(message(SoftmaxArgs { x: DevicePtr(1), ..args }).contains("x is DevicePtr(0x1)"));
        let nothing = SoftmaxArgs { rows: 0, x: DevicePtr::NULL, out: DevicePtr::NULL, ..args };
        assert_eq!(message(nothing), "fine");
    }
}
