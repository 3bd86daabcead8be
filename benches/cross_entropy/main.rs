//! Cross-entropy by size of the vocabulary, in bytes of logits: forward reads them, backward reads them and writes their
//! gradient. And a whole output head, linear + cross-entropy, with the gradients of its input and its weight, in the
//! operations of its three products.

mod gpu;

use anyhow::Result;
use longhand_benches::{Bench, Row, normal};
use longhand_tensor::ops::LossOptions;
use longhand_tensor::{Device, Dtype, Tensor, no_grad, ops};

const ROWS: usize = 128;
const VOCABULARIES: [usize; 3] = [32_768, 65_536, 262_144];
const HEAD_ROWS: usize = 1024;
const HEAD_WIDTH: usize = 256;

fn row(pass: &str, rows: usize, vocabulary: usize, element: (&str, usize)) -> Row {
    let (dtype, bytes) = element;
    let moved = rows * vocabulary * bytes * if pass == "forward" { 1 } else { 2 };
    Row::new(&format!("cross-entropy {pass}"), dtype, "V", vocabulary).sizes([("N", rows)]).moves(moved)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for vocabulary in VOCABULARIES {
        let loss = || -> Result<_> {
            let logits = normal(&[ROWS, vocabulary])?.requires_grad();
            let targets = Tensor::from_vec(targets(ROWS, vocabulary), &[ROWS], &Device::Cpu)?;
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
    heads(bench, HEAD_ROWS, HEAD_WIDTH, &VOCABULARIES[..2], Dtype::F32)
}

/// `rows` of `width` into each vocabulary, on the bench's device.
fn heads(bench: &mut Bench, rows: usize, width: usize, vocabularies: &[usize], dtype: Dtype) -> Result<()> {
    let device = bench.place().device();
    for &vocabulary in vocabularies {
        let row = Row::new("linear cross-entropy", &dtype.to_string(), "V", vocabulary);
        let flops = 3 * 2 * (rows * width * vocabulary) as u64;
        // Of 4 bytes the weight, its gradient and the logits of some rows, which are about as many as the weight's.
        let row = row.variant(&format!("W{width}")).sizes([("N", rows), ("W", width)]).flops(flops);
        bench.measure(row.needs(3 * 4 * vocabulary * width), || {
            let random = |shape: &[usize]| -> Result<Tensor> {
                Ok(normal(shape)?.to_dtype(dtype)?.to_device(&device)?.requires_grad())
            };
            let (hidden, weight) = (random(&[rows, width])?, random(&[vocabulary, width])?);
            let targets = Tensor::from_vec(targets(rows, vocabulary), &[rows], &device)?;
            Ok(move || {
                let options = LossOptions::default();
                Ok(ops::linear_cross_entropy(&hidden, &weight, &targets, &options)?.backward()?)
            })
        })?;
    }
    Ok(())
}

fn targets(rows: usize, vocabulary: usize) -> Vec<u32> {
    (0..rows).map(|i| (i * 7919 % vocabulary) as u32).collect()
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu::gpu)
}
