//! Products of small matrices, of which the right one is in panels: what attention multiplies, block by block.
//!
//! A general matrix product packs both operands on every call. Here the right one is packed once and multiplied often,
//! and the left one is read as it is.
//!
//! The loops over rows and columns are written out as arrays of constant size, which the compiler keeps in vector
//! registers: intrinsics in their place were no faster.

use std::ops::Range;

use super::Real;
use super::matmul::Mat;

/// Columns of a panel: two AVX2 registers of f32.
pub(crate) const PANEL: usize = 16;
/// Rows that are multiplied at a time: with two registers each, six leave room for the operands among sixteen.
pub(crate) const ROWS: usize = 6;

/// A matrix whose columns are in panels of [`PANEL`]: panel by panel, each row by row. Columns that the last panel lacks
/// are 0.
pub(crate) struct Packed<T> {
    data: Vec<T>,
    rows: usize,
}

impl<T: Real> Packed<T> {
    pub(crate) fn new() -> Self {
        Packed { data: Vec::new(), rows: 0 }
    }

    pub(crate) fn of(matrix: Mat<T>) -> Self {
        let mut packed = Packed::new();
        packed.pack(matrix);
        packed
    }

    /// Takes `matrix`, whose rows or columns are contiguous, in place of what was there.
    pub(crate) fn pack(&mut self, matrix: Mat<T>) {
        let (rows, columns) = matrix.size();
        self.rows = rows;
        self.data.clear();
        self.data.resize(columns.next_multiple_of(PANEL) * rows, T::ZERO);
        let panel = rows * PANEL;
        if matrix.has_contiguous_rows() {
            for (row, values) in matrix.iter_rows().enumerate() {
                for (i, values) in values.chunks(PANEL).enumerate() {
                    self.data[i * panel + row * PANEL..][..values.len()].copy_from_slice(values);
                }
            }
        } else {
            for (column, values) in matrix.transposed().iter_rows().enumerate() {
                let rows = self.data[column / PANEL * panel..][..panel].chunks_exact_mut(PANEL);
                for (row, value) in rows.zip(values) {
                    row[column % PANEL] = *value;
                }
            }
        }
    }

    pub(crate) fn all(&self) -> Panels<'_, T> {
        self.rows(0..self.rows)
    }

    pub(crate) fn rows(&self, rows: Range<usize>) -> Panels<'_, T> {
        let panel_stride = self.rows * PANEL;
        let panels = self.data.len().checked_div(panel_stride).unwrap_or(0);
        Panels {
            data: self.data.get(rows.start * PANEL..).unwrap_or(&[]),
            rows: rows.len(),
            panels,
            panel_stride,
        }
    }

    /// From a multiple of [`PANEL`] on; as many as whole panels hold.
    pub(crate) fn columns(&self, columns: Range<usize>) -> Panels<'_, T> {
        let panel_stride = self.rows * PANEL;
        let data = &self.data[columns.start / PANEL * panel_stride..];
        Panels { data, rows: self.rows, panels: columns.len().div_ceil(PANEL), panel_stride }
    }
}

/// Some rows and panels of a [`Packed`] matrix.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, T> {
    data: &'a [T],
    rows: usize,
    panels: usize,
    panel_stride: usize,
}

/// What becomes of the product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// It takes the place of what was there.
    Overwrite,
    /// It is added.
    Add,
}

/// `c = alpha a b` or `c += alpha a b` on the calling thread; rows of `c` are `c_stride` apart, whole panels wide.
///
/// # Panics
/// When sizes do not fit: a mistake in the operation that calls.
pub(crate) fn multiply<T: Real>(a: Mat<T>, b: Panels<T>, alpha: T, into: Into, c: &mut [T], c_stride: usize) {
    let (rows, inner) = a.size();
    assert_eq!(inner, b.rows, "inner dimensions");
    let width = b.panels * PANEL;
    assert!(
        width <= c_stride && (rows == 0 || (rows - 1) * c_stride + width <= c.len()),
        "size of the product"
    );
    if b.panels > 0 && inner > 0 {
        let last = (b.panels - 1) * b.panel_stride + inner * PANEL;
        assert!(last <= b.data.len(), "panels reach element {last} of {}", b.data.len());
    }
    let product = Product { a, b, alpha, into, c: c.as_mut_ptr(), c_stride };
    #[cfg(target_arch = "x86_64")]
    if super::simd::has_avx2() {
        // SAFETY: AVX2 and FMA were just found; the extents of a, b and c were checked here and by `Mat`.
        return unsafe { product.avx2() };
    }
    // SAFETY: the extents of a, b and c were checked here and by `Mat`.
    unsafe { product.run::<{ cfg!(target_arch = "aarch64") }>() }
}

struct Product<'a, T> {
    a: Mat<'a, T>,
    b: Panels<'a, T>,
    alpha: T,
    into: Into,
    c: *mut T,
    c_stride: usize,
}

impl<T: Real> Product<'_, T> {
    /// # Safety
    /// The processor has AVX2 and FMA; every element of a, b and c lies in its allocation, and c is nobody else's.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(&self) {
        // SAFETY: as the caller promises.
        unsafe { self.run::<true>() }
    }

    /// # Safety
    /// Every element of a, b and c lies in its allocation, and c is nobody else's.
    #[inline(always)]
    unsafe fn run<const FUSED: bool>(&self) {
        let (rows, _) = self.a.size();
        for panel in 0..self.b.panels {
            let mut row = 0;
            // SAFETY: as the caller promises; rows do not go beyond those of a.
            unsafe {
                while row + ROWS <= rows {
                    self.block::<ROWS, FUSED>(row, panel);
                    row += ROWS;
                }
                match rows - row {
                    0 => {}
                    1 => self.block::<1, FUSED>(row, panel),
                    2 => self.block::<2, FUSED>(row, panel),
                    3 => self.block::<3, FUSED>(row, panel),
                    4 => self.block::<4, FUSED>(row, panel),
                    _ => self.block::<5, FUSED>(row, panel),
                }
            }
        }
    }

    /// `R` rows of one panel of the product. `FUSED`: the processor multiplies and adds in one instruction.
    ///
    /// # Safety
    /// As for [`Product::run`].
    #[inline(always)]
    unsafe fn block<const R: usize, const FUSED: bool>(&self, row: usize, panel: usize) {
        let (_, inner) = self.a.size();
        let (a, a_row, a_col) = self.a.raw();
        let mut sum = [[T::ZERO; PANEL]; R];
        // SAFETY: row + R rows of a, the panel's rows of b and its columns of c are there, as the caller promises.
        unsafe {
            let mut a = a.wrapping_offset(row as isize * a_row);
            let mut b = self.b.data.as_ptr().add(panel * self.b.panel_stride).cast::<[T; PANEL]>();
            for _ in 0..inner {
                let right = *b;
                for (i, sum) in sum.iter_mut().enumerate() {
                    let left = *a.offset(i as isize * a_row);
                    for (sum, right) in sum.iter_mut().zip(right) {
                        *sum = if FUSED { left.mul_add(right, *sum) } else { *sum + left * right };
                    }
                }
                a = a.wrapping_offset(a_col);
                b = b.add(1);
            }
            for (i, sum) in sum.iter().enumerate() {
                let c = self.c.add((row + i) * self.c_stride + panel * PANEL).cast::<[T; PANEL]>();
                let before = if self.into == Into::Add { *c } else { [T::ZERO; PANEL] };
                let mut after = [T::ZERO; PANEL];
                for ((after, before), sum) in after.iter_mut().zip(before).zip(sum) {
                    *after = before + self.alpha * *sum;
                }
                *c = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row_major(data: &[f64], rows: usize, columns: usize) -> Mat<'_, f64> {
        Mat::new(data, (rows, columns), (columns, 1))
    }

    fn values(count: usize, seed: usize) -> Vec<f64> {
        (0..count).map(|i| ((i * 31 + seed * 17) % 23) as f64 / 8.0 - 1.25).collect()
    }

    proptest! {
        /// Both ways to pack the right one, and all or some of its rows. The values are few bits wide, so that sums are
        /// exact in any order.
        #[test]
        fn products_of_any_size_and_order_are_those_of_the_formula(
            rows in 0..20usize, inner in 0..9usize, spare in 0..3usize, columns in 0..40usize,
            a_transposed: bool, b_transposed: bool, add: bool, gap in 0..3usize
        ) {
            let (left, right) = (values(rows * inner, 1), values((inner + spare) * columns, 2));
            let a = if a_transposed { row_major(&left, inner, rows).transposed() } else { row_major(&left, rows, inner) };
            let b = if b_transposed {
                row_major(&right, columns, inner + spare).transposed()
            } else {
                row_major(&right, inner + spare, columns)
            };
            let packed = Packed::of(b);
            let panels = if spare == 0 { packed.columns(0..columns) } else { packed.rows(spare..spare + inner) };
            let stride = columns.next_multiple_of(PANEL) + gap;
            let before = values(rows * stride, 3);
            let mut c = before.clone();
            multiply(a, panels, 0.5, if add { Into::Add } else { Into::Overwrite }, &mut c, stride);

            for row in 0..rows {
                for column in 0..stride {
                    let left = |i: usize| if a_transposed { left[i * rows + row] } else { left[row * inner + i] };
                    let right = |i: usize| {
                        if b_transposed { right[column * (inner + spare) + i] } else { right[i * columns + column] }
                    };
                    let product: f64 = match column < columns {
                        true => (0..inner).map(|i| left(i) * right(spare + i)).sum(),
                        false => 0.0,
                    };
                    let old = before[row * stride + column];
                    let expected = match column < columns.next_multiple_of(PANEL) {
                        true => if add { old + 0.5 * product } else { 0.5 * product },
                        false => old,
                    };
                    prop_assert_eq!(c[row * stride + column], expected);
                }
            }
        }
    }
}
