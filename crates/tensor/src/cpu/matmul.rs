//! Matrix products on all threads.
//!
//! The products on one thread are by matrixmultiply, chosen by measurement of f32 (GFLOP/s of one core; rows, inner and
//! columns; each of n, t says whether the left and right matrix are row-major or transposed):
//!
//! | | matrixmultiply 0.3.11 | gemm 0.19.0 | faer 0.24.4 |
//! |---|---|---|---|
//! | AVX2 (EPYC), 512 x 768 x 3072: nn, nt, tn | 77, 75, 80 | 87, 90, 87 | 80, 88, 68 |
//! | 1024 x 1024 x 1024 | 82, 82, 83 | 85, 88, 86 | 80, 81, 54 |
//! | 256 x 256 x 1024 | 80, 76, 82 | 90, 89, 90 | 90, 91, 74 |
//! | AVX-512 (Xeon), 2048 x 2048 x 2048: nn | 158 | 105 | 138 |
//!
//! gemm does not use AVX-512, and faer is slow where the left matrix is transposed, as it is for every gradient of a
//! weight. On both machines matrixmultiply is near the best; it is also the smallest of the three to build.
//!
//! Matrices of 16-bit elements are widened as [`tile`](super::tile) packs them, which costs no more than to pack f32. With
//! f32 it was no faster than matrixmultiply (AVX2: 0.98, 0.90 and 0.99 times as fast for nn, nt and tn).
//!
//! Tried, and no faster: tiles of 512 rows (bf16: 1.03, 0.91 and 1.10 times as fast for nn, nt and tn); columns packed four
//! at a time (nt 0.96); f32 packed here where rows lie a power of two apart (linear cross-entropy, V 65,536: 0.98, since
//! only the product with a transposed left matrix gains).

use std::ops::Range;

use super::parallel::{Shared, first_come};
use super::simd::vectorised;
use super::tile::{self, Packed, PackedLeft, Then};
use super::{Real, Stored};
use crate::Element;

/// A matrix in memory that is only read.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Element> Mat<'a, T> {
    /// # Panics
    /// When an element would lie outside `data`: a mistake in the operation that calls.
    pub(crate) fn new(
        data: &'a [T],
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (usize, usize),
    ) -> Self {
        check_extent(data.len(), (rows, cols), (row_stride, col_stride));
        Mat { data, rows, cols, row_stride, col_stride }
    }

    pub(crate) fn transposed(self) -> Self {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows and columns.
    pub(crate) fn size(self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Whether elements of a row are next to each other.
    pub(crate) fn has_contiguous_rows(self) -> bool {
        self.cols <= 1 || self.col_stride == 1
    }

    /// The rows, each a run of neighbours.
    ///
    /// # Panics
    /// When elements of a row are not next to each other: a mistake in the operation that calls.
    pub(crate) fn iter_rows(self) -> impl Iterator<Item = &'a [T]> {
        assert!(self.has_contiguous_rows(), "columns {} apart", self.col_stride);
        (0..self.rows).map(move |row| match self.cols {
            0 => &[],
            cols => &self.data[row * self.row_stride..][..cols],
        })
    }

    /// From the first element on, and the distances to the next row and the next column.
    pub(crate) fn parts(self) -> (&'a [T], (usize, usize)) {
        (self.data, (self.row_stride, self.col_stride))
    }

    /// These rows and columns of it.
    fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && cols.end <= self.cols, "a part of {} x {}", self.rows, self.cols);
        let start = rows.start * self.row_stride + cols.start * self.col_stride;
        Mat { data: self.data.get(start..).unwrap_or(&[]), rows: rows.len(), cols: cols.len(), ..self }
    }

    /// The first element, and the distance to the next row and the next column.
    fn raw(self) -> (*const T, isize, isize) {
        (self.data.as_ptr(), self.row_stride as isize, self.col_stride as isize)
    }
}

fn check_extent(len: usize, (rows, cols): (usize, usize), (row_stride, col_stride): (usize, usize)) {
    if rows > 0 && cols > 0 {
        let last = (rows - 1) * row_stride + (cols - 1) * col_stride;
        assert!(last < len, "a {rows} x {cols} matrix reaches element {last} of {len}");
    }
}

/// `c = a b` or `c += a b` on all threads; `c` is row-major and contiguous. Rows or columns of `a` and `b` are contiguous.
///
/// Each element is summed in the same order whatever the tiles, so the result does not depend on the threads. It is summed
/// in what the elements are computed in, and rounded once.
pub(crate) fn multiply<E: Stored>(a: Mat<E>, b: Mat<E>, then: Then, c: &mut [E]) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert_eq!(c.len(), m * n, "size of the product");
    if k == 0 {
        if then == Then::Overwrite {
            c.fill(E::default());
        }
        return;
    }
    let (tile_m, tile_n) = tile_size(m, n, k);
    let across = n.div_ceil(tile_n);
    let target = Shared::new(c);
    first_come(m.div_ceil(tile_m) * across, Scratch::<E::Real>::new, |scratch, index| {
        let (row, col) = (index / across * tile_m, index % across * tile_n);
        let (rows, cols) = (row..m.min(row + tile_m), col..n.min(col + tile_n));
        let (a, b) = (a.part(rows, 0..k), b.part(0..k, cols));
        // SAFETY: the tile lies within c, whose size was checked; tiles do not overlap, and c is borrowed mutably for as
        // long as the threads run.
        unsafe { scratch.multiply(a, b, then, (target.get().add(row * n + col), n)) };
    });
}

/// What a thread multiplies 16-bit tiles with.
struct Scratch<T> {
    left: PackedLeft<T>,
    right: Packed<T>,
    product: Vec<T>,
}

impl<T: Real> Scratch<T> {
    /// Rows and inner elements that are packed at a time: there is room in the caches for so many rows of the left matrix
    /// and a panel of the right one.
    const ROWS: usize = 96;
    const DEPTH: usize = 256;

    fn new() -> Self {
        Scratch { left: PackedLeft::new(), right: Packed::new(), product: Vec::new() }
    }

    /// One tile of the product; its rows are `c_stride` apart.
    ///
    /// # Safety
    /// The elements of the tile are initialised and nobody else's.
    unsafe fn multiply<E: Stored<Real = T>>(
        &mut self,
        a: Mat<E>,
        b: Mat<E>,
        then: Then,
        (c, c_stride): (*mut E, usize),
    ) {
        if let Some(c) = E::as_real(c) {
            let beta = if then == Then::Add { T::ONE } else { T::ZERO };
            let ((a_start, a_row, a_col), (b_start, b_row, b_col)) = (a.raw(), b.raw());
            let (left, right) = ((a_start.cast(), a_row, a_col), (b_start.cast(), b_row, b_col));
            // SAFETY: `Mat` checked the extents of a and b, the caller promises that of c, and elements are of type T.
            unsafe {
                T::gemm((a.rows, a.cols, b.cols), T::ONE, left, right, beta, (c, c_stride as isize, 1));
            }
            return;
        }
        let stride = self.widen_and_multiply(a, b);
        for (row, product) in self.product.chunks_exact(stride).enumerate() {
            // SAFETY: this row of the tile is nobody else's.
            let c = unsafe { std::slice::from_raw_parts_mut(c.add(row * c_stride), b.cols) };
            round(c, product, then);
        }
    }

    /// The product in whole panels, whose rows are as far apart as is returned.
    fn widen_and_multiply<E: Stored<Real = T>>(&mut self, a: Mat<E>, b: Mat<E>) -> usize {
        let ((rows, inner), stride) = (a.size(), b.cols.next_multiple_of(tile::PANEL));
        self.product.resize(rows * stride, T::ZERO);
        for first in (0..inner).step_by(Self::DEPTH) {
            let depth = first..inner.min(first + Self::DEPTH);
            let then = if first == 0 { Then::Overwrite } else { Then::Add };
            self.right.pack(b.part(depth.clone(), 0..b.cols));
            for (i, product) in self.product.chunks_mut(Self::ROWS * stride).enumerate() {
                let row = i * Self::ROWS;
                self.left.pack(a.part(row..rows.min(row + Self::ROWS), depth.clone()));
                tile::multiply(self.left.all(), self.right.all(), T::ONE, then, product, stride);
            }
        }
        stride
    }
}

vectorised! {
    fn round<E: Stored>(c: &mut [E], product: &[E::Real], then: Then) {
        match then {
            Then::Overwrite => c.iter_mut().zip(product).for_each(|(c, x)| *c = E::round(*x)),
            Then::Add => c.iter_mut().zip(product).for_each(|(c, x)| *c = E::round(c.widen() + *x)),
        }
    }
}

/// Tiles large enough that packing the operands is cheap, and enough of them to keep the threads busy.
fn tile_size(m: usize, n: usize, k: usize) -> (usize, usize) {
    const ENOUGH_TILES: usize = 8;
    const ENOUGH_WORK: usize = 1 << 20; // multiplications worth handing to another thread
    let (mut tile_m, mut tile_n) = (m.clamp(1, 256), n.clamp(1, 512));
    while m.div_ceil(tile_m) * n.div_ceil(tile_n) < ENOUGH_TILES
        && tile_m.max(tile_n) >= 64
        && tile_m * tile_n * k > 2 * ENOUGH_WORK
    {
        if tile_n > tile_m {
            tile_n = (tile_n / 2).next_multiple_of(16);
        } else {
            tile_m = (tile_m / 2).next_multiple_of(8);
        }
    }
    (tile_m, tile_n)
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f64> {
        (0..count).map(|i| ((i * 31 + seed * 17) % 23) as f64 / 8.0 - 1.25).collect()
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![0..20usize, 90..100usize, 250..300usize]
    }

    /// The product in `E`, of `values` as they are or transposed in memory.
    fn product<E: Stored>(sizes: [usize; 3], transposed: [bool; 2], then: Then) -> Vec<f64> {
        let [m, k, n] = sizes;
        let stored = |values: Vec<f64>| -> Vec<E> { values.into_iter().map(E::from_f64).collect() };
        let (a, b, mut c) = (stored(values(m * k, 1)), stored(values(k * n, 2)), stored(values(m * n, 3)));
        let matrix = |data, (rows, cols), transposed| match transposed {
            true => Mat::new(data, (rows, cols), (1, rows)),
            false => Mat::new(data, (rows, cols), (cols, 1)),
        };
        let (a, b) = (matrix(&a, (m, k), transposed[0]), matrix(&b, (k, n), transposed[1]));
        multiply(a, b, then, &mut c);
        c.into_iter().map(E::to_f64).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Of every type and layout, over one tile and several. The values are few bits wide, so that sums are exact in any
        /// order.
        #[test]
        fn products_of_any_type_size_and_order_are_those_of_the_formula(
            m in size(), k in size(), n in size(), transposed: [bool; 2], add: bool
        ) {
            let then = if add { Then::Add } else { Then::Overwrite };
            let (left, right, before) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            let exact: Vec<f64> = (0..m * n).map(|i| {
                let (row, col) = (i / n, i % n);
                let a = |i: usize| left[if transposed[0] { i * m + row } else { row * k + i }];
                let b = |i: usize| right[if transposed[1] { col * k + i } else { i * n + col }];
                (if add { before[i] } else { 0.0 }) + (0..k).map(|i| a(i) * b(i)).sum::<f64>()
            }).collect();
            prop_assert_eq!(&product::<f64>([m, k, n], transposed, then), &exact);
            prop_assert_eq!(&product::<f32>([m, k, n], transposed, then), &exact);
            let rounded: Vec<f64> = exact.iter().map(|x| bf16::from_f64(*x).to_f64()).collect();
            prop_assert_eq!(&product::<bf16>([m, k, n], transposed, then), &rounded);
        }
    }
}
