//! Sums and means.

use longhand_kernels::reduction::{self, ColumnSum, ColumnSumArgs, SumArgs, SumPlan};

use super::widened;
use crate::autograd::apply1;
use crate::cpu::reduce;
use crate::dtype::with_real;
use crate::gpu::kernel_dtype;
use crate::tensor::check_new;
use crate::{Backward, Device, Dtype, Forward, Operation, Result, Tensor};

impl Tensor {
    /// The sum of all elements, of shape `[]`.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([1.0f32, 2.0, 6.0]).sum_all()?.item()?, 9.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the elements are integers.
    pub fn sum_all(&self) -> Result<Tensor> {
        apply1(Sum { name: "sum_all", factor: 1.0 }, &[self])
    }

    /// The mean of all elements, of shape `[]`; NaN where there are none.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([1.0f32, 2.0, 6.0]).mean_all()?.item()?, 3.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the elements are integers.
    pub fn mean_all(&self) -> Result<Tensor> {
        apply1(Sum { name: "mean_all", factor: 1.0 / self.numel() as f64 }, &[self])
    }
}

/// The sum of all elements times a factor.
struct Sum {
    name: &'static str,
    factor: f64,
}

impl Operation for Sum {
    fn name(&self) -> &str {
        self.name
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0].contiguous()?;
        let out = match x.device() {
            Device::Cpu => {
                let wide = widened(self.name, x)?;
                let sum = with_real!(self.name, wide.dtype(), T => {
                    Ok(reduce::sum(&wide.read::<T>(self.name)?[..x.numel()]))
                })?;
                Tensor::full(&[], sum * self.factor, x.dtype(), x.device())?
            }
            Device::Gpu(gpu) => {
                let dtype = kernel_dtype(self.name, x.dtype())?;
                let plan =
                    gpu.plans().sum.get(dtype, |dtype| reduction::Sum::new(dtype).plan(gpu.device()))?;
                let out = gpu.empty(&[], x.dtype())?;
                let workspace = gpu.workspace(SumPlan::WORKSPACE_BYTES)?;
                let args = SumArgs {
                    count: x.numel(),
                    x: x.pointer(self.name)?,
                    factor: self.factor,
                    out: out.pointer(self.name)?,
                    workspace: workspace.ptr(),
                };
                // SAFETY: x is contiguous, output and workspace are new, all on this device and freed on this stream.
                unsafe { plan.launch(gpu.stream(), &args)? };
                out
            }
        };
        Ok(Forward::new([out]))
    }

    /// Every element gets the gradient of the sum: one number with strides of 0.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = match self.factor {
            1.0 => ctx.grad(0)?,
            factor => ctx.grad(0)?.scale(factor)?,
        };
        let layout = grad.layout().broadcast_to(&ctx.input(0).shape);
        Ok(vec![layout.map(|layout| grad.view(layout))])
    }
}

/// The gradient of a tensor of `shape` that was broadcast to `grad`'s shape: the sum over its repetitions.
pub(super) fn sum_to(grad: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if grad.shape() == shape {
        return Ok(grad.clone());
    }
    // Repeated dimensions first, so that the sum is one over rows.
    let added = grad.shape().len() - shape.len();
    let repeated = |dim: usize| dim < added || (shape[dim - added] == 1 && grad.shape()[dim] != 1);
    let (first, last): (Vec<usize>, Vec<usize>) = (0..grad.shape().len()).partition(|&dim| repeated(dim));
    let mut layout = grad.layout().clone();
    for (i, &dim) in first.iter().chain(&last).enumerate() {
        layout.shape[i] = grad.shape()[dim];
        layout.strides[i] = grad.strides()[dim];
    }
    let width = check_new("sum", &layout.shape[first.len()..], Dtype::F64, grad.device())?;
    let grad = &grad.view(layout).contiguous()?;
    let sum = match grad.device() {
        Device::Cpu => {
            let wide = widened("sum", grad)?;
            with_real!("sum", wide.dtype(), T => {
                let sum = reduce::sum_rows(&wide.read::<T>("sum")?[..grad.numel()], width);
                Tensor::from_elements(sum, &[width]).to_dtype(grad.dtype())
            })?
        }
        Device::Gpu(gpu) => {
            let dtype = kernel_dtype("sum", grad.dtype())?;
            let plan = gpu.plans().column_sum.get(dtype, |dtype| ColumnSum::new(dtype).plan(gpu.device()))?;
            let rows = grad.numel() / width.max(1);
            let sum = gpu.empty(&[width], grad.dtype())?;
            let workspace = gpu.workspace(plan.workspace_bytes(rows, width))?;
            let args = ColumnSumArgs {
                rows,
                width,
                x: grad.pointer("sum")?,
                stride: width as i64,
                out: sum.pointer("sum")?,
                workspace: workspace.ptr(),
            };
            // SAFETY: the rows are contiguous, sum and workspace are new, all on this device and freed on this stream.
            unsafe { plan.launch(gpu.stream(), &args)? };
            sum
        }
    };
    sum.reshape(shape)
}
