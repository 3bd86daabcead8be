//! `kernels/reduction/sum.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::Check;
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("sum");
const THREADS: u32 = 256;
/// Elements that a block takes at a time.
const STRETCH: usize = THREADS as usize * 8;
/// The most partial sums. It does not depend on the device, so neither does the order of the additions.
const MAX_PARTS: usize = 1024;

params! {
    struct Params {
        x: DevicePtr,
        partials: DevicePtr,
        out: DevicePtr,
        count: i64,
        parts: i64,
        factor: f64,
    }
}

/// The sum of all elements, times a factor (for a mean: one over their number).
///
/// Deterministic: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug)]
pub struct Sum(Dtype);

impl Sum {
    /// Of elements of `dtype`, which is also the sum's.
    #[must_use]
    pub fn new(dtype: Dtype) -> Sum {
        Sum(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<SumPlan> {
        let [partial, finish] = &variants(self.0);
        let (partial, finish) = (Loaded::new(device, partial)?, Loaded::new(device, finish)?);
        Ok(SumPlan { dtype: self.0, partial, finish })
    }
}

pub(super) fn variants(dtype: Dtype) -> [Variant; 2] {
    let [file] = cuda_files!["reduction/sum.cu"];
    let constants = Constants::new().alias("Element", dtype.cuda_name()).int("THREADS", THREADS);
    let program = program(*file, &[], constants).params(Params::LAYOUT);
    ["sum_partial", "sum_finish"].map(|entry| Variant {
        program: program.clone(),
        entry,
        threads: THREADS,
        shared_bytes: 0,
    })
}

/// What [`SumPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct SumArgs {
    /// Elements.
    pub count: usize,
    /// Contiguous, of any alignment.
    pub x: DevicePtr,
    /// What the sum is multiplied by, in f64.
    pub factor: f64,
    /// One element, overwritten.
    pub out: DevicePtr,
    /// [`SumPlan::WORKSPACE_BYTES`] of scratch memory at a multiple of 4 bytes.
    pub workspace: DevicePtr,
}

/// A compiled [`Sum`].
#[derive(Clone, Debug)]
pub struct SumPlan {
    dtype: Dtype,
    partial: Loaded,
    finish: Loaded,
}

impl SumPlan {
    /// Bytes of scratch memory that a launch needs.
    pub const WORKSPACE_BYTES: usize = MAX_PARTS * 4;

    /// Enqueues on `stream`: no allocation, no synchronisation. Without elements, the sum is 0.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with this size, in memory of the stream's device that stays allocated until the stream has
    /// come to this point; `out` and `workspace` overlap no other tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &SumArgs) -> Result<()> {
        let SumArgs { count, x, factor, out, workspace } = *args;
        check(self.dtype, args)?;
        let parts = count.div_ceil(STRETCH).clamp(1, MAX_PARTS);
        let params = Params { x, partials: workspace, out, count: count as i64, parts: parts as i64, factor };
        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe {
            self.partial.launch(stream, [parts as u32, 1], &params)?;
            self.finish.launch(stream, [1, 1], &params)
        }
    }
}

fn check(dtype: Dtype, args: &SumArgs) -> Result<()> {
    let SumArgs { count, x, out, workspace, .. } = *args;
    if count > 0 {
        CHECK.tensor("x", x, dtype)?;
    }
    CHECK.tensor("out", out, dtype)?;
    CHECK.tensor("workspace", workspace, Dtype::F32)?;
    CHECK.apart(&[
        Extent::contiguous("x", x, count, dtype.size()),
        Extent::contiguous("out", out, 1, dtype.size()).written(),
        Extent::contiguous("workspace", workspace, SumPlan::WORKSPACE_BYTES, 1).written(),
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
            SumArgs { count: 9, x, factor: 1.0, out, workspace },
            |args| check(Dtype::F32, args),
            2,
            pointers![out, workspace, x],
            &[],
        );
    }
}
