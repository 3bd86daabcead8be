//! Conversion between element types.

use longhand_kernels::elementwise::Operation as Map;

use crate::autograd::apply1;
use crate::cpu::parallel::{CHUNK, for_chunks};
use crate::cpu::pool;
use crate::cpu::simd::vectorised;
use crate::dtype::with_element;
use crate::{Backward, Device, Dtype, Element, Forward, Operation, Result, Tensor};

impl Tensor {
    /// The elements as `dtype`, each rounded to the nearest; itself where that is their type.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Dtype, Tensor, bf16};
    /// let x = Tensor::from([1.0f32, 1.001]).to_dtype(Dtype::Bf16)?;
    /// assert_eq!(x.to_vec::<bf16>()?, [bf16::ONE; 2]); // eight bits of mantissa
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device does not take `dtype`.
    pub fn to_dtype(&self, dtype: Dtype) -> Result<Tensor> {
        if self.dtype() == dtype { Ok(self.clone()) } else { apply1(Cast(dtype), &[self]) }
    }
}

struct Cast(Dtype);

impl Operation for Cast {
    fn name(&self) -> &str {
        "to_dtype"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0].contiguous()?;
        let out = match x.device() {
            Device::Cpu => with_element!(x.dtype(), From => with_element!(self.0, To => {
                let from = x.read::<From>("to_dtype")?;
                let mut to = pool::buffer::<To>(x.numel());
                for_chunks(&mut to, CHUNK, |start, to| convert(&from[start..], to));
                Tensor::from_elements(to, x.shape())
            })),
            Device::Gpu(gpu) => gpu.map("to_dtype", Map::Cast, (x, None), 0.0, (x.shape(), self.0))?,
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?.to_dtype(ctx.input(0).dtype)?)])
    }
}

fn convert<From: Element, To: Element>(from: &[From], to: &mut [To]) {
    // Through f64 only where f32 would lose something: it takes twice as long.
    match (From::DTYPE, To::DTYPE) {
        (Dtype::F64 | Dtype::U32, _) | (_, Dtype::F64 | Dtype::U32) => {
            convert_with(from, to, |x| To::from_f64(x.to_f64()));
        }
        _ => convert_with(from, to, |x| To::from_f32(x.to_f32())),
    }
}

vectorised! {
    fn convert_with<From: Element, To: Element, F: Fn(From) -> To>(from: &[From], to: &mut [To], convert: F) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = convert(*from);
        }
    }
}
