//! `kernels/reduction/axis.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::extent::Extent;
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
/// Elements of a row, or rows, that make another partial sum worth writing: the partial sums of 128 rows of 16 bits are 3% of
/// them.
const PART: [usize; 2] = [16_384, 128];
/// Fewer blocks than these are split into parts: 4 for each of 128 multiprocessors. It does not depend on the device, so
/// neither does the order of the additions.
const MANY_BLOCKS: usize = 512;

params! {
    struct Params {
        x: DevicePtr,
        out: DevicePtr,
        partials: DevicePtr,
        axis: i64,
        inner: i64,
        sums: i64,
        parts: i32,
        stretch: i32,
        factor: f32,
        _pad: i32,
    }
}

/// The sum along one axis, times a factor (for a mean: one over the axis' length): `out[o, i]` is the sum of `x[o, r, i]`
/// over all `r`, in f32.
///
/// Where there are few sums of many elements, each is added up in parts, by many blocks. Deterministic: the same inputs
/// give the same bits, on every GPU.
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
        let finish = Loaded::new(device, &finish(self.0))?;
        Ok(AxisSumPlan { dtype: self.0, short: short?, long: long?, columns, finish })
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

fn finish(dtype: Dtype) -> Variant {
    variant(dtype, THREADS, 1, ("axis_sum_finish", THREADS))
}

pub(super) fn variants() -> Vec<Variant> {
    let [short, long] = ROW_THREADS;
    use Dtype::{Bf16, F32};
    let rows = [inner(Bf16, short), inner(F32, long)];
    let columns = [columns(Bf16, 8), columns(F32, 8), columns(Bf16, 1)];
    rows.into_iter().chain(columns).chain([finish(Bf16)]).collect()
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
    /// [`AxisSumPlan::workspace_bytes`] of scratch memory at a multiple of 4 bytes; may be null where these are 0.
    pub workspace: DevicePtr,
}

/// A compiled [`AxisSum`].
#[derive(Clone, Debug)]
pub struct AxisSumPlan {
    dtype: Dtype,
    short: Loaded,
    long: Loaded,
    columns: ByAlignment<Loaded>,
    finish: Loaded,
}

impl AxisSumPlan {
    /// Bytes of scratch memory that a launch of this size needs.
    #[must_use]
    pub fn workspace_bytes(&self, outer: usize, axis: usize, inner: usize) -> usize {
        match parts(outer, axis, inner) {
            1 => 0,
            parts => parts * outer * inner * Dtype::F32.size(),
        }
    }

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
        let AxisSumArgs { outer, axis, inner, x, factor, out, workspace } = *args;
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
        let parts = parts(outer, axis, inner);
        if parts > 1 {
            CHECK.tensor("workspace", workspace, Dtype::F32)?;
        }
        apart(self.dtype, args, self.workspace_bytes(outer, axis, inner))?;
        let kernel = match (inner, axis) {
            (1, LONG_ROW..) => &self.long,
            (1, _) => &self.short,
            _ => columns,
        };
        let sums = outer * inner;
        let params = Params {
            x,
            out,
            partials: workspace,
            axis: axis as i64,
            inner: inner as i64,
            sums: sums as i64,
            parts: parts as i32,
            // Parts begin where a whole row could begin to be aligned.
            stretch: axis.div_ceil(parts).next_multiple_of(8).min(i32::MAX as usize) as i32,
            factor,
            _pad: 0,
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe { kernel.launch(stream, [(outer * across) as u32, parts as u32], &params) }?;
        if parts > 1 {
            // SAFETY: as above.
            unsafe { self.finish.launch(stream, [sums.div_ceil(32) as u32, 1], &params) }?;
        }
        Ok(())
    }
}

fn apart(dtype: Dtype, args: &AxisSumArgs, workspace_bytes: usize) -> Result<()> {
    let AxisSumArgs { outer, axis, inner, x, out, workspace, .. } = *args;
    CHECK.apart(&[
        Extent::strided("x", x, [(outer * axis, inner as i64)], inner, dtype.size()),
        Extent::contiguous("out", out, outer * inner, dtype.size()).written(),
        Extent::contiguous("workspace", workspace, workspace_bytes, 1).written(),
    ])
}

/// How many blocks share a sum. The narrower blocks of what is not aligned have as many.
fn parts(outer: usize, axis: usize, inner: usize) -> usize {
    let [row, rows] = PART;
    let (blocks, most) = match inner {
        1 => (outer, axis.div_ceil(row)),
        _ => (outer * inner.div_ceil(256), axis.div_ceil(rows)),
    };
    (MANY_BLOCKS / blocks.max(1)).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let [x, out, workspace] = [1, 2, 3].map(|i| DevicePtr(i << 20));
        assert_apart(
            AxisSumArgs { outer: 3, axis: 9, inner: 8, x, factor: 1.0, out, workspace },
            |args| apart(Dtype::F32, args, 4096),
            2,
            pointers![out, workspace, x],
            &[],
        );
    }

    #[test]
    fn few_long_sums_have_many_parts_and_many_or_short_ones_have_one() {
        assert_eq!(parts(1, 1 << 20, 1), 64);
        assert_eq!(parts(1, 1 << 30, 1), 512);
        assert_eq!(parts(8, 1 << 30, 1), 64);
        assert_eq!(parts(1000, 1 << 20, 1), 1);
        assert_eq!(parts(1, 16_384, 1), 1);
        assert_eq!(parts(1, 4096, 768), 32);
        assert_eq!(parts(4, 100_000, 512), 64);
        assert_eq!(parts(4, 128, 512), 1);
        assert_eq!([parts(0, 5, 5), parts(5, 0, 5), parts(5, 5, 0), parts(5, 0, 1)], [1; 4]);
    }
}
