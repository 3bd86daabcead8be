//! Attention by context length, against the algorithm that keeps the T x T matrix.
//!
//! One batch, 4 heads of 64, causal. Throughput counts the operations that the mask lets through.

mod gpu;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longhand_benches::{attention_flops, naive_attention, normal};
use longhand_tensor::{Result, Tensor, no_grad, ops};

const HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const TOKENS: [usize; 6] = [256, 512, 1024, 2048, 4096, 8192];

type Attention = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;

fn blocked(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    ops::attention(q, k, v, &ops::AttentionOptions { causal: true, ..Default::default() })
}

fn naive(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let [q, k, v] = [q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?];
    naive_attention(&q, &k, &v, true)
}

fn cpu(c: &mut Criterion) {
    for (pass, forward_parts) in [("forward", 2), ("forward_backward", 7)] {
        let mut group = c.benchmark_group(format!("attention/{pass}/cpu_f32"));
        for tokens in TOKENS {
            let operations = attention_flops(HEADS, tokens, HEAD_DIM, true) * forward_parts / 2;
            group.throughput(Throughput::Elements(operations));
            for (name, attention) in [("longhand", blocked as Attention), ("naive", naive)] {
                let qkv: [Tensor; 3] = std::array::from_fn(|_| {
                    normal(&[1, tokens, HEADS, HEAD_DIM]).expect("memory").requires_grad()
                });
                let [q, k, v] = &qkv;
                group.bench_function(BenchmarkId::new(name, tokens), |b| {
                    if pass == "forward" {
                        b.iter(|| no_grad(|| attention(q, k, v)).expect("shapes fit"));
                    } else {
                        b.iter(|| {
                            attention(q, k, v).and_then(|out| out.sum_all()?.backward()).expect("shapes fit")
                        });
                    }
                });
            }
        }
    }
}

criterion_group! { name = benches; config = longhand_benches::criterion(); targets = cpu, gpu::gpu }
criterion_main!(benches);
