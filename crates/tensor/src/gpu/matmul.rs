//! Matrix products on the GPU, by cuBLASLt.

use longhand_gpu::DevicePtr;
use longhand_gpu::cublaslt::{Cublaslt, Dtype, Matmul, MatmulArgs, Matrix};
use longhand_kernels as kernels;

use super::{Gpu, kernel_dtype};
use crate::{Result, Tensor};

/// `a b + bias`: `a` is `(batch, m, k)`, `b` is `(batch, k, n)`, `bias` is `(n)`.
pub(crate) struct Product<'a> {
    pub(crate) name: &'a str,
    pub(crate) a: &'a Tensor,
    pub(crate) b: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
}

impl Gpu {
    /// The product as `(batch, m, n)`.
    pub(crate) fn product(&self, product: &Product<'_>) -> Result<Tensor> {
        let Product { name, a, b, bias } = *product;
        let (batch, m, k, n) = (a.shape()[0], a.shape()[1], a.shape()[2], b.shape()[2]);
        if k == 0 {
            let zeros = self.zeros(&[batch, m, n], a.dtype())?;
            return bias.map_or_else(|| Ok(zeros.clone()), |bias| zeros.add(bias));
        }
        let out = self.empty(&[batch, m, n], a.dtype())?;
        let (a, a_matrix) = matrix(a)?;
        let (b, b_matrix) = matrix(b)?;
        let dtype = match kernel_dtype(name, a.dtype())? {
            kernels::Dtype::F32 => Dtype::F32,
            kernels::Dtype::Bf16 => Dtype::Bf16,
            kernels::Dtype::F16 => Dtype::F16,
        };
        let (a_pointer, b_pointer, d) = (a.pointer(name)?, b.pointer(name)?, out.pointer(name)?);
        let matmul = Matmul {
            m,
            n,
            k,
            batch,
            inputs: dtype,
            output: dtype,
            a: a_matrix,
            b: b_matrix,
            d: Matrix::row_major(n as i64).batched((m * n) as i64),
            bias: bias.is_some(),
            alignment: alignment([a_pointer, b_pointer, d]),
        };
        let plan = self.plans().matmul.get(matmul, |matmul| self.cublaslt()?.plan(&matmul))?;
        let workspace = self.workspace(plan.workspace_bytes())?;
        let bias = bias.map(|bias| bias.pointer(name)).transpose()?.unwrap_or(DevicePtr::NULL);
        let args = MatmulArgs { a: a_pointer, b: b_pointer, bias, d, workspace: workspace.ptr() };
        // SAFETY: a, b and the bias lie in memory of this device as the plan says, d and the workspace are new; all are
        // freed on this stream, after the product.
        unsafe { plan.launch(self.stream(), &args)? };
        Ok(out)
    }

    fn cublaslt(&self) -> longhand_gpu::Result<&Cublaslt> {
        if let Some(library) = self.plans().cublaslt.get() {
            return Ok(library);
        }
        let library = Cublaslt::new(self.device())?;
        Ok(self.plans().cublaslt.get_or_init(|| library))
    }
}

/// A tensor `(batch, rows, columns)` as cuBLASLt describes one, copied where it cannot.
fn matrix(tensor: &Tensor) -> Result<(Tensor, Matrix)> {
    let describe = |tensor: &Tensor| {
        let (&[_, rows, columns], &[batch, row, column]) = (tensor.shape(), tensor.strides()) else {
            return None;
        };
        let matrix = Matrix::from_strides(rows, columns, row as i64, column as i64)?;
        Some(matrix.batched(batch as i64))
    };
    if let Some(matrix) = describe(tensor) {
        return Ok((tensor.clone(), matrix));
    }
    let copy = tensor.contiguous()?;
    let columns = copy.shape()[2];
    let matrix = Matrix::row_major(columns as i64).batched((copy.shape()[1] * columns) as i64);
    Ok((copy, matrix))
}

/// The most bytes, up to 16, that every address is a multiple of.
fn alignment(addresses: [DevicePtr; 3]) -> u32 {
    let common = addresses.into_iter().fold(16, |bits, address| bits | address.0);
    1 << common.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alignment_is_that_of_the_least_aligned_address_and_at_most_16() {
        let of = |last: u64| alignment([DevicePtr(256), DevicePtr(0), DevicePtr(last)]);
        assert_eq!([of(512), of(48), of(8), of(2), of(6)], [16, 16, 8, 2, 2]);
    }
}
