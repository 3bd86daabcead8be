//! `kernels/reduction/columns.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, aligned};
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("column sum");
const THREADS: u32 = 256;
/// Rows that a block takes at a time, one for each of its warps.
const ROWS: usize = 8;
/// Rows that make another partial sum worth writing: of 16-bit elements, it takes 4% of what they do.
const ROWS_PER_PART: usize = 12 * ROWS;
/// The most partial sums. It does not depend on the device, so neither does the order of the additions.
const MAX_PARTS: usize = 128;
const MAX_WIDTH: usize = i32::MAX as usize;

params! {
    struct Params {
        x: DevicePtr,
        partials: DevicePtr,
        out: DevicePtr,
        rows: i64,
        stride: i64,
        width: i64,
        parts: i64,
    }
}

/// The sum over rows, such as the gradient of a bias is: `out[c]` is the sum of `x[n, c]` over all `n`, in f32.
///
/// Deterministic: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug)]
pub struct ColumnSum(Dtype);

impl ColumnSum {
    /// Of rows of `dtype`, which is also the sum's.
    #[must_use]
    pub fn new(dtype: Dtype) -> ColumnSum {
        ColumnSum(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<ColumnSumPlan> {
        let load = |vector| {
            let [partial, finish] = &variants(self.0, vector);
            Ok([Loaded::new(device, partial)?, Loaded::new(device, finish)?])
        };
        Ok(ColumnSumPlan { dtype: self.0, kernels: ByAlignment::new(true, load)? })
    }
}

pub(super) fn variants(dtype: Dtype, vector: usize) -> [Variant; 2] {
    let [file] = cuda_files!["reduction/columns.cu"];
    let constants = Constants::new().alias("Element", dtype.cuda_name()).int("VECTOR", vector as i64);
    let program = program(*file, &[], constants).params(Params::LAYOUT);
    ["column_sums_partial", "column_sums_finish"].map(|entry| Variant {
        program: program.clone(),
        entry,
        threads: THREADS,
        shared_bytes: 0,
    })
}

/// What [`ColumnSumPlan::launch`] computes with. Any alignment will do; with `x` at a multiple of 16 bytes, `width` and
/// `stride` at multiples of 8, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct ColumnSumArgs {
    /// `N`.
    pub rows: usize,
    /// `W`, at most 2³¹ - 1.
    pub width: usize,
    /// `(N, W)`, rows `stride` elements apart.
    pub x: DevicePtr,
    /// Elements from one row of `x` to the next.
    pub stride: i64,
    /// `(W)`, overwritten.
    pub out: DevicePtr,
    /// [`ColumnSumPlan::workspace_bytes`] of scratch memory at a multiple of 4 bytes.
    pub workspace: DevicePtr,
}

/// A compiled [`ColumnSum`].
#[derive(Clone, Debug)]
pub struct ColumnSumPlan {
    dtype: Dtype,
    kernels: ByAlignment<[Loaded; 2]>,
}

impl ColumnSumPlan {
    /// Bytes of scratch memory that a launch of this size needs.
    #[must_use]
    pub fn workspace_bytes(&self, rows: usize, width: usize) -> usize {
        parts(rows) * width * Dtype::F32.size()
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Without rows, `out` becomes 0.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; `out` and `workspace` overlap no other tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &ColumnSumArgs) -> Result<()> {
        let ColumnSumArgs { rows, width, x, stride, out, workspace } = *args;
        check(self.dtype, args, self.workspace_bytes(rows, width))?;
        if width == 0 {
            return Ok(());
        }
        let parts = parts(rows);
        let params = Params {
            x,
            partials: workspace,
            out,
            rows: rows as i64,
            stride,
            width: width as i64,
            parts: parts as i64,
        };
        let whole = aligned([x]) && width.is_multiple_of(8) && stride % 8 == 0;
        let ([partial, finish], vector) = self.kernels.get(whole);
        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe {
            partial.launch(stream, [width.div_ceil(32 * vector) as u32, parts as u32], &params)?;
            finish.launch(stream, [width.div_ceil(32) as u32, 1], &params)
        }
    }
}

/// Partial sums over rows; at least one, so that there is something to add.
fn parts(rows: usize) -> usize {
    rows.div_ceil(ROWS_PER_PART).clamp(1, MAX_PARTS)
}

fn check(dtype: Dtype, args: &ColumnSumArgs, workspace_bytes: usize) -> Result<()> {
    let ColumnSumArgs { rows, width, x, stride, out, workspace } = *args;
    CHECK.size("width", width, 0, MAX_WIDTH)?;
    if width == 0 {
        return Ok(());
    }
    if rows > 0 {
        CHECK.tensor("x", x, dtype)?;
        CHECK.stride("stride", stride, rows)?;
    }
    CHECK.tensor("out", out, dtype)?;
    CHECK.tensor("workspace", workspace, Dtype::F32)?;
    CHECK.apart(&[
        Extent::rows("x", x, [rows, width], stride, dtype.size()),
        Extent::contiguous("out", out, width, dtype.size()).written(),
        Extent::contiguous("workspace", workspace, workspace_bytes, 1).written(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let [x, out, workspace] = [1, 2, 3].map(|i| DevicePtr(i << 20));
        assert_apart(
            ColumnSumArgs { rows: 9, width: 8, x, stride: 10, out, workspace },
            |args| check(Dtype::F32, args, 4096),
            2,
            pointers![out, workspace, x],
            &[],
        );
    }
}
