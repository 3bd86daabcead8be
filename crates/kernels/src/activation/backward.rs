//! `kernels/activation/backward.cu`.

use longhand_gpu::{Device, DevicePtr, Stream, params};

use super::{Activation, HEADERS, Rows, THREADS};
use crate::check::Check;
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("activation backward");

params! {
    struct Params {
        dout: DevicePtr,
        x: DevicePtr,
        up: DevicePtr,
        bias: DevicePtr,
        up_bias: DevicePtr,
        dx: DevicePtr,
        dup: DevicePtr,
        partials: DevicePtr,
        rows: i64,
        width: i64,
        x_stride: i64,
        up_stride: i64,
        dx_stride: i64,
        dup_stride: i64,
    }
}

params! {
    struct FinishParams {
        partials: DevicePtr,
        dbias: DevicePtr,
        dup_bias: DevicePtr,
        parts: i64,
        width: i64,
    }
}

impl Activation {
    /// Compiles the backward pass for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan_backward(&self, device: &Device) -> Result<ActivationBackwardPlan> {
        let load = |elements| {
            let vector = if elements > 1 { self.vector() } else { 1 };
            let [rows, finish] = &variants(self, vector);
            let finish = self.bias.then(|| Loaded::new(device, finish)).transpose()?;
            Ok(Kernels { vector, rows: Loaded::new(device, rows)?, finish })
        };
        Ok(ActivationBackwardPlan { activation: *self, kernels: ByAlignment::new(true, load)? })
    }

    /// Columns that are summed, in multiples of the width.
    fn sums(&self) -> usize {
        1 + usize::from(self.gated)
    }
}

/// The elements, and the last sums.
pub(super) fn variants(activation: &Activation, vector: usize) -> [Variant; 2] {
    let [file] = cuda_files!["activation/backward.cu"];
    let program = program(*file, HEADERS, activation.constants(vector))
        .params(Params::LAYOUT)
        .params(FinishParams::LAYOUT);
    ["activation_backward", "activation_backward_finish"].map(|entry| Variant {
        program: program.clone(),
        entry,
        threads: THREADS,
        shared_bytes: 0,
    })
}

/// What [`ActivationBackwardPlan::launch`] computes with. Any alignment will do; with all tensors at multiples of 16
/// bytes, the width and all strides at multiples of as many elements, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct ActivationBackwardArgs {
    /// `N`.
    pub rows: usize,
    /// `W`.
    pub width: usize,
    /// `(N, W)` contiguous: the gradient of `out`.
    pub dout: DevicePtr,
    /// `(N, W)`, of forward.
    pub x: Rows,
    /// `(N, W)`, of forward, if it is gated; else [`Rows::NONE`].
    pub up: Rows,
    /// `(W)`, if there is a bias.
    pub bias: DevicePtr,
    /// `(W)`, if it is gated and there is a bias.
    pub up_bias: DevicePtr,
    /// `(N, W)`, overwritten, or [`Rows::NONE`] where nobody wants it. It may be `x` itself.
    pub dx: Rows,
    /// `(N, W)`, overwritten, if it is gated; else [`Rows::NONE`], as where nobody wants it. It may be `up` itself.
    pub dup: Rows,
    /// `(W)`, overwritten, if there is a bias, or [`DevicePtr::NULL`] where nobody wants it.
    pub dbias: DevicePtr,
    /// `(W)`, overwritten, if it is gated and there is a bias, or [`DevicePtr::NULL`] where nobody wants it.
    pub dup_bias: DevicePtr,
    /// [`ActivationBackwardPlan::workspace_bytes`] of scratch memory at a multiple of 16 bytes, if the gradient of a
    /// bias is wanted.
    pub workspace: DevicePtr,
}

impl ActivationBackwardArgs {
    fn wants_values(&self) -> bool {
        !(self.dx.data.is_null() && self.dup.data.is_null())
    }

    fn wants_sums(&self) -> bool {
        !(self.dbias.is_null() && self.dup_bias.is_null())
    }
}

#[derive(Clone, Debug)]
struct Kernels {
    vector: usize,
    rows: Loaded,
    /// Where there is a bias.
    finish: Option<Loaded>,
}

/// The compiled backward pass of an [`Activation`].
#[derive(Clone, Debug)]
pub struct ActivationBackwardPlan {
    activation: Activation,
    kernels: ByAlignment<Kernels>,
}

impl ActivationBackwardPlan {
    /// Bytes of scratch memory that a launch of this size needs.
    #[must_use]
    pub fn workspace_bytes(&self, rows: usize, width: usize) -> usize {
        workspace_bytes(&self.activation, rows, width)
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Without rows, the gradients of the biases become 0.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; no output overlaps another tensor, but for what is said at `dx` and `dup`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &ActivationBackwardArgs) -> Result<()> {
        check(&self.activation, args)?;
        let &ActivationBackwardArgs { rows, width, x, up, dx, dup, .. } = args;
        if width == 0 || !(args.wants_sums() || rows > 0 && args.wants_values()) {
            return Ok(());
        }
        let params = Params {
            dout: args.dout,
            x: x.data,
            up: up.data,
            bias: args.bias,
            up_bias: args.up_bias,
            dx: dx.data,
            dup: dup.data,
            partials: if args.wants_sums() { args.workspace } else { DevicePtr::NULL },
            rows: rows as i64,
            width: width as i64,
            x_stride: x.stride,
            up_stride: up.stride,
            dx_stride: dx.stride,
            dup_stride: dup.stride,
        };
        let tensors = [args.dout, x.data, up.data, args.bias, args.up_bias, dx.data, dup.data];
        let strides = [x.stride, up.stride, dx.stride, dup.stride];
        let Kernels { vector, rows: kernel, finish } =
            self.kernels.get(self.activation.is_aligned(width, tensors, &strides)).0;
        let [across, parts] = Activation::grid(rows, width, *vector);
        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe {
            kernel.launch(stream, [across as u32, parts as u32], &params)?;
            let Some(finish) = finish.as_ref().filter(|_| args.wants_sums()) else { return Ok(()) };
            let params = FinishParams {
                partials: args.workspace,
                dbias: args.dbias,
                dup_bias: args.dup_bias,
                parts: parts as i64,
                width: width as i64,
            };
            finish.launch(stream, [(self.activation.sums() * width).div_ceil(32) as u32, 1], &params)
        }
    }
}

/// For the form with the most parts.
fn workspace_bytes(activation: &Activation, rows: usize, width: usize) -> usize {
    let parts = [1, activation.vector()].map(|vector| Activation::grid(rows, width, vector)[1]);
    if activation.bias { parts[0].max(parts[1]) * activation.sums() * width * Dtype::F32.size() } else { 0 }
}

fn check(activation: &Activation, args: &ActivationBackwardArgs) -> Result<()> {
    let &ActivationBackwardArgs { rows, width, .. } = args;
    let (has_bias, has_up_bias) = (activation.bias, activation.bias && activation.gated);
    Activation::check_size(CHECK, rows, width)?;
    if width == 0 {
        return Ok(());
    }
    if rows > 0 {
        CHECK.tensor("dout", args.dout, activation.dtype)?;
        activation.check_rows(CHECK, ["x", "stride of x"], args.x, true, rows)?;
        activation.check_rows(CHECK, ["up", "stride of up"], args.up, activation.gated, rows)?;
        for (name, stride, gradient, exists) in
            [("dx", "stride of dx", args.dx, true), ("dup", "stride of dup", args.dup, activation.gated)]
        {
            if !gradient.data.is_null() {
                activation.check_rows(CHECK, [name, stride], gradient, exists, rows)?;
                CHECK.written_stride(stride, gradient.stride, rows, width)?;
            }
        }
        for (name, bias, exists) in [("bias", args.bias, has_bias), ("up_bias", args.up_bias, has_up_bias)] {
            activation.check_bias(CHECK, name, bias, exists)?;
        }
    }
    for (name, gradient, exists) in
        [("dbias", args.dbias, has_bias), ("dup_bias", args.dup_bias, has_up_bias)]
    {
        activation.check_bias(CHECK, name, gradient, exists && !gradient.is_null())?;
    }
    if args.wants_sums() {
        CHECK.memory("workspace", args.workspace, 16)?;
    }
    let matrix = |name, of_rows| activation.matrix(name, of_rows, [rows, width]);
    let column = |name, data| activation.column(name, data, width);
    let workspace_bytes = workspace_bytes(activation, rows, width);
    CHECK.apart(&[
        matrix("dout", Rows { data: args.dout, stride: width as i64 }),
        matrix("x", args.x),
        matrix("up", args.up),
        column("bias", args.bias),
        column("up_bias", args.up_bias),
        matrix("dx", args.dx).written().may_be(&["x"]),
        matrix("dup", args.dup).written().may_be(&["up"]),
        column("dbias", args.dbias).written(),
        column("dup_bias", args.dup_bias).written(),
        Extent::contiguous("workspace", args.workspace, workspace_bytes, 1).written(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Function;
    use crate::extent::assert_apart;

    #[test]
    fn what_is_written_is_apart_from_all_else_but_for_what_it_is_the_gradient_of() {
        let [dout, x, up, bias, up_bias, dx, dup] = [1, 2, 3, 4, 5, 6, 7].map(|i| DevicePtr(i << 20));
        let [dbias, dup_bias, workspace] = [8, 9, 10].map(|i| DevicePtr(i << 20));
        let [x, up, dx, dup] = [x, up, dx, dup].map(|data| Rows { data, stride: 70 });
        let (rows, width) = (9, 64);
        let args = ActivationBackwardArgs {
            rows,
            width,
            dout,
            x,
            up,
            bias,
            up_bias,
            dx,
            dup,
            dbias,
            dup_bias,
            workspace,
        };
        let swiglu = Activation::new(Function::Silu, Dtype::Bf16).gated(true).bias(true);
        assert_apart(
            args,
            |args| check(&swiglu, args),
            5,
            &[
                ("dx", |args| &mut args.dx.data),
                ("dup", |args| &mut args.dup.data),
                ("dbias", |args| &mut args.dbias),
                ("dup_bias", |args| &mut args.dup_bias),
                ("workspace", |args| &mut args.workspace),
                ("dout", |args| &mut args.dout),
                ("x", |args| &mut args.x.data),
                ("up", |args| &mut args.up.data),
                ("bias", |args| &mut args.bias),
                ("up_bias", |args| &mut args.up_bias),
            ],
            &[["dx", "x"], ["dup", "up"]],
        );
    }

    #[test]
    fn the_workspace_holds_a_sum_for_each_bias_and_part() {
        let silu = Activation::new(Function::Silu, Dtype::F16);
        assert_eq!(workspace_bytes(&silu, 100, 512), 0);
        assert_eq!(workspace_bytes(&silu.bias(true), 96, 512), 2 * 512 * 4);
        assert_eq!(workspace_bytes(&silu.bias(true).gated(true), 96, 512), 2 * 2 * 512 * 4);
    }

    #[test]
    fn rows_that_are_written_may_not_overlap_and_what_is_wanted_may_be_anything_that_there_is() {
        let (at, null) = (DevicePtr(4096), DevicePtr::NULL);
        let whole = Rows { data: at, stride: 8 };
        let args = ActivationBackwardArgs {
            rows: 3,
            width: 8,
            dout: DevicePtr(1 << 20),
            x: whole,
            up: Rows::NONE,
            bias: DevicePtr(1 << 20),
            up_bias: null,
            dx: whole,
            dup: Rows::NONE,
            dbias: DevicePtr(2 << 20),
            dup_bias: null,
            workspace: DevicePtr(3 << 20),
        };
        let silu = Activation::new(Function::Silu, Dtype::F32).bias(true);
        let message = |args| check(&silu, &args).map_or_else(|error| error.to_string(), |()| "fine".into());
        assert_eq!(message(args), "fine");
        assert_eq!(
            message(ActivationBackwardArgs { dx: Rows { data: at, stride: 7 }, ..args }),
            "activation backward: stride of dx is 7, it has to be at least 8: rows would overlap"
        );
        assert_eq!(
            message(ActivationBackwardArgs { dup: whole, ..args }),
            "activation backward: dup is given, it has to be null: this activation is not gated"
        );
        let without_rows = ActivationBackwardArgs { rows: 0, dout: null, bias: null, ..args };
        assert_eq!(message(without_rows), "fine");
        for wanted in [
            ActivationBackwardArgs { dbias: null, workspace: null, ..args },
            ActivationBackwardArgs { dx: Rows::NONE, ..args },
            ActivationBackwardArgs { dx: Rows::NONE, dbias: null, workspace: null, ..args },
        ] {
            assert_eq!(message(wanted), "fine");
        }
        assert_eq!(
            message(ActivationBackwardArgs { dbias: DevicePtr(2), ..without_rows }),
            "activation backward: dbias is DevicePtr(0x2), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(ActivationBackwardArgs { dup_bias: at, ..without_rows }),
            "activation backward: dup_bias is given, it has to be null: this activation has none"
        );
        assert_eq!(
            message(ActivationBackwardArgs { workspace: null, ..without_rows }),
            "activation backward: workspace is DevicePtr(0x0), it has to be an address that is a multiple of 16"
        );
    }
}
