//! Dimensions added, taken away, put into another order, and repeated.

use std::ops::{Bound, RangeBounds};

use super::reduce::sum_to;
use super::{check_alike, check_dim};
use crate::autograd::apply1;
use crate::tensor::check_shape;
use crate::{Backward, Error, Forward, Operation, Result, Tensor};

impl Tensor {
    /// With a dimension of one element before dimension `dim`, or behind the last: a view.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let x = Tensor::from([1.0f32, 2.0]);
    /// assert_eq!(x.unsqueeze(0)?.shape(), [1, 2]);
    /// assert_eq!(x.unsqueeze(1)?.shape(), [2, 1]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When `dim` is greater than the number of dimensions.
    pub fn unsqueeze(&self, dim: usize) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        if dim > shape.len() {
            let expected = format!("at most the rank of shape {shape:?}");
            return Err(Error::argument("unsqueeze", "dim", dim.to_string(), expected));
        }
        shape.insert(dim, 1);
        self.reshape(&shape)
    }

    /// Without dimension `dim`, which has one element: a view.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// let x = Tensor::zeros(&[2, 1, 3], Dtype::F32, &Device::Cpu)?;
    /// assert_eq!(x.squeeze(1)?.shape(), [2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is no such dimension, or it has another size.
    pub fn squeeze(&self, dim: usize) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        let size = check_dim("squeeze", self, dim)?;
        if size != 1 {
            let argument = format!("dimension {dim} of {shape:?}");
            return Err(Error::argument("squeeze", &argument, format!("of size {size}"), "of size 1"));
        }
        shape.remove(dim);
        self.reshape(&shape)
    }

    /// Neighbouring dimensions as one: `..` makes one of all, `1..` one of all but the first. A view where the layout
    /// allows it, else a copy, as [`reshape`](Tensor::reshape).
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// let x = Tensor::zeros(&[2, 3, 4], Dtype::F32, &Device::Cpu)?;
    /// assert_eq!(x.flatten(..)?.shape(), [24]);
    /// assert_eq!(x.flatten(1..)?.shape(), [2, 12]);
    /// assert_eq!(x.flatten(0..=1)?.shape(), [6, 4]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the range is empty or reaches beyond the dimensions.
    pub fn flatten(&self, dims: impl RangeBounds<usize>) -> Result<Tensor> {
        let shape = self.shape();
        let bounds = (dims.start_bound().cloned(), dims.end_bound().cloned());
        let start = match bounds.0 {
            Bound::Unbounded => 0,
            Bound::Included(start) => start,
            Bound::Excluded(before) => before.saturating_add(1),
        };
        let end = match bounds.1 {
            Bound::Unbounded => shape.len(),
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => end,
        };
        let (Some(before), Some(together @ [_, ..]), Some(behind)) =
            (shape.get(..start), shape.get(start..end), shape.get(end..))
        else {
            let expected = format!("a range of one or more of the dimensions of shape {shape:?}");
            return Err(Error::argument("flatten", "dims", format!("{start}..{end}"), expected));
        };
        self.reshape(&[before, &[together.iter().product()], behind].concat())
    }

    /// The dimensions in another order, in which `dims[i]` becomes the `i`-th: a view.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// let x = Tensor::zeros(&[2, 3, 4], Dtype::F32, &Device::Cpu)?;
    /// assert_eq!(x.permute(&[2, 0, 1])?.shape(), [4, 2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When `dims` does not name each dimension once.
    pub fn permute(&self, dims: &[usize]) -> Result<Tensor> {
        apply1(Permute { name: "permute", dims: dims.to_vec() }, &[self])
    }

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
        const NAME: &str = "transpose";
        check_dim(NAME, self, a)?;
        check_dim(NAME, self, b)?;
        let mut dims: Vec<usize> = (0..self.rank()).collect();
        dims.swap(a, b);
        apply1(Permute { name: NAME, dims }, &[self])
    }

    /// The tensor repeated to `shape`, as NumPy broadcasts, without a copy: a view.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let row = Tensor::from([1.0f32, 2.0]).broadcast_to(&[3, 2])?;
    /// assert_eq!(row.to_vec::<f32>()?, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the tensor does not broadcast to `shape`.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        apply1(BroadcastTo(shape.to_vec()), &[self])
    }

    /// Tensors of one shape one after another along a new dimension `dim`.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let (a, b) = (Tensor::from([1.0f32, 2.0]), Tensor::from([3.0f32, 4.0]));
    /// assert_eq!(Tensor::stack(&[&a, &b], 1)?.to_vec::<f32>()?, [1.0, 3.0, 2.0, 4.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there are none, or shapes, element types or devices do not fit.
    pub fn stack(tensors: &[&Tensor], dim: usize) -> Result<Tensor> {
        const NAME: &str = "stack";
        let Some((first, rest)) = tensors.split_first() else {
            return Err(Error::argument(NAME, "tensors", "empty", "at least one"));
        };
        if let Some(other) = rest.iter().find(|other| other.shape() != first.shape()) {
            return Err(Error::shapes(NAME, first.shape(), other.shape(), "all must have the same shape"));
        }
        check_alike(NAME, tensors)?;
        if dim > first.rank() {
            let expected = format!("at most the rank of shape {:?}", first.shape());
            return Err(Error::argument(NAME, "dim", dim.to_string(), expected));
        }
        let thick = tensors.iter().map(|tensor| tensor.unsqueeze(dim)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&thick.iter().collect::<Vec<_>>(), dim)
    }
}

struct Permute {
    name: &'static str,
    dims: Vec<usize>,
}

impl Operation for Permute {
    fn name(&self) -> &str {
        self.name
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0];
        let mut sorted = self.dims.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..x.shape().len()) {
            let expected = format!("each dimension of {:?} once", x.shape());
            return Err(Error::argument(self.name, "dims", format!("{:?}", self.dims), expected));
        }
        let mut layout = x.layout().clone();
        for (i, &dim) in self.dims.iter().enumerate() {
            layout.shape[i] = x.shape()[dim];
            layout.strides[i] = x.strides()[dim];
        }
        Ok(Forward::new([x.view(layout)]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut back = vec![0; self.dims.len()];
        for (i, &dim) in self.dims.iter().enumerate() {
            back[dim] = i;
        }
        Ok(vec![Some(ctx.grad(0)?.permute(&back)?)])
    }
}

struct BroadcastTo(Vec<usize>);

impl Operation for BroadcastTo {
    fn name(&self) -> &str {
        "broadcast_to"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0];
        check_shape("broadcast_to", &self.0)?;
        let rule = "each size of the first, from the last on, must be that of the second, or 1";
        let layout = x.layout().broadcast_to(&self.0);
        let layout = layout.ok_or_else(|| Error::shapes("broadcast_to", x.shape(), &self.0, rule))?;
        Ok(Forward::new([x.view(layout)]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(sum_to(&ctx.grad(0)?, &ctx.input(0).shape)?)])
    }
}
