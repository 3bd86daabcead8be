//! Tensors joined along one dimension.

use super::{check_alike, check_dim};
use crate::autograd::apply1;
use crate::cpu::copy::Rows;
use crate::cpu::pool;
use crate::dtype::with_element;
use crate::tensor::check_new;
use crate::{Backward, Device, Element, Error, Forward, Operation, Result, Tensor};

impl Tensor {
    /// The tensors one after another along dimension `dim`; their other dimensions must agree.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let (a, b) = (Tensor::from([1.0f32, 2.0]), Tensor::from([3.0f32]));
    /// assert_eq!(Tensor::cat(&[&a, &b], 0)?.to_vec::<f32>()?, [1.0, 2.0, 3.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there are none, or shapes, element types or devices do not fit.
    pub fn cat(tensors: &[&Tensor], dim: usize) -> Result<Tensor> {
        apply1(Cat(dim), tensors)
    }
}

struct Cat(usize);

impl Operation for Cat {
    fn name(&self) -> &str {
        "cat"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let dim = self.0;
        let Some(first) = inputs.first() else {
            return Err(Error::argument("cat", "tensors", "empty", "at least one"));
        };
        check_dim("cat", first, dim)?;
        check_alike("cat", &inputs.iter().collect::<Vec<_>>())?;
        let mut shape = first.shape().to_vec();
        for other in &inputs[1..] {
            let same_rank = other.shape().len() == shape.len();
            if !same_rank || (0..shape.len()).any(|i| i != dim && other.shape()[i] != shape[i]) {
                let rule = format!("all dimensions but {dim} must agree");
                return Err(Error::shapes("cat", first.shape(), other.shape(), rule));
            }
            shape[dim] = shape[dim].saturating_add(other.shape()[dim]);
        }
        check_new("cat", &shape, first.dtype(), first.device())?;
        let out = match first.device() {
            Device::Cpu => cpu(inputs, dim, &shape)?,
            Device::Gpu(gpu) => {
                let out = gpu.empty(&shape, first.dtype())?;
                let mut start = 0;
                for input in inputs {
                    let len = input.shape()[dim];
                    gpu.copy("cat", input, &out.view(out.layout().narrow(dim, start, len)))?;
                    start += len;
                }
                out
            }
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
        let mut start = 0;
        let mut part = |i: usize| {
            let len = ctx.input(i).shape[self.0];
            start += len;
            ctx.needs(i).then(|| grad.narrow(self.0, start - len, len)).transpose()
        };
        (0..ctx.inputs()).map(&mut part).collect()
    }
}

/// Row after row of the result, each run copied from the tensor it comes from.
fn cpu(inputs: &[Tensor], dim: usize, shape: &[usize]) -> Result<Tensor> {
    with_element!(inputs[0].dtype(), E => {
        let mut out = pool::buffer::<E>(shape.iter().product());
        let inner: usize = shape[dim + 1..].iter().product();
        let row = shape[dim] * inner;
        let mut start = 0;
        for input in inputs {
            let len = input.shape()[dim] * inner;
            // Outer dimensions, then one run of `len` elements.
            let input = &input.reshape(&[input.numel() / len.max(1), len])?;
            let (source, rows) = (input.read::<E>("cat")?, Rows::new(input.layout()));
            let stride = input.strides()[1];
            if len > 0 {
                for (i, out) in out.chunks_exact_mut(row).enumerate() {
                    let source = &source[rows.offset(i)..];
                    copy_run(&mut out[start..start + len], source, stride);
                }
            }
            start += len;
        }
        Ok(Tensor::from_elements(out, shape))
    })
}

fn copy_run<E: Element>(out: &mut [E], source: &[E], stride: usize) {
    if stride == 1 {
        out.copy_from_slice(&source[..out.len()]);
    } else {
        out.iter_mut().enumerate().for_each(|(i, out)| *out = source[i * stride]);
    }
}
