//! Two dimensions exchanged.

use super::check_dim;
use crate::autograd::apply1;
use crate::{Backward, Forward, Operation, Result, Tensor};

impl Tensor {
    /// Dimensions `a` and `b` exchanged: a view.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu)?;
    /// assert_eq!(x.transpose(0, 1)?.to_vec::<f32>()?, [1.0, 3.0, 2.0, 4.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there are no such dimensions.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Tensor> {
        apply1(Transpose(a, b), &[self])
    }
}

struct Transpose(usize, usize);

impl Operation for Transpose {
    fn name(&self) -> &str {
        "transpose"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0];
        check_dim("transpose", x, self.0)?;
        check_dim("transpose", x, self.1)?;
        Ok(Forward::new([x.view(x.layout().transpose(self.0, self.1))]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?.transpose(self.0, self.1)?)])
    }
}
