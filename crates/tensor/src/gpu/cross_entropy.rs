//! Cross-entropy of rows of logits on the GPU.

use longhand_gpu::DevicePtr;
use longhand_kernels::cross_entropy::{
    CrossEntropy, CrossEntropyArgs, Gradient, GradientScale, Logits, LossOptions, MeanLoss, MeanLossPlan,
};

use super::{Gpu, kernel_dtype};
use crate::{Dtype, Result, Tensor};

/// The losses of rows, which are computed some at a time, on the way to their mean.
pub(crate) struct Losses<'a> {
    name: &'a str,
    gpu: &'a Gpu,
    /// `(N)`, contiguous.
    targets: &'a Tensor,
    options: &'a LossOptions,
    /// `(N)`
    loss: Tensor,
    /// One over the number of rows that count.
    share: Tensor,
}

impl<'a> Losses<'a> {
    pub(crate) fn new(
        name: &'a str,
        gpu: &'a Gpu,
        targets: &'a Tensor,
        options: &'a LossOptions,
    ) -> Result<Losses<'a>> {
        let rows = targets.numel();
        let (loss, share) = (gpu.empty(&[rows], Dtype::F32)?, gpu.empty(&[], Dtype::F32)?);
        // SAFETY: the targets are contiguous, `share` is new, both on this device and freed on this stream.
        unsafe {
            gpu.mean_loss()?.share(gpu.stream(), rows, targets.pointer(name)?, share.pointer(name)?)?;
        }
        Ok(Losses { name, gpu, targets, options, loss, share })
    }

    /// The losses of the rows from `start` on, whose logits these are.
    pub(crate) fn of_rows(&self, start: usize, logits: &Tensor) -> Result<()> {
        self.launch(start, logits, None)
    }

    /// The same, and overwrites the logits, which nobody else may hold, with the gradient of the mean.
    pub(crate) fn of_rows_with_gradient(&self, start: usize, logits: &Tensor) -> Result<()> {
        let gradient = self.gpu.gradient(self.name, logits, DevicePtr::NULL, &self.share)?;
        self.launch(start, logits, Some(gradient))
    }

    fn launch(&self, start: usize, logits: &Tensor, gradient: Option<Gradient>) -> Result<()> {
        let rows = logits.shape()[0];
        let targets = self.targets.narrow(0, start, rows)?;
        let args = CrossEntropyArgs {
            logits: kernel_logits(self.name, logits, &targets)?,
            options: *self.options,
            loss: self.loss.narrow(0, start, rows)?.pointer(self.name)?,
            lse: DevicePtr::NULL,
            gradient,
        };
        self.gpu.cross_entropy(self.name, logits, &args)
    }

    /// The losses, once they were computed.
    pub(crate) fn into_rows(self) -> Tensor {
        self.loss
    }

    /// The mean over the rows that count, and their share in it.
    pub(crate) fn into_mean(self) -> Result<(Tensor, Tensor)> {
        let Losses { name, gpu, targets, loss, share, .. } = self;
        let mean = gpu.empty(&[], Dtype::F32)?;
        let [loss, share_ptr, mean_ptr] = [&loss, &share, &mean].map(|tensor| tensor.pointer(name));
        // SAFETY: `loss` has as many elements as there are targets and was written on this stream, `share` too; `mean` is
        // new.
        unsafe { gpu.mean_loss()?.mean(gpu.stream(), targets.numel(), loss?, share_ptr?, mean_ptr?)? };
        Ok((mean, share))
    }
}

impl Gpu {
    /// The gradient of the mean of the losses of `logits`, where the mean's own is `dmean`.
    pub(crate) fn cross_entropy_gradient(
        &self,
        name: &str,
        (logits, targets): (&Tensor, &Tensor),
        (dmean, share): (&Tensor, &Tensor),
        options: &LossOptions,
    ) -> Result<Tensor> {
        let out = self.empty(logits.shape(), logits.dtype())?;
        let args = CrossEntropyArgs {
            logits: kernel_logits(name, logits, targets)?,
            options: *options,
            loss: DevicePtr::NULL,
            lse: DevicePtr::NULL,
            gradient: Some(self.gradient(name, &out, dmean.pointer(name)?, share)?),
        };
        self.cross_entropy(name, logits, &args)?;
        Ok(out)
    }

    fn gradient(&self, name: &str, out: &Tensor, dmean: DevicePtr, share: &Tensor) -> Result<Gradient> {
        let (dlogits, share, stride) = (out.pointer(name)?, share.pointer(name)?, out.shape()[1] as i64);
        Ok(Gradient { scale: 1.0, dmean, share, dlogits, stride })
    }

    fn cross_entropy(&self, name: &str, logits: &Tensor, args: &CrossEntropyArgs) -> Result<()> {
        let kind = CrossEntropy::new(kernel_dtype(name, logits.dtype())?, logits.shape()[1])
            .gradient(args.gradient.is_some())
            .softcap(args.options.softcap.is_some());
        let plan = self.plans().cross_entropy.get(kind, |kind| kind.plan(self.device()))?;
        // SAFETY: logits, targets and losses are contiguous tensors of this device with a row for each target, all freed
        // on this stream; the gradient is new, or takes the logits' place where the caller says that they are its own.
        unsafe { plan.launch(self.stream(), args)? };
        Ok(())
    }

    fn mean_loss(&self) -> Result<std::sync::Arc<MeanLossPlan>> {
        self.plans().mean_loss.get((), |()| MeanLoss::new().plan(self.device()))
    }

    /// `tensor *= factor`, one f32 on the device, in place: nobody else may hold the tensor, a new one of this device.
    pub(crate) fn scale_in_place(&self, name: &str, tensor: &Tensor, factor: &Tensor) -> Result<()> {
        let dtype = kernel_dtype(name, tensor.dtype())?;
        let plan =
            self.plans().gradient_scale.get(dtype, |dtype| GradientScale::new(dtype).plan(self.device()))?;
        let (x, factor) = (tensor.pointer(name)?, factor.pointer(name)?);
        // SAFETY: the tensor is contiguous and the factor one number, both on this device and freed on this stream.
        unsafe { plan.launch(self.stream(), tensor.numel(), x, factor)? };
        Ok(())
    }
}

fn kernel_logits(name: &str, logits: &Tensor, targets: &Tensor) -> Result<Logits> {
    let (data, targets) = (logits.pointer(name)?, targets.pointer(name)?);
    Ok(Logits { rows: logits.shape()[0], data, stride: logits.shape()[1] as i64, targets })
}
