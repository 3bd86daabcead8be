//! One AdamW step of f32 by number of parameters: 28 bytes move for each (read p, g, m, v; write p, m, v). Ours reads g once
//! more before, since a step whose gradients are not finite is skipped.

mod gpu;

use anyhow::Result;
use longhand_benches::{Bench, Row, normal};
use longhand_tensor::{AdamW, AdamWOptions};

const PARAMETERS: [usize; 4] = [1 << 20, 1 << 22, 1 << 24, 1 << 26];

fn row(count: usize) -> Row {
    Row::new("AdamW", "f32", "P", count).moves(28 * count)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for count in PARAMETERS {
        bench.measure(row(count).needs(24 * count), || {
            let parameter = normal(&[count])?.requires_grad();
            let gradients = parameter.mul(&parameter)?.sum_all()?.backward()?;
            let mut optimiser = AdamW::new(vec![("p".to_owned(), parameter)], AdamWOptions::default())?;
            Ok(move || Ok(optimiser.step(&gradients, 1e-5)?))
        })?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu::gpu)
}
