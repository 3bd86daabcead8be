//! Row-major products as the column-major ones that cuBLASLt computes.
//!
//! Row-major `d` read column by column is `dᵀ`, and `dᵀ = bᵀ · aᵀ`. So cuBLASLt is asked for the `(n, m)` product of
//! `bᵀ`, first, and `aᵀ`, second. A row-major `b` `(k, n)` read column by column is just that `bᵀ` and is taken as it
//! lies; a column-major one is read as `b` and has to be transposed. The same holds for `a`. cuBLASLt adds its bias,
//! one number for each row of the result, to each row of `dᵀ`: that is, to each column of `d`, as wanted.

use super::{Matmul, Matrix, Order};

/// A matrix as cuBLASLt sees it: element `(i, j)` is at `i + j * leading`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub rows: u64,
    pub columns: u64,
    pub leading: i64,
    pub batch_stride: i64,
}

/// `result = op(first) · op(second)`, all column-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Made of `b`.
    pub first: Stored,
    pub transpose_first: bool,
    /// Made of `a`.
    pub second: Stored,
    pub transpose_second: bool,
    /// `d`.
    pub result: Stored,
}

impl Call {
    pub fn of(matmul: &Matmul) -> Call {
        let Matmul { m, n, k, a, b, d, .. } = matmul;
        Call {
            first: stored(b, *k, *n),
            transpose_first: b.order == Order::ColumnMajor,
            second: stored(a, *m, *k),
            transpose_second: a.order == Order::ColumnMajor,
            result: stored(d, *m, *n),
        }
    }
}

/// What is read column by column where a `(rows, columns)` matrix lies.
fn stored(matrix: &Matrix, rows: usize, columns: usize) -> Stored {
    let (rows, columns) = match matrix.order {
        Order::RowMajor => (columns, rows),
        Order::ColumnMajor => (rows, columns),
    };
    Stored {
        rows: rows as u64,
        columns: columns as u64,
        leading: matrix.leading,
        batch_stride: matrix.batch_stride,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Dtype;
    use super::*;

    /// What cuBLASLt documents of `cublasLtMatmul`: column-major, `result (M, N) = op(first) · op(second) + bias (M)`.
    /// Refuses what it refuses: operands whose shapes do not fit, a leading dimension below the number of rows.
    fn cublaslt(call: &Call, batch: usize, first: &[i64], second: &[i64], bias: &[i64], result: &mut [i64]) {
        let shape = |s: &Stored, t: bool| if t { (s.columns, s.rows) } else { (s.rows, s.columns) };
        let (m, k) = shape(&call.first, call.transpose_first);
        let (k2, n) = shape(&call.second, call.transpose_second);
        assert_eq!((k, (m, n)), (k2, (call.result.rows, call.result.columns)));
        assert!([&call.first, &call.second, &call.result].iter().all(|s| s.leading >= s.rows as i64));
        let at = |s: &Stored, t: bool, batch: usize, i: u64, j: u64| {
            let (i, j) = if t { (j, i) } else { (i, j) };
            batch * s.batch_stride as usize + i as usize + j as usize * s.leading as usize
        };
        for batch in 0..batch {
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                result[at(&call.result, false, batch, i, j)] = bias[i as usize]
                    + (0..k)
                        .map(|l| {
                            first[at(&call.first, call.transpose_first, batch, i, l)]
                                * second[at(&call.second, call.transpose_second, batch, l, j)]
                        })
                        .sum::<i64>();
            }
        }
    }

    /// Element `(i, j)` of a matrix, as [`Matrix`] defines it.
    fn at(matrix: &Matrix, batch: usize, i: usize, j: usize) -> usize {
        let leading = matrix.leading as usize;
        let offset = match matrix.order {
            Order::RowMajor => i * leading + j,
            Order::ColumnMajor => i + j * leading,
        };
        batch * matrix.batch_stride as usize + offset
    }

    fn matrix(order: Order, rows: usize, columns: usize, gap: usize, batch_gap: Option<usize>) -> Matrix {
        let (extent, count) = if order == Order::RowMajor { (columns, rows) } else { (rows, columns) };
        let leading = extent + gap;
        let batch_stride = batch_gap.map_or(0, |gap| count * leading + gap) as i64;
        Matrix { order, leading: leading as i64, batch_stride }
    }

    fn numbers(seed: u64, count: usize) -> Vec<i64> {
        (0..count as u64)
            .map(|i| ((seed ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as i64 - 128)
            .collect()
    }

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::RowMajor), Just(Order::ColumnMajor)]
    }

    proptest! {
        /// Whatever the orders, gaps and batch strides, cuBLASLt's answer is the row-major product plus bias.
        #[test]
        fn the_column_major_call_computes_the_row_major_product(
            (m, n, k, batch) in (1..6usize, 1..6usize, 1..6usize, 1..4usize),
            orders in (order(), order()),
            gaps in (0..3usize, 0..3usize, 0..3usize),
            batch_gaps in (proptest::option::of(0..4usize), proptest::option::of(0..4usize), 0..4usize),
            seed: u64,
        ) {
            let matmul = Matmul {
                m, n, k, batch,
                inputs: Dtype::F32,
                output: Dtype::F32,
                a: matrix(orders.0, m, k, gaps.0, batch_gaps.0),
                b: matrix(orders.1, k, n, gaps.1, batch_gaps.1),
                d: matrix(Order::RowMajor, m, n, gaps.2, Some(batch_gaps.2)),
                bias: true,
                accumulate: false,
                alignment: 16,
            };
            matmul.check().unwrap();
            const ROOM: usize = 4 * 64 + 64;
            let (a, b, bias) = (numbers(seed, ROOM), numbers(!seed, ROOM), numbers(seed / 3, n));

            let mut expected = vec![7; ROOM];
            for batch in 0..batch {
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let product = |l| a[at(&matmul.a, batch, i, l)] * b[at(&matmul.b, batch, l, j)];
                    expected[at(&matmul.d, batch, i, j)] = bias[j] + (0..k).map(product).sum::<i64>();
                }
            }
            let mut result = vec![7; ROOM];
            cublaslt(&Call::of(&matmul), batch, &b, &a, &bias, &mut result);
            prop_assert_eq!(result, expected);
        }

        /// Strides are taken exactly where a description with them reaches the same elements.
        #[test]
        fn strides_give_a_matrix_that_reaches_the_same_elements(
            (rows, columns) in (1..5usize, 1..5usize),
            (row_stride, column_stride) in (0..7i64, 0..7i64),
        ) {
            let wanted = |i: usize, j: usize| i as i64 * row_stride + j as i64 * column_stride;
            let indices = || (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
            match Matrix::from_strides(rows, columns, row_stride, column_stride) {
                Some(matrix) => {
                    prop_assert!(indices().all(|(i, j)| at(&matrix, 0, i, j) as i64 == wanted(i, j)), "{:?}", matrix);
                    let extent = if matrix.order == Order::RowMajor { columns } else { rows };
                    prop_assert!(matrix.leading >= extent as i64);
                }
                None => {
                    let possible = [Order::RowMajor, Order::ColumnMajor].into_iter().any(|order| {
                        (1..7).any(|leading| {
                            let matrix = Matrix { order, leading, batch_stride: 0 };
                            let extent = if order == Order::RowMajor { columns } else { rows };
                            leading >= extent as i64 && indices().all(|(i, j)| at(&matrix, 0, i, j) as i64 == wanted(i, j))
                        })
                    });
                    prop_assert!(!possible);
                }
            }
        }
    }
}
