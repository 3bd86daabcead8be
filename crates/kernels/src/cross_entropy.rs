//! `kernels/cross_entropy/`: mean cross-entropy of softmax over `N` rows of `V` logits.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS};
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const FORWARD: Check = Check("cross-entropy forward");
const BACKWARD: Check = Check("cross-entropy backward");
const THREADS: u32 = 256;
const MEAN_THREADS: u32 = 1024;

/// The target of a row that does not count.
pub const IGNORE: u32 = u32::MAX;

mod forward {
    use super::{DevicePtr, params};

    params! {
        pub struct Params {
            pub logits: DevicePtr,
            pub targets: DevicePtr,
            pub loss: DevicePtr,
            pub lse: DevicePtr,
            pub stride: i64,
            pub vocabulary: i32,
            pub _pad: u32,
        }
    }

    params! {
        pub struct MeanParams {
            pub loss: DevicePtr,
            pub targets: DevicePtr,
            pub mean: DevicePtr,
            pub share: DevicePtr,
            pub rows: i64,
        }
    }
}

mod backward {
    use super::{DevicePtr, params};

    params! {
        pub struct Params {
            pub logits: DevicePtr,
            pub targets: DevicePtr,
            pub lse: DevicePtr,
            pub dmean: DevicePtr,
            pub share: DevicePtr,
            pub dlogits: DevicePtr,
            pub stride: i64,
            pub dlogits_stride: i64,
            pub vocabulary: i32,
            pub _pad: u32,
        }
    }
}

/// Logits and their targets. Rows may have any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Logits {
    /// `N`, at most 2³¹ - 1.
    pub rows: usize,
    /// `V`, at most 2³¹ - 1.
    pub vocabulary: usize,
    /// `(N, V)`, rows `stride` elements apart.
    pub data: DevicePtr,
    /// Elements from one row of the logits to the next.
    pub stride: i64,
    /// `(N)` u32: below `V`, or [`IGNORE`]. Any other gives a loss of NaN.
    pub targets: DevicePtr,
}

impl Logits {
    fn check(&self, check: Check, dtype: Dtype) -> Result<()> {
        check.size("rows", self.rows, 0, MAX_BLOCKS)?;
        check.size("vocabulary", self.vocabulary, 1, MAX_BLOCKS)?;
        if self.rows > 0 {
            check.tensor("logits", self.data, dtype)?;
            check.memory("targets", self.targets, 4)?;
            check.stride("stride", self.stride, self.rows)?;
        }
        Ok(())
    }
}

/// Cross-entropy of softmax in nats (Bishop 2006, eq. 4.108), and its mean over the rows whose target is not
/// [`IGNORE`]: `loss = log(sum(exp(logits))) - logits[target]`. One pass over the logits, statistics in f32.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyForward(Dtype);

impl CrossEntropyForward {
    /// Of logits of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> CrossEntropyForward {
        CrossEntropyForward(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<CrossEntropyForwardPlan> {
        let [rows, mean] = &forward_variants(self.0);
        let (rows, mean) = (Loaded::new(device, rows)?, Loaded::new(device, mean)?);
        Ok(CrossEntropyForwardPlan { dtype: self.0, rows, mean })
    }
}

fn constants(dtype: Dtype) -> Constants {
    Constants::new().alias("Element", dtype.cuda_name()).int("THREADS", THREADS)
}

fn forward_variants(dtype: Dtype) -> [Variant; 2] {
    let [file] = cuda_files!["cross_entropy/forward.cu"];
    let program = program(*file, &[], constants(dtype))
        .params(forward::Params::LAYOUT)
        .params(forward::MeanParams::LAYOUT);
    [("cross_entropy_forward", THREADS), ("cross_entropy_mean", MEAN_THREADS)]
        .map(|(entry, threads)| Variant { program: program.clone(), entry, threads, shared_bytes: 0 })
}

/// What [`CrossEntropyForwardPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyForwardArgs {
    /// Logits and targets.
    pub logits: Logits,
    /// `(N)` f32, overwritten: the loss of each row, 0 for one that is ignored.
    pub loss: DevicePtr,
    /// `(N)` f32, overwritten: `log(sum(exp(logits)))`; for backward.
    pub lse: DevicePtr,
    /// One f32, overwritten: the mean over the rows that count, 0 if none does.
    pub mean: DevicePtr,
    /// One f32, overwritten: one over the number of rows that count, 0 if none does; for backward.
    pub share: DevicePtr,
}

/// A compiled [`CrossEntropyForward`].
#[derive(Clone, Debug)]
pub struct CrossEntropyForwardPlan {
    dtype: Dtype,
    rows: Loaded,
    mean: Loaded,
}

impl CrossEntropyForwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Without rows, the mean is 0.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; no output overlaps another tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &CrossEntropyForwardArgs) -> Result<()> {
        let CrossEntropyForwardArgs { logits, loss, lse, mean, share } = *args;
        logits.check(FORWARD, self.dtype)?;
        if logits.rows > 0 {
            FORWARD.tensor("loss", loss, Dtype::F32)?;
            FORWARD.tensor("lse", lse, Dtype::F32)?;
        }
        FORWARD.tensor("mean", mean, Dtype::F32)?;
        FORWARD.tensor("share", share, Dtype::F32)?;
        let params = forward::Params {
            logits: logits.data,
            targets: logits.targets,
            loss,
            lse,
            stride: logits.stride,
            vocabulary: logits.vocabulary as i32,
            _pad: 0,
        };
        let mean_params =
            forward::MeanParams { loss, targets: logits.targets, mean, share, rows: logits.rows as i64 };
        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe {
            if logits.rows > 0 {
                self.rows.launch(stream, [logits.rows as u32, 1], &params)?;
            }
            self.mean.launch(stream, [1, 1], &mean_params)
        }
    }
}

/// The gradient of the mean of [`CrossEntropyForward`] (Bishop 2006, eq. 4.109).
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyBackward(Dtype);

impl CrossEntropyBackward {
    /// Of logits of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> CrossEntropyBackward {
        CrossEntropyBackward(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<CrossEntropyBackwardPlan> {
        Ok(CrossEntropyBackwardPlan {
            dtype: self.0,
            kernel: Loaded::new(device, &backward_variant(self.0))?,
        })
    }
}

fn backward_variant(dtype: Dtype) -> Variant {
    let [file] = cuda_files!["cross_entropy/backward.cu"];
    Variant {
        program: program(*file, &[], constants(dtype)).params(backward::Params::LAYOUT),
        entry: "cross_entropy_backward",
        threads: THREADS,
        shared_bytes: 0,
    }
}

/// What [`CrossEntropyBackwardPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyBackwardArgs {
    /// Logits and targets, as forward had them.
    pub logits: Logits,
    /// `(N)` f32, of forward.
    pub lse: DevicePtr,
    /// One f32: the gradient of the mean.
    pub dmean: DevicePtr,
    /// One f32, of forward.
    pub share: DevicePtr,
    /// `(N, V)`, rows `dlogits_stride` elements apart, overwritten: 0 in the rows that are ignored. It may be the
    /// logits themselves.
    pub dlogits: DevicePtr,
    /// Elements from one row of the gradient to the next.
    pub dlogits_stride: i64,
}

/// A compiled [`CrossEntropyBackward`].
#[derive(Clone, Debug)]
pub struct CrossEntropyBackwardPlan {
    dtype: Dtype,
    kernel: Loaded,
}

impl CrossEntropyBackwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no rows.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; `dlogits` overlaps no other tensor, but for what is said there.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &CrossEntropyBackwardArgs) -> Result<()> {
        let CrossEntropyBackwardArgs { logits, lse, dmean, share, dlogits, dlogits_stride } = *args;
        check_backward(self.dtype, args)?;
        if logits.rows == 0 {
            return Ok(());
        }
        let params = backward::Params {
            logits: logits.data,
            targets: logits.targets,
            lse,
            dmean,
            share,
            dlogits,
            stride: logits.stride,
            dlogits_stride,
            vocabulary: logits.vocabulary as i32,
            _pad: 0,
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.kernel.launch(stream, [logits.rows as u32, 1], &params) }
    }
}

fn check_backward(dtype: Dtype, args: &CrossEntropyBackwardArgs) -> Result<()> {
    let CrossEntropyBackwardArgs { logits, lse, dmean, share, dlogits, dlogits_stride } = *args;
    logits.check(BACKWARD, dtype)?;
    if logits.rows == 0 {
        return Ok(());
    }
    for (name, data) in [("lse", lse), ("dmean", dmean), ("share", share)] {
        BACKWARD.tensor(name, data, Dtype::F32)?;
    }
    BACKWARD.tensor("dlogits", dlogits, dtype)?;
    if dlogits == logits.data && dlogits_stride != logits.stride {
        let expected = format!("{}, the logits' own, in their place", logits.stride);
        return Err(BACKWARD.error("dlogits_stride", dlogits_stride, expected));
    }
    BACKWARD.written_stride("dlogits_stride", dlogits_stride, logits.rows, logits.vocabulary)
}

pub(crate) fn variants() -> Vec<Variant> {
    let of_dtype = |dtype| forward_variants(dtype).into_iter().chain([backward_variant(dtype)]);
    [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().flat_map(of_dtype).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_whose_rows_would_overlap_are_refused() {
        let at = DevicePtr(4096);
        let logits = Logits { rows: 2, vocabulary: 10, data: DevicePtr(64), stride: 10, targets: at };
        let args = CrossEntropyBackwardArgs {
            logits,
            lse: at,
            dmean: at,
            share: at,
            dlogits: at,
            dlogits_stride: 10,
        };
        let message = |args: CrossEntropyBackwardArgs| {
            check_backward(Dtype::Bf16, &args).map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(message(args), "fine");
        assert_eq!(
            message(CrossEntropyBackwardArgs { dlogits_stride: 9, ..args }),
            "cross-entropy backward: dlogits_stride is 9, it has to be at least 10: rows would overlap"
        );
        assert_eq!(
            message(CrossEntropyBackwardArgs { dlogits: logits.data, dlogits_stride: 16, ..args }),
            "cross-entropy backward: dlogits_stride is 16, it has to be 10, the logits' own, in their place"
        );
    }
}
