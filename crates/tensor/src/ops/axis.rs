//! Sums and means along one dimension.

use longhand_kernels::reduction::{AxisSum, AxisSumArgs};

use super::{check_dim, widened};
use crate::autograd::apply1;
use crate::cpu::elementwise::add_chunk;
use crate::cpu::parallel::{CHUNK, for_chunks};
use crate::cpu::{pool, reduce};
use crate::dtype::with_real;
use crate::gpu::kernel_dtype;
use crate::tensor::check_new;
use crate::{Backward, Device, Element, Forward, Gpu, Operation, Result, Tensor};

impl Tensor {
    /// The sum along dimension `dim`, which the result does not have.
    ///
    /// # Errors
    /// When there is no such dimension, or the elements are integers.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Device, Tensor};
    ///
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu)?;
    /// assert_eq!(x.sum(0)?.to_vec::<f32>()?, [4.0, 6.0]);
    /// assert_eq!(x.mean(1)?.to_vec::<f32>()?, [1.5, 3.5]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sum(&self, dim: usize) -> Result<Tensor> {
        apply1(Sum { name: "sum", dim, mean: false }, &[self])
    }

    /// The mean along dimension `dim`, which the result does not have; NaN where that has no elements.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu)?;
    /// assert_eq!(x.mean(0)?.to_vec::<f32>()?, [2.0, 3.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn mean(&self, dim: usize) -> Result<Tensor> {
        apply1(Sum { name: "mean", dim, mean: true }, &[self])
    }
}

struct Sum {
    name: &'static str,
    dim: usize,
    mean: bool,
}

impl Sum {
    /// What the sum over so many elements is multiplied by.
    fn factor(&self, axis: usize) -> f64 {
        if self.mean { 1.0 / axis as f64 } else { 1.0 }
    }
}

impl Operation for Sum {
    fn name(&self) -> &str {
        self.name
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0].contiguous()?;
        let axis = check_dim(self.name, x, self.dim)?;
        let mut shape = x.shape().to_vec();
        shape.remove(self.dim);
        let inner: usize = shape[self.dim..].iter().product();
        check_new(self.name, &shape, x.dtype(), x.device())?;
        let out = match x.device() {
            Device::Cpu => self.cpu(x, (axis, inner), &shape)?,
            Device::Gpu(gpu) => self.on_gpu(gpu, x, (axis, inner), &shape)?,
        };
        Ok(Forward::new([out]))
    }

    /// Every element along the dimension gets the gradient of its sum: strides of 0.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let shape = &ctx.input(0).shape;
        let grad = match self.factor(shape[self.dim]) {
            1.0 => ctx.grad(0)?,
            factor => ctx.grad(0)?.scale(factor)?,
        };
        let mut layout = grad.layout().clone();
        layout.shape.insert(self.dim, shape[self.dim]);
        layout.strides.insert(self.dim, 0);
        Ok(vec![Some(grad.view(layout))])
    }
}

impl Sum {
    fn cpu(&self, x: &Tensor, (axis, inner): (usize, usize), shape: &[usize]) -> Result<Tensor> {
        let (dtype, wide) = (x.dtype(), widened(self.name, x)?);
        with_real!(self.name, wide.dtype(), T => {
            let (x, factor) = (&wide.read::<T>(self.name)?[..x.numel()], T::from_f64(self.factor(axis)));
            let mut out = pool::zeros::<T>(shape.iter().product());
            // Whole rows of the result at a time, about as many elements of x as make one piece of work.
            let rows = (CHUNK / (axis * inner).max(1)).max(1);
            for_chunks(&mut out, (rows * inner).max(1), |start, out| {
                let first = start / inner;
                for (i, sum) in out.chunks_exact_mut(inner).enumerate() {
                    let block = &x[(first + i) * axis * inner..][..axis * inner];
                    match sum {
                        [sum] => *sum = reduce::sum_chunk(block),
                        _ => block.chunks_exact(inner).for_each(|row| add_chunk(sum, row)),
                    }
                    sum.iter_mut().for_each(|sum| *sum *= factor);
                }
            });
            Tensor::from_elements(out, shape).to_dtype(dtype)
        })
    }

    fn on_gpu(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        (axis, inner): (usize, usize),
        shape: &[usize],
    ) -> Result<Tensor> {
        let dtype = kernel_dtype(self.name, x.dtype())?;
        let plan = gpu.plans().axis_sum.get(dtype, |dtype| AxisSum::new(dtype).plan(gpu.device()))?;
        let out = gpu.empty(shape, x.dtype())?;
        let outer = shape[..self.dim].iter().product();
        let workspace = gpu.workspace(plan.workspace_bytes(outer, axis, inner))?;
        let args = AxisSumArgs {
            outer,
            axis,
            inner,
            x: x.pointer(self.name)?,
            factor: self.factor(axis) as f32,
            out: out.pointer(self.name)?,
            workspace: workspace.ptr(),
        };
        // SAFETY: x is contiguous, the output is new, both on this device and freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(out)
    }
}
