//! `a + factor * b`.

use longhand_kernels::elementwise::Operation as Map;

use super::reduce::sum_to;
use super::{broadcast, widened};
use crate::autograd::apply1;
use crate::cpu::elementwise::zip;
use crate::dtype::with_real;
use crate::{Backward, Device, Element, Forward, Operation, Result, Tensor};

const NAME: &str = "add_scaled";

impl Tensor {
    /// `self + factor * other`, elementwise and rounded once; shapes broadcast as in NumPy.
    ///
    /// # Errors
    /// When shapes, element types or devices do not fit.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Device, Tensor};
    ///
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::Cpu)?;
    /// assert_eq!(x.add_scaled(&x, -0.5)?.to_vec::<f32>()?, [0.5, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_scaled(&self, other: &Tensor, factor: f64) -> Result<Tensor> {
        apply1(AddScaled(factor), &[self, other])
    }
}

struct AddScaled(f64);

impl Operation for AddScaled {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let (a, b, shape) = broadcast(NAME, &inputs[0], &inputs[1])?;
        let out = match a.device() {
            Device::Cpu => cpu((&a, &b), self.0, &shape)?,
            Device::Gpu(gpu) => gpu.map(NAME, Map::AddScaled, (&a, Some(&b)), self.0, (&shape, a.dtype()))?,
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
        let to = |i: usize| ctx.needs(i).then(|| sum_to(&grad, &ctx.input(i).shape)).transpose();
        let scaled = to(1)?.map(|sum| sum.scale(self.0)).transpose()?;
        Ok(vec![to(0)?, scaled])
    }
}

fn cpu((a, b): (&Tensor, &Tensor), factor: f64, shape: &[usize]) -> Result<Tensor> {
    let dtype = a.dtype();
    let (a, b) = (widened(NAME, a)?, widened(NAME, b)?);
    with_real!(NAME, a.dtype(), T => {
        let factor = T::from_f64(factor);
        let (a, b) = (&a.read::<T>(NAME)?[..a.numel()], &b.read::<T>(NAME)?[..b.numel()]);
        Tensor::from_elements(zip(a, b, |a, b| a + factor * b), shape).to_dtype(dtype)
    })
}
