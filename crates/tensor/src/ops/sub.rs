//! `a - b`.

use longhand_kernels::elementwise::Operation as Map;

use super::reduce::sum_to;
use super::{broadcast, widened};
use crate::autograd::apply1;
use crate::cpu::elementwise::zip;
use crate::dtype::with_real;
use crate::{Backward, Device, Forward, Operation, Result, Tensor};

impl Tensor {
    /// `self - other`, elementwise; shapes broadcast as in NumPy.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let y = Tensor::from([1.0f32, 2.0]).sub(&Tensor::from([10.0f32]))?;
    /// assert_eq!(y.to_vec::<f32>()?, [-9.0, -8.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When shapes, element types or devices do not fit.
    pub fn sub(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Sub, &[self, other])
    }
}

struct Sub;

impl Operation for Sub {
    fn name(&self) -> &str {
        "sub"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let (a, b, shape) = broadcast("sub", &inputs[0], &inputs[1])?;
        let out = match a.device() {
            Device::Cpu => cpu(&a, &b, &shape)?,
            Device::Gpu(gpu) => gpu.map("sub", Map::Sub, (&a, Some(&b)), 0.0, (&shape, a.dtype()))?,
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
        let to = |i: usize| ctx.needs(i).then(|| sum_to(&grad, &ctx.input(i).shape)).transpose();
        let negated = to(1)?.map(|sum| sum.scale(-1.0)).transpose()?;
        Ok(vec![to(0)?, negated])
    }
}

fn cpu(a: &Tensor, b: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let dtype = a.dtype();
    let (a, b) = (widened("sub", a)?, widened("sub", b)?);
    with_real!("sub", a.dtype(), T => {
        let out = zip(&a.read::<T>("sub")?[..a.numel()], &b.read::<T>("sub")?[..b.numel()], |a, b| a - b);
        Tensor::from_elements(out, shape).to_dtype(dtype)
    })
}
