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
//! let plan = SoftmaxForward::new(Dtype::Bf16, 1000).plan(&device)?;
//! let args = SoftmaxArgs {
//!     rows: 64,
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

use longhand_gpu::{Arch, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS};
use crate::extent::Extent;
use crate::held::{Holding, MAX_ROWS, REDUCTIONS, Row, Slicing};
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

/// A pass over rows of one width: forward holds one tensor of a row, backward two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pass(Row);

impl Pass {
    fn forward(dtype: Dtype, width: usize) -> Pass {
        Pass(Row { dtype, width, tensors: 1 })
    }

    fn backward(dtype: Dtype, width: usize) -> Pass {
        Pass(Row { dtype, width, tensors: 2 })
    }

    fn slicing(self, arch: Arch) -> Slicing {
        if self.0.is_long() { Slicing::of_long_rows(arch, THREADS) } else { Slicing::none(THREADS) }
    }

    fn variant(self, arch: Arch, shared_bytes: u32) -> Variant {
        let [forward_file, backward_file] = *cuda_files!["softmax/forward.cu", "softmax/backward.cu"];
        let (file, entry, layout) = match self.0.tensors {
            1 => (forward_file, "softmax_forward", forward::Params::LAYOUT),
            _ => (backward_file, "softmax_backward", backward::Params::LAYOUT),
        };
        let program = program(file, &[], self.slicing(arch).constants(self.0.dtype)).params(layout);
        Variant { program, entry, threads: THREADS, shared_bytes }
    }

    fn load(self, device: &Device) -> Result<Holding> {
        let arch = device.arch();
        Holding::new(device, &self.variant(arch, 0), self.slicing(arch), self.0, REDUCTIONS)
    }
}

/// Softmax of each row, `out = exp(x - lse)` with `lse = log(sum(exp(x)))`. Statistics are f32. A row of -inf gives an
/// `lse` of -inf and an `out` of 0.
///
/// As much of a row as fits stays in shared memory between its statistics and its softmax; the rest is read twice. From
/// sm_90 on a cluster of 8 blocks holds a long row together: at least 390,000 elements of 16 bits.
///
/// Deterministic: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SoftmaxForward {
    dtype: Dtype,
    width: usize,
}

impl SoftmaxForward {
    /// Of rows of `width` (`W`, 1 to 2³¹ - 1) elements of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype, width: usize) -> SoftmaxForward {
        SoftmaxForward { dtype, width }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a width that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<SoftmaxForwardPlan> {
        FORWARD.size("width", self.width, 1, MAX_BLOCKS)?;
        Ok(SoftmaxForwardPlan { kind: *self, rows: Pass::forward(self.dtype, self.width).load(device)? })
    }
}

/// What [`SoftmaxForwardPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxArgs {
    /// `N`, below 2²⁸.
    pub rows: usize,
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
    kind: SoftmaxForward,
    rows: Holding,
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
        let SoftmaxArgs { rows, x, stride, out, out_stride, lse } = *args;
        check_forward(self.kind, args)?;
        if rows == 0 {
            return Ok(());
        }
        let again = !out.is_null();
        let (width, held) = (self.kind.width as i32, self.rows.held(again));
        let params = forward::Params { x, out, lse, stride, out_stride, width, held };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.rows.launch(stream, rows, again, &params) }
    }
}

fn check_forward(kind: SoftmaxForward, args: &SoftmaxArgs) -> Result<()> {
    let SoftmaxForward { dtype, width } = kind;
    let SoftmaxArgs { rows, x, stride, out, out_stride, lse } = *args;
    FORWARD.size("rows", rows, 0, MAX_ROWS)?;
    if rows == 0 {
        return Ok(());
    }
    FORWARD.tensor("x", x, dtype)?;
    FORWARD.stride("stride", stride, rows)?;
    FORWARD.optional("lse", lse, Dtype::F32)?;
    if !out.is_null() {
        FORWARD.tensor("out", out, dtype)?;
        FORWARD.written_stride("out_stride", out_stride, rows, width)?;
    }
    let matrix = |name, data, stride| Extent::rows(name, data, [rows, width], stride, dtype.size());
    FORWARD.apart(&[
        matrix("x", x, stride),
        matrix("out", out, out_stride).written().may_be(&["x"]),
        Extent::contiguous("lse", lse, rows, 4).written(),
    ])
}

/// The gradient of [`SoftmaxForward`]: `dx = out * (dout - sum(out * dout) + dlse)`. Sums are f32.
///
/// Rows stay in shared memory as in [`SoftmaxForward`], two tensors of them.
///
/// Deterministic: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SoftmaxBackward {
    dtype: Dtype,
    width: usize,
}

impl SoftmaxBackward {
    /// Of rows of `width` (`W`, 1 to 2³¹ - 1) elements of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype, width: usize) -> SoftmaxBackward {
        SoftmaxBackward { dtype, width }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a width that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<SoftmaxBackwardPlan> {
        BACKWARD.size("width", self.width, 1, MAX_BLOCKS)?;
        Ok(SoftmaxBackwardPlan { kind: *self, rows: Pass::backward(self.dtype, self.width).load(device)? })
    }
}

/// What [`SoftmaxBackwardPlan::launch`] computes with. The matrices are contiguous, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxBackwardArgs {
    /// `N`, below 2²⁸.
    pub rows: usize,
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
    kind: SoftmaxBackward,
    rows: Holding,
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
        let SoftmaxBackwardArgs { rows, out, dout, dlse, dx } = *args;
        check_backward(self.kind, args)?;
        if rows == 0 {
            return Ok(());
        }
        let alike = |other: DevicePtr| (out.0 ^ other.0).is_multiple_of(16);
        let aligned = i32::from(alike(dx) && (dout.is_null() || alike(dout)));
        // Without `dout`, one pass is enough.
        let again = !dout.is_null();
        let (width, held) = (self.kind.width as i32, self.rows.held(again));
        let params = backward::Params { out, dout, dlse, dx, width, held, aligned, _pad: 0 };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.rows.launch(stream, rows, again, &params) }
    }
}

fn check_backward(kind: SoftmaxBackward, args: &SoftmaxBackwardArgs) -> Result<()> {
    let SoftmaxBackwardArgs { rows, out, dout, dlse, dx } = *args;
    BACKWARD.size("rows", rows, 0, MAX_ROWS)?;
    if rows == 0 {
        return Ok(());
    }
    BACKWARD.tensor("out", out, kind.dtype)?;
    BACKWARD.optional("dout", dout, kind.dtype)?;
    BACKWARD.optional("dlse", dlse, Dtype::F32)?;
    BACKWARD.tensor("dx", dx, kind.dtype)?;
    let matrix = |name, data| Extent::contiguous(name, data, rows * kind.width, kind.dtype.size());
    BACKWARD.apart(&[
        matrix("out", out),
        matrix("dout", dout),
        Extent::contiguous("dlse", dlse, rows, 4),
        matrix("dx", dx).written().may_be(&["dout"]),
    ])
}

/// Each type in short rows; one in long rows.
pub(crate) fn variants(arch: Arch) -> Vec<Variant> {
    let rows = [(Dtype::F32, 8192), (Dtype::Bf16, 8192), (Dtype::F16, 8192), (Dtype::F32, 131_072)];
    let passes = [Pass::forward, Pass::backward];
    rows.into_iter()
        .flat_map(|(dtype, width)| passes.map(|pass| pass(dtype, width)))
        .map(|pass| pass.variant(arch, pass.slicing(arch).held(pass.0, 90 << 10).0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};

    fn at(i: u64) -> DevicePtr {
        DevicePtr(i << 20)
    }

    #[test]
    fn what_is_written_is_apart_from_all_else_but_for_what_it_may_be() {
        let forward = SoftmaxForward::new(Dtype::Bf16, 100);
        let args = SoftmaxArgs { rows: 9, x: at(1), stride: 103, out: at(2), out_stride: 103, lse: at(3) };
        assert_apart(args, |args| check_forward(forward, args), 2, pointers![out, lse, x], &[["out", "x"]]);
        let backward = SoftmaxBackward::new(Dtype::F32, 100);
        let args = SoftmaxBackwardArgs { rows: 9, out: at(1), dout: at(2), dlse: at(3), dx: at(4) };
        assert_apart(
            args,
            |args| check_backward(backward, args),
            1,
            pointers![dx, out, dout, dlse],
            &[["dx", "dout"]],
        );
    }

    #[test]
    fn what_the_kernel_cannot_take_is_named() {
        let args = SoftmaxArgs { rows: 2, x: at(1), stride: 10, out: at(1), out_stride: 10, lse: at(2) };
        let message = |args: SoftmaxArgs| {
            check_forward(SoftmaxForward::new(Dtype::Bf16, 10), &args)
                .map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(message(args), "fine");
        assert_eq!(
            message(SoftmaxArgs { out_stride: 12, ..args }),
            "softmax forward: out is at 0x100000..0x10002c, it has to be apart from x at 0x100000..0x100028, or in its very place"
        );
        assert_eq!(
            message(SoftmaxArgs { out: DevicePtr(8192), out_stride: 9, ..args }),
            "softmax forward: out_stride is 9, it has to be at least 10: rows would overlap"
        );
        assert!(message(SoftmaxArgs { x: DevicePtr(1), ..args }).contains("x is DevicePtr(0x1)"));
        let nothing = SoftmaxArgs { rows: 0, x: DevicePtr::NULL, out: DevicePtr::NULL, ..args };
        assert_eq!(message(nothing), "fine");
    }
}
