//! A whole training step of GPT-2 by context length, as many tokens a step whatever the context: forward, backward,
//! clipping and AdamW, in tokens per second.
//!
//! On a GPU the 124M model in bf16; on the CPU a small one, whose step takes a second.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row};
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    vocabulary: usize,
    width: usize,
    layers: usize,
    heads: usize,
    /// In a step.
    tokens: usize,
}

const SMALL: Model =
    Model { name: "GPT-2 4x256", vocabulary: 2048, width: 256, layers: 4, heads: 4, tokens: 2048 };
const MEDIUM: Model =
    Model { name: "GPT-2 124M", vocabulary: 50_257, width: 768, layers: 12, heads: 12, tokens: 16_384 };
const TINY: Model = Model { name: "GPT-2 1x64", vocabulary: 64, width: 64, layers: 1, heads: 1, tokens: 32 };

struct Training {
    model: Gpt2,
    optimiser: AdamW,
    inputs: Tensor,
    targets: Tensor,
}

impl Training {
    fn new(shape: Model, context: usize, device: &Device, dtype: Dtype) -> Result<Training> {
        let mut rng = StdRng::seed_from_u64(1);
        let config = Gpt2Config {
            vocab_size: shape.vocabulary,
            n_positions: context,
            n_embd: shape.width,
            n_layer: shape.layers,
            n_head: shape.heads,
            ..Default::default()
        };
        let ids: Vec<u32> = (0..=shape.tokens).map(|_| rng.next_u32() % shape.vocabulary as u32).collect();
        let batch = [shape.tokens / context, context];
        let model = Gpt2::new(config, device, dtype, &mut rng)?;
        let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
        Ok(Training {
            model,
            optimiser: AdamW::new(
                parameters,
                AdamWOptions { max_grad_norm: Some(1.0), ..AdamWOptions::default() },
            )?,
            inputs: Tensor::from_slice(&ids[..shape.tokens], &batch, device)?,
            targets: Tensor::from_slice(&ids[1..], &batch, device)?,
        })
    }

    /// The loss is read back: the step is over when it is known.
    fn step(&mut self) -> Result<()> {
        let loss = self.model.loss(&self.inputs, &self.targets)?;
        self.optimiser.step(&loss.backward()?, 1e-4)?;
        loss.item()?;
        Ok(())
    }
}

fn steps(bench: &mut Bench, shape: Model, contexts: &[usize], dtype: Dtype) -> Result<()> {
    let device = bench.place().device();
    for &context in contexts {
        let row = Row::new("training step", &dtype.to_string(), "T", context).variant(shape.name);
        let sizes = [
            ("B", shape.tokens / context),
            ("V", shape.vocabulary),
            ("W", shape.width),
            ("L", shape.layers),
            ("H", shape.heads),
        ];
        bench.measure(row.sizes(sizes).of(shape.tokens as u64, "token"), || {
            let mut training = Training::new(shape, context, &device, dtype)?;
            Ok(move || training.step())
        })?;
    }
    Ok(())
}

fn cpu(bench: &mut Bench) -> Result<()> {
    steps(bench, SMALL, &[256, 512, 1024, 2048], Dtype::F32)
}

fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    let shape = if gpu.device.is_emulated() { TINY } else { MEDIUM };
    steps(bench, shape, &gpu.lengths(&[1024, 2048, 4096, 8192, 16_384], 32), Dtype::Bf16)
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu)
}
