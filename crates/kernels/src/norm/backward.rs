//! `kernels/norm/layer_backward.cu`.

use longhand_gpu::{Device, DevicePtr, Stream, params};

use super::{Kind, tuning};
use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("layer norm backward");
/// Of the kernels that go down columns.
const COLUMNS_THREADS: u32 = 256;

params! {
    struct Params {
        dy: DevicePtr,
        dr: DevicePtr,
        sum: DevicePtr,
        weight: DevicePtr,
        mean: DevicePtr,
        rstd: DevicePtr,
        dx: DevicePtr,
        partials: DevicePtr,
        rows: i64,
        sum_stride: i64,
    }
}

params! {
    struct FinishParams {
        partials: DevicePtr,
        dweight: DevicePtr,
        dbias: DevicePtr,
        parts: i64,
    }
}

/// The gradients of [`LayerNormForward`](super::LayerNormForward).
///
/// Deterministic: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormBackward(Kind);

impl LayerNormBackward {
    /// Of rows of `width` elements.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) unless `width` is 1 to [`MAX_WIDTH`](super::MAX_WIDTH).
    pub fn new(dtype: Dtype, width: usize) -> Result<LayerNormBackward> {
        Ok(LayerNormBackward(Kind::new(CHECK, dtype, width)?))
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<LayerNormBackwardPlan> {
        let load = |vector| {
            let [rows, columns, finish] = &variants(self.0, vector);
            let columns = if tuning::backward_is_fused(self.0.width) {
                None
            } else {
                Some(Loaded::new(device, columns)?)
            };
            Ok(Kernels { rows: Loaded::new(device, rows)?, columns, finish: Loaded::new(device, finish)? })
        };
        Ok(LayerNormBackwardPlan { kind: self.0, kernels: ByAlignment::new(self.0.can_be_aligned(), load)? })
    }
}

/// By row, by column, and the last sums.
pub(super) fn variants(kind: Kind, vector: usize) -> [Variant; 3] {
    let [file] = cuda_files!["norm/layer_backward.cu"];
    let block = tuning::backward(kind.width);
    let constants = kind.constants(vector, block).bool("FUSED", tuning::backward_is_fused(kind.width));
    let program = program(*file, &[], constants).params(Params::LAYOUT).params(FinishParams::LAYOUT);
    [
        ("layer_norm_backward", block.threads),
        ("layer_norm_backward_columns", COLUMNS_THREADS),
        ("layer_norm_backward_finish", COLUMNS_THREADS),
    ]
    .map(|(entry, threads)| Variant { program: program.clone(), entry, threads, shared_bytes: 0 })
}

/// What [`LayerNormBackwardPlan::launch`] computes with. Any alignment will do; with all tensors at multiples of 16
/// bytes, `W` and `sum_stride` at multiples of 8, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormBackwardArgs {
    /// `N`.
    pub rows: usize,
    /// `(N, W)` contiguous: the gradient of `out`.
    pub dy: DevicePtr,
    /// `(N, W)` contiguous: the gradient of `sum`, or [`DevicePtr::NULL`] for zero.
    pub dr: DevicePtr,
    /// `(N, W)`, rows `sum_stride` elements apart: `sum` of forward, which without a residual is `x`.
    pub sum: DevicePtr,
    /// Elements from one row of `sum` to the next.
    pub sum_stride: i64,
    /// `(W)`.
    pub weight: DevicePtr,
    /// `(N)` f32, of forward.
    pub mean: DevicePtr,
    /// `(N)` f32, of forward.
    pub rstd: DevicePtr,
    /// `(N, W)` contiguous, overwritten: the gradient of `x` and of `residual` alike. It may be `dr` itself.
    pub dx: DevicePtr,
    /// `(W)`, overwritten.
    pub dweight: DevicePtr,
    /// `(W)`, overwritten.
    pub dbias: DevicePtr,
    /// [`LayerNormBackwardPlan::workspace_bytes`] of scratch memory at a multiple of 4 bytes.
    pub workspace: DevicePtr,
}

#[derive(Clone, Debug)]
struct Kernels {
    rows: Loaded,
    /// Where `rows` does not do its work as well.
    columns: Option<Loaded>,
    finish: Loaded,
}

/// A compiled [`LayerNormBackward`].
#[derive(Clone, Debug)]
pub struct LayerNormBackwardPlan {
    kind: Kind,
    kernels: ByAlignment<Kernels>,
}

impl LayerNormBackwardPlan {
    /// Bytes of scratch memory that a launch with this many rows needs.
    #[must_use]
    pub fn workspace_bytes(&self, rows: usize) -> usize {
        parts(self.kind, rows) * 2 * self.kind.width * Dtype::F32.size()
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Without rows, `dweight` and `dbias` become 0.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; no output overlaps another tensor, but for what is said at `dx`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &LayerNormBackwardArgs) -> Result<()> {
        check(self.kind, args)?;
        let parts = parts(self.kind, args.rows);
        let params = Params {
            dy: args.dy,
            dr: args.dr,
            sum: args.sum,
            weight: args.weight,
            mean: args.mean,
            rstd: args.rstd,
            dx: args.dx,
            partials: args.workspace,
            rows: args.rows as i64,
            sum_stride: args.sum_stride,
        };
        let tensors = [args.dy, args.dr, args.sum, args.weight, args.dx];
        let (kernels, vector) = self.kernels.get(aligned(tensors) && args.sum_stride % 8 == 0);
        let block = tuning::backward(self.kind.width);
        let blocks = if kernels.columns.is_some() { args.rows.div_ceil(block.rows()) } else { parts };
        let width = self.kind.width;

        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe {
            if blocks > 0 {
                kernels.rows.launch(stream, [blocks as u32, 1], &params)?;
            }
            if let Some(columns) = &kernels.columns {
                let across = width.div_ceil(COLUMNS_THREADS as usize * vector);
                columns.launch(stream, [across as u32, parts as u32], &params)?;
            }
            let params = FinishParams {
                partials: args.workspace,
                dweight: args.dweight,
                dbias: args.dbias,
                parts: parts as i64,
            };
            kernels.finish.launch(stream, [(2 * width).div_ceil(32) as u32, 1], &params)
        }
    }
}

/// Partial sums over rows; at least one, so that there is something to add.
fn parts(kind: Kind, rows: usize) -> usize {
    rows.div_ceil(tuning::backward(kind.width).rows()).clamp(1, tuning::MAX_PARTS)
}

fn check(kind: Kind, args: &LayerNormBackwardArgs) -> Result<()> {
    CHECK.size("rows", args.rows, 0, MAX_BLOCKS)?;
    if args.rows > 0 {
        for (name, data) in [("dy", args.dy), ("sum", args.sum), ("weight", args.weight), ("dx", args.dx)] {
            CHECK.tensor(name, data, kind.dtype)?;
        }
        CHECK.optional("dr", args.dr, kind.dtype)?;
        CHECK.tensor("mean", args.mean, Dtype::F32)?;
        CHECK.tensor("rstd", args.rstd, Dtype::F32)?;
        CHECK.stride("sum_stride", args.sum_stride, args.rows)?;
    }
    CHECK.tensor("dweight", args.dweight, kind.dtype)?;
    CHECK.tensor("dbias", args.dbias, kind.dtype)?;
    CHECK.tensor("workspace", args.workspace, Dtype::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_holds_two_sums_per_column_and_part_and_stops_growing_with_the_rows() {
        let bytes = |width, rows| parts(Kind { dtype: Dtype::F16, width }, rows) * 2 * width * 4;
        assert_eq!(bytes(768, 0), 2 * 768 * 4);
        assert_eq!(bytes(768, 9), 2 * 2 * 768 * 4); // a block takes 8 rows at a time
        assert_eq!(bytes(4096, 9), 9 * 2 * 4096 * 4);
        assert_eq!(bytes(768, 1 << 40), 256 * 2 * 768 * 4);
    }

    #[test]
    fn outputs_are_checked_even_without_rows() {
        let (null, tensor) = (DevicePtr::NULL, DevicePtr(4096));
        let args = LayerNormBackwardArgs {
            rows: 0,
            dy: null,
            dr: null,
            sum: null,
            sum_stride: 0,
            weight: null,
            mean: null,
            rstd: null,
            dx: null,
            dweight: tensor,
            dbias: tensor,
            workspace: tensor,
        };
        let kind = Kind { dtype: Dtype::F32, width: 8 };
        assert!(check(kind, &args).is_ok());
        let error = check(kind, &LayerNormBackwardArgs { dbias: DevicePtr(4098), ..args }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer norm backward: dbias is DevicePtr(0x1002), it has to be an address that is a multiple of 4"
        );
        let error = check(kind, &LayerNormBackwardArgs { rows: 1, ..args }).unwrap_err();
        assert!(error.to_string().starts_with("layer norm backward: dy is"));
    }
}
