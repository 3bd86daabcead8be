//! Batched matrix products.

use super::reduce::sum_to;
use super::{check_alike, with_contiguous_lines};
use crate::autograd::apply1;
use crate::cpu::copy::Rows;
use crate::cpu::matmul::{Mat, multiply};
use crate::cpu::pool;
use crate::cpu::tile::Then;
use crate::dtype::with_stored;
use crate::gpu::Product;
use crate::layout::{Layout, broadcast_shapes};
use crate::tensor::check_new;
use crate::{Backward, Device, Error, Forward, Operation, Result, Tensor};

impl Tensor {
    /// Matrix product over the last two dimensions: `(.., M, K)` by `(.., K, N)` gives `(.., M, N)`. Leading
    /// dimensions broadcast. Strides are taken as they are, if one of the last two dimensions is contiguous.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Tensor};
    /// let a = Tensor::from_slice(&[1.0f32, 2.0], &[1, 2], &Device::Cpu)?;
    /// let b = Tensor::from_slice(&[10.0f32, 20.0], &[2, 1], &Device::Cpu)?;
    /// assert_eq!(a.matmul(&b)?.to_vec::<f32>()?, [50.0]);
    /// assert_eq!(b.matmul(&a)?.shape(), [2, 2]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When shapes, element types or devices do not fit.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Matmul, &[self, other])
    }
}

struct Matmul;

impl Operation for Matmul {
    fn name(&self) -> &str {
        "matmul"
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (a, b) = (&inputs[0], &inputs[1]);
        check_alike("matmul", &[a, b])?;
        let sizes = Sizes::new(a.shape(), b.shape())?;
        check_new("matmul", &sizes.shape(), a.dtype(), a.device())?;
        let out = match a.device() {
            Device::Cpu => cpu(a, b, &sizes)?,
            Device::Gpu(gpu) => {
                let (a, b) = (sizes.batched(a)?, sizes.batched(b)?);
                let out = gpu.product(&Product { name: "matmul", a: &a, b: &b, bias: None })?;
                out.reshape(&sizes.shape())?
            }
        };
        Ok(Forward::new([out]).save([needs[1].then(|| a.clone()), needs[0].then(|| b.clone())]))
    }

    /// `da = dy b^T`, `db = a^T dy`, summed over repeated leading dimensions.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?;
        let da = ctx.needs(0).then(|| sum_to(&grad.matmul(&swapped(ctx.saved(1)?)?)?, &ctx.input(0).shape));
        let db = ctx.needs(1).then(|| sum_to(&swapped(ctx.saved(0)?)?.matmul(&grad)?, &ctx.input(1).shape));
        Ok(vec![da.transpose()?, db.transpose()?])
    }
}

fn swapped(matrix: &Tensor) -> Result<Tensor> {
    let rank = matrix.shape().len();
    matrix.transpose(rank - 2, rank - 1)
}

struct Sizes {
    /// Leading dimensions of the product.
    batch: Vec<usize>,
    m: usize,
    k: usize,
    n: usize,
}

impl Sizes {
    fn new(a: &[usize], b: &[usize]) -> Result<Sizes> {
        let wrong = |rule: &str| Error::shapes("matmul", a, b, rule);
        let ([batch_a @ .., m, k], [batch_b @ .., k_b, n]) = (a, b) else {
            return Err(wrong("each needs two dimensions or more"));
        };
        if k != k_b {
            return Err(wrong("the last dimension of the first must equal the last but one of the second"));
        }
        let batch =
            broadcast_shapes(batch_a, batch_b).ok_or_else(|| wrong("leading dimensions must broadcast"))?;
        Ok(Sizes { batch, m: *m, k: *k, n: *n })
    }

    /// Of the product.
    fn shape(&self) -> Vec<usize> {
        self.batch.iter().chain([&self.m, &self.n]).copied().collect()
    }

    /// A factor with its leading dimensions repeated where they have to be, and then as one.
    fn batched(&self, factor: &Tensor) -> Result<Tensor> {
        let matrix = &factor.shape()[factor.shape().len() - 2..];
        let shape: Vec<usize> = self.batch.iter().chain(matrix).copied().collect();
        let repeated =
            factor.layout().broadcast_to(&shape).map_or_else(|| factor.clone(), |layout| factor.view(layout));
        repeated.reshape(&[self.batch.iter().product(), matrix[0], matrix[1]])
    }
}

fn cpu(a: &Tensor, b: &Tensor, sizes: &Sizes) -> Result<Tensor> {
    let (a, b) = (with_contiguous_lines(a)?, with_contiguous_lines(b)?);
    let Sizes { batch, m, k, n } = sizes;
    let (of_a, of_b) = (Batch::new(&a, batch), Batch::new(&b, batch));
    let shape = sizes.shape();
    with_stored!("matmul", a.dtype(), E => {
        let (a, b) = (a.read::<E>("matmul")?, b.read::<E>("matmul")?);
        let mut out = pool::buffer::<E>(shape.iter().product());
        for (i, out) in out.chunks_exact_mut((m * n).max(1)).enumerate() {
            let a = Mat::new(&a[of_a.matrices.offset(i)..], (*m, *k), of_a.strides);
            let b = Mat::new(&b[of_b.matrices.offset(i)..], (*k, *n), of_b.strides);
            multiply(a, b, Then::Overwrite, out);
        }
        Ok(Tensor::from_elements(out, &shape))
    })
}

/// The matrices of a tensor, one after another in the order of the product's leading dimensions.
struct Batch {
    matrices: Rows,
    strides: (usize, usize),
}

impl Batch {
    fn new(tensor: &Tensor, batch: &[usize]) -> Self {
        let Layout { shape, strides, .. } = tensor.layout();
        let leading = shape.len() - 2;
        let mut part =
            Layout { shape: shape[..leading].to_vec(), strides: strides[..leading].to_vec(), offset: 0 };
        if tensor.numel() == 0 {
            part.strides.fill(0); // there is no element to step to
        }
        // `Rows` leaves the last dimension out, so add one.
        let mut all = part.broadcast_to(batch).unwrap_or(part);
        all.shape.push(1);
        all.strides.push(0);
        Batch { matrices: Rows::new(&all), strides: (strides[leading], strides[leading + 1]) }
    }
}
