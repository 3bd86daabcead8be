//! `kernels/norm/backward.cu`.

use longhand_gpu::{Arch, Device, DevicePtr, Stream, params};

use super::tuning::{self, Block};
use super::{DropoutParams, Norm};
use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::random::Dropout;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("norm backward");
/// Of the kernel that adds the partial sums.
const FINISH_THREADS: u32 = 256;

params! {
    struct Params {
        dout: DevicePtr,
        dsum: DevicePtr,
        sum: DevicePtr,
        weight: DevicePtr,
        mean: DevicePtr,
        rstd: DevicePtr,
        dx: DevicePtr,
        dresidual: DevicePtr,
        totals: DevicePtr,
        partials: DevicePtr,
        rows: i64,
        sum_stride: i64,
        dropout: DropoutParams,
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

impl Norm {
    /// Compiles the backward pass for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) unless the width is 1 to [`MAX_WIDTH`](super::MAX_WIDTH);
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan_backward(&self, device: &Device) -> Result<NormBackwardPlan> {
        self.check(CHECK)?;
        let load = |elements| {
            let vector = if elements > 1 { self.vector() } else { 1 };
            let block = tuning::backward(self, vector, device.arch());
            let [totals, rows, finish] = &kernels(self, vector, block);
            let load_if = |needed: bool, variant| needed.then(|| Loaded::new(device, variant)).transpose();
            Ok(Kernels {
                block,
                totals: load_if(block.twice, totals)?,
                rows: Loaded::new(device, rows)?,
                finish: load_if(self.sums() > 0, finish)?,
            })
        };
        Ok(NormBackwardPlan { norm: *self, kernels: ByAlignment::new(self.can_be_aligned(), load)? })
    }

    /// Sums over rows: of the gradients of weight and of bias.
    fn sums(&self) -> usize {
        usize::from(self.weight) + usize::from(self.bias)
    }
}

/// Those that there are.
pub(super) fn variants(norm: &Norm, vector: usize, arch: Arch) -> Vec<Variant> {
    let block = tuning::backward(norm, vector, arch);
    let [totals, rows, finish] = kernels(norm, vector, block);
    [block.twice.then_some(totals), Some(rows), (norm.sums() > 0).then_some(finish)]
        .into_iter()
        .flatten()
        .collect()
}

/// The totals of rows whose inputs are read twice; the gradients of rows; the last sums.
fn kernels(norm: &Norm, vector: usize, block: Block) -> [Variant; 3] {
    let [file] = cuda_files!["norm/backward.cu"];
    // Sums in registers take a loop without an index.
    let unroll = if block.twice { block.vectors } else { block.in_shared.max(1) };
    let constants = norm.constants(vector, block).bool("TWICE", block.twice).int("UNROLL", unroll as i64);
    let program = program(*file, cuda_files!["norm/row.cuh"], constants)
        .params(Params::LAYOUT)
        .params(FinishParams::LAYOUT);
    [
        ("norm_backward_totals", block.threads, block.shared_bytes),
        ("norm_backward", block.threads, block.shared_bytes),
        ("norm_backward_finish", FINISH_THREADS, 0),
    ]
    .map(|(entry, threads, shared_bytes)| Variant {
        program: program.clone(),
        entry,
        threads,
        shared_bytes,
    })
}

/// What [`NormBackwardPlan::launch`] computes with. Any alignment will do; with all tensors at multiples of 16 bytes,
/// `W` and `sum_stride` at multiples of as many elements, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct NormBackwardArgs {
    /// `N`.
    pub rows: usize,
    /// `(N, W)` contiguous: the gradient of `out`.
    pub dout: DevicePtr,
    /// `(N, W)` contiguous: the gradient of `sum`, or [`DevicePtr::NULL`] for zero.
    pub dsum: DevicePtr,
    /// `(N, W)`, rows `sum_stride` elements apart: `sum` of forward, which without a residual and dropout is `x`.
    pub sum: DevicePtr,
    /// Elements from one row of `sum` to the next.
    pub sum_stride: i64,
    /// Of forward.
    pub dropout: Option<Dropout>,
    /// `(W)`, if the norm has one.
    pub weight: DevicePtr,
    /// `(N)` f32, of forward. [`DevicePtr::NULL`] for RMSNorm.
    pub mean: DevicePtr,
    /// `(N)` f32, of forward.
    pub rstd: DevicePtr,
    /// `(N, W)` contiguous, overwritten: the gradient of `x`, and without dropout that of `residual`, too; or
    /// [`DevicePtr::NULL`] where nobody wants it. It may be `dsum` itself.
    pub dx: DevicePtr,
    /// `(N, W)` contiguous, overwritten: with dropout, the gradient of `residual`, or [`DevicePtr::NULL`] where nobody
    /// wants it. It may be `dsum` itself. Without dropout, [`DevicePtr::NULL`]: it is `dx`.
    pub dresidual: DevicePtr,
    /// `(W)`, overwritten, if the norm has a weight, or [`DevicePtr::NULL`] where nobody wants it.
    pub dweight: DevicePtr,
    /// `(W)`, overwritten, if the norm has a bias, or [`DevicePtr::NULL`] where nobody wants it.
    pub dbias: DevicePtr,
    /// [`NormBackwardPlan::workspace_bytes`] of scratch memory at a multiple of 16 bytes.
    pub workspace: DevicePtr,
}

impl NormBackwardArgs {
    fn wants_rows(&self) -> bool {
        !(self.dx.is_null() && self.dresidual.is_null())
    }

    fn wants_sums(&self) -> bool {
        !(self.dweight.is_null() && self.dbias.is_null())
    }
}

#[derive(Clone, Debug)]
struct Kernels {
    block: Block,
    /// Where a row is read twice.
    totals: Option<Loaded>,
    rows: Loaded,
    /// Where there is something to add.
    finish: Option<Loaded>,
}

/// The compiled backward pass of a [`Norm`].
#[derive(Clone, Debug)]
pub struct NormBackwardPlan {
    norm: Norm,
    kernels: ByAlignment<Kernels>,
}

impl NormBackwardPlan {
    /// Bytes of scratch memory that a launch with this many rows needs.
    #[must_use]
    pub fn workspace_bytes(&self, rows: usize) -> usize {
        let bytes = |aligned| {
            let block = self.kernels.get(aligned).0.block;
            totals_bytes(block, rows) + partials_bytes(&self.norm, block, rows)
        };
        bytes(true).max(bytes(false))
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Without rows, `dweight` and `dbias` become 0.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; no output overlaps another tensor, but for what is said at `dx` and
    /// `dresidual`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &NormBackwardArgs) -> Result<()> {
        let NormBackwardPlan { norm, kernels } = self;
        check(norm, args, self.workspace_bytes(args.rows))?;
        let tensors = [args.dout, args.dsum, args.sum, args.weight, args.dx, args.dresidual];
        let is_aligned = aligned(tensors) && args.sum_stride % norm.vector() as i64 == 0;
        let Kernels { block, totals, rows, finish } = kernels.get(is_aligned).0;
        let finish = finish.as_ref().filter(|_| args.wants_sums());
        if finish.is_none() && !args.wants_rows() {
            return Ok(());
        }
        let parts = tuning::parts(norm, *block, args.rows);
        let blocks = match finish {
            Some(_) => parts * block.slices,
            None => (args.rows.div_ceil(block.rows()) * block.slices)
                .min(MAX_BLOCKS / block.slices * block.slices),
        };
        let partials = args.workspace.offset(totals_bytes(*block, args.rows) as i64);
        let params = Params {
            dout: args.dout,
            dsum: args.dsum,
            sum: args.sum,
            weight: args.weight,
            mean: args.mean,
            rstd: args.rstd,
            dx: args.dx,
            dresidual: args.dresidual,
            totals: args.workspace,
            partials: if finish.is_some() { partials } else { DevicePtr::NULL },
            rows: args.rows as i64,
            sum_stride: args.sum_stride,
            dropout: DropoutParams::new(args.dropout),
        };

        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe {
            if blocks > 0 {
                if let Some(totals) = totals {
                    totals.launch(stream, [blocks as u32, 1], &params)?;
                }
                if args.wants_rows() || totals.is_none() {
                    rows.launch(stream, [blocks as u32, 1], &params)?;
                }
            }
            let Some(finish) = finish else { return Ok(()) };
            let params =
                FinishParams { partials, dweight: args.dweight, dbias: args.dbias, parts: parts as i64 };
            finish.launch(stream, [(norm.sums() * norm.width).div_ceil(32) as u32, 1], &params)
        }
    }
}

/// The workspace begins with the totals of rows that are read twice: two floats of each slice, a multiple of 16 bytes.
fn totals_bytes(block: Block, rows: usize) -> usize {
    if block.twice { rows * block.slices * 2 * Dtype::F32.size() } else { 0 }
}

fn partials_bytes(norm: &Norm, block: Block, rows: usize) -> usize {
    tuning::parts(norm, block, rows) * norm.sums() * norm.width * Dtype::F32.size()
}

fn check(norm: &Norm, args: &NormBackwardArgs, workspace_bytes: usize) -> Result<()> {
    CHECK.size("rows", args.rows, 0, MAX_BLOCKS)?;
    norm.check_dropout(CHECK, args.dropout)?;
    if args.rows > 0 {
        CHECK.tensor("dout", args.dout, norm.dtype)?;
        CHECK.tensor("sum", args.sum, norm.dtype)?;
        CHECK.optional("dx", args.dx, norm.dtype)?;
        CHECK.optional("dsum", args.dsum, norm.dtype)?;
        Norm::check_part(CHECK, "weight", args.weight, norm.weight_dtype, norm.weight)?;
        Norm::check_part(CHECK, "mean", args.mean, Dtype::F32, norm.layer)?;
        CHECK.tensor("rstd", args.rstd, Dtype::F32)?;
        CHECK.stride("sum_stride", args.sum_stride, args.rows)?;
        if norm.dropout {
            CHECK.optional("dresidual", args.dresidual, norm.dtype)?;
        } else if !args.dresidual.is_null() {
            return Err(CHECK.error("dresidual", "given", "null without dropout: it is dx"));
        }
    }
    for (name, data, exists) in [("dweight", args.dweight, norm.weight), ("dbias", args.dbias, norm.bias)] {
        Norm::check_part(CHECK, name, data, norm.weight_dtype, exists && !data.is_null())?;
    }
    if workspace_bytes > 0 {
        CHECK.memory("workspace", args.workspace, 16)?;
    }
    let whole = |name, data| norm.whole(name, data, args.rows);
    let column = |name, data| norm.column(name, data);
    let per_row = |name, data| Extent::contiguous(name, data, args.rows, 4);
    CHECK.apart(&[
        whole("dout", args.dout),
        whole("dsum", args.dsum),
        Extent::rows("sum", args.sum, [args.rows, norm.width], args.sum_stride, norm.dtype.size()),
        column("weight", args.weight),
        per_row("mean", args.mean),
        per_row("rstd", args.rstd),
        whole("dx", args.dx).written().may_be(&["dsum"]),
        whole("dresidual", args.dresidual).written().may_be(&["dsum"]),
        column("dweight", args.dweight).written(),
        column("dbias", args.dbias).written(),
        Extent::contiguous("workspace", args.workspace, workspace_bytes, 1).written(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};

    #[test]
    fn what_is_written_is_apart_from_all_else_but_for_the_gradient_of_the_sum() {
        let [dout, dsum, sum, weight, mean, rstd, dx, dresidual] =
            [1, 2, 3, 4, 5, 6, 7, 8].map(|i| DevicePtr(i << 20));
        let [dweight, dbias, workspace] = [9, 10, 11].map(|i| DevicePtr(i << 20));
        let dropout = Some(Dropout::default());
        let (rows, sum_stride) = (9, 768);
        let args = NormBackwardArgs {
            rows,
            dout,
            dsum,
            sum,
            sum_stride,
            dropout,
            weight,
            mean,
            rstd,
            dx,
            dresidual,
            dweight,
            dbias,
            workspace,
        };
        let norm = Norm::layer(Dtype::Bf16, 768).dropout(true);
        assert_apart(
            args,
            |args| check(&norm, args, 4096),
            5,
            pointers![dx, dresidual, dweight, dbias, workspace, dout, dsum, sum, weight, mean, rstd],
            &[["dx", "dsum"], ["dresidual", "dsum"]],
        );
    }

    #[test]
    fn the_workspace_holds_a_sum_per_column_and_part_and_stops_growing_with_the_rows() {
        let partials = |norm: Norm, rows| {
            partials_bytes(&norm, tuning::backward(&norm, 1, "sm_80".parse().unwrap()), rows)
        };
        let layer = |width, rows| partials(Norm::layer(Dtype::F16, width), rows);
        assert_eq!(layer(768, 0), 2 * 768 * 4);
        assert_eq!(layer(768, 9), 2 * 2 * 768 * 4); // a block takes 8 rows at a time
        assert_eq!(layer(4096, 9), 9 * 2 * 4096 * 4);
        assert_eq!(layer(768, 1 << 40), 256 * 2 * 768 * 4);
        assert_eq!(layer(131_072, 1 << 40), 16 * 2 * 131_072 * 4);
        let norm = Norm::rms(Dtype::F16, 768);
        assert_eq!(partials(norm, 9), 2 * 768 * 4);
        assert_eq!(partials(norm.weight(false), 9), 0);
    }

    #[test]
    fn it_holds_the_totals_of_rows_that_are_read_twice() {
        let totals = |width, arch: &str| {
            totals_bytes(tuning::backward(&Norm::layer(Dtype::F16, width), 8, arch.parse().unwrap()), 9)
        };
        assert_eq!(totals(16_384, "sm_80"), 0);
        assert_eq!(totals(65_536, "sm_80"), 9 * 4 * 8);
        assert_eq!(totals(65_536, "sm_120a"), 0);
    }

    #[test]
    fn outputs_are_checked_even_without_rows() {
        let (null, tensor) = (DevicePtr::NULL, DevicePtr(4096));
        let [dbias, workspace, weight, rstd, dx] = [2, 3, 4, 5, 6].map(|i| DevicePtr(i << 20));
        let args = NormBackwardArgs {
            rows: 0,
            dout: null,
            dsum: null,
            sum: null,
            sum_stride: 0,
            dropout: None,
            weight: null,
            mean: null,
            rstd: null,
            dx: null,
            dresidual: null,
            dweight: tensor,
            dbias,
            workspace,
        };
        let message = |norm: Norm, args| {
            check(&norm, &args, 64).map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        let norm = Norm::layer(Dtype::F32, 8);
        assert_eq!(message(norm, args), "fine");
        assert_eq!(
            message(norm, NormBackwardArgs { dbias: DevicePtr(4098), ..args }),
            "norm backward: dbias is DevicePtr(0x1002), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(norm, NormBackwardArgs { rows: 1, ..args }),
            "norm backward: dout is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(Norm::rms(Dtype::F32, 8), args),
            "norm backward: dbias is given, it has to be null: this norm has none"
        );
        let whole = NormBackwardArgs { rows: 1, dout: rstd, sum: rstd, weight, mean: rstd, rstd, dx, ..args };
        assert_eq!(message(norm, whole), "fine");
        assert_eq!(
            message(norm, NormBackwardArgs { dresidual: tensor, ..whole }),
            "norm backward: dresidual is given, it has to be null without dropout: it is dx"
        );
    }
}
