//! Layer norm and RMSNorm of a sum: one transformer pre-norm step.

use longhand_gpu::DevicePtr;
use longhand_kernels::norm::{Norm as Kernel, NormBackwardArgs, NormForwardArgs};
use longhand_kernels::random::Dropout;

use super::{check_device, widened};
use crate::autograd::apply;
use crate::cpu::norm::{
    Forward as CpuForward, Gradients, Wanted, backward as backward_rows, forward as forward_rows,
};
use crate::dtype::with_real;
use crate::gpu::{kernel_dtype, pointer_or_null};
use crate::tensor::check_new;
use crate::{Backward, Device, Dtype, Element, Error, Forward, Gpu, Operation, Result, Tensor};

/// How a norm computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormOptions {
    /// Added to the variance.
    pub eps: f64,
    /// Of `x`, before the sum.
    pub dropout: Option<Dropout>,
}

impl NormOptions {
    /// Without dropout.
    ///
    /// ```
    /// # use longhand_tensor::{Dropout, Random, ops::NormOptions};
    /// let dropout = Dropout { probability: 0.1, random: Random { seed: 1, offset: 0 } };
    /// let options = NormOptions { dropout: Some(dropout), ..NormOptions::new(1e-5) };
    /// assert_eq!(options.eps, 1e-5);
    /// ```
    #[must_use]
    pub fn new(eps: f64) -> NormOptions {
        NormOptions { eps, dropout: None }
    }
}

/// `r = residual + dropout(x)`, `y = (r - mean(r)) / sqrt(var(r) + eps) * weight + bias` over the last dimension (Ba,
/// Kiros and Hinton 2016, arXiv 1607.06450). Returns `(y, r)`: `r` is the next step's residual, and is `x` when neither
/// residual nor dropout is given. Kept for backward is `r`: an operation that saves `y`, as the next linear layer does, has it
/// computed again.
///
/// `x` and `residual` are `(.., W)`, `weight` and `bias` are `(W)`, of the type of `x` or f32.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Tensor, ops};
///
/// let x = Tensor::from_slice(&[1.0f32, 3.0], &[1, 2], &Device::Cpu)?;
/// let (y, r) = ops::layer_norm(&x, Some(&x), None, None, &ops::NormOptions::new(0.0))?;
/// assert_eq!((y.to_vec::<f32>()?, r.to_vec::<f32>()?), (vec![-1.0, 1.0], vec![2.0, 6.0]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types, devices, eps or the probability of dropout do not fit.
pub fn layer_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    options: &NormOptions,
) -> Result<(Tensor, Tensor)> {
    norm(true, x, [residual, weight, bias], *options)
}

/// `r = residual + dropout(x)`, `y = r / sqrt(mean(r²) + eps) * weight` over the last dimension (Zhang and Sennrich
/// 2019, arXiv 1910.07467). Returns `(y, r)`, as [`layer_norm`] does.
///
/// `x` and `residual` are `(.., W)`, `weight` is `(W)`, of the type of `x` or f32.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Tensor, ops};
///
/// let x = Tensor::from_slice(&[1.0f32, 7.0], &[1, 2], &Device::Cpu)?;
/// let (y, _) = ops::rms_norm(&x, None, None, &ops::NormOptions::new(0.0))?;
/// assert!((y.to_vec::<f32>()?[1] - 1.4).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types, devices, eps or the probability of dropout do not fit.
pub fn rms_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: Option<&Tensor>,
    options: &NormOptions,
) -> Result<(Tensor, Tensor)> {
    norm(false, x, [residual, weight, None], *options)
}

fn norm(
    layer: bool,
    x: &Tensor,
    others: [Option<&Tensor>; 3],
    options: NormOptions,
) -> Result<(Tensor, Tensor)> {
    let given = others.map(|other| other.is_some());
    let inputs: Vec<&Tensor> = [Some(x)].into_iter().chain(others).flatten().collect();
    let mut outputs = apply(Norm { layer, given, options }, &inputs)?;
    let r = outputs.swap_remove(1);
    Ok((outputs.swap_remove(0), r))
}

struct Norm {
    /// Or RMSNorm.
    layer: bool,
    /// Whether there are residual, weight and bias, of the inputs that follow `x`.
    given: [bool; 3],
    options: NormOptions,
}

/// The inputs, told apart.
struct Inputs {
    x: Tensor,
    residual: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

impl Operation for Norm {
    fn name(&self) -> &str {
        if self.layer { "layer_norm" } else { "rms_norm" }
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let mut inputs = inputs.iter().map(Tensor::contiguous);
        let mut next_if = |given: bool| if given { inputs.next().transpose() } else { Ok(None) };
        let Some(x) = next_if(true)? else {
            return Err(Error::argument(self.name(), "x", "missing", "given"));
        };
        let [residual, weight, bias] = self.given;
        let inputs =
            Inputs { x, residual: next_if(residual)?, weight: next_if(weight)?, bias: next_if(bias)? };
        self.check(&inputs)?;
        let Normalised { y, r, mean, rstd } = self.compute(&inputs)?;
        let saved = match needs.contains(&true) {
            true => vec![Some(r.clone()), Some(rstd), mean, inputs.weight, inputs.bias],
            false => Vec::new(),
        };
        Ok(Forward::new([y, r]).save(saved))
    }

    fn recomputes(&self, output: usize) -> bool {
        output == 0
    }

    /// `y` is the norm of `r`.
    fn recompute(&self, _: usize, ctx: &Backward<'_>) -> Result<Tensor> {
        let [_, weight, bias] = self.given;
        let parameter = |given: bool, i: usize| given.then(|| ctx.saved(i).cloned()).transpose();
        let inputs = Inputs {
            x: ctx.saved(0)?.clone(),
            residual: None,
            weight: parameter(weight, 3)?,
            bias: parameter(bias, 4)?,
        };
        let options = NormOptions { dropout: None, ..self.options };
        Ok(Norm { layer: self.layer, given: [false, weight, bias], options }.compute(&inputs)?.y)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let saved = Saved {
            r: ctx.saved(0)?,
            rstd: ctx.saved(1)?,
            mean: if self.layer { Some(ctx.saved(2)?) } else { None },
            weight: if self.given[1] { Some(ctx.saved(3)?) } else { None },
            parameters: (1..ctx.inputs()).map(|i| ctx.input(i).dtype).next_back(),
            needs: self.needs(ctx),
        };
        let grad_y = ctx.grad(0)?.contiguous()?;
        let grad_r = ctx.grad_if_any(1).map(Tensor::contiguous).transpose()?;
        let grads = match saved.r.device() {
            Device::Cpu => self.cpu_backward(&grad_y, grad_r.as_ref(), &saved)?,
            Device::Gpu(gpu) => self.on_gpu_backward(gpu, &grad_y, grad_r.as_ref(), &saved)?,
        };
        let [residual, weight, bias] = self.given;
        let all = [(true, grads.x), (residual, grads.residual), (weight, grads.weight), (bias, grads.bias)];
        Ok(all.into_iter().filter_map(|(given, grad)| given.then_some(grad)).collect())
    }
}

struct Normalised {
    y: Tensor,
    r: Tensor,
    /// Of each row; none for RMSNorm.
    mean: Option<Tensor>,
    /// Of each row: one over the standard deviation, or over the root mean square.
    rstd: Tensor,
}

struct Saved<'a> {
    r: &'a Tensor,
    rstd: &'a Tensor,
    mean: Option<&'a Tensor>,
    weight: Option<&'a Tensor>,
    /// The type of weight and bias, if there is one.
    parameters: Option<Dtype>,
    /// Whether the gradient of `x`, residual, weight and bias is wanted.
    needs: [bool; 4],
}

/// Those that are wanted.
struct Grads {
    x: Option<Tensor>,
    residual: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

impl Norm {
    fn check(&self, Inputs { x, residual, weight, bias }: &Inputs) -> Result<()> {
        let name = self.name();
        let Some((&width, leading)) = x.shape().split_last() else {
            return Err(Error::argument(name, "x", "a single number", "of at least one dimension"));
        };
        check_new(name, leading, Dtype::F64, x.device())?;
        check_new(name, &[width], Dtype::F64, x.device())?;
        let eps = self.options.eps;
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(Error::argument(name, "eps", eps.to_string(), "a number, 0 or above"));
        }
        for (what, vector) in [("weight", weight), ("bias", bias)] {
            let Some(vector) = vector else { continue };
            if vector.shape() != [width] {
                let rule = format!("the {what} must be as long as the last dimension of x");
                return Err(Error::shapes(name, x.shape(), vector.shape(), rule));
            }
            check_device(name, x, vector)?;
            let first = weight.as_ref().unwrap_or(vector).dtype();
            let fits = vector.dtype() == x.dtype() || (vector.dtype() == Dtype::F32 && x.dtype().size() == 2);
            if !fits || vector.dtype() != first {
                let (left, right) = (if fits { first } else { x.dtype() }, vector.dtype());
                return Err(Error::Dtypes { operation: name.into(), left, right });
            }
        }
        if let Some(residual) = residual {
            super::check_alike(name, &[x, residual])?;
            if residual.shape() != x.shape() {
                let rule = "x and residual must have the same shape";
                return Err(Error::shapes(name, x.shape(), residual.shape(), rule));
            }
        }
        match self.options.dropout {
            Some(Dropout { probability, .. }) if !(0.0..1.0).contains(&probability) => {
                let was = probability.to_string();
                Err(Error::argument(name, "dropout probability", was, "0 to less than 1"))
            }
            _ => Ok(()),
        }
    }

    fn compute(&self, inputs: &Inputs) -> Result<Normalised> {
        match inputs.x.device() {
            Device::Cpu => self.cpu(inputs),
            Device::Gpu(gpu) => self.on_gpu(gpu, inputs),
        }
    }

    /// Whether the gradient of `x`, residual, weight and bias is wanted.
    fn needs(&self, ctx: &Backward<'_>) -> [bool; 4] {
        let [residual, weight, bias] = self.given;
        let mut inputs = 0..ctx.inputs();
        [true, residual, weight, bias].map(|given| given && inputs.next().is_some_and(|i| ctx.needs(i)))
    }

    fn writes_sum(&self) -> bool {
        self.given[0] || self.options.dropout.is_some()
    }

    fn cpu(&self, inputs: &Inputs) -> Result<Normalised> {
        let (name, dtype, shape) = (self.name(), inputs.x.dtype(), inputs.x.shape());
        let wide = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| widened(name, tensor)).transpose();
        let x = widened(name, &inputs.x)?;
        let [residual, weight, bias] = [wide(&inputs.residual)?, wide(&inputs.weight)?, wide(&inputs.bias)?];
        let width = shape.last().copied().unwrap_or(0);
        with_real!(name, x.dtype(), T => {
            let read = |tensor: &Option<Tensor>| -> Result<Option<Vec<T>>> {
                tensor.as_ref().map(|tensor| Ok(tensor.read::<T>(name)?[..width].to_vec())).transpose()
            };
            let (weight, bias) = (read(&weight)?, read(&bias)?);
            let residual = residual.as_ref().map(|residual| residual.read::<T>(name)).transpose()?;
            let CpuForward { y, sum, mean, rstd } = forward_rows(&crate::cpu::norm::Inputs {
                layer: self.layer,
                width,
                eps: T::from_f64(self.options.eps),
                dtype,
                x: &x.read::<T>(name)?[..x.numel()],
                residual: residual.as_deref().map(|residual| &residual[..x.numel()]),
                weight: weight.as_deref(),
                bias: bias.as_deref(),
                dropout: self.options.dropout,
            });
            let vector = |values: Vec<T>| { let len = values.len(); Tensor::from_elements(values, &[len]) };
            Ok(Normalised {
                y: Tensor::from_elements(y, shape).to_dtype(dtype)?,
                r: match sum {
                    Some(sum) => Tensor::from_elements(sum, shape).to_dtype(dtype)?,
                    None => inputs.x.clone(),
                },
                mean: self.layer.then(|| vector(mean)),
                rstd: vector(rstd),
            })
        })
    }

    fn cpu_backward(&self, grad_y: &Tensor, grad_r: Option<&Tensor>, saved: &Saved<'_>) -> Result<Grads> {
        let (name, dtype, shape) = (self.name(), saved.r.dtype(), saved.r.shape());
        let [needs_x, needs_residual, needs_weight, needs_bias] = saved.needs;
        let wanted = Wanted { rows: needs_x || needs_residual, parameters: needs_weight || needs_bias };
        let (dy, r) = (widened(name, grad_y)?, widened(name, saved.r)?);
        let wide = |tensor: Option<&Tensor>| tensor.map(|tensor| widened(name, tensor)).transpose();
        let (through, weight) = (wide(grad_r)?, wide(saved.weight)?);
        let (width, count) = (shape.last().copied().unwrap_or(0), r.numel());
        with_real!(name, r.dtype(), T => {
            let read = |tensor: Option<&'_ Tensor>| -> Result<Option<Vec<T>>> {
                tensor.map(|tensor| Ok(tensor.read::<T>(name)?[..tensor.numel()].to_vec())).transpose()
            };
            let (weight, mean) = (read(weight.as_ref())?, read(saved.mean)?);
            let through = through.as_ref().map(|through| through.read::<T>(name)).transpose()?;
            let Gradients { x, residual, weight, bias } = backward_rows(&crate::cpu::norm::BackwardInputs {
                width,
                dy: &dy.read::<T>(name)?[..count],
                through: through.as_deref().map(|through| &through[..count]),
                sum: &r.read::<T>(name)?[..count],
                weight: weight.as_deref(),
                mean: mean.as_deref(),
                rstd: &saved.rstd.read::<T>(name)?[..saved.rstd.numel()],
                dropout: self.options.dropout,
                wanted,
            });
            let matrix = |values: Vec<T>| Tensor::from_elements(values, shape).to_dtype(dtype);
            let parameters = saved.parameters.unwrap_or(dtype);
            let vector = |values: Vec<T>| Tensor::from_elements(values, &[width]).to_dtype(parameters);
            let x = wanted.rows.then(|| matrix(x)).transpose()?;
            let residual = match residual.filter(|_| needs_residual) {
                Some(residual) => Some(matrix(residual)?),
                None => x.clone(),
            };
            Ok(Grads {
                x: x.filter(|_| needs_x),
                residual: residual.filter(|_| needs_residual),
                weight: needs_weight.then(|| vector(weight)).transpose()?,
                bias: needs_bias.then(|| vector(bias)).transpose()?,
            })
        })
    }

    /// The kernel for rows like those of `x`, and the number of these.
    fn kernel(&self, x: &Tensor, parameters: Option<Dtype>) -> Result<(Kernel, usize)> {
        let width = x.shape().last().copied().unwrap_or(0);
        let dtype = kernel_dtype(self.name(), x.dtype())?;
        let parameters = kernel_dtype(self.name(), parameters.unwrap_or(x.dtype()))?;
        let kernel = if self.layer { Kernel::layer } else { Kernel::rms };
        let kernel = kernel(dtype, width)
            .weight(self.given[1])
            .bias(self.given[2])
            .weight_dtype(parameters)
            .dropout(self.options.dropout.is_some());
        Ok((kernel, x.numel() / width.max(1)))
    }

    fn on_gpu(&self, gpu: &Gpu, inputs: &Inputs) -> Result<Normalised> {
        let Inputs { x, residual, weight, bias } = inputs;
        let parameters = weight.as_ref().or(bias.as_ref()).map(Tensor::dtype);
        let (kernel, rows) = self.kernel(x, parameters)?;
        let plan = gpu.plans().norm.get(kernel, |kernel| kernel.plan_forward(gpu.device()))?;
        let y = gpu.empty(x.shape(), x.dtype())?;
        let r = if self.writes_sum() { gpu.empty(x.shape(), x.dtype())? } else { x.clone() };
        let mean = self.layer.then(|| gpu.empty(&[rows], Dtype::F32)).transpose()?;
        let rstd = gpu.empty(&[rows], Dtype::F32)?;
        let args = NormForwardArgs {
            rows,
            eps: self.options.eps as f32,
            x: self.pointer(Some(x))?,
            x_stride: x.shape().last().map_or(0, |&width| width as i64),
            residual: self.pointer(residual.as_ref())?,
            dropout: self.options.dropout,
            weight: self.pointer(weight.as_ref())?,
            bias: self.pointer(bias.as_ref())?,
            sum: self.pointer(self.writes_sum().then_some(&r))?,
            out: self.pointer(Some(&y))?,
            mean: self.pointer(mean.as_ref())?,
            rstd: self.pointer(Some(&rstd))?,
        };
        // SAFETY: the inputs are contiguous, the outputs are new, all on this device and freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(Normalised { y, r, mean, rstd })
    }

    fn on_gpu_backward(
        &self,
        gpu: &Gpu,
        grad_y: &Tensor,
        grad_r: Option<&Tensor>,
        saved: &Saved<'_>,
    ) -> Result<Grads> {
        let &Saved { r, rstd, mean, weight, parameters, needs } = saved;
        let [needs_x, needs_residual, needs_weight, needs_bias] = needs;
        let parameters = if self.given[1] || self.given[2] { parameters } else { None };
        let (kernel, rows) = self.kernel(r, parameters)?;
        // A bias is nothing to backward but a gradient.
        let kernel = kernel.bias(needs_bias);
        let plan = gpu.plans().norm_backward.get(kernel, |kernel| kernel.plan_backward(gpu.device()))?;
        let width = r.shape().last().copied().unwrap_or(0);
        let vector =
            |wanted: bool| wanted.then(|| gpu.empty(&[width], parameters.unwrap_or(r.dtype()))).transpose();
        let matrix = |wanted: bool| wanted.then(|| gpu.empty(r.shape(), r.dtype())).transpose();
        // Without dropout they are the same.
        let are_two = self.options.dropout.is_some();
        let x = matrix(needs_x || needs_residual && !are_two)?;
        let residual = if are_two { matrix(needs_residual)? } else { None };
        let (dweight, dbias) = (vector(needs_weight)?, vector(needs_bias)?);
        let workspace = gpu.workspace(plan.workspace_bytes(rows))?;
        let args = NormBackwardArgs {
            rows,
            dout: self.pointer(Some(grad_y))?,
            dsum: self.pointer(grad_r)?,
            sum: self.pointer(Some(r))?,
            sum_stride: width as i64,
            dropout: self.options.dropout,
            weight: self.pointer(weight)?,
            mean: self.pointer(mean)?,
            rstd: self.pointer(Some(rstd))?,
            dx: self.pointer(x.as_ref())?,
            dresidual: self.pointer(residual.as_ref())?,
            dweight: self.pointer(dweight.as_ref())?,
            dbias: self.pointer(dbias.as_ref())?,
            workspace: workspace.ptr(),
        };
        // SAFETY: the inputs are contiguous, outputs and workspace are new, all on this device and freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        let residual = if are_two { residual } else { x.clone().filter(|_| needs_residual) };
        Ok(Grads { x: x.filter(|_| needs_x), residual, weight: dweight, bias: dbias })
    }

    fn pointer(&self, tensor: Option<&Tensor>) -> Result<DevicePtr> {
        pointer_or_null(self.name(), tensor)
    }
}
