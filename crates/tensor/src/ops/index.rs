//! Parts of a tensor picked by index along one dimension, and added up by index.

use super::embedding::{add_rows, rows_of};
use super::{check_alike, check_device, check_dim};
use crate::autograd::apply1;
use crate::{Backward, Dtype, Error, Forward, Operation, Result, Tensor};

impl Tensor {
    /// Slice `ids[i]` along dimension `dim` for each index: `ids` is `u32` of shape `[N]`, and the result has N slices along
    /// that dimension (gather).
    ///
    /// # Errors
    /// When there is no such dimension or slice (on a GPU, which is not waited for, the slice is NaN instead), or element
    /// types or devices do not fit.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Device, Tensor};
    ///
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu)?;
    /// let ids = Tensor::from_slice(&[1u32, 0, 1], &[3], &Device::Cpu)?;
    /// assert_eq!(x.index_select(1, &ids)?.to_vec::<f32>()?, [2.0, 1.0, 2.0, 4.0, 3.0, 4.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn index_select(&self, dim: usize, ids: &Tensor) -> Result<Tensor> {
        check_dim("index_select", self, dim)?;
        check_ids("index_select", self, ids)?;
        let first = self.transpose(0, dim)?;
        let picked = rows_of("index_select", &flat(&first)?, ids)?;
        let shape: Vec<usize> = ids.shape().iter().chain(&first.shape()[1..]).copied().collect();
        picked.reshape(&shape)?.transpose(0, dim)
    }

    /// `self` with slice `i` of `source` along dimension `dim` added to slice `ids[i]`, for each index (scatter-add):
    /// `ids` is `u32` of shape `[N]`, and `source` has N slices. Each slice is added up in the order of `ids`, whatever the
    /// device: deterministic.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let x = Tensor::from([1.0f32, 2.0, 3.0]);
    /// let sum = x.index_add(0, &Tensor::from([2u32, 0, 2]), &Tensor::from([10.0f32, 20.0, 30.0]))?;
    /// assert_eq!(sum.to_vec::<f32>()?, [21.0, 2.0, 43.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is no such dimension or slice (on a GPU, which is not waited for, what is to be added to it is left out),
    /// or shapes, element types or devices do not fit.
    pub fn index_add(&self, dim: usize, ids: &Tensor, source: &Tensor) -> Result<Tensor> {
        const NAME: &str = "index_add";
        check_dim(NAME, self, dim)?;
        check_alike(NAME, &[self, source])?;
        check_ids(NAME, self, ids)?;
        let mut expected = self.shape().to_vec();
        expected[dim] = ids.numel();
        if source.shape() != expected {
            let rule = format!("the second must be {expected:?}, a slice for each id");
            return Err(Error::shapes(NAME, self.shape(), source.shape(), rule));
        }
        apply1(IndexAdd { dim }, &[self, source, ids])
    }
}

fn check_ids(name: &str, tensor: &Tensor, ids: &Tensor) -> Result<()> {
    if ids.dtype() != Dtype::U32 {
        return Err(Error::dtype(name, ids.dtype(), "u32 for the ids"));
    }
    if ids.shape().len() != 1 {
        return Err(Error::argument(name, "ids", format!("of shape {:?}", ids.shape()), "of shape [N]"));
    }
    check_device(name, tensor, ids)
}

/// As a table: all dimensions but the first in one.
fn flat(tensor: &Tensor) -> Result<Tensor> {
    let (rows, rest) = (tensor.shape()[0], &tensor.shape()[1..]);
    tensor.reshape(&[rows, rest.iter().product()])
}

/// A tensor, to each slice of which those of the source with its id are added.
struct IndexAdd {
    dim: usize,
}

impl Operation for IndexAdd {
    fn name(&self) -> &str {
        "index_add"
    }

    /// As tables whose rows are the slices: one copy of what is added to, whatever the dimension.
    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let [into, source] = [0, 1].map(|i| inputs[i].transpose(0, self.dim));
        let (into, source, ids) = (into?, flat(&source?)?.contiguous()?, &inputs[2].contiguous()?);
        let sum = add_rows(self.name(), flat(&into.copy()?)?, &source, (ids, None))?;
        let out = sum.reshape(into.shape())?.transpose(0, self.dim)?;
        Ok(Forward::new([out]).save([needs[1].then(|| ids.clone())]))
    }

    /// Each slice of the source gets the gradient of the slice it was added to.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
        let source = ctx.needs(1).then(|| grad.index_select(self.dim, ctx.saved(0)?)).transpose()?;
        Ok(vec![Some(grad), source, None])
    }
}
