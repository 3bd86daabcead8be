//! Where a backward pass begins.

use longhand_tensor::{Backward, Device, Dtype, Forward, Operation, Result, Tensor, apply};

/// A scalar of which the outputs have these gradients, in their order: its backward pass computes nothing before theirs.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// let x = Tensor::from([1.0f32, 2.0]).requires_grad();
/// let y = x.scale(10.0)?;
/// let gradients = longhand_benches::seeded(&[&y], &[Tensor::from([1.0f32, -1.0])])?.backward()?;
/// assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>()?, [10.0, -10.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Where there are not as many gradients as outputs: of the backward pass.
pub fn seeded(outputs: &[&Tensor], gradients: &[Tensor]) -> Result<Tensor> {
    Ok(apply(Seed(gradients.to_vec()), outputs)?.remove(0))
}

struct Seed(Vec<Tensor>);

impl Operation for Seed {
    fn name(&self) -> &str {
        "seed"
    }

    fn forward(&self, _: &[Tensor], _: &[bool]) -> Result<Forward> {
        Ok(Forward::new([Tensor::zeros(&[], Dtype::F32, &Device::Cpu)?]))
    }

    fn backward(&self, _: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(self.0.iter().cloned().map(Some).collect())
    }
}
