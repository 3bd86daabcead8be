//! `kernels/embedding/forward.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use super::EmbeddingShape;
use crate::check::{Check, aligned};
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("embedding forward");
const THREADS: u32 = 128;

params! {
    struct Params {
        weight: DevicePtr,
        ids: DevicePtr,
        out: DevicePtr,
        vocabulary: i64,
        width: i32,
        aligned: i32,
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
        Ok(EmbeddingForwardPlan { dtype: self.0, kernel: Loaded::new(device, &variant(self.0))? })
    }
}

pub(super) fn variant(dtype: Dtype) -> Variant {
    let [file] = cuda_files!["embedding/forward.cu"];
    let constants = Constants::new().alias("Element", dtype.cuda_name()).int("THREADS", THREADS);
    Variant {
        program: program(*file, &[], constants).params(Params::LAYOUT),
        entry: "embedding_forward",
        threads: THREADS,
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
        check(self.dtype, args)?;
        if shape.count == 0 {
            return Ok(());
        }
        let params = Params {
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

fn check(dtype: Dtype, args: &EmbeddingForwardArgs) -> Result<()> {
    let EmbeddingForwardArgs { shape, weight, ids, out } = *args;
    shape.check(CHECK)?;
    if shape.count == 0 {
        return Ok(());
    }
    CHECK.tensor("weight", weight, dtype)?;
    CHECK.memory("ids", ids, 4)?;
    CHECK.tensor("out", out, dtype)?;
    let rows = |name, data, count| Extent::contiguous(name, data, count * shape.width, dtype.size());
    CHECK.apart(&[
        rows("weight", weight, shape.vocabulary),
        Extent::contiguous("ids", ids, shape.count, 4),
        rows("out", out, shape.count).written(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};

    #[test]
    fn the_output_is_apart_from_all_else() {
        let [weight, ids, out] = [1, 2, 3].map(|i| DevicePtr(i << 20));
        let shape = EmbeddingShape { vocabulary: 10, width: 8, count: 9 };
        assert_apart(
            EmbeddingForwardArgs { shape, weight, ids, out },
            |args| check(Dtype::Bf16, args),
            1,
            pointers![out, weight, ids],
            &[],
        );
    }
}
