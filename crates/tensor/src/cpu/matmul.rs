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

use rayon::prelude::*;

use super::Real;
use super::parallel::Shared;

/// A matrix in memory that is only read.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Real> Mat<'a, T> {
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

    /// The first element, and the distance to the next row and the next column.
    pub(crate) fn raw(self) -> (*const T, isize, isize) {
        (self.data.as_ptr(), self.row_stride as isize, self.col_stride as isize)
    }
}

fn check_extent(len: usize, (rows, cols): (usize, usize), (row_stride, col_stride): (usize, usize)) {
    if rows > 0 && cols > 0 {
        let last = (rows - 1) * row_stride + (cols - 1) * col_stride;
        assert!(last < len, "a {rows} x {cols} matrix reaches element {last} of {len}");
    }
}

/// `c = beta c + a b` on all threads; `c` is row-major and contiguous.
///
/// Each element is summed in the same order whatever the tiles, so the result does not depend on the threads.
pub(crate) fn multiply<T: Real>(a: Mat<T>, b: Mat<T>, beta: T, c: &mut [T]) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert_eq!(c.len(), m * n, "size of the product");
    let (tile_m, tile_n) = tile(m, n, k);
    let (down, across) = (m.div_ceil(tile_m), n.div_ceil(tile_n));
    let target = Shared::new(c);
    let work = |index: usize| {
        let (row, col) = (index / across * tile_m, index % across * tile_n);
        let size = (tile_m.min(m - row), k, tile_n.min(n - col));
        let ((a, a_row, a_col), (b, b_row, b_col)) = (a.raw(), b.raw());
        // SAFETY: the tile lies within a, b and c, whose extents were checked; tiles of c do not overlap, and c is
        // borrowed mutably for as long as the threads run.
        unsafe {
            let a = (a.offset(row as isize * a_row), a_row, a_col);
            let b = (b.offset(col as isize * b_col), b_row, b_col);
            T::gemm(size, T::ONE, a, b, beta, (target.get().add(row * n + col), n as isize, 1));
        }
    };
    match down * across {
        0 => {}
        1 => work(0),
        tiles => (0..tiles).into_par_iter().for_each(work),
    }
}

/// Tiles large enough that packing the operands is cheap, and enough of them to keep the threads busy.
fn tile(m: usize, n: usize, k: usize) -> (usize, usize) {
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
