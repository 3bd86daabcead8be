//! Matrix products on the GPU: by cuBLASLt, and by a kernel of our own where that is not.

use longhand_gpu::DevicePtr;
use longhand_gpu::cublaslt::{self, Cublaslt, Matrix};
use longhand_kernels::{self as kernels, matmul};

use super::{Gpu, kernel_dtype};
use crate::{Result, Tensor};

/// `a b + bias`: `a` is `(batch, m, k)`, `b` is `(batch, k, n)`, `bias` is `(n)`.
pub(crate) struct Product<'a> {
    pub(crate) name: &'a str,
    pub(crate) a: &'a Tensor,
    pub(crate) b: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
}

/// A product as a library takes it.
struct Call {
    dtype: kernels::Dtype,
    /// `(m, n, k)`
    sizes: (usize, usize, usize),
    batch: usize,
    a: (DevicePtr, Matrix),
    b: (DevicePtr, Matrix),
    /// Null for none
    bias: DevicePtr,
    output: kernels::Dtype,
    d: (DevicePtr, Matrix),
    /// Whether the product is added to what `d` is.
    accumulate: bool,
}

impl Gpu {
    /// The product as `(batch, m, n)`.
    pub(crate) fn product(&self, product: &Product<'_>) -> Result<Tensor> {
        let Product { a, b, bias, .. } = *product;
        let (batch, m, k, n) = (a.shape()[0], a.shape()[1], a.shape()[2], b.shape()[2]);
        if k == 0 {
            let zeros = self.zeros(&[batch, m, n], a.dtype())?;
            return bias.map_or_else(|| Ok(zeros.clone()), |bias| zeros.add(bias));
        }
        let out = self.empty(&[batch, m, n], a.dtype())?;
        self.multiply_into(product, &out, false)?;
        Ok(out)
    }

    /// Overwrites `out`, contiguous, with the product, or adds the product to it. `out` is of the operands' type, or of
    /// f32, and nobody else holds it.
    pub(crate) fn multiply_into(&self, product: &Product<'_>, out: &Tensor, accumulate: bool) -> Result<()> {
        let Product { name, a, b, bias } = *product;
        let (batch, m, k, n) = (a.shape()[0], a.shape()[1], a.shape()[2], b.shape()[2]);
        let (a, a_matrix) = matrix(a)?;
        let (b, b_matrix) = matrix(b)?;
        let call = Call {
            dtype: kernel_dtype(name, a.dtype())?,
            sizes: (m, n, k),
            batch,
            a: (a.pointer(name)?, a_matrix),
            b: (b.pointer(name)?, b_matrix),
            bias: bias.map(|bias| bias.pointer(name)).transpose()?.unwrap_or(DevicePtr::NULL),
            output: kernel_dtype(name, out.dtype())?,
            accumulate,
            d: (out.pointer(name)?, Matrix::row_major(n as i64).batched((m * n) as i64)),
        };
        match self.cublaslt()? {
            Some(library) => self.multiply_by_cublaslt(library, &call),
            None => self.multiply(&call),
        }
    }

    fn multiply_by_cublaslt(&self, library: &Cublaslt, call: &Call) -> Result<()> {
        let &Call { dtype, sizes: (m, n, k), batch, a, b, bias, output, d, accumulate } = call;
        let of_library = |dtype| match dtype {
            kernels::Dtype::F32 => cublaslt::Dtype::F32,
            kernels::Dtype::Bf16 => cublaslt::Dtype::Bf16,
            kernels::Dtype::F16 => cublaslt::Dtype::F16,
        };
        let matmul = cublaslt::Matmul {
            m,
            n,
            k,
            batch,
            inputs: of_library(dtype),
            output: of_library(output),
            a: a.1,
            b: b.1,
            d: d.1,
            bias: !bias.is_null(),
            accumulate,
            alignment: alignment([a.0, b.0, d.0]),
        };
        let plan = self.plans().cublaslt_matmul.get(matmul, |matmul| library.plan(&matmul))?;
        let workspace = self.workspace(plan.workspace_bytes())?;
        let args = cublaslt::MatmulArgs { a: a.0, b: b.0, bias, d: d.0, workspace: workspace.ptr() };
        // SAFETY: a, b and the bias lie in memory of this device as the plan says, the workspace is new, d is nobody
        // else's; all are freed on this stream, after the product.
        unsafe { plan.launch(self.stream(), &args)? };
        Ok(())
    }

    fn multiply(&self, call: &Call) -> Result<()> {
        let &Call { dtype, sizes: (m, n, k), batch, a, b, bias, output, d, accumulate } = call;
        let kind = matmul::Matmul::new(dtype).output(output).orders(a.1.order, b.1.order);
        let plan = self.plans().matmul.get(kind, |kind| kind.plan(self.device()))?;
        let [a, b, d] = [a, b, d].map(|(data, matrix)| matmul::Operand { data, matrix });
        let c = accumulate.then_some(d);
        let args = matmul::MatmulArgs { m, n, k, batch, a, b, bias, c, d };
        // SAFETY: as above; there is no workspace.
        unsafe { plan.launch(self.stream(), &args)? };
        Ok(())
    }

    /// cuBLASLt, where the machine has it and the device is one of CUDA's.
    fn cublaslt(&self) -> Result<Option<&Cublaslt>> {
        if let Some(library) = self.plans().cublaslt.get() {
            return Ok(library.as_ref());
        }
        let library = match Cublaslt::new(self.device()) {
            Ok(library) => Some(library),
            Err(longhand_gpu::Error::LibraryNotFound { .. } | longhand_gpu::Error::Unsupported { .. }) => {
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(self.plans().cublaslt.get_or_init(|| library).as_ref())
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
