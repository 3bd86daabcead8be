//! The same elements in another shape.

use crate::autograd::apply1;
use crate::layout::count;
use crate::{Backward, Error, Forward, Operation, Result, Tensor};

impl Tensor {
    /// The same elements in row-major order as `shape`. A view where the strides allow one, else a copy.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([1.0f32; 6]).reshape(&[2, 3])?.shape(), [2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When `shape` holds another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        apply1(Reshape(shape.to_vec()), &[self])
    }
}

struct Reshape(Vec<usize>);

impl Operation for Reshape {
    fn name(&self) -> &str {
        "reshape"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let (x, shape) = (&inputs[0], &self.0);
        if count(shape) != Some(x.numel()) {
            return Err(Error::shapes("reshape", x.shape(), shape, "both must hold equally many elements"));
        }
        let out = match x.layout().reshape(shape) {
            Some(layout) => x.view(layout),
            None => x.contiguous()?.reshape(shape)?,
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?.reshape(&ctx.input(0).shape)?)])
    }
}
