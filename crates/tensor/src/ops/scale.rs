//! `x * factor`.

use longhand_kernels::elementwise::Operation as Map;

use super::widened;
use crate::autograd::apply1;
use crate::cpu::elementwise::map;
use crate::dtype::with_real;
use crate::{Backward, Device, Element, Forward, Operation, Result, Tensor};

impl Tensor {
    /// Every element times `factor`.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([1.0f32, 2.0]).scale(-3.0)?.to_vec::<f32>()?, [-3.0, -6.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the elements are integers.
    pub fn scale(&self, factor: f64) -> Result<Tensor> {
        apply1(Scale(factor), &[self])
    }
}

struct Scale(f64);

impl Operation for Scale {
    fn name(&self) -> &str {
        "scale"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0].contiguous()?;
        let out = match x.device() {
            Device::Cpu => cpu(x, self.0)?,
            Device::Gpu(gpu) => gpu.map("scale", Map::Scale, (x, None), self.0, (x.shape(), x.dtype()))?,
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?.scale(self.0)?)])
    }
}

fn cpu(x: &Tensor, factor: f64) -> Result<Tensor> {
    let wide = widened("scale", x)?;
    with_real!("scale", wide.dtype(), T => {
        let factor = T::from_f64(factor);
        let out = map(&wide.read::<T>("scale")?[..x.numel()], |x| x * factor);
        Tensor::from_elements(out, x.shape()).to_dtype(x.dtype())
    })
}
