//! A whole training step of a small GPT-2 by context length, 2048 tokens a step whatever the context: forward, backward,
//! clipping and AdamW. On the GPU as well, where there is one.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, Result, Tensor, clip_grad_norm};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TOKENS: usize = 2048;
const CONTEXTS: [usize; 4] = [256, 512, 1024, 2048];

struct Training {
    model: Gpt2,
    optimiser: AdamW,
    inputs: Tensor,
    targets: Tensor,
}

impl Training {
    fn new(context: usize, device: &Device, dtype: Dtype) -> Result<Training> {
        let mut rng = StdRng::seed_from_u64(1);
        let config = Gpt2Config {
            vocab_size: 2048,
            n_positions: context,
            n_embd: 256,
            n_layer: 4,
            n_head: 4,
            ..Default::default()
        };
        let ids: Vec<u32> = (0..=TOKENS).map(|_| rng.next_u32() % 2048).collect();
        let shape = [TOKENS / context, context];
        let model = Gpt2::new(config, device, dtype, &mut rng).expect("the configuration is valid");
        let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
        Ok(Training {
            model,
            optimiser: AdamW::new(parameters, AdamWOptions::default())?,
            inputs: Tensor::from_slice(&ids[..TOKENS], &shape, device)?,
            targets: Tensor::from_slice(&ids[1..], &shape, device)?,
        })
    }

    /// The loss, read back: the step is over when it is known.
    fn step(&mut self) -> f64 {
        let loss = self.model.loss(&self.inputs, &self.targets).expect("ids fit the model");
        let mut run = || -> Result<f64> {
            let mut gradients = loss.backward()?;
            clip_grad_norm(&mut gradients, self.model.parameters().iter().map(|p| &p.tensor), 1.0)?;
            self.optimiser.step(&gradients, 1e-4)?;
            loss.item()
        };
        run().expect("a step")
    }
}

fn steps(c: &mut Criterion, name: &str, device: &Device, dtype: Dtype) {
    let mut group = c.benchmark_group(format!("training_step/{name}"));
    group.throughput(Throughput::Elements(TOKENS as u64));
    for context in CONTEXTS {
        let mut training = Training::new(context, device, dtype).expect("a small model");
        group.bench_function(BenchmarkId::from_parameter(context), |b| b.iter(|| training.step()));
    }
}

fn training_step(c: &mut Criterion) {
    steps(c, "cpu_f32", &Device::Cpu, Dtype::F32);
    match Device::gpu(0) {
        Ok(gpu) => steps(c, "gpu_bf16", &gpu, Dtype::Bf16),
        Err(error) => eprintln!("training_step on the GPU: skipped: {error}"),
    }
}

criterion_group! { name = benches; config = longhand_benches::criterion(); targets = training_step }
criterion_main!(benches);
