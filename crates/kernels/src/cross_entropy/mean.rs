//! `kernels/cross_entropy/mean.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS};
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("mean of losses");
const SCALE: Check = Check("scale of a gradient");
const THREADS: u32 = 1024;
/// Elements that a block of `cross_entropy_scale` takes.
const BLOCK: usize = 8 * THREADS as usize;

params! {
    struct ShareParams {
        targets: DevicePtr,
        share: DevicePtr,
        rows: i64,
    }
}

params! {
    struct MeanParams {
        loss: DevicePtr,
        share: DevicePtr,
        mean: DevicePtr,
        rows: i64,
    }
}

params! {
    struct ScaleParams {
        x: DevicePtr,
        factor: DevicePtr,
        count: i64,
    }
}

/// The mean of rows' losses over those whose target is not [`IGNORE`](super::IGNORE), and the share of each in it, which
/// is known before the losses are: a gradient needs it.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeanLoss(());

impl MeanLoss {
    /// The mean over the rows that count.
    #[must_use]
    pub fn new() -> MeanLoss {
        MeanLoss(())
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<MeanLossPlan> {
        let load = |entry| Loaded::new(device, &variant(Dtype::F32, entry));
        Ok(MeanLossPlan { share: load("cross_entropy_share")?, mean: load("cross_entropy_mean")? })
    }
}

fn variant(dtype: Dtype, entry: &'static str) -> Variant {
    let [file] = cuda_files!["cross_entropy/mean.cu"];
    let program = program(*file, &[], Constants::new().alias("Element", dtype.cuda_name()))
        .params(ShareParams::LAYOUT)
        .params(MeanParams::LAYOUT)
        .params(ScaleParams::LAYOUT);
    Variant { program, entry, threads: THREADS, shared_bytes: 0 }
}

/// A compiled [`MeanLoss`].
#[derive(Clone, Debug)]
pub struct MeanLossPlan {
    share: Loaded,
    mean: Loaded,
}

impl MeanLossPlan {
    /// Enqueues `share`, one f32: one over the number of `targets` (`rows` u32) that count, 0 if none does. No
    /// allocation, no synchronisation.
    ///
    /// # Safety
    ///
    /// Both tensors lie in memory of the stream's device that stays allocated until the stream has come to this point;
    /// they do not overlap.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for more than 2³¹ - 1 rows, or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn share(
        &self,
        stream: &Stream,
        rows: usize,
        targets: DevicePtr,
        share: DevicePtr,
    ) -> Result<()> {
        check(rows, [("targets", targets, rows)], ("share", share))?;
        let params = ShareParams { targets, share, rows: rows as i64 };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.share.launch(stream, [1, 1], &params) }
    }

    /// Enqueues `mean`, one f32: the sum of `loss` (`rows` f32, 0 where a row does not count) times `share`. No
    /// allocation, no synchronisation.
    ///
    /// # Safety
    ///
    /// As [`share`](MeanLossPlan::share).
    ///
    /// # Errors
    ///
    /// As [`share`](MeanLossPlan::share).
    pub unsafe fn mean(
        &self,
        stream: &Stream,
        rows: usize,
        loss: DevicePtr,
        share: DevicePtr,
        mean: DevicePtr,
    ) -> Result<()> {
        check(rows, [("loss", loss, rows), ("share", share, 1)], ("mean", mean))?;
        let params = MeanParams { loss, share, mean, rows: rows as i64 };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.mean.launch(stream, [1, 1], &params) }
    }
}

/// A name, and so many numbers of 4 bytes that are read.
type Numbers = (&'static str, DevicePtr, usize);

/// One number is written.
fn check<const N: usize>(rows: usize, read: [Numbers; N], written: (&'static str, DevicePtr)) -> Result<()> {
    CHECK.size("rows", rows, 0, MAX_BLOCKS)?;
    for (name, data, _) in read.into_iter().filter(|&(.., count)| count > 0) {
        CHECK.memory(name, data, 4)?;
    }
    CHECK.tensor(written.0, written.1, Dtype::F32)?;
    let read = read.map(|(name, data, count)| Extent::contiguous(name, data, count, 4));
    let written = Extent::contiguous(written.0, written.1, 1, 4).written();
    CHECK.apart(read.iter().chain([&written]))
}

/// `x *= factor`, for a factor on the device: of a gradient that was computed before that of the loss was known. Where
/// the factor is 1, as it usually is, nothing is read or written.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct GradientScale(Dtype);

impl GradientScale {
    /// Of elements of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> GradientScale {
        GradientScale(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<GradientScalePlan> {
        let kernel = Loaded::new(device, &variant(self.0, "cross_entropy_scale"))?;
        Ok(GradientScalePlan { dtype: self.0, kernel })
    }
}

/// A compiled [`GradientScale`].
#[derive(Clone, Debug)]
pub struct GradientScalePlan {
    dtype: Dtype,
    kernel: Loaded,
}

impl GradientScalePlan {
    /// Enqueues `x *= factor`, of `count` elements and one f32. No allocation, no synchronisation.
    ///
    /// # Safety
    ///
    /// Both tensors lie in memory of the stream's device that stays allocated until the stream has come to this point;
    /// they do not overlap.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for more than 2⁴⁴ elements, or addresses that the kernel cannot take:
    /// `x` has to be aligned to 16 bytes. [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        count: usize,
        x: DevicePtr,
        factor: DevicePtr,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        check_scale(self.dtype, count, x, factor)?;
        let params = ScaleParams { x, factor, count: count as i64 };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.kernel.launch(stream, [count.div_ceil(BLOCK) as u32, 1], &params) }
    }
}

fn check_scale(dtype: Dtype, count: usize, x: DevicePtr, factor: DevicePtr) -> Result<()> {
    SCALE.size("count", count, 0, MAX_BLOCKS * BLOCK)?;
    SCALE.memory("x", x, 16)?;
    SCALE.tensor("factor", factor, Dtype::F32)?;
    let written = Extent::contiguous("x", x, count, dtype.size()).written();
    SCALE.apart(&[written, Extent::contiguous("factor", factor, 1, 4)])
}

pub(super) fn variants() -> Vec<Variant> {
    let scale = [Dtype::F32, Dtype::Bf16, Dtype::F16].map(|dtype| variant(dtype, "cross_entropy_scale"));
    let of_numbers = ["cross_entropy_share", "cross_entropy_mean"].map(|entry| variant(Dtype::F32, entry));
    [&of_numbers[..], &scale].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::assert_apart;

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let at = |i: u64| DevicePtr(i << 20);
        assert_apart(
            [at(1), at(2), at(3)],
            |&[loss, share, mean]| check(9, [("loss", loss, 9), ("share", share, 1)], ("mean", mean)),
            1,
            &[("mean", |at| &mut at[2]), ("loss", |at| &mut at[0]), ("share", |at| &mut at[1])],
            &[],
        );
        assert_apart(
            [at(1), at(2)],
            |&[x, factor]| check_scale(Dtype::Bf16, 9, x, factor),
            1,
            &[("x", |at| &mut at[0]), ("factor", |at| &mut at[1])],
            &[],
        );
    }
}
