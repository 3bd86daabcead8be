//! Sums and means.

use super::widened;
use crate::autograd::apply1;
use crate::cpu::reduce;
use crate::dtype::with_real;
use crate::{Backward, Device, Forward, Operation, Result, Tensor};

impl Tensor {
    /// The sum of all elements, of shape `[]`.
    ///
    /// # Errors
    /// When the elements are integers.
    pub fn sum_all(&self) -> Result<Tensor> {
        apply1(SumAll, &[self])
    }

    /// The mean of all elements, of shape `[]`; NaN where there are none.
    ///
    /// # Errors
    /// When the elements are integers.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.sum_all()?.scale(1.0 / self.numel() as f64)
    }
}

struct SumAll;

impl Operation for SumAll {
    fn name(&self) -> &str {
        "sum_all"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0].contiguous()?;
        let out = match x.device() {
            Device::Cpu => {
                let wide = widened("sum_all", x)?;
                let sum = with_real!("sum_all", wide.dtype(), T => {
                    Ok(reduce::sum(&wide.read::<T>("sum_all")?[..x.numel()]))
                })?;
                Tensor::full(&[], sum, x.dtype(), x.device())?
            }
        };
        Ok(Forward::new([out]))
    }

    /// Every element gets the gradient of the sum: one number with strides of 0.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
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
    let width = layout.shape[first.len()..].iter().product();
    let grad = &grad.view(layout).contiguous()?;
    let sum = match grad.device() {
        Device::Cpu => {
            let wide = widened("sum", grad)?;
            with_real!("sum", wide.dtype(), T => {
                let sum = reduce::sum_rows(&wide.read::<T>("sum")?[..grad.numel()], width);
                Tensor::from_elements(sum, &[width]).to_dtype(grad.dtype())
            })?
        }
    };
    sum.reshape(shape)
}
