//! `kernels/reduction/axis.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("axis sum");
/// Of the kernel for an axis that is not the innermost.
const THREADS: u32 = 256;
/// Of a row along the innermost axis: one warp for a short one, or a block.
const ROW_THREADS: [u32; 2] = [32, 256];
/// From this length on, a row is a block's: a warp has taken four 16-byte loads per lane by then.
const LONG_ROW: usize = 1024;

params! {
    struct Params {
        x: DevicePtr,
        out: DevicePtr,
        axis: i64,
        inner: i64,
        factor: f32,
        _pad: u32,
    }
}

/// The sum along one axis, times a factor (for a mean: one over the axis' length): `out[o, i]` is the sum of `x[o, r, i]`
/// over all `r`, in f32.
///
/// Over few long columns, [`ColumnSum`](super::ColumnSum) has more blocks. Deterministic: the same inputs give the same
/// bits, on every GPU.
#[derive(Clone, Copy, Debug)]
pub struct AxisSum(Dtype);

impl AxisSum {
    /// Of elements of `dtype`, which is also the sum's.
    #[must_use]
    pub fn new(dtype: Dtype) -> AxisSum {
        AxisSum(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<AxisSumPlan> {
        let [short, long] = ROW_THREADS.map(|threads| Loaded::new(device, &inner(self.0, threads)));
        let columns = ByAlignment::new(true, |vector| Loaded::new(device, &columns(self.0, vector)))?;
        Ok(AxisSumPlan { dtype: self.0, short: short?, long: long?, columns })
    }
}

fn variant(dtype: Dtype, row_threads: u32, vector: usize, (entry, threads): (&'static str, u32)) -> Variant {
    let [file] = cuda_files!["reduction/axis.cu"];
    let constants = Constants::new()
        .alias("Element", dtype.cuda_name())
        .int("THREADS", row_threads)
        .int("VECTOR", vector as i64);
    let program = program(*file, &[], constants).params(Params::LAYOUT);
    Variant { program, entry, threads, shared_bytes: 0 }
}

fn inner(dtype: Dtype, threads: u32) -> Variant {
    // Of the two forms that the other kernel compiles to here, the smaller.
    variant(dtype, threads, 1, ("axis_sum_inner", threads))
}

fn columns(dtype: Dtype, vector: usize) -> Variant {
    variant(dtype, THREADS, vector, ("axis_sum", THREADS))
}

pub(super) fn variants() -> Vec<Variant> {
    let [short, long] = ROW_THREADS;
    use Dtype::{Bf16, F32};
    vec![inner(Bf16, short), inner(F32, long), columns(Bf16, 8), columns(F32, 8), columns(Bf16, 1)]
}

/// What [`AxisSumPlan::launch`] computes with. Any alignment will do; with `x` and `out` at multiples of 16 bytes, and
/// `inner` at 1 or a multiple of 8, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct AxisSumArgs {
    /// `O`, elements of the dimensions before the axis.
    pub outer: usize,
    /// `R`, elements along the axis; below 2³¹ where it is the innermost.
    pub axis: usize,
    /// `I`, elements of the dimensions after the axis.
    pub inner: usize,
    /// `(O, R, I)` contiguous.
    pub x: DevicePtr,
    /// What the sum is multiplied by.
    pub factor: f32,
    /// `(O, I)` contiguous, overwritten.
    pub out: DevicePtr,
}

/// A compiled [`AxisSum`].
#[derive(Clone, Debug)]
pub struct AxisSumPlan {
    dtype: Dtype,
    short: Loaded,
    long: Loaded,
    columns: ByAlignment<Loaded>,
}

impl AxisSumPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Along an axis without elements, `out` becomes 0.
    ///
    /// # Safety
    ///
    /// Both tensors lie, with these sizes, in memory of the stream's device that stays allocated until the stream has come
    /// to this point, and do not overlap.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &AxisSumArgs) -> Result<()> {
        let AxisSumArgs { outer, axis, inner, x, factor, out } = *args;
        let whole = aligned([x, out]) && inner.is_multiple_of(8);
        let (columns, vector) = self.columns.get(whole);
        let across = if inner == 1 { 1 } else { inner.div_ceil(32 * vector) };
        CHECK.size("axis", axis, 0, if inner == 1 { i32::MAX as usize } else { i64::MAX as usize })?;
        CHECK.size("number of sums", outer.saturating_mul(across), 0, MAX_BLOCKS)?;
        if outer * inner == 0 {
            return Ok(());
        }
        if axis > 0 {
            CHECK.tensor("x", x, self.dtype)?;
        }
        CHECK.tensor("out", out, self.dtype)?;
        let kernel = match (inner, axis) {
            (1, LONG_ROW..) => &self.long,
            (1, _) => &self.short,
            _ => columns,
        };
        let params = Params { x, out, axis: axis as i64, inner: inner as i64, factor, _pad: 0 };
        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe { kernel.launch(stream, [(outer * across) as u32, 1], &params) }
    }
}
