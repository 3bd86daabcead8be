//! Layer norm + residual, forward and backward, by context length: (T, 768) rows, in bytes that have to move.

mod gpu;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longhand_benches::normal;
use longhand_tensor::{no_grad, ops};

const WIDTH: usize = 768;
const TOKENS: [usize; 6] = [256, 512, 1024, 2048, 4096, 8192];

fn cpu(c: &mut Criterion) {
    // Forward reads x and residual and writes y and r; backward reads dy, dr and r and writes dx, once for both.
    for (pass, arrays) in [("forward", 4), ("forward_backward", 8)] {
        let mut group = c.benchmark_group(format!("norm/{pass}/cpu_f32"));
        for tokens in TOKENS {
            group.throughput(Throughput::Bytes((arrays * tokens * WIDTH * 4) as u64));
            let [x, residual] =
                std::array::from_fn(|_| normal(&[tokens, WIDTH]).expect("memory").requires_grad());
            let [weight, bias] = std::array::from_fn(|_| normal(&[WIDTH]).expect("memory").requires_grad());
            let norm = || ops::layer_norm_residual(&x, Some(&residual), &weight, &bias, 1e-5);
            group.bench_function(BenchmarkId::from_parameter(tokens), |b| {
                if pass == "forward" {
                    b.iter(|| no_grad(norm).expect("shapes fit"));
                } else {
                    b.iter(|| {
                        norm().and_then(|(y, r)| y.add(&r)?.sum_all()?.backward()).expect("shapes fit")
                    });
                }
            });
        }
    }
}

criterion_group! { name = benches; config = longhand_benches::criterion(); targets = cpu, gpu::gpu }
criterion_main!(benches);
