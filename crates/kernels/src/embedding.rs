//! `kernels/embedding/`: lookup in a table of `V` rows of width `C`, for `N` ids.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const FORWARD: Check = Check("embedding forward");
const BACKWARD: Check = Check("embedding backward");
const FORWARD_THREADS: u32 = 128;
/// Columns, too, that a block of backward takes.
const BACKWARD_THREADS: u32 = 256;
/// Rows of the table that a block of backward looks for. Their sums take 16 KiB, so that a multiprocessor of the
/// smallest kind (100 KiB) still runs 5 blocks.
const GROUP: usize = 16;

mod forward {
    use super::{DevicePtr, params};

    params! {
        pub struct Params {
            pub weight: DevicePtr,
            pub ids: DevicePtr,
            pub out: DevicePtr,
            pub vocabulary: i64,
            pub width: i32,
            pub aligned: i32,
        }
    }
}

mod backward {
    use super::{DevicePtr, params};

    params! {
        pub struct Params {
            pub dout: DevicePtr,
            pub ids: DevicePtr,
            pub dweight: DevicePtr,
            pub count: i64,
            pub vocabulary: i32,
            pub width: i32,
        }
    }
}

/// The sizes of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingShape {
    /// `V`, rows of the table, at most 2³¹ - 1.
    pub vocabulary: usize,
    /// `C`, elements of a row, at most 16,776,960 (65,535 blocks of 256).
    pub width: usize,
    /// `N`, ids, at most 2³¹ - 1.
    pub count: usize,
}

impl EmbeddingShape {
    fn check(self, check: Check) -> Result<()> {
        let EmbeddingShape { vocabulary, width, count } = self;
        check.size("vocabulary", vocabulary, 1, MAX_BLOCKS)?;
        check.size("width", width, 1, 65_535 * BACKWARD_THREADS as usize)?;
        check.size("count", count, 0, MAX_BLOCKS)
    }
}

/// Rows of a table: `out[i] = weight[ids[i]]`.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingForward(Dtype);

impl EmbeddingForward {
    /// Of a table of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> EmbeddingForward {
        EmbeddingForward(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<EmbeddingForwardPlan> {
        Ok(EmbeddingForwardPlan { dtype: self.0, kernel: Loaded::new(device, &forward_variant(self.0))? })
    }
}

fn forward_variant(dtype: Dtype) -> Variant {
    let [file] = cuda_files!["embedding/forward.cu"];
    let constants = Constants::new().alias("Element", dtype.cuda_name()).int("THREADS", FORWARD_THREADS);
    Variant {
        program: program(*file, &[], constants).params(forward::Params::LAYOUT),
        entry: "embedding_forward",
        threads: FORWARD_THREADS,
        shared_bytes: 0,
    }
}

/// What [`EmbeddingForwardPlan::launch`] computes with. Any alignment will do; with `weight` and `out` at multiples
/// of 16 bytes, and `C` at a multiple of 8, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingForwardArgs {
    /// The sizes.
    pub shape: EmbeddingShape,
    /// `(V, C)` contiguous.
    pub weight: DevicePtr,
    /// `(N)` u32. An id that is not below `V` gives a row of NaN.
    pub ids: DevicePtr,
    /// `(N, C)` contiguous, overwritten.
    pub out: DevicePtr,
}

/// A compiled [`EmbeddingForward`].
#[derive(Clone, Debug)]
pub struct EmbeddingForwardPlan {
    dtype: Dtype,
    kernel: Loaded,
}

impl EmbeddingForwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no ids.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes, in memory of the stream's device that stays allocated until the stream has
    /// come to this point; `out` overlaps no other tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &EmbeddingForwardArgs) -> Result<()> {
        let EmbeddingForwardArgs { shape, weight, ids, out } = *args;
        shape.check(FORWARD)?;
        if shape.count == 0 {
            return Ok(());
        }
        FORWARD.tensor("weight", weight, self.dtype)?;
        FORWARD.memory("ids", ids, 4)?;
        FORWARD.tensor("out", out, self.dtype)?;
        let params = forward::Params {
            weight,
            ids,
            out,
            vocabulary: shape.vocabulary as i64,
            width: shape.width as i32,
            aligned: i32::from(aligned([weight, out]) && shape.width.is_multiple_of(8)),
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.kernel.launch(stream, [shape.count as u32, 1], &params) }
    }
}

/// The gradient of [`EmbeddingForward`]: `dweight[v]` is the sum of `dout[i]` over all `i` with `ids[i] = v`.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBackward(Dtype);

impl EmbeddingBackward {
    /// Of a table of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> EmbeddingBackward {
        EmbeddingBackward(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<EmbeddingBackwardPlan> {
        Ok(EmbeddingBackwardPlan { dtype: self.0, kernel: Loaded::new(device, &backward_variant(self.0))? })
    }
}

fn backward_variant(dtype: Dtype) -> Variant {
    let [file] = cuda_files!["embedding/backward.cu"];
    let constants = Constants::new()
        .alias("Element", dtype.cuda_name())
        .int("THREADS", BACKWARD_THREADS)
        .int("GROUP", GROUP as i64);
    Variant {
        program: program(*file, &[], constants).params(backward::Params::LAYOUT),
        entry: "embedding_backward",
        threads: BACKWARD_THREADS,
        shared_bytes: 0,
    }
}

/// What [`EmbeddingBackwardPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBackwardArgs {
    /// The sizes.
    pub shape: EmbeddingShape,
    /// `(N, C)` contiguous: the gradient of `out`.
    pub dout: DevicePtr,
    /// `(N)` u32. An id that is not below `V` is left out.
    pub ids: DevicePtr,
    /// `(V, C)` contiguous, overwritten.
    pub dweight: DevicePtr,
}

/// A compiled [`EmbeddingBackward`].
#[derive(Clone, Debug)]
pub struct EmbeddingBackwardPlan {
    dtype: Dtype,
    kernel: Loaded,
}

impl EmbeddingBackwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Without ids, `dweight` becomes 0.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes, in memory of the stream's device that stays allocated until the stream has
    /// come to this point; `dweight` overlaps no other tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &EmbeddingBackwardArgs) -> Result<()> {
        let EmbeddingBackwardArgs { shape, dout, ids, dweight } = *args;
        shape.check(BACKWARD)?;
        if shape.count > 0 {
            BACKWARD.tensor("dout", dout, self.dtype)?;
            BACKWARD.memory("ids", ids, 4)?;
        }
        BACKWARD.tensor("dweight", dweight, self.dtype)?;
        let across = shape.width.div_ceil(BACKWARD_THREADS as usize);
        let params = backward::Params {
            dout,
            ids,
            dweight,
            count: shape.count as i64,
            vocabulary: shape.vocabulary as i32,
            width: shape.width as i32,
        };
        let grid = [shape.vocabulary.div_ceil(GROUP) as u32, across as u32];
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.kernel.launch(stream, grid, &params) }
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    let dtypes = [Dtype::F32, Dtype::Bf16, Dtype::F16];
    dtypes.into_iter().flat_map(|dtype| [forward_variant(dtype), backward_variant(dtype)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_range_are_named() {
        let shape = EmbeddingShape { vocabulary: 50_257, width: 768, count: 0 };
        let message = |shape: EmbeddingShape| shape.check(FORWARD).unwrap_err().to_string();
        assert!(shape.check(FORWARD).is_ok());
        assert_eq!(
            message(EmbeddingShape { vocabulary: 0, ..shape }),
            "embedding forward: vocabulary is 0, it has to be 1 to 2147483647"
        );
        assert_eq!(
            message(EmbeddingShape { count: 1 << 31, ..shape }),
            "embedding forward: count is 2147483648, it has to be 0 to 2147483647"
        );
    }
}
