use super::to_f32;
use crate::Precision;
use longhand_reference::Rope;

/// Rotary position embedding, or its gradient: sines and cosines rounded to f32, f32 products and sums.
///
/// Frameworks that multiply position and frequency in f32, too, are off by far more at long positions.
#[must_use]
pub fn rope(
    precision: Precision,
    x: &[f64],
    positions: &[u32],
    heads: usize,
    head_dim: usize,
    rope: &Rope,
    backward: bool,
) -> Vec<f64> {
    let direction = if backward { -1.0 } else { 1.0 };
    let pairs = rope.frequencies.len();
    let mut out = to_f32(x);
    for (row, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let position = f64::from(positions[row / heads]);
        for (i, frequency) in rope.frequencies.iter().enumerate() {
            let (sin, cos) = (direction * position * frequency).sin_cos();
            let [sin, cos] = [sin, cos].map(|x| x as f32 * rope.factor as f32);
            let (a, b) = if rope.interleaved { (2 * i, 2 * i + 1) } else { (i, i + pairs) };
            let (x, y) = (out[a], out[b]);
            out[a] = x * cos - y * sin;
            out[b] = x * sin + y * cos;
        }
    }
    out.into_iter().map(|x| precision.round(x).into()).collect()
}
