//! What is multiplied, and where it lies.

use cudarc::cublaslt::sys;

use crate::{Error, Result};

/// Type of the elements of a matrix. Sums are f32 whatever it is; products of f32 are full f32, not TF32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    pub(super) fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    pub(super) fn cuda(self) -> sys::cudaDataType {
        match self {
            Dtype::F32 => sys::cudaDataType::CUDA_R_32F,
            Dtype::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            Dtype::F16 => sys::cudaDataType::CUDA_R_16F,
        }
    }
}

/// Which index of a matrix runs through memory without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Element `(i, j)` is at `i * leading + j`.
    RowMajor,
    /// Element `(i, j)` is at `i + j * leading`: the transpose of a row-major matrix.
    ColumnMajor,
}

/// Where the elements of a matrix, or of a batch of them, are. Strides count elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Which index runs without gaps.
    pub order: Order,
    /// The stride of the other index; at least as large as the extent of the first.
    pub leading: i64,
    /// From one matrix of the batch to the next; 0 for one that all share.
    pub batch_stride: i64,
}

impl Matrix {
    /// A single row-major matrix with `leading` elements from row to row.
    #[must_use]
    pub fn row_major(leading: i64) -> Matrix {
        Matrix { order: Order::RowMajor, leading, batch_stride: 0 }
    }

    /// A single column-major matrix with `leading` elements from column to column.
    #[must_use]
    pub fn column_major(leading: i64) -> Matrix {
        Matrix { order: Order::ColumnMajor, leading, batch_stride: 0 }
    }

    /// The same matrix as a batch.
    #[must_use]
    pub fn batched(self, batch_stride: i64) -> Matrix {
        Matrix { batch_stride, ..self }
    }

    /// From the strides of a tensor's last two dimensions, `(rows, columns)`; None where cuBLASLt cannot take
    /// them and a copy is needed. The stride of a dimension of extent 1 means nothing and is not looked at.
    #[must_use]
    pub fn from_strides(rows: usize, columns: usize, row_stride: i64, column_stride: i64) -> Option<Matrix> {
        let leading = |stride: i64, count: usize, extent: usize| {
            let extent = i64::try_from(extent).ok()?.max(1);
            if count <= 1 { Some(extent) } else { (stride >= extent).then_some(stride) }
        };
        let row_major = || Some(Matrix::row_major(leading(row_stride, rows, columns)?));
        let column_major = || Some(Matrix::column_major(leading(column_stride, columns, rows)?));
        match (column_stride == 1 || columns <= 1, row_stride == 1 || rows <= 1) {
            (true, true) => row_major().or_else(column_major),
            (true, false) => row_major(),
            (false, true) => column_major(),
            (false, false) => None,
        }
    }
}

/// `d = a · b (+ bias) (+ d)`: `a` is `(m, k)`, `b` `(k, n)`, `d` `(m, n)`, `bias` `(n)`, added to every row.
///
/// Hash and equality are those of the plan that is made from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    /// Rows of `a` and `d`.
    pub m: usize,
    /// Columns of `b` and `d`.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// Number of products.
    pub batch: usize,
    /// Type of `a` and `b`.
    pub inputs: Dtype,
    /// Type of `d` and `bias`: that of the inputs, or f32.
    pub output: Dtype,
    /// Where `a` is.
    pub a: Matrix,
    /// Where `b` is.
    pub b: Matrix,
    /// Where `d` is: row-major. Overwritten; must not overlap the inputs.
    pub d: Matrix,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether the product is added to what `d` holds.
    pub accumulate: bool,
    /// The least alignment of `a`, `b` and `d` in bytes, a power of two. Below 16 the product is slower.
    pub alignment: u32,
}

impl Matmul {
    /// The bytes of a `d` that is to become 0 because `k` is; it has to be without gaps.
    pub(super) fn bytes_of_zero(&self) -> Result<usize> {
        let Matmul { m, n, batch, d, .. } = self;
        let extent = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let compact =
            (*m == 1 || d.leading == extent(*n)) && (*batch == 1 || d.batch_stride == extent(m * n));
        if !compact || self.bias {
            return Err(Error::argument(
                "matmul",
                "k",
                "0",
                "at least 1 where d has gaps or a bias is added",
            ));
        }
        Ok(batch * m * n * self.output.bytes())
    }

    /// Whether the description is one that can be meant.
    pub(super) fn check(&self) -> Result<()> {
        let Matmul { m, n, k, batch, inputs, output, d, alignment, .. } = self;
        if output != inputs && *output != Dtype::F32 {
            return Err(Error::argument(
                "matmul",
                "output",
                format!("{output:?}"),
                format!("{inputs:?} or F32"),
            ));
        }
        if d.order != Order::RowMajor {
            return Err(Error::argument("matmul", "d", "column-major", "row-major"));
        }
        if !alignment.is_power_of_two() || (*alignment as usize) < inputs.bytes().min(output.bytes()) {
            return Err(Error::argument(
                "matmul",
                "alignment",
                alignment.to_string(),
                "a power of two, at least an element",
            ));
        }
        if i32::try_from(*batch).is_err() {
            return Err(Error::argument("matmul", "batch", batch.to_string(), "below 2^31"));
        }
        for (name, matrix, rows, columns) in [("a", &self.a, m, k), ("b", &self.b, k, n), ("d", d, m, n)] {
            let extent = match matrix.order {
                Order::RowMajor => *columns,
                Order::ColumnMajor => *rows,
            };
            if i64::try_from(extent).is_ok_and(|extent| matrix.leading < extent.max(1))
                || matrix.batch_stride < 0
            {
                let must =
                    format!("a leading stride of at least {} and no negative batch stride", extent.max(1));
                return Err(Error::argument("matmul", name, format!("{matrix:?}"), must));
            }
        }
        if *batch > 1 && *m > 0 && *n > 0 {
            // Two products must not write the same element.
            let last = (*m as i128 - 1) * i128::from(d.leading) + *n as i128;
            if i128::from(d.batch_stride) < last {
                let must = format!("at least {last}, so that the products do not overlap");
                return Err(Error::argument("matmul", "batch stride of d", d.batch_stride.to_string(), must));
            }
        }
        Ok(())
    }
}
