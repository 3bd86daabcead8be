//! Elements brought into row-major order.

use crate::autograd::apply1;
use crate::cpu::copy::gather;
use crate::dtype::with_element;
use crate::tensor::check_new;
use crate::{Backward, Device, Forward, Operation, Result, Tensor};

impl Tensor {
    /// The same tensor with its elements in row-major order in memory: itself where they are, else a copy.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// let x = Tensor::zeros(&[2, 3], Dtype::F32, &Device::Cpu)?.transpose(0, 1)?;
    /// assert!(!x.is_contiguous() && x.contiguous()?.is_contiguous());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is no memory for the copy.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }

    /// A contiguous tensor with the same elements, which nobody else holds.
    pub(crate) fn copy(&self) -> Result<Tensor> {
        apply1(Contiguous, &[self])
    }
}

struct Contiguous;

impl Operation for Contiguous {
    fn name(&self) -> &str {
        "contiguous"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0];
        let out = match x.device() {
            Device::Cpu => with_element!(x.dtype(), E => {
                check_new("contiguous", x.shape(), x.dtype(), x.device())?;
                Tensor::from_elements(gather(&x.read::<E>("contiguous")?, x.layout()), x.shape())
            }),
            Device::Gpu(gpu) => {
                let out = gpu.empty(x.shape(), x.dtype())?;
                gpu.copy("contiguous", x, &out)?;
                out
            }
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?)])
    }
}
