//! `a + b`.

use longhand_kernels::elementwise::Operation as Map;

use super::reduce::sum_to;
use super::{broadcast, widened};
use crate::autograd::apply1;
use crate::cpu::elementwise::{add_in_place, zip};
use crate::dtype::with_real;
use crate::{Backward, Device, Dtype, Forward, Operation, Result, Tensor};

impl Tensor {
    /// `self + other`, elementwise; shapes broadcast as in NumPy.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let y = Tensor::from([1.0f32, 2.0]).add(&Tensor::from([10.0f32]))?;
    /// assert_eq!(y.to_vec::<f32>()?, [11.0, 12.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When shapes, element types or devices do not fit.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Add, &[self, other])
    }

    /// `self + other` of the same shape and type and without history, in place where nobody else holds `self`.
    pub(crate) fn add_consuming(mut self, other: &Tensor) -> Result<Tensor> {
        let same = self.shape() == other.shape() && self.dtype() == other.dtype();
        if !same || !self.is_contiguous() || !other.is_contiguous() || !self.is_only_handle() {
            return self.add(other);
        }
        match (self.device(), self.dtype()) {
            (Device::Cpu, Dtype::F32 | Dtype::F64) => with_real!("add", self.dtype(), T => {
                add_in_place(&mut self.write::<T>("add")?[..other.numel()], &other.read::<T>("add")?[..other.numel()]);
                Ok(self)
            }),
            (Device::Gpu(gpu), _) => {
                gpu.map_into("add", Map::Add, (&self, Some(other)), 0.0, &self)?;
                Ok(self)
            }
            _ => self.add(other),
        }
    }
}

struct Add;

impl Operation for Add {
    fn name(&self) -> &str {
        "add"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let (a, b, shape) = broadcast("add", &inputs[0], &inputs[1])?;
        let out = match a.device() {
            Device::Cpu => cpu(&a, &b, &shape)?,
            Device::Gpu(gpu) => gpu.map("add", Map::Add, (&a, Some(&b)), 0.0, (&shape, a.dtype()))?,
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
        let to = |i: usize| ctx.needs(i).then(|| sum_to(&grad, &ctx.input(i).shape)).transpose();
        Ok(vec![to(0)?, to(1)?])
    }
}

fn cpu(a: &Tensor, b: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let dtype = a.dtype();
    let (a, b) = (widened("add", a)?, widened("add", b)?);
    with_real!("add", a.dtype(), T => {
        let out = zip(&a.read::<T>("add")?[..a.numel()], &b.read::<T>("add")?[..b.numel()], |a, b| a + b);
        Tensor::from_elements(out, shape).to_dtype(dtype)
    })
}
