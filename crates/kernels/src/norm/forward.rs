//! `kernels/norm/forward.cu`.

use longhand_gpu::{Arch, Device, DevicePtr, Stream, params};

use super::{DropoutParams, Norm, tuning};
use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::random::Dropout;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("norm forward");

params! {
    struct Params {
        x: DevicePtr,
        residual: DevicePtr,
        weight: DevicePtr,
        bias: DevicePtr,
        sum: DevicePtr,
        out: DevicePtr,
        mean: DevicePtr,
        rstd: DevicePtr,
        rows: i64,
        x_stride: i64,
        dropout: DropoutParams,
        eps: f32,
        _pad: u32,
    }
}

impl Norm {
    /// Compiles the forward pass for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) unless the width is 1 to [`MAX_WIDTH`](super::MAX_WIDTH);
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan_forward(&self, device: &Device) -> Result<NormForwardPlan> {
        self.check(CHECK)?;
        let load = |elements| {
            let vector = if elements > 1 { self.vector() } else { 1 };
            let block = tuning::forward(self, vector, device.arch());
            Ok((Loaded::new(device, &variant(self, vector, device.arch()))?, block))
        };
        Ok(NormForwardPlan { norm: *self, kernel: ByAlignment::new(self.can_be_aligned(), load)? })
    }
}

pub(super) fn variant(norm: &Norm, vector: usize, arch: Arch) -> Variant {
    let [file] = cuda_files!["norm/forward.cu"];
    let block = tuning::forward(norm, vector, arch);
    let constants = norm.constants(vector, block).int("UNROLL", 4);
    Variant {
        program: program(*file, cuda_files!["norm/row.cuh"], constants).params(Params::LAYOUT),
        entry: "norm_forward",
        threads: block.threads,
        shared_bytes: block.shared_bytes,
    }
}

/// What [`NormForwardPlan::launch`] computes with. Any alignment will do; with all tensors at multiples of 16 bytes, `W`
/// and `x_stride` at multiples of as many elements, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct NormForwardArgs {
    /// `N`.
    pub rows: usize,
    /// Added to the variance.
    pub eps: f32,
    /// `(N, W)`, rows `x_stride` elements apart.
    pub x: DevicePtr,
    /// Elements from one row of `x` to the next.
    pub x_stride: i64,
    /// `(N, W)` contiguous, or [`DevicePtr::NULL`] for none.
    pub residual: DevicePtr,
    /// Of `x`, if the norm has it.
    pub dropout: Option<Dropout>,
    /// `(W)`, if the norm has one.
    pub weight: DevicePtr,
    /// `(W)`, if the norm has one.
    pub bias: DevicePtr,
    /// `(N, W)` contiguous, overwritten with `residual + dropout(x)`. It may be `residual` itself.
    /// [`DevicePtr::NULL`] without a residual and without dropout: the sum is then `x`.
    pub sum: DevicePtr,
    /// `(N, W)` contiguous, overwritten.
    pub out: DevicePtr,
    /// `(N)` f32, overwritten; for backward. [`DevicePtr::NULL`] for RMSNorm.
    pub mean: DevicePtr,
    /// `(N)` f32, overwritten: one over the standard deviation, or over the root mean square; for backward.
    pub rstd: DevicePtr,
}

/// The compiled forward pass of a [`Norm`].
#[derive(Clone, Debug)]
pub struct NormForwardPlan {
    norm: Norm,
    kernel: ByAlignment<(Loaded, tuning::Block)>,
}

impl NormForwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no rows.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; no output overlaps another tensor, but for what is said at `sum`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &NormForwardArgs) -> Result<()> {
        check(&self.norm, args)?;
        if args.rows == 0 {
            return Ok(());
        }
        let params = Params {
            x: args.x,
            residual: args.residual,
            weight: args.weight,
            bias: args.bias,
            sum: args.sum,
            out: args.out,
            mean: args.mean,
            rstd: args.rstd,
            rows: args.rows as i64,
            x_stride: args.x_stride,
            dropout: DropoutParams::new(args.dropout),
            eps: args.eps,
            _pad: 0,
        };
        let tensors = [args.x, args.residual, args.weight, args.bias, args.sum, args.out];
        let (kernel, block) =
            self.kernel.get(aligned(tensors) && args.x_stride % self.norm.vector() as i64 == 0).0;
        let blocks = tuning::forward_blocks(*block, args.rows);
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { kernel.launch(stream, [blocks as u32, 1], &params) }
    }
}

fn check(norm: &Norm, args: &NormForwardArgs) -> Result<()> {
    CHECK.size("rows", args.rows, 0, MAX_BLOCKS)?;
    if !(args.eps >= 0.0 && args.eps.is_finite()) {
        return Err(CHECK.error("eps", args.eps, "finite and not negative"));
    }
    norm.check_dropout(CHECK, args.dropout)?;
    if args.rows == 0 {
        return Ok(());
    }
    CHECK.tensor("x", args.x, norm.dtype)?;
    CHECK.tensor("out", args.out, norm.dtype)?;
    CHECK.optional("residual", args.residual, norm.dtype)?;
    Norm::check_part(CHECK, "weight", args.weight, norm.weight_dtype, norm.weight)?;
    Norm::check_part(CHECK, "bias", args.bias, norm.weight_dtype, norm.bias)?;
    if !args.residual.is_null() || norm.dropout {
        CHECK.tensor("sum", args.sum, norm.dtype)?;
    } else if !args.sum.is_null() {
        return Err(CHECK.error("sum", "given", "null without a residual or dropout: it is x"));
    }
    Norm::check_part(CHECK, "mean", args.mean, Dtype::F32, norm.layer)?;
    CHECK.tensor("rstd", args.rstd, Dtype::F32)?;
    CHECK.stride("x_stride", args.x_stride, args.rows)?;
    let whole = |name, data| norm.whole(name, data, args.rows);
    let column = |name, data| norm.column(name, data);
    let per_row = |name, data| Extent::contiguous(name, data, args.rows, 4);
    CHECK.apart(&[
        Extent::rows("x", args.x, [args.rows, norm.width], args.x_stride, norm.dtype.size()),
        whole("residual", args.residual),
        column("weight", args.weight),
        column("bias", args.bias),
        whole("sum", args.sum).written().may_be(&["residual"]),
        whole("out", args.out).written(),
        per_row("mean", args.mean).written(),
        per_row("rstd", args.rstd).written(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;
    use crate::extent::{assert_apart, pointers};

    fn args() -> NormForwardArgs {
        let [x, residual, weight, bias, sum, out, mean, rstd] =
            [1, 2, 3, 4, 5, 6, 7, 8].map(|i| DevicePtr(i << 20));
        let dropout = None;
        NormForwardArgs {
            rows: 9,
            eps: 1e-5,
            x,
            x_stride: 768,
            residual,
            dropout,
            weight,
            bias,
            sum,
            out,
            mean,
            rstd,
        }
    }

    #[test]
    fn what_is_written_is_apart_from_all_else_but_for_the_residual() {
        let norm = Norm::layer(Dtype::Bf16, 768);
        assert_apart(
            args(),
            |args| check(&norm, args),
            4,
            pointers![sum, out, mean, rstd, x, residual, weight, bias],
            &[["sum", "residual"]],
        );
    }

    fn message_of(norm: Norm, args: NormForwardArgs) -> String {
        check(&norm, &args).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    fn message(args: NormForwardArgs) -> String {
        message_of(Norm::layer(Dtype::Bf16, 768), args)
    }

    #[test]
    fn an_argument_that_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        assert_eq!(message(args()), "fine");
        assert_eq!(
            message(NormForwardArgs { residual: DevicePtr::NULL, sum: DevicePtr::NULL, ..args() }),
            "fine"
        );
        assert_eq!(message(NormForwardArgs { x_stride: 771, x: DevicePtr((1 << 20) + 2), ..args() }), "fine");
        assert_eq!(
            message(NormForwardArgs { out: DevicePtr::NULL, ..args() }),
            "norm forward: out is DevicePtr(0x0), it has to be an address that is a multiple of 2"
        );
        assert_eq!(
            message(NormForwardArgs { rstd: DevicePtr(4098), ..args() }),
            "norm forward: rstd is DevicePtr(0x1002), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(NormForwardArgs { sum: DevicePtr::NULL, ..args() }),
            "norm forward: sum is DevicePtr(0x0), it has to be an address that is a multiple of 2"
        );
        assert_eq!(
            message(NormForwardArgs { residual: DevicePtr::NULL, ..args() }),
            "norm forward: sum is given, it has to be null without a residual or dropout: it is x"
        );
        assert_eq!(
            message(NormForwardArgs { eps: f32::NAN, ..args() }),
            "norm forward: eps is NaN, it has to be finite and not negative"
        );
        assert_eq!(
            message(NormForwardArgs { x_stride: i64::MIN, ..args() }),
            "norm forward: x_stride is -9223372036854775808, it has to be small enough for 64-bit addresses over 9 rows"
        );
    }

    #[test]
    fn what_the_norm_has_not_may_not_be_given() {
        let rms = Norm::rms(Dtype::F32, 8);
        let given = args();
        assert_eq!(
            message_of(rms, given),
            "norm forward: bias is given, it has to be null: this norm has none"
        );
        let given = NormForwardArgs { bias: DevicePtr::NULL, ..given };
        assert_eq!(
            message_of(rms, given),
            "norm forward: mean is given, it has to be null: this norm has none"
        );
        assert_eq!(message_of(rms, NormForwardArgs { mean: DevicePtr::NULL, ..given }), "fine");
    }

    #[test]
    fn dropout_is_planned_and_given_and_has_a_probability_below_one() {
        let with = |probability| {
            let random = Random { seed: 1, offset: 2 };
            NormForwardArgs { dropout: Some(Dropout { probability, random }), ..args() }
        };
        let norm = Norm::layer(Dtype::Bf16, 768).dropout(true);
        assert_eq!(message_of(norm, with(0.5)), "fine");
        assert_eq!(
            message_of(norm, args()),
            "norm forward: dropout is none, it has to be given: it was planned"
        );
        assert_eq!(
            message(with(0.5)),
            "norm forward: dropout is given, it has to be none: it was not planned"
        );
        for probability in [1.0, -0.1, f64::NAN] {
            assert_eq!(
                message_of(norm, with(probability)),
                format!("norm forward: dropout probability is {probability}, it has to be 0 to less than 1")
            );
        }
    }

    #[test]
    fn no_rows_need_no_tensors() {
        let null = DevicePtr::NULL;
        let args = NormForwardArgs {
            rows: 0,
            x: null,
            residual: null,
            weight: null,
            bias: null,
            sum: null,
            ..args()
        };
        assert_eq!(message(NormForwardArgs { out: null, mean: null, rstd: null, ..args }), "fine");
    }

    #[test]
    fn a_norm_without_a_kernel_is_refused() {
        let message =
            |norm: Norm| norm.check(CHECK).map_or_else(|error| error.to_string(), |()| "fine".into());
        for width in [0, 131_073] {
            let expected = format!("norm forward: width is {width}, it has to be 1 to 131072");
            assert_eq!(message(Norm::layer(Dtype::F32, width)), expected);
        }
        assert_eq!(message(Norm::rms(Dtype::F32, 1)), "fine");
        assert_eq!(message(Norm::rms(Dtype::Bf16, 131_072).weight_dtype(Dtype::F32)), "fine");
        assert_eq!(
            message(Norm::rms(Dtype::F32, 8).weight_dtype(Dtype::Bf16)),
            "norm forward: weight dtype is bf16, it has to be that of the rows (f32) or f32"
        );
    }
}
