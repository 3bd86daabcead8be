//! Work on the CPU that another program times in turns with its own: `benches/peers/turns.py`.
//!
//! Reads a JSON object a line: `{"work": "attention", "tokens": 1024, ...}` prepares, `{"run": 3}` runs it so often and
//! answers with nanoseconds, `{"peak": true}` answers with the most memory that this process had, in bytes.

use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::ops::{self, AttentionOptions};
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, Tensor, no_grad};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

type Work = Box<dyn FnMut() -> Result<()>>;

fn main() -> Result<()> {
    let mut work: Option<Work> = None;
    for line in stdin().lock().lines() {
        let asked: Value = serde_json::from_str(&line?)?;
        let answer = if let Some(times) = asked["run"].as_u64() {
            let work = work.as_mut().context("nothing was prepared")?;
            let start = Instant::now();
            for _ in 0..times {
                work()?;
            }
            json!({ "nanoseconds": start.elapsed().as_nanos() as u64 })
        } else if asked["peak"] == true {
            json!({ "bytes": peak()? })
        } else {
            drop(work.take());
            work = Some(prepare(&asked)?);
            json!({})
        };
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn prepare(asked: &Value) -> Result<Work> {
    let tokens = asked["tokens"].as_u64().unwrap_or(0) as usize;
    let dtype = match asked["dtype"].as_str() {
        Some("bf16") => Dtype::Bf16,
        _ => Dtype::F32,
    };
    match asked["work"].as_str() {
        Some("attention forward") => attention(tokens, dtype, false),
        Some("attention forward + backward") => attention(tokens, dtype, true),
        Some("matmul") => matmul(tokens, dtype),
        Some("training step") => step(tokens, dtype, asked["checkpointing"] == true),
        other => bail!("no such work: {other:?}"),
    }
}

/// Causal, B 1, H 12, D 64.
fn attention(tokens: usize, dtype: Dtype, backward: bool) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut draw =
        || Tensor::randn(&[1, tokens, 12, 64], 1.0, Dtype::F32, &Device::Cpu, &mut rng)?.to_dtype(dtype);
    let inputs = [draw()?, draw()?, draw()?];
    let weights = draw()?;
    let options = AttentionOptions { causal: true, ..Default::default() };
    if !backward {
        return Ok(Box::new(move || {
            no_grad(|| ops::attention(&inputs[0], &inputs[1], &inputs[2], &options))?;
            Ok(())
        }));
    }
    let leaves = inputs.map(|input| input.requires_grad());
    Ok(Box::new(move || {
        let out = ops::attention(&leaves[0], &leaves[1], &leaves[2], &options)?;
        out.mul(&weights)?.sum_all()?.backward()?;
        Ok(())
    }))
}

/// `(tokens, 768)` by `(768, 3072)`.
fn matmul(tokens: usize, dtype: Dtype) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut draw =
        |shape: [usize; 2]| Tensor::randn(&shape, 1.0, Dtype::F32, &Device::Cpu, &mut rng)?.to_dtype(dtype);
    let (a, b) = (draw([tokens, 768])?, draw([768, 3072])?);
    Ok(Box::new(move || {
        a.matmul(&b)?;
        Ok(())
    }))
}

fn gpt2(tokens: usize, dtype: Dtype) -> Result<Gpt2> {
    let config = Gpt2Config { n_positions: tokens, ..Gpt2Config::default() };
    Ok(Gpt2::new(config, &Device::Cpu, dtype, &mut StdRng::seed_from_u64(1))?)
}

fn ids(count: usize) -> Vec<u32> {
    let mut rng = StdRng::seed_from_u64(2);
    (0..count).map(|_| rng.next_u32() % 50_257).collect()
}

/// Of GPT-2 124M, on one window: forward, backward, clipping and AdamW.
fn step(tokens: usize, dtype: Dtype, checkpointing: bool) -> Result<Work> {
    let mut model = gpt2(tokens, dtype)?;
    model.set_gradient_checkpointing(checkpointing);
    let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
    let options = AdamWOptions { max_grad_norm: Some(1.0), ..AdamWOptions::default() };
    let mut optimiser = AdamW::new(parameters, options)?;
    let ids = ids(tokens + 1);
    let inputs = Tensor::from_slice(&ids[..tokens], &[1, tokens], &Device::Cpu)?;
    let targets = Tensor::from_slice(&ids[1..], &[1, tokens], &Device::Cpu)?;
    Ok(Box::new(move || {
        let loss = model.loss(&inputs, &targets)?;
        optimiser.step(&loss.backward()?, 1e-4)?;
        loss.item()?;
        Ok(())
    }))
}

/// As the kernel of Linux counts it.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kibibytes = line.trim().trim_end_matches(" kB").trim();
    Ok(kibibytes.parse::<u64>()? * 1024)
}
