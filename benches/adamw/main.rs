//! One AdamW step by number of parameters: 28 bytes move per f32 parameter (read p, g, m, v; write p, m, v).

mod gpu;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longhand_benches::normal;
use longhand_tensor::{AdamW, AdamWOptions};

const PARAMETERS: [usize; 3] = [1 << 20, 1 << 22, 1 << 24];

fn cpu(c: &mut Criterion) {
    let mut group = c.benchmark_group("adamw/cpu_f32");
    for count in PARAMETERS {
        group.throughput(Throughput::Bytes(28 * count as u64));
        let parameter = normal(&[count]).expect("memory").requires_grad();
        let loss = parameter.mul(&parameter).and_then(|x| x.sum_all()).expect("memory");
        let gradients = loss.backward().expect("the sum of squares has a gradient");
        let named = vec![("parameter".to_owned(), parameter)];
        let mut optimiser = AdamW::new(named, AdamWOptions::default()).expect("one parameter");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| optimiser.step(&gradients, 1e-5).expect("gradients fit"));
        });
    }
}

criterion_group! { name = benches; config = longhand_benches::criterion(); targets = cpu, gpu::gpu }
criterion_main!(benches);
