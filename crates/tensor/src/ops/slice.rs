//! Parts of a tensor along one dimension.

use super::check_dim;
use crate::autograd::{apply, apply1};
use crate::{Backward, Error, Forward, Operation, Result, Tensor};

impl Tensor {
    /// Elements `start .. start + len` along dimension `dim`: a view.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([1.0f32, 2.0, 3.0]).narrow(0, 1, 2)?.to_vec::<f32>()?, [2.0, 3.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When they reach beyond the dimension.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Tensor> {
        apply1(Narrow { dim, start, len }, &[self])
    }

    /// Consecutive parts of these sizes along dimension `dim`: views. When every part is wanted, its gradient is much
    /// cheaper than that of as many [`narrow`](Tensor::narrow)s.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let parts = Tensor::from([1.0f32, 2.0, 3.0]).split(&[1, 2], 0)?;
    /// assert_eq!(parts[1].to_vec::<f32>()?, [2.0, 3.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the sizes do not add up to the dimension's.
    pub fn split(&self, sizes: &[usize], dim: usize) -> Result<Vec<Tensor>> {
        apply(Split { sizes: sizes.to_vec(), dim }, &[self])
    }

    /// At most `chunks` consecutive parts along dimension `dim`, of one size but for the last, which may be smaller: views,
    /// as [`split`](Tensor::split).
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let parts = Tensor::from([1.0f32, 2.0, 3.0]).chunk(2, 0)?;
    /// assert_eq!(parts[0].to_vec::<f32>()?, [1.0, 2.0]);
    /// assert_eq!(parts[1].to_vec::<f32>()?, [3.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is no such dimension, or `chunks` is 0.
    pub fn chunk(&self, chunks: usize, dim: usize) -> Result<Vec<Tensor>> {
        let size = check_dim("chunk", self, dim)?;
        if chunks == 0 {
            return Err(Error::argument("chunk", "chunks", "0".to_owned(), "at least 1"));
        }
        let each = size.div_ceil(chunks).max(1);
        let count = size.div_ceil(each).max(1);
        let mut sizes = Vec::new();
        if sizes.try_reserve_exact(count).is_err() {
            let expected = "a number of parts that memory could hold";
            return Err(Error::argument("chunk", "chunks", chunks.to_string(), expected));
        }
        sizes.extend((0..count).map(|i| each.min(size - i * each)));
        self.split(&sizes, dim)
    }
}

struct Narrow {
    dim: usize,
    start: usize,
    len: usize,
}

impl Operation for Narrow {
    fn name(&self) -> &str {
        "narrow"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0];
        let size = check_dim("narrow", x, self.dim)?;
        if self.start.checked_add(self.len).is_none_or(|end| end > size) {
            let found = format!("{} + {}", self.start, self.len);
            let expected = format!("at most {size}, the size of dimension {} of {:?}", self.dim, x.shape());
            return Err(Error::argument("narrow", "start + len", found, expected));
        }
        Ok(Forward::new([x.view(x.layout().narrow(self.dim, self.start, self.len))]))
    }

    /// The gradient, with zeros where nothing was taken.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let input = ctx.input(0);
        let zeros = |len: usize| {
            let mut shape = input.shape.clone();
            shape[self.dim] = len;
            Tensor::zeros(&shape, input.dtype, &input.device)
        };
        let before = zeros(self.start)?;
        let after = zeros(input.shape[self.dim] - self.start - self.len)?;
        Ok(vec![Some(Tensor::cat(&[&before, &ctx.grad(0)?, &after], self.dim)?)])
    }
}

struct Split {
    sizes: Vec<usize>,
    dim: usize,
}

impl Operation for Split {
    fn name(&self) -> &str {
        "split"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0];
        let size = check_dim("split", x, self.dim)?;
        let all = self.sizes.iter().try_fold(0usize, |all, &size| all.checked_add(size));
        if all != Some(size) {
            let expected = format!("sizes that add up to {size}, dimension {} of {:?}", self.dim, x.shape());
            return Err(Error::argument("split", "sizes", format!("{:?}", self.sizes), expected));
        }
        let mut start = 0;
        let part = |&len: &usize| {
            start += len;
            x.view(x.layout().narrow(self.dim, start - len, len))
        };
        Ok(Forward::new(self.sizes.iter().map(part).collect::<Vec<_>>()))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grads = (0..self.sizes.len()).map(|i| ctx.grad(i)).collect::<Result<Vec<_>>>()?;
        Ok(vec![Some(Tensor::cat(&grads.iter().collect::<Vec<_>>(), self.dim)?)])
    }
}
