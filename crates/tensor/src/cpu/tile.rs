//! Products of small matrices, of which the right one is in panels: what attention multiplies, block by block, and what
//! large products are made of.
//!
//! A general matrix product packs both operands on every call. Here the right one is packed once and multiplied often,
//! and the left one is read as it is, or packed where its rows lie far apart.
//!
//! The loops over rows and columns are written out as arrays of constant size, which the compiler keeps in vector
//! registers: intrinsics in their place were no faster.

use std::ops::Range;

use super::matmul::Mat;
use super::simd::vectorised;
use super::{Real, Stored};

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

    pub(crate) fn of<E: Stored<Real = T>>(matrix: Mat<E>) -> Self {
        let mut packed = Packed::new();
        packed.pack(matrix);
        packed
    }

    /// Takes `matrix`, whose rows or columns are contiguous, in place of what was there.
    pub(crate) fn pack<E: Stored<Real = T>>(&mut self, matrix: Mat<E>) {
        let (rows, columns) = matrix.size();
        self.rows = rows;
        self.data.resize(columns.next_multiple_of(PANEL) * rows, T::ZERO);
        let panels = self.data.as_chunks_mut().0;
        if matrix.has_contiguous_rows() {
            pack_rows(matrix, panels);
        } else {
            pack_columns(matrix.transposed(), panels);
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

/// Each row in pieces of `N`: the first pieces of all rows, then their second ones, and so on. What the last piece of a row
/// lacks is 0.
#[inline(always)]
fn pack_pieces<E: Stored, const N: usize>(matrix: Mat<E>, pieces: &mut [[E::Real; N]]) {
    let (rows, _) = matrix.size();
    for (row, values) in matrix.iter_rows().enumerate() {
        let (whole, rest) = values.as_chunks::<N>();
        for (i, values) in whole.iter().enumerate() {
            let to = &mut pieces[i * rows + row];
            to.iter_mut().zip(values).for_each(|(to, x)| *to = x.widen());
        }
        if !rest.is_empty() {
            let to = &mut pieces[whole.len() * rows + row];
            *to = [E::Real::ZERO; N];
            to.iter_mut().zip(rest).for_each(|(to, x)| *to = x.widen());
        }
    }
}

vectorised! {
    fn pack_rows<E: Stored>(matrix: Mat<E>, panels: &mut [[E::Real; PANEL]]) {
        pack_pieces(matrix, panels);
    }
}

vectorised! {
    /// `columns` has those of the matrix as its rows.
    fn pack_columns<E: Stored>(columns: Mat<E>, panels: &mut [[E::Real; PANEL]]) {
        let (count, rows) = columns.size();
        for (column, values) in columns.iter_rows().enumerate() {
            let panel = &mut panels[column / PANEL * rows..][..rows];
            panel.iter_mut().zip(values).for_each(|(to, x)| to[column % PANEL] = x.widen());
        }
        for column in count..count.next_multiple_of(PANEL) {
            let panel = &mut panels[column / PANEL * rows..][..rows];
            panel.iter_mut().for_each(|to| to[column % PANEL] = E::Real::ZERO);
        }
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

/// A left matrix close together: its rows, or groups of [`ROWS`] of them, column by column.
pub(crate) struct PackedLeft<T> {
    data: Vec<T>,
    size: (usize, usize),
    by_columns: bool,
}

impl<T: Real> PackedLeft<T> {
    pub(crate) fn new() -> Self {
        PackedLeft { data: Vec::new(), size: (0, 0), by_columns: false }
    }

    /// Takes `matrix`, whose rows or columns are contiguous, in place of what was there.
    pub(crate) fn pack<E: Stored<Real = T>>(&mut self, matrix: Mat<E>) {
        let (rows, columns) = matrix.size();
        self.size = (rows, columns);
        self.by_columns = !matrix.has_contiguous_rows();
        self.data.resize(rows.next_multiple_of(ROWS) * columns, T::ZERO);
        match self.by_columns {
            true => pack_groups(matrix.transposed(), self.data.as_chunks_mut().0),
            false => widen_rows(matrix, &mut self.data),
        }
    }

    pub(crate) fn all(&self) -> Left<'_, T> {
        let columns = self.size.1;
        let strides = if self.by_columns { (1, ROWS) } else { (columns, 1) };
        Left { data: &self.data, size: self.size, strides, group_stride: ROWS * columns }
    }
}

vectorised! {
    fn widen_rows<E: Stored>(matrix: Mat<E>, to: &mut [E::Real]) {
        let (_, columns) = matrix.size();
        for (to, values) in to.chunks_exact_mut(columns.max(1)).zip(matrix.iter_rows()) {
            to.iter_mut().zip(values).for_each(|(to, x)| *to = x.widen());
        }
    }
}

vectorised! {
    /// `columns` has those of the matrix as its rows.
    fn pack_groups<E: Stored>(columns: Mat<E>, groups: &mut [[E::Real; ROWS]]) {
        pack_pieces(columns, groups);
    }
}

/// The left matrix of a product.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a, T> {
    data: &'a [T],
    size: (usize, usize),
    /// From row to row, and from column to column.
    strides: (usize, usize),
    /// From each group of [`ROWS`] to the next.
    group_stride: usize,
}

impl<'a, T: Real> From<Mat<'a, T>> for Left<'a, T> {
    fn from(matrix: Mat<'a, T>) -> Self {
        let (data, strides) = matrix.parts();
        Left { data, size: matrix.size(), strides, group_stride: ROWS * strides.0 }
    }
}

/// What becomes of the product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It takes the place of what was there.
    Overwrite,
    /// It is added.
    Add,
}

/// `c = alpha a b` or `c += alpha a b` on the calling thread; rows of `c` are `c_stride` apart, whole panels wide.
///
/// # Panics
/// When sizes do not fit: a mistake in the operation that calls.
pub(crate) fn multiply<'a, T: Real>(
    a: impl Into<Left<'a, T>>,
    b: Panels<T>,
    alpha: T,
    then: Then,
    c: &mut [T],
    c_stride: usize,
) {
    let a = a.into();
    let (rows, inner) = a.size;
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
    let product = Product { a, b, alpha, then, c: c.as_mut_ptr(), c_stride };
    #[cfg(target_arch = "x86_64")]
    if super::simd::has_avx2() {
        // SAFETY: AVX2 and FMA were just found; the extents of b and c were checked here, that of a by `Mat` or when it
        // was packed.
        return unsafe { product.avx2() };
    }
    // SAFETY: the extents of b and c were checked here, that of a by `Mat` or when it was packed.
    unsafe { product.run::<{ cfg!(target_arch = "aarch64") }>() }
}

struct Product<'a, T> {
    a: Left<'a, T>,
    b: Panels<'a, T>,
    alpha: T,
    then: Then,
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
        let rows = self.a.size.0;
        let groups = rows / ROWS;
        for panel in 0..self.b.panels {
            // SAFETY: as the caller promises; groups have no rows beyond those of a.
            unsafe {
                for group in 0..groups {
                    self.block::<ROWS, FUSED>(group, panel);
                }
                match rows % ROWS {
                    0 => {}
                    1 => self.block::<1, FUSED>(groups, panel),
                    2 => self.block::<2, FUSED>(groups, panel),
                    3 => self.block::<3, FUSED>(groups, panel),
                    4 => self.block::<4, FUSED>(groups, panel),
                    _ => self.block::<5, FUSED>(groups, panel),
                }
            }
        }
    }

    /// `R` rows, those of a group, of one panel of the product. `FUSED`: the processor multiplies and adds in one
    /// instruction.
    ///
    /// # Safety
    /// As for [`Product::run`].
    #[inline(always)]
    unsafe fn block<const R: usize, const FUSED: bool>(&self, group: usize, panel: usize) {
        let (_, inner) = self.a.size;
        let (a_row, a_col) = self.a.strides;
        let mut sum = [[T::ZERO; PANEL]; R];
        // SAFETY: R rows of the group of a, the panel's rows of b and its columns of c are there, as the caller promises.
        unsafe {
            let first = self.a.data.as_ptr().wrapping_add(group * self.a.group_stride);
            // A pointer for each row, and one distance for all: addresses do not wait for each other.
            let rows: [*const T; R] = std::array::from_fn(|i| first.wrapping_add(i * a_row));
            let mut column = 0;
            let mut b = self.b.data.as_ptr().add(panel * self.b.panel_stride).cast::<[T; PANEL]>();
            for _ in 0..inner {
                let right = *b;
                for (row, sum) in rows.iter().zip(&mut sum) {
                    let left = *row.add(column);
                    for (sum, right) in sum.iter_mut().zip(right) {
                        *sum = left.mul_add::<FUSED>(right, *sum);
                    }
                }
                column += a_col;
                b = b.add(1);
            }
            for (i, sum) in sum.iter().enumerate() {
                let row = group * ROWS + i;
                let c = self.c.add(row * self.c_stride + panel * PANEL).cast::<[T; PANEL]>();
                let before = if self.then == Then::Add { *c } else { [T::ZERO; PANEL] };
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
            multiply(a, panels, 0.5, if add { Then::Add } else { Then::Overwrite }, &mut c, stride);

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
