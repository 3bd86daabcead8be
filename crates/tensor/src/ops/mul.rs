//! `a * b`.

use longhand_kernels::elementwise::Operation as Map;

use super::reduce::sum_to;
use super::{broadcast, widened};
use crate::autograd::apply1;
use crate::cpu::elementwise::zip;
use crate::dtype::with_real;
use crate::{Backward, Device, Forward, Operation, Result, Tensor};

impl Tensor {
    /// `self * other`, elementwise; shapes broadcast as in NumPy.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let y = Tensor::from([1.0f32, 2.0]).mul(&Tensor::from([10.0f32]))?;
    /// assert_eq!(y.to_vec::<f32>()?, [10.0, 20.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When shapes, element types or devices do not fit.
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Mul, &[self, other])
    }
}

struct Mul;

impl Operation for Mul {
    fn name(&self) -> &str {
        "mul"
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (a, b, shape) = broadcast("mul", &inputs[0], &inputs[1])?;
        let out = match a.device() {
            Device::Cpu => cpu(&a, &b, &shape)?,
            Device::Gpu(gpu) => gpu.map("mul", Map::Mul, (&a, Some(&b)), 0.0, (&shape, a.dtype()))?,
        };
        let saved = [needs[1].then(|| inputs[0].clone()), needs[0].then(|| inputs[1].clone())];
        Ok(Forward::new([out]).save(saved))
    }

    /// `da = dy * b`, `db = dy * a`, summed over what was repeated.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
        let by = |i: usize, other: usize| -> Result<Option<Tensor>> {
            if !ctx.needs(i) {
                return Ok(None);
            }
            sum_to(&grad.mul(ctx.saved(other)?)?, &ctx.input(i).shape).map(Some)
        };
        Ok(vec![by(0, 1)?, by(1, 0)?])
    }
}

fn cpu(a: &Tensor, b: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let dtype = a.dtype();
    let (a, b) = (widened("mul", a)?, widened("mul", b)?);
    with_real!("mul", a.dtype(), T => {
        let out = zip(&a.read::<T>("mul")?[..a.numel()], &b.read::<T>("mul")?[..b.numel()], |a, b| a * b);
        Tensor::from_elements(out, shape).to_dtype(dtype)
    })
}
