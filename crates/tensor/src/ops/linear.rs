//! A matrix product with a weight, and a bias.

use super::reduce::sum_to;
use super::{check_alike, with_contiguous_lines};
use crate::autograd::apply1;
use crate::cpu::matmul::{Mat, multiply};
use crate::cpu::parallel::{for_chunks, rows_per_chunk};
use crate::cpu::pool;
use crate::cpu::tile::Then;
use crate::dtype::with_stored;
use crate::gpu::Product;
use crate::tensor::check_new;
use crate::{Backward, Device, Error, Forward, Operation, Result, Tensor};

/// `x weight + bias`: `x` is `(.., in)`, `weight` is `(in, out)` with any strides, `bias` is `(out)`; the result is
/// `(.., out)`. For a weight stored as `(out, in)`, pass its [`transpose`](Tensor::transpose): nothing is copied.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Device, Tensor, ops};
/// let x = Tensor::from_slice(&[1.0f32, 2.0], &[1, 2], &Device::Cpu)?;
/// let weight = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0], &[2, 2], &Device::Cpu)?;
/// let bias = Tensor::from([10.0f32, 20.0]);
/// assert_eq!(ops::linear(&x, &weight, Some(&bias))?.to_vec::<f32>()?, [11.0, 22.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types or devices do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let weight_is_transposed = weight.strides().first() == Some(&1);
    apply1(Linear { weight_is_transposed }, &inputs)
}

struct Linear {
    weight_is_transposed: bool,
}

impl Operation for Linear {
    fn name(&self) -> &str {
        "linear"
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (x, weight, bias) = (&inputs[0], &inputs[1], inputs.get(2));
        check(x, weight, bias)?;
        check_alike("linear", &inputs.iter().collect::<Vec<_>>())?;
        let mut shape = x.shape().to_vec();
        shape.pop();
        shape.push(weight.shape()[1]);
        check_new("linear", &shape, x.dtype(), x.device())?;
        let out = match x.device() {
            Device::Cpu => cpu(&rows(x)?, weight, bias)?,
            Device::Gpu(gpu) => {
                let [x, weight] =
                    [rows(x)?, weight.clone()].map(|t| t.reshape(&[1, t.shape()[0], t.shape()[1]]));
                let bias = bias.map(Tensor::contiguous).transpose()?;
                gpu.product(&Product { name: "linear", a: &x?, b: &weight?, bias: bias.as_ref() })?
            }
        };
        let saved = [needs[1].then(|| x.clone()), needs[0].then(|| weight.clone())];
        Ok(Forward::new([out.reshape(&shape)?]).save(saved))
    }

    /// `dx = dy weight^T`, `dweight = x^T dy`, `dbias` = the sum of `dy` over its rows.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = rows(&ctx.grad(0)?)?;
        let mut grads = vec![None; ctx.inputs()];
        if ctx.needs(0) {
            let weight = ctx.saved(1)?.transpose(0, 1)?;
            grads[0] = Some(grad.matmul(&weight)?.reshape(&ctx.input(0).shape)?);
        }
        if ctx.needs(1) {
            let x = rows(ctx.saved(0)?)?;
            // In the layout of the weight itself, so that no copy follows.
            grads[1] = Some(match self.weight_is_transposed {
                true => grad.transpose(0, 1)?.matmul(&x)?.transpose(0, 1)?,
                false => x.transpose(0, 1)?.matmul(&grad)?,
            });
        }
        if ctx.needs(2) {
            grads[2] = Some(sum_to(&grad, &ctx.input(2).shape)?);
        }
        Ok(grads)
    }
}

fn check(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    if weight.shape().len() != 2 {
        let found = format!("of shape {:?}", weight.shape());
        return Err(Error::argument("linear", "weight", found, "of shape (in, out)"));
    }
    if x.shape().last() != Some(&weight.shape()[0]) {
        let rule = "the last dimension of x must equal the first of the weight";
        return Err(Error::shapes("linear", x.shape(), weight.shape(), rule));
    }
    match bias {
        Some(bias) if bias.shape() != &weight.shape()[1..] => {
            let rule = "the bias must be as long as the last dimension of the weight";
            Err(Error::shapes("linear", weight.shape(), bias.shape(), rule))
        }
        _ => Ok(()),
    }
}

/// All leading dimensions as one.
fn rows(x: &Tensor) -> Result<Tensor> {
    let (width, leading) =
        x.shape().split_last().map_or((1, [].as_slice()), |(width, leading)| (*width, leading));
    x.reshape(&[leading.iter().product(), width])
}

fn cpu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, weight) = (with_contiguous_lines(x)?, with_contiguous_lines(weight)?);
    let (n, k, width) = (x.shape()[0], x.shape()[1], weight.shape()[1]);
    let bias = bias.map(Tensor::contiguous).transpose()?;
    with_stored!("linear", x.dtype(), E => {
        let mut out = pool::buffer::<E>(n * width);
        if let Some(bias) = &bias {
            let bias = bias.read::<E>("linear")?;
            for_chunks(&mut out, rows_per_chunk(width) * width, |_, rows| {
                rows.chunks_exact_mut(width).for_each(|row| row.copy_from_slice(&bias[..width]));
            });
        }
        let (x_values, weight_values) = (x.read::<E>("linear")?, weight.read::<E>("linear")?);
        let x = Mat::new(&x_values, (n, k), (x.strides()[0], x.strides()[1]));
        let weight = Mat::new(&weight_values, (k, width), (weight.strides()[0], weight.strides()[1]));
        multiply(x, weight, if bias.is_some() { Then::Add } else { Then::Overwrite }, &mut out);
        Ok(Tensor::from_elements(out, &[n, width]))
    })
}
