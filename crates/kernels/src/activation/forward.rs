//! `kernels/activation/forward.cu`.

use longhand_gpu::{Device, DevicePtr, Stream, params};

use super::{Activation, HEADERS, Rows, THREADS};
use crate::check::Check;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Result, Variant};

const CHECK: Check = Check("activation forward");

params! {
    struct Params {
        x: DevicePtr,
        up: DevicePtr,
        bias: DevicePtr,
        up_bias: DevicePtr,
        out: DevicePtr,
        rows: i64,
        width: i64,
        x_stride: i64,
        up_stride: i64,
    }
}

impl Activation {
    /// Compiles the forward pass for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan_forward(&self, device: &Device) -> Result<ActivationForwardPlan> {
        let load = |elements| {
            let vector = if elements > 1 { self.vector() } else { 1 };
            Ok((Loaded::new(device, &variant(self, vector))?, vector))
        };
        Ok(ActivationForwardPlan { activation: *self, kernel: ByAlignment::new(true, load)? })
    }
}

pub(super) fn variant(activation: &Activation, vector: usize) -> Variant {
    let [file] = cuda_files!["activation/forward.cu"];
    Variant {
        program: program(*file, HEADERS, activation.constants(vector)).params(Params::LAYOUT),
        entry: "activation_forward",
        threads: THREADS,
        shared_bytes: 0,
    }
}

/// What [`ActivationForwardPlan::launch`] computes with. Any alignment will do; with all tensors at multiples of 16
/// bytes, the width and all strides at multiples of as many elements, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct ActivationForwardArgs {
    /// `N`.
    pub rows: usize,
    /// `W`.
    pub width: usize,
    /// `(N, W)`: what the function is applied to.
    pub x: Rows,
    /// `(N, W)`: what it is multiplied with, if it is gated; else [`Rows::NONE`].
    pub up: Rows,
    /// `(W)`, of `x`, if there is a bias.
    pub bias: DevicePtr,
    /// `(W)`, of `up`, if it is gated and there is a bias.
    pub up_bias: DevicePtr,
    /// `(N, W)` contiguous, overwritten. It may be `x` or `up` itself where that is contiguous.
    pub out: DevicePtr,
}

/// The compiled forward pass of an [`Activation`].
#[derive(Clone, Debug)]
pub struct ActivationForwardPlan {
    activation: Activation,
    kernel: ByAlignment<(Loaded, usize)>,
}

impl ActivationForwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no elements.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; the output overlaps no other tensor, but for what is said at `out`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &ActivationForwardArgs) -> Result<()> {
        check(&self.activation, args)?;
        let &ActivationForwardArgs { rows, width, x, up, bias, up_bias, out } = args;
        if rows == 0 || width == 0 {
            return Ok(());
        }
        let params = Params {
            x: x.data,
            up: up.data,
            bias,
            up_bias,
            out,
            rows: rows as i64,
            width: width as i64,
            x_stride: x.stride,
            up_stride: up.stride,
        };
        let tensors = [x.data, up.data, bias, up_bias, out];
        let is_aligned = self.activation.is_aligned(width, tensors, &[x.stride, up.stride]);
        let (kernel, vector) = self.kernel.get(is_aligned).0;
        let [across, parts] = Activation::grid(rows, width, *vector);
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { kernel.launch(stream, [across as u32, parts as u32], &params) }
    }
}

fn check(activation: &Activation, args: &ActivationForwardArgs) -> Result<()> {
    Activation::check_size(CHECK, args.rows, args.width)?;
    if args.rows == 0 || args.width == 0 {
        return Ok(());
    }
    activation.check_rows(CHECK, ["x", "stride of x"], args.x, true, args.rows)?;
    activation.check_rows(CHECK, ["up", "stride of up"], args.up, activation.gated, args.rows)?;
    activation.check_bias(CHECK, "bias", args.bias, activation.bias)?;
    activation.check_bias(CHECK, "up_bias", args.up_bias, activation.bias && activation.gated)?;
    CHECK.tensor("out", args.out, activation.dtype)?;
    let matrix = |name, rows| activation.matrix(name, rows, [args.rows, args.width]);
    let column = |name, data| activation.column(name, data, args.width);
    let out = Rows { data: args.out, stride: args.width as i64 };
    CHECK.apart(&[
        matrix("x", args.x),
        matrix("up", args.up),
        column("bias", args.bias),
        column("up_bias", args.up_bias),
        matrix("out", out).written().may_be(&["x", "up"]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::activation::Function;
    use crate::extent::assert_apart;

    #[test]
    fn the_output_is_apart_from_all_else_but_for_x_and_up() {
        let [x, up, bias, up_bias, out] = [1, 2, 3, 4, 5].map(|i| DevicePtr(i << 20));
        let [x, up] = [x, up].map(|data| Rows { data, stride: 64 });
        let args = ActivationForwardArgs { rows: 9, width: 64, x, up, bias, up_bias, out };
        let swiglu = Activation::new(Function::Silu, Dtype::Bf16).gated(true).bias(true);
        assert_apart(
            args,
            |args| check(&swiglu, args),
            1,
            &[
                ("out", |args| &mut args.out),
                ("x", |args| &mut args.x.data),
                ("up", |args| &mut args.up.data),
                ("bias", |args| &mut args.bias),
                ("up_bias", |args| &mut args.up_bias),
            ],
            &[["out", "x"], ["out", "up"]],
        );
    }

    #[test]
    fn an_argument_that_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        let (at, null) = (DevicePtr(4096), DevicePtr::NULL);
        let half = Rows { data: at, stride: 16 };
        let args = ActivationForwardArgs {
            rows: 3,
            width: 8,
            x: half,
            up: half,
            bias: at,
            up_bias: at,
            out: DevicePtr(8192),
        };
        let swiglu = Activation::new(Function::Silu, Dtype::Bf16).gated(true).bias(true);
        let message = |activation: Activation, args| {
            check(&activation, &args).map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(message(swiglu, args), "fine");
        assert_eq!(
            message(swiglu, ActivationForwardArgs { up: Rows::NONE, ..args }),
            "activation forward: up is DevicePtr(0x0), it has to be an address that is a multiple of 2"
        );
        assert_eq!(
            message(swiglu.gated(false), args),
            "activation forward: up is given, it has to be null: this activation is not gated"
        );
        let ungated = ActivationForwardArgs { up: Rows::NONE, ..args };
        assert_eq!(
            message(swiglu.gated(false), ungated),
            "activation forward: up_bias is given, it has to be null: this activation has none"
        );
        assert_eq!(message(swiglu.gated(false), ActivationForwardArgs { up_bias: null, ..ungated }), "fine");
        assert_eq!(
            message(swiglu, ActivationForwardArgs { x: Rows { data: at, stride: i64::MAX }, ..args }),
            "activation forward: stride of x is 9223372036854775807, it has to be small enough for 64-bit addresses over 3 rows"
        );
        assert_eq!(
            message(swiglu, ActivationForwardArgs { out: DevicePtr(4097), ..args }),
            "activation forward: out is DevicePtr(0x1001), it has to be an address that is a multiple of 2"
        );
        let nothing = ActivationForwardArgs { rows: 0, x: Rows::NONE, out: null, ..args };
        assert_eq!(message(swiglu, nothing), "fine");
    }
}
