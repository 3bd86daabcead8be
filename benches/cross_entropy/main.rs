//! Cross-entropy by size of the vocabulary, in bytes of logits: forward reads them, backward reads them and writes their
//! gradient.

mod gpu;

use anyhow::Result;
use longhand_benches::{Bench, Row, normal};
use longhand_tensor::ops::LossOptions;
use longhand_tensor::{Device, Tensor, no_grad, ops};

const ROWS: usize = 128;
const VOCABULARIES: [usize; 3] = [32_768, 65_536, 262_144];

fn row(pass: &str, rows: usize, vocabulary: usize, element: (&str, usize)) -> Row {
    let (dtype, bytes) = element;
    let moved = rows * vocabulary * bytes * if pass == "forward" { 1 } else { 2 };
    Row::new(&format!("cross-entropy {pass}"), dtype, "V", vocabulary).sizes([("N", rows)]).moves(moved)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for vocabulary in VOCABULARIES {
        let loss = || -> Result<_> {
            let logits = normal(&[ROWS, vocabulary])?.requires_grad();
            let ids: Vec<u32> = (0..ROWS).map(|i| (i * 7919 % vocabulary) as u32).collect();
            let targets = Tensor::from_vec(ids, &[ROWS], &Device::Cpu)?;
            Ok(move || Ok(ops::cross_entropy(&logits, &targets, &LossOptions::default())?))
        };
        bench.measure(row("forward", ROWS, vocabulary, ("f32", 4)), || {
            let loss = loss()?;
            Ok(move || no_grad(&loss).map(drop))
        })?;
        bench.measure_prepared(row("backward", ROWS, vocabulary, ("f32", 4)), || {
            Ok((loss()?, |loss: Tensor| Ok(loss.backward()?)))
        })?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu::gpu)
}
