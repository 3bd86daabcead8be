//! Layer norm + residual, forward and backward, by context length and by width, in bytes that have to move.
//!
//! Forward reads `x` and the residual and writes the sum and the output; backward reads the two gradients and the sum
//! and writes one gradient for both.

mod gpu;

use anyhow::Result;
use longhand_benches::{Bench, Row, normal};
use longhand_tensor::{Tensor, no_grad, ops};

const WIDTH: usize = 768;
const TOKENS: [usize; 7] = [256, 512, 1024, 2048, 4096, 8192, 16_384];
const WIDTHS: [usize; 4] = [768, 4096, 16_384, 65_536];
/// Elements of a tensor while the width varies.
const ELEMENTS: usize = 1 << 22;

/// `axis` is what varies: `N`, rows, or `W`, their width.
fn row(pass: &str, axis: &str, rows: usize, width: usize, element: (&str, usize)) -> Row {
    let (dtype, bytes) = element;
    let (value, variant) = match axis {
        "N" => (rows, format!("residual W{width}")),
        _ => (width, format!("residual {}M elements", (rows * width) >> 20)),
    };
    let row = Row::new(&format!("layer norm {pass}"), dtype, axis, value).variant(&variant);
    row.sizes([("N", rows), ("W", width)]).moves(4 * rows * width * bytes)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    let by_tokens = TOKENS.map(|tokens| ("N", tokens, WIDTH));
    let by_width = WIDTHS.map(|width| ("W", ELEMENTS / width, width));
    for (axis, rows, width) in by_tokens.into_iter().chain(by_width) {
        let norm = || -> Result<_> {
            let tensor = |shape: &[usize]| -> Result<Tensor> { Ok(normal(shape)?.requires_grad()) };
            let [x, residual] = [tensor(&[rows, width])?, tensor(&[rows, width])?];
            let [weight, bias] = [tensor(&[width])?, tensor(&[width])?];
            Ok(move || ops::layer_norm_residual(&x, Some(&residual), &weight, &bias, 1e-5))
        };
        bench.measure(row("forward", axis, rows, width, ("f32", 4)), || {
            let norm = norm()?;
            Ok(move || Ok(no_grad(&norm)?))
        })?;
        bench.measure_prepared(row("backward", axis, rows, width, ("f32", 4)), || {
            let norm = norm()?;
            let forward = move || {
                let (y, sum) = norm()?;
                Ok(y.add(&sum)?.sum_all()?)
            };
            Ok((forward, |sum: Tensor| Ok(sum.backward()?)))
        })?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu::gpu)
}
