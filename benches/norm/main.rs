//! Layer norm and RMSNorm + residual, forward and backward, by context length and by width, in bytes that have to move.
//!
//! Forward reads `x` and the residual and writes the sum and the output; backward reads the two gradients and the sum
//! and writes one gradient for both.

mod gpu;

use anyhow::Result;
use longhand_benches::{Bench, Row, normal};
use longhand_tensor::ops::NormOptions;
use longhand_tensor::{Tensor, no_grad, ops};

const WIDTH: usize = 768;
const TOKENS: [usize; 7] = [256, 512, 1024, 2048, 4096, 8192, 16_384];
const WIDTHS: [usize; 5] = [768, 4096, 16_384, 65_536, 131_072];
/// Elements of a tensor while the width varies.
const ELEMENTS: usize = 1 << 22;

/// Which of the two.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Layer,
    Rms,
}

const KINDS: [Kind; 2] = [Kind::Layer, Kind::Rms];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Layer => "layer norm",
            Kind::Rms => "RMSNorm",
        }
    }
}

/// `axis` is what varies: `N`, rows, or `W`, their width.
fn row(kind: Kind, pass: &str, axis: &str, rows: usize, width: usize, element: (&str, usize)) -> Row {
    let (dtype, bytes) = element;
    let (value, variant) = match axis {
        "N" => (rows, format!("residual W{width}")),
        _ => (width, format!("residual {}M elements", (rows * width).div_ceil(1 << 20))),
    };
    let row = Row::new(&format!("{} {pass}", kind.name()), dtype, axis, value).variant(&variant);
    row.sizes([("N", rows), ("W", width)]).moves(4 * rows * width * bytes)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    let by_tokens = TOKENS.map(|tokens| ("N", tokens, WIDTH));
    let by_width = WIDTHS.map(|width| ("W", ELEMENTS / width, width));
    for (axis, rows, width) in by_tokens.into_iter().chain(by_width) {
        for kind in KINDS {
            cpu_norm(bench, kind, axis, rows, width)?;
        }
    }
    Ok(())
}

fn cpu_norm(bench: &mut Bench, kind: Kind, axis: &str, rows: usize, width: usize) -> Result<()> {
    let norm = || -> Result<_> {
        let tensor = |shape: &[usize]| -> Result<Tensor> { Ok(normal(shape)?.requires_grad()) };
        let [x, residual] = [tensor(&[rows, width])?, tensor(&[rows, width])?];
        let [weight, bias] = [tensor(&[width])?, tensor(&[width])?];
        let options = NormOptions::new(1e-5);
        Ok(move || match kind {
            Kind::Layer => ops::layer_norm(&x, Some(&residual), Some(&weight), Some(&bias), &options),
            Kind::Rms => ops::rms_norm(&x, Some(&residual), Some(&weight), &options),
        })
    };
    bench.measure(row(kind, "forward", axis, rows, width, ("f32", 4)), || {
        let norm = norm()?;
        Ok(move || Ok(no_grad(&norm)?))
    })?;
    bench.measure_backward(row(kind, "backward", axis, rows, width, ("f32", 4)), || {
        let norm = norm()?;
        Ok(move || {
            let (y, sum) = norm()?;
            Ok(vec![y, sum])
        })
    })
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu::gpu)
}
