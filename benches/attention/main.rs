//! Attention by context length, forward and backward. Throughput counts the operations that the mask lets through.
//!
//! On the CPU one batch of 4 heads of 64, causal, beside the algorithm that keeps the T x T matrix.

mod gpu;

use anyhow::Result;
use longhand_benches::{Bench, Row, attention_flops, naive_attention, normal};
use longhand_tensor::{Tensor, no_grad, ops};

const HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const TOKENS: [usize; 7] = [256, 512, 1024, 2048, 4096, 8192, 16_384];
/// Beyond, the matrices of the naive algorithm take gigabytes.
const NAIVE_TOKENS: usize = 4096;

type Attention = fn(&Tensor, &Tensor, &Tensor) -> longhand_tensor::Result<Tensor>;

fn flash(q: &Tensor, k: &Tensor, v: &Tensor) -> longhand_tensor::Result<Tensor> {
    ops::attention(q, k, v, &ops::AttentionOptions { causal: true, ..Default::default() })
}

fn naive(q: &Tensor, k: &Tensor, v: &Tensor) -> longhand_tensor::Result<Tensor> {
    let [q, k, v] = [q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?];
    naive_attention(&q, &k, &v, true)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for tokens in TOKENS {
        for (name, attention) in [("longhand", flash as Attention), ("naive", naive)] {
            if name == "naive" && tokens > NAIVE_TOKENS {
                continue;
            }
            let row = |pass: &str| {
                let row =
                    Row::new(&format!("attention {pass}"), "f32", "T", tokens).variant("causal D64").by(name);
                row.sizes([("B", 1), ("H", HEADS), ("Hkv", HEADS), ("D", HEAD_DIM)])
            };
            let flops = attention_flops(1, HEADS, tokens, HEAD_DIM, true);
            let inputs = || -> Result<[Tensor; 3]> {
                let tensor = || normal(&[1, tokens, HEADS, HEAD_DIM]);
                Ok([tensor()?.requires_grad(), tensor()?.requires_grad(), tensor()?.requires_grad()])
            };
            bench.measure(row("forward").flops(flops), || {
                let [q, k, v] = inputs()?;
                Ok(move || Ok(no_grad(|| attention(&q, &k, &v))?))
            })?;
            bench.measure_prepared(row("backward").flops(flops * 5 / 2), || {
                let [q, k, v] = inputs()?;
                let forward = move || Ok(attention(&q, &k, &v)?.sum_all()?);
                Ok((forward, |sum: Tensor| Ok(sum.backward()?)))
            })?;
        }
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu::gpu)
}
