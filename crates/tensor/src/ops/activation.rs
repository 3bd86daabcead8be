//! Activations of a linear layer's output, with its bias, gated or not.

use longhand_gpu::DevicePtr;
use longhand_kernels::activation::{
    Activation as Kernel, ActivationBackwardArgs, ActivationForwardArgs, Function, Rows,
};

use super::{check_alike, widened};
use crate::autograd::apply1;
use crate::cpu::activation as cpu;
use crate::dtype::with_real;
use crate::gpu::{kernel_dtype, pointer_or_null};
use crate::tensor::check_new;
use crate::{Backward, Device, Dtype, Error, Forward, Gpu, Operation, Result, Tensor};

/// An activation function.
pub use longhand_kernels::activation::Function as Activation;

/// Which form of GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`: GPT-2's (`gelu_new`, PyTorch's `approximate="tanh"`).
    Tanh,
    /// `x / 2 (1 + erf(x / sqrt(2)))`: the exact one.
    Erf,
}

/// GELU of each element.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Tensor, ops};
/// let y = ops::gelu(&Tensor::from([-10.0f32, 0.0, 10.0]), ops::Gelu::Erf)?;
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 0.0, 10.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the elements are integers.
pub fn gelu(x: &Tensor, form: Gelu) -> Result<Tensor> {
    let function = if form == Gelu::Tanh { Activation::GeluTanh } else { Activation::GeluErf };
    activation(x, None, function)
}

impl Tensor {
    /// GELU of each element.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Tensor, ops::Gelu};
    /// let y = Tensor::from([0.0f32, 10.0]).gelu(Gelu::Tanh)?;
    /// assert_eq!(y.to_vec::<f32>()?, [0.0, 10.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the elements are integers.
    pub fn gelu(&self, form: Gelu) -> Result<Tensor> {
        gelu(self, form)
    }
}

/// `f(x + bias)` of each element. `x` is `(.., W)`, `bias` `(W)`. Only the inputs are kept for
/// backward: an operation that saves the result, as the next linear layer does, has it computed again.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::ops::{self, Activation};
/// use longhand_tensor::{Device, Tensor};
///
/// let x = Tensor::from_slice(&[-1.0f32, 2.0], &[1, 2], &Device::Cpu)?;
/// let bias = Tensor::from_slice(&[0.0f32, 1.0], &[2], &Device::Cpu)?;
/// let y = ops::activation(&x, Some(&bias), Activation::ReluSquared)?;
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 9.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types or devices do not fit.
pub fn activation(x: &Tensor, bias: Option<&Tensor>, function: Activation) -> Result<Tensor> {
    let inputs: Vec<&Tensor> = [x].into_iter().chain(bias).collect();
    apply1(Activate { function, form: Form::Plain, bias: bias.is_some() }, &inputs)
}

/// `f(x + x_bias) * (up + up_bias)` of each element (Shazeer 2020, arXiv 2002.05202, eq. 6): SwiGLU with
/// [`Activation::Silu`], GeGLU with GELU. `x` and `up` are `(.., W)`, the biases `(W)`.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # fn near(x: f64, y: f64) -> bool { (x - y).abs() < 1e-6 }
/// use longhand_tensor::ops::{self, Activation};
/// use longhand_tensor::Tensor;
///
/// let (gate, up) = (Tensor::from([1.0f32]), Tensor::from([3.0f32]));
/// let y = ops::gated(&gate, &up, None, Activation::Silu)?; // SwiGLU
/// assert!(near(y.item()?, 3.0 / (1.0 + (-1f64).exp())));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types or devices do not fit.
pub fn gated(
    x: &Tensor,
    up: &Tensor,
    biases: Option<(&Tensor, &Tensor)>,
    function: Activation,
) -> Result<Tensor> {
    let inputs: Vec<&Tensor> =
        [x, up].into_iter().chain(biases.into_iter().flat_map(|(bias, up_bias)| [bias, up_bias])).collect();
    apply1(Activate { function, form: Form::Gated, bias: biases.is_some() }, &inputs)
}

/// [`gated`] of the halves of one tensor: `x` is `(.., 2 W)`, of which the first `W` columns are those that the function
/// is applied to; `bias` is `(2 W)`. The result is `(.., W)`.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::ops::{self, Activation};
/// use longhand_tensor::{Device, Tensor};
///
/// let x = Tensor::from_slice(&[3.0f32, 0.5], &[1, 2], &Device::Cpu)?;
/// let y = ops::gated_halves(&x, None, Activation::ReluSquared)?;
/// assert_eq!((y.shape(), y.to_vec::<f32>()?), (&[1, 1][..], vec![4.5]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types or devices do not fit.
pub fn gated_halves(x: &Tensor, bias: Option<&Tensor>, function: Activation) -> Result<Tensor> {
    let inputs: Vec<&Tensor> = [x].into_iter().chain(bias).collect();
    apply1(Activate { function, form: Form::Halves, bias: bias.is_some() }, &inputs)
}

struct Activate {
    function: Function,
    form: Form,
    /// Whether the inputs are followed by as many biases.
    bias: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Plain,
    /// `x` and `up`.
    Gated,
    /// One tensor of both.
    Halves,
}

impl Operation for Activate {
    fn name(&self) -> &str {
        match self.form {
            Form::Plain => "activation",
            Form::Gated => "gated",
            Form::Halves => "gated_halves",
        }
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let inputs = inputs.iter().map(rows_of).collect::<Result<Vec<_>>>()?;
        let out = self.compute(&inputs)?;
        let saved = if needs.contains(&true) { inputs.into_iter().map(Some).collect() } else { Vec::new() };
        Ok(Forward::new([out]).save(saved))
    }

    fn recomputes(&self, _: usize) -> bool {
        true
    }

    fn recompute(&self, _: usize, ctx: &Backward<'_>) -> Result<Tensor> {
        self.compute(&saved_inputs(ctx)?)
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let inputs = saved_inputs(ctx)?;
        let width = self.check(&inputs)?;
        let grad = ctx.grad(0)?.contiguous()?;
        match grad.device() {
            Device::Cpu => self.cpu_backward(&grad, &inputs, width, |i| ctx.needs(i)),
            Device::Gpu(gpu) => self.on_gpu_backward(gpu, &grad, &inputs, width, |i| ctx.needs(i)),
        }
    }
}

fn saved_inputs(ctx: &Backward<'_>) -> Result<Vec<Tensor>> {
    (0..ctx.inputs()).map(|i| ctx.saved(i).cloned()).collect()
}

fn given(inputs: &[Tensor]) -> Vec<Option<Tensor>> {
    inputs.iter().cloned().map(Some).collect()
}

/// The tensor as rows at one distance, which halves and other slices of columns are already.
fn rows_of(tensor: &Tensor) -> Result<Tensor> {
    let (shape, strides) = (tensor.shape(), tensor.strides());
    let rank = shape.len();
    let is_rows = rank > 0
        && strides[rank - 1] == 1
        && (1..rank.saturating_sub(1)).all(|i| strides[i - 1] == shape[i] * strides[i]);
    if is_rows { Ok(tensor.clone()) } else { tensor.contiguous() }
}

/// Elements from one of its rows to the next.
fn row_stride(tensor: &Tensor) -> usize {
    match tensor.strides() {
        // Else the stride of a dimension of one element may be anything.
        [.., stride, _] if !tensor.is_contiguous() => *stride,
        _ => tensor.shape().last().copied().unwrap_or(1),
    }
}

impl Activate {
    fn is_gated(&self) -> bool {
        self.form != Form::Plain
    }

    /// The inputs that are no biases.
    fn matrices(&self) -> usize {
        if self.form == Form::Gated { 2 } else { 1 }
    }

    /// The width of the result.
    fn check(&self, inputs: &[Tensor]) -> Result<usize> {
        let (name, x) = (self.name(), &inputs[0]);
        check_alike(name, &inputs.iter().collect::<Vec<_>>())?;
        let columns = x.shape().last().copied().unwrap_or(1);
        check_new(name, &[columns], Dtype::F64, x.device())?;
        if self.form == Form::Halves && (x.shape().is_empty() || columns % 2 != 0) {
            let was = format!("of shape {:?}", x.shape());
            return Err(Error::argument(name, "x", was, "two halves: an even last dimension"));
        }
        if self.form == Form::Gated && x.shape() != inputs[1].shape() {
            let rule = "x and up must have the same shape";
            return Err(Error::shapes(name, x.shape(), inputs[1].shape(), rule));
        }
        for bias in &inputs[self.matrices()..] {
            if bias.shape() != [columns] || x.shape().is_empty() {
                let rule = "a bias must be as long as the last dimension of x";
                return Err(Error::shapes(name, x.shape(), bias.shape(), rule));
            }
        }
        Ok(if self.form == Form::Halves { columns / 2 } else { columns })
    }

    /// Of rows at one distance.
    fn compute(&self, inputs: &[Tensor]) -> Result<Tensor> {
        let width = self.check(inputs)?;
        let mut shape = inputs[0].shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        match inputs[0].device() {
            Device::Cpu => self.cpu(inputs, width, &shape),
            Device::Gpu(gpu) => self.on_gpu(gpu, inputs, width, &shape),
        }
    }

    fn cpu(&self, inputs: &[Tensor], width: usize, shape: &[usize]) -> Result<Tensor> {
        let name = self.name();
        let wide = inputs.iter().map(|input| widened(name, input)).collect::<Result<Vec<_>>>()?;
        with_real!(name, wide[0].dtype(), T => {
            let read = wide.iter().map(|input| input.read::<T>(name)).collect::<Result<Vec<_>>>()?;
            let slices: Vec<&[T]> = read.iter().map(|read| &read[..]).collect();
            let rows = shape.iter().product::<usize>() / width.max(1);
            let out = cpu::forward(self.function, &self.operands(&wide, &slices, rows, width));
            Tensor::from_elements(out, shape).to_dtype(inputs[0].dtype())
        })
    }

    /// Of each input the gradient, if `needs` says so.
    fn cpu_backward(
        &self,
        grad: &Tensor,
        inputs: &[Tensor],
        width: usize,
        needs: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<Tensor>>> {
        let (name, dtype, matrices) = (self.name(), grad.dtype(), self.matrices());
        let dout = widened(name, grad)?;
        let wide = inputs.iter().map(|input| widened(name, input)).collect::<Result<Vec<_>>>()?;
        let wanted = cpu::Wanted {
            x: needs(0),
            up: matrices == 2 && needs(1),
            biases: (matrices..inputs.len()).any(&needs),
        };
        with_real!(name, dout.dtype(), T => {
            let read = wide.iter().map(|input| input.read::<T>(name)).collect::<Result<Vec<_>>>()?;
            let slices: Vec<&[T]> = read.iter().map(|read| &read[..]).collect();
            let rows = grad.numel() / width.max(1);
            let operands = self.operands(&wide, &slices, rows, width);
            let dout = dout.read::<T>(name)?;
            let cpu::Gradients { x, up, bias } =
                cpu::backward(self.function, &operands, &dout[..grad.numel()], self.form == Form::Halves, wanted);
            let mut columns = bias.chunks((bias.len() / (inputs.len() - matrices).max(1)).max(1));
            let values = [x].into_iter().chain((matrices == 2).then_some(up));
            let values = values.chain((matrices..inputs.len()).map(|_| columns.next().unwrap_or_default().to_vec()));
            let grad = |(i, values): (usize, Vec<T>)| {
                needs(i).then(|| Tensor::from_elements(values, inputs[i].shape()).to_dtype(dtype)).transpose()
            };
            values.enumerate().map(grad).collect()
        })
    }

    /// The inputs, read, told apart.
    fn operands<'a, T>(
        &self,
        inputs: &[Tensor],
        slices: &[&'a [T]],
        rows: usize,
        width: usize,
    ) -> cpu::Operands<'a, T> {
        let matrix = |data, i: usize| cpu::Matrix { data, stride: row_stride(&inputs[i]) };
        let first_half = |data: &'a [T]| &data[..width];
        let second_half = |data: &'a [T]| &data[width..2 * width];
        let from = |data: &'a [T], start: usize| data.get(start..).unwrap_or(&[]);
        let (up, biases) = match self.form {
            Form::Plain => (None, [self.bias.then(|| first_half(slices[1])), None]),
            Form::Gated => {
                (Some(matrix(slices[1], 1)), [2, 3].map(|i| self.bias.then(|| first_half(slices[i]))))
            }
            Form::Halves => (
                Some(matrix(from(slices[0], width), 0)),
                [self.bias.then(|| first_half(slices[1])), self.bias.then(|| second_half(slices[1]))],
            ),
        };
        let [bias, up_bias] = biases;
        cpu::Operands { rows, width, x: matrix(slices[0], 0), up, bias, up_bias }
    }

    fn kernel(&self, x: &Tensor) -> Result<Kernel> {
        let dtype = kernel_dtype(self.name(), x.dtype())?;
        Ok(Kernel::new(self.function, dtype).gated(self.is_gated()).bias(self.bias))
    }

    /// Where the inputs of a kernel lie, or those of their gradients that there are: `x`, `up`, and their biases.
    fn places(&self, tensors: &[Option<Tensor>], width: usize) -> Result<([Rows; 2], [DevicePtr; 2])> {
        let name = self.name();
        let pointer = |i: usize| pointer_or_null(name, tensors[i].as_ref());
        let place = |i: usize| -> Result<Rows> {
            let Some(tensor) = &tensors[i] else { return Ok(Rows::NONE) };
            Ok(Rows { data: tensor.pointer(name)?, stride: row_stride(tensor) as i64 })
        };
        let half = |i: usize| -> Result<DevicePtr> {
            let Some(tensor) = &tensors[i] else { return Ok(DevicePtr::NULL) };
            Ok(tensor.pointer(name)?.offset((width * tensor.dtype().size()) as i64))
        };
        let x = place(0)?;
        let up = match self.form {
            Form::Plain => Rows::NONE,
            Form::Gated => place(1)?,
            Form::Halves => Rows { data: half(0)?, ..x },
        };
        let biases = match (self.bias, self.form) {
            (false, _) => [DevicePtr::NULL; 2],
            (true, Form::Plain) => [pointer(1)?, DevicePtr::NULL],
            (true, Form::Gated) => [pointer(2)?, pointer(3)?],
            (true, Form::Halves) => [pointer(1)?, half(1)?],
        };
        Ok(([x, up], biases))
    }

    fn on_gpu(&self, gpu: &Gpu, inputs: &[Tensor], width: usize, shape: &[usize]) -> Result<Tensor> {
        let plan = gpu
            .plans()
            .activation
            .get(self.kernel(&inputs[0])?, |kernel| kernel.plan_forward(gpu.device()))?;
        let out = gpu.empty(shape, inputs[0].dtype())?;
        let ([x, up], [bias, up_bias]) = self.places(&given(inputs), width)?;
        let rows = out.numel() / width.max(1);
        let args =
            ActivationForwardArgs { rows, width, x, up, bias, up_bias, out: out.pointer(self.name())? };
        // SAFETY: the inputs are rows at the distances given, the output is new, all on this device and freed on this
        // stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(out)
    }

    fn on_gpu_backward(
        &self,
        gpu: &Gpu,
        grad: &Tensor,
        inputs: &[Tensor],
        width: usize,
        needs: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<Tensor>>> {
        let kernel = self.kernel(&inputs[0])?;
        let plan =
            gpu.plans().activation_backward.get(kernel, |kernel| kernel.plan_backward(gpu.device()))?;
        let grad_of = |(i, input): (usize, &Tensor)| {
            needs(i).then(|| gpu.empty(input.shape(), input.dtype())).transpose()
        };
        let grads = inputs.iter().enumerate().map(grad_of).collect::<Result<Vec<_>>>()?;
        let ([x, up], [bias, up_bias]) = self.places(&given(inputs), width)?;
        let ([dx, dup], [dbias, dup_bias]) = self.places(&grads, width)?;
        let rows = grad.numel() / width.max(1);
        let workspace = gpu.workspace(plan.workspace_bytes(rows, width))?;
        let args = ActivationBackwardArgs {
            rows,
            width,
            dout: grad.pointer(self.name())?,
            x,
            up,
            bias,
            up_bias,
            dx,
            dup,
            dbias,
            dup_bias,
            workspace: workspace.ptr(),
        };
        // SAFETY: the inputs are rows at the distances given, outputs and workspace are new, all on this device and
        // freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(grads)
    }
}
