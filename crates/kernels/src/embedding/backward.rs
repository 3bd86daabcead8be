//! `kernels/embedding/backward.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use super::EmbeddingShape;
use super::sort::{Sort, Sorted};
use crate::check::{Check, aligned};
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("embedding backward");
const THREADS: u32 = 128;
/// Sorted ids that a block takes. Partial sums take at most `16 / SPAN` bytes for each element of `dout`, half of that
/// memory and half of it read again; and a block for each 64 rows is enough of them for any GPU.
const SPAN: usize = 64;

params! {
    struct Params {
        dout: DevicePtr,
        ids: DevicePtr,
        positions: DevicePtr,
        dweight: DevicePtr,
        partials: DevicePtr,
        count: i64,
        vocabulary: u32,
        width: i32,
    }
}

/// The gradient of [`EmbeddingForward`](super::EmbeddingForward): `dweight[v]` is the sum of `dout[i]` over all `i` with
/// `ids[i] = v`. The same adds rows up by any index (scatter-add).
///
/// The ids are sorted, and the rows of each added up in the order of their positions, in f32. Deterministic: the same
/// inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBackward {
    dtype: Dtype,
    accumulate: bool,
}

impl EmbeddingBackward {
    /// Of a table of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> EmbeddingBackward {
        EmbeddingBackward { dtype, accumulate: false }
    }

    /// Whether the sums are added to what `dweight` is, instead of taking its place; each is rounded once. Rows whose id does
    /// not occur are then left alone.
    #[must_use]
    pub fn accumulate(self, accumulate: bool) -> EmbeddingBackward {
        EmbeddingBackward { accumulate, ..self }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<EmbeddingBackwardPlan> {
        let load = |vector| {
            let [partial, finish] = &variants(self, vector);
            Ok([Loaded::new(device, partial)?, Loaded::new(device, finish)?])
        };
        let (sort, kernels) = (Sort::new(device)?, ByAlignment::new(true, load)?);
        Ok(EmbeddingBackwardPlan { op: *self, sort, kernels })
    }
}

pub(super) fn variants(op: &EmbeddingBackward, vector: usize) -> [Variant; 2] {
    let [file] = cuda_files!["embedding/backward.cu"];
    let constants = Constants::new()
        .alias("Element", op.dtype.cuda_name())
        .bool("ACCUMULATE", op.accumulate)
        .int("VECTOR", vector as i64)
        .int("THREADS", THREADS)
        .int("SPAN", SPAN as i64);
    let program = program(*file, &[], constants).params(Params::LAYOUT);
    ["embedding_backward", "embedding_backward_finish"].map(|entry| Variant {
        program: program.clone(),
        entry,
        threads: THREADS,
        shared_bytes: 0,
    })
}

/// What [`EmbeddingBackwardPlan::launch`] computes with. Any alignment will do; with `dout`, `dweight` and `workspace` at
/// multiples of 16 bytes, and `C` at a multiple of 8, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBackwardArgs {
    /// The sizes.
    pub shape: EmbeddingShape,
    /// `(N, C)` contiguous: the gradient of `out`.
    pub dout: DevicePtr,
    /// `(N)` u32. An id that is not below `V` is left out.
    pub ids: DevicePtr,
    /// An id that is left out too, such as that of padding.
    pub padding: Option<u32>,
    /// `(V, C)` contiguous, overwritten: rows of ids that do not occur become 0. With [`EmbeddingBackward::accumulate`], added
    /// to.
    pub dweight: DevicePtr,
    /// [`EmbeddingBackwardPlan::workspace_bytes`] of scratch memory at a multiple of 4 bytes.
    pub workspace: DevicePtr,
}

/// A compiled [`EmbeddingBackward`].
#[derive(Clone, Debug)]
pub struct EmbeddingBackwardPlan {
    op: EmbeddingBackward,
    sort: Sort,
    kernels: ByAlignment<[Loaded; 2]>,
}

impl EmbeddingBackwardPlan {
    /// Bytes of scratch memory that a launch of this size needs: about 17 for each id, and `C / 8` for partial sums.
    #[must_use]
    pub fn workspace_bytes(&self, shape: EmbeddingShape) -> usize {
        partial_bytes(shape) + Sort::workspace_bytes(shape.count)
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Beyond setting `dweight` to 0, the cost does not depend on
    /// `V`.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes, in memory of the stream's device that stays allocated until the stream has
    /// come to this point; `dweight` and `workspace` overlap no other tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &EmbeddingBackwardArgs) -> Result<()> {
        let EmbeddingBackwardArgs { shape, dout, ids, padding, dweight, workspace } = *args;
        check(self.op.dtype, args, self.workspace_bytes(shape))?;
        if !self.op.accumulate {
            // SAFETY: the caller answers for the memory.
            unsafe { stream.fill_zero(dweight, shape.vocabulary * shape.width * self.op.dtype.size())? };
        }
        if shape.count == 0 {
            return Ok(());
        }
        let (partials, sorting) = (workspace, workspace.offset(partial_bytes(shape) as i64));
        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        let Sorted { ids, positions } = unsafe { self.sort.launch(stream, shape, (ids, padding), sorting)? };
        let params = Params {
            dout,
            ids,
            positions,
            dweight,
            partials,
            count: shape.count as i64,
            vocabulary: shape.vocabulary as u32,
            width: shape.width as i32,
        };
        let whole = aligned([dout, dweight, workspace]) && shape.width.is_multiple_of(8);
        let ([partial, finish], vector) = self.kernels.get(whole);
        let across = shape.width.div_ceil(THREADS as usize * vector);
        let grid = [shape.count.div_ceil(SPAN) as u32, across as u32];
        // SAFETY: as above.
        unsafe {
            partial.launch(stream, grid, &params)?;
            finish.launch(stream, grid, &params)
        }
    }
}

/// Of two rows of f32 for each span.
fn partial_bytes(shape: EmbeddingShape) -> usize {
    shape.count.div_ceil(SPAN) * 2 * shape.width * Dtype::F32.size()
}

fn check(dtype: Dtype, args: &EmbeddingBackwardArgs, workspace_bytes: usize) -> Result<()> {
    let EmbeddingBackwardArgs { shape, dout, ids, dweight, workspace, .. } = *args;
    shape.check(CHECK)?;
    CHECK.tensor("dweight", dweight, dtype)?;
    if shape.count > 0 {
        CHECK.tensor("dout", dout, dtype)?;
        CHECK.memory("ids", ids, 4)?;
        CHECK.memory("workspace", workspace, 4)?;
    }
    let rows = |name, data, count| Extent::contiguous(name, data, count * shape.width, dtype.size());
    CHECK.apart(&[
        rows("dout", dout, shape.count),
        Extent::contiguous("ids", ids, shape.count, 4),
        rows("dweight", dweight, shape.vocabulary).written(),
        Extent::contiguous("workspace", workspace, workspace_bytes, 1).written(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let [dout, ids, dweight, workspace] = [1, 2, 3, 4].map(|i| DevicePtr(i << 20));
        let shape = EmbeddingShape { vocabulary: 10, width: 8, count: 9 };
        assert_apart(
            EmbeddingBackwardArgs { shape, dout, ids, padding: None, dweight, workspace },
            |args| check(Dtype::Bf16, args, 4096),
            2,
            pointers![dweight, workspace, dout, ids],
            &[],
        );
    }
}
