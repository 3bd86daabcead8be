//! `kernels/norm/layer_forward.cu`.

use longhand_gpu::{Device, DevicePtr, Stream, params};

use super::{Kind, tuning};
use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("layer norm forward");

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
        eps: f32,
        _pad: u32,
    }
}

/// Layer norm (Ba, Kiros & Hinton 2016, arXiv 1607.06450, eq. 4) of a residual sum, in one pass over memory:
/// `sum = x + residual`, `out = (sum - mean) / sqrt(variance + eps) * weight + bias`.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormForward(Kind);

impl LayerNormForward {
    /// Of rows of `width` elements.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) unless `width` is 1 to [`MAX_WIDTH`](super::MAX_WIDTH).
    pub fn new(dtype: Dtype, width: usize) -> Result<LayerNormForward> {
        Ok(LayerNormForward(Kind::new(CHECK, dtype, width)?))
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<LayerNormForwardPlan> {
        let load = |vector| Loaded::new(device, &variant(self.0, vector));
        Ok(LayerNormForwardPlan { kind: self.0, kernel: ByAlignment::new(self.0.can_be_aligned(), load)? })
    }
}

pub(super) fn variant(kind: Kind, vector: usize) -> Variant {
    let [file] = cuda_files!["norm/layer_forward.cu"];
    let block = tuning::forward(kind.width);
    Variant {
        program: program(*file, &[], kind.constants(vector, block)).params(Params::LAYOUT),
        entry: "layer_norm_forward",
        threads: block.threads,
        shared_bytes: 0,
    }
}

/// What [`LayerNormForwardPlan::launch`] computes with. Any alignment will do; with all tensors at multiples of 16
/// bytes, `W` and `x_stride` at multiples of 8, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormForwardArgs {
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
    /// `(W)`.
    pub weight: DevicePtr,
    /// `(W)`.
    pub bias: DevicePtr,
    /// `(N, W)` contiguous, overwritten with `x + residual`. It may be `residual` itself.
    /// [`DevicePtr::NULL`] without a residual: the sum is then `x`.
    pub sum: DevicePtr,
    /// `(N, W)` contiguous, overwritten.
    pub out: DevicePtr,
    /// `(N)` f32, overwritten; for backward.
    pub mean: DevicePtr,
    /// `(N)` f32, overwritten: one over the standard deviation; for backward.
    pub rstd: DevicePtr,
}

/// A compiled [`LayerNormForward`].
#[derive(Clone, Debug)]
pub struct LayerNormForwardPlan {
    kind: Kind,
    kernel: ByAlignment<Loaded>,
}

impl LayerNormForwardPlan {
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
    pub unsafe fn launch(&self, stream: &Stream, args: &LayerNormForwardArgs) -> Result<()> {
        check(self.kind, args)?;
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
            eps: args.eps,
            _pad: 0,
        };
        let tensors = [args.x, args.residual, args.weight, args.bias, args.sum, args.out];
        let (kernel, _) = self.kernel.get(aligned(tensors) && args.x_stride % 8 == 0);
        let blocks = args.rows.div_ceil(tuning::forward(self.kind.width).rows());
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { kernel.launch(stream, [blocks as u32, 1], &params) }
    }
}

fn check(kind: Kind, args: &LayerNormForwardArgs) -> Result<()> {
    CHECK.size("rows", args.rows, 0, MAX_BLOCKS * tuning::forward(kind.width).rows())?;
    if !(args.eps >= 0.0 && args.eps.is_finite()) {
        return Err(CHECK.error("eps", args.eps, "finite and not negative"));
    }
    if args.rows == 0 {
        return Ok(());
    }
    for (name, data) in [("x", args.x), ("weight", args.weight), ("bias", args.bias), ("out", args.out)] {
        CHECK.tensor(name, data, kind.dtype)?;
    }
    CHECK.optional("residual", args.residual, kind.dtype)?;
    match (args.residual.is_null(), args.sum.is_null()) {
        (false, _) => CHECK.tensor("sum", args.sum, kind.dtype)?,
        (true, true) => (),
        (true, false) => return Err(CHECK.error("sum", "given", "null without a residual: it is x")),
    }
    CHECK.tensor("mean", args.mean, Dtype::F32)?;
    CHECK.tensor("rstd", args.rstd, Dtype::F32)?;
    CHECK.stride("x_stride", args.x_stride, args.rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> LayerNormForwardArgs {
        let tensor = DevicePtr(4096);
        LayerNormForwardArgs {
            rows: 3,
            eps: 1e-5,
            x: tensor,
            x_stride: 768,
            residual: tensor,
            weight: tensor,
            bias: tensor,
            sum: tensor,
            out: tensor,
            mean: tensor,
            rstd: tensor,
        }
    }

    fn message(args: LayerNormForwardArgs) -> String {
        check(Kind { dtype: Dtype::Bf16, width: 768 }, &args)
            .map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn an_argument_that_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        assert_eq!(message(args()), "fine");
        assert_eq!(
            message(LayerNormForwardArgs { residual: DevicePtr::NULL, sum: DevicePtr::NULL, ..args() }),
            "fine"
        );
        assert_eq!(message(LayerNormForwardArgs { x_stride: 771, x: DevicePtr(4098), ..args() }), "fine");
        assert_eq!(
            message(LayerNormForwardArgs { out: DevicePtr::NULL, ..args() }),
            "layer norm forward: out is DevicePtr(0x0), it has to be an address that is a multiple of 2"
        );
        assert_eq!(
            message(LayerNormForwardArgs { rstd: DevicePtr(4098), ..args() }),
            "layer norm forward: rstd is DevicePtr(0x1002), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(LayerNormForwardArgs { sum: DevicePtr::NULL, ..args() }),
            "layer norm forward: sum is DevicePtr(0x0), it has to be an address that is a multiple of 2"
        );
        assert_eq!(
            message(LayerNormForwardArgs { residual: DevicePtr::NULL, ..args() }),
            "layer norm forward: sum is given, it has to be null without a residual: it is x"
        );
        assert_eq!(
            message(LayerNormForwardArgs { eps: f32::NAN, ..args() }),
            "layer norm forward: eps is NaN, it has to be finite and not negative"
        );
        assert_eq!(
            message(LayerNormForwardArgs { x_stride: i64::MIN, ..args() }),
            "layer norm forward: x_stride is -9223372036854775808, it has to be small enough for 64-bit addresses over 3 rows"
        );
    }

    #[test]
    fn no_rows_need_no_tensors() {
        let null = DevicePtr::NULL;
        let args = LayerNormForwardArgs {
            rows: 0,
            x: null,
            residual: null,
            weight: null,
            bias: null,
            sum: null,
            ..args()
        };
        assert_eq!(message(LayerNormForwardArgs { out: null, mean: null, rstd: null, ..args }), "fine");
    }

    #[test]
    fn a_width_without_a_kernel_is_refused_before_planning() {
        for width in [0, 65_537] {
            let error = LayerNormForward::new(Dtype::F32, width).unwrap_err().to_string();
            assert_eq!(error, format!("layer norm forward: width is {width}, it has to be 1 to 65536"));
        }
        assert!(
            LayerNormForward::new(Dtype::F32, 1).is_ok() && LayerNormForward::new(Dtype::F32, 65_536).is_ok()
        );
    }
}
