//! Rotary position embedding.

use crate::check_len;

/// Which elements of a head turn, and how fast (Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34).
#[derive(Clone, Debug)]
pub struct Rope<'a> {
    /// Radians per position of each pair: half as many as elements that turn.
    pub frequencies: &'a [f64],
    /// What the result is multiplied by (YaRN's attention factor, Peng et al. 2023, arXiv 2309.00071, section 3.4).
    pub factor: f64,
    /// Pair `i` is elements `2i` and `2i + 1`; else `i` and `i + n`, of `n` pairs.
    pub interleaved: bool,
}

impl Rope<'_> {
    /// The elements of pair `i`.
    fn pair(&self, i: usize) -> (usize, usize) {
        if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + self.frequencies.len()) }
    }
}

/// Turns pair `i` of each row of `x` by `positions[row] * frequencies[i]`, times the factor; other elements stay.
///
/// `x`: `(positions, heads, head_dim)`, row-major.
#[must_use]
pub fn rope(x: &[f64], positions: &[u32], heads: usize, head_dim: usize, rope: &Rope) -> Vec<f64> {
    turned(x, positions, heads, head_dim, rope, 1.0)
}

/// The gradient of [`rope`] by `x`: the upstream gradient, turned back, times the factor.
#[must_use]
pub fn rope_backward(
    dout: &[f64],
    positions: &[u32],
    heads: usize,
    head_dim: usize,
    rope: &Rope,
) -> Vec<f64> {
    turned(dout, positions, heads, head_dim, rope, -1.0)
}

fn turned(
    x: &[f64],
    positions: &[u32],
    heads: usize,
    head_dim: usize,
    rope: &Rope,
    direction: f64,
) -> Vec<f64> {
    check_len("x", x, positions.len() * heads * head_dim);
    assert!(2 * rope.frequencies.len() <= head_dim, "more frequencies than pairs in {head_dim} elements");
    let mut out = x.to_vec();
    for (row, out) in out.chunks_exact_mut(head_dim.max(1)).enumerate() {
        let position = f64::from(positions[row / heads]);
        for (i, frequency) in rope.frequencies.iter().enumerate() {
            let (sin, cos) = (direction * position * frequency).sin_cos();
            let (a, b) = rope.pair(i);
            let (x, y) = (out[a], out[b]);
            out[a] = rope.factor * (x * cos - y * sin);
            out[b] = rope.factor * (x * sin + y * cos);
        }
    }
    out
}
