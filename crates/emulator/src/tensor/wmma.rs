//! `wmma` (PTX ISA, "Warp-level Matrix Instructions: wmma.load, wmma.store, wmma.mma").
//!
//! Which element of a matrix a lane holds where is not specified, and differs between GPUs: only these instructions know.
//! Here element `32 i + lane`, counted row after row, is a lane's element `i`. Where a fragment has more room, as those of
//! `.f16` have, the rest is 0. The sums are those of [`super::mma`].

use super::accumulator::Accumulator;
use super::element::Element;

/// What the lanes hold, element after element.
pub type Fragment = Vec<[u64; 32]>;

/// The row and the column of a lane's element.
pub fn place(columns: usize, lane: usize, element: usize) -> (usize, usize) {
    let index = 32 * element + lane;
    (index / columns, index % columns)
}

/// The types of a product.
#[derive(Clone, Copy, Debug)]
pub enum Types {
    Double,
    Mixed { a: Element, b: Element, c: Accumulator, d: Accumulator },
}

/// `d = a * b + c`, of a (m, k), b (k, n), c and d (m, n).
pub fn multiply(
    types: Types,
    (m, n, k): (usize, usize, usize),
    a: &Fragment,
    b: &Fragment,
    c: &Fragment,
) -> Fragment {
    let at = |of: &Fragment, columns: usize, row: usize, column: usize| {
        let index = row * columns + column;
        of[index / 32][index % 32]
    };
    let mut d = vec![[0; 32]; m * n / 32];
    for (element, values) in d.iter_mut().enumerate() {
        for (lane, value) in values.iter_mut().enumerate() {
            let (row, column) = place(n, lane, element);
            let terms = (0..k).map(|i| (at(a, k, row, i), at(b, n, i, column)));
            let c = at(c, n, row, column);
            *value = match types {
                Types::Double => {
                    let of = f64::from_bits;
                    terms.fold(of(c), |sum, (a, b)| of(a).mul_add(of(b), sum)).to_bits()
                }
                Types::Mixed { a: a_type, b: b_type, c: c_type, d: d_type } => {
                    let product = |(a, b)| a_type.value(a as u32) * b_type.value(b as u32);
                    let sum = terms.map(product).fold(c_type.value(c as u32), |sum, term| sum + term);
                    d_type.bits(sum).into()
                }
            };
        }
    }
    d
}
