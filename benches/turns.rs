//! Work on the CPU that another program times in turns with its own: `benches/peers/turns.py`.
//!
//! Reads a JSON object a line: `{"operation": "matmul", "dtype": "f32", "sizes": {"M": 2048, ...}}` prepares, `{"run": 3}`
//! runs it so often and answers with nanoseconds, `{"peak": true}` answers with the most memory that this process had, in
//! bytes.

use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use longhand_benches::seeded;
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::ops::{self, AttentionOptions, LossOptions, NormOptions, Rope, SampleOptions};
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, KvCache, Random, Tensor, no_grad};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;
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
    let size =
        |letter: &str| asked["sizes"][letter].as_u64().map(|size| size as usize).context(letter.to_owned());
    let dtype = match asked["dtype"].as_str() {
        Some("bf16") => Dtype::Bf16,
        _ => Dtype::F32,
    };
    match asked["operation"].as_str() {
        Some("attention forward") => attention([size("T")?, size("H")?, size("D")?], dtype, false),
        Some("attention forward + backward") => attention([size("T")?, size("H")?, size("D")?], dtype, true),
        Some("attention decode") => {
            let paged = asked["variant"].as_str().is_some_and(|variant| variant.starts_with("paged"));
            decode([size("S")?, size("H")?, size("D")?], dtype, paged)
        }
        Some("matmul") => matmul([size("M")?, size("K")?, size("N")?], dtype),
        Some("layer norm forward + backward") => layer_norm([size("N")?, size("W")?]),
        Some("rope") => rope([size("T")?, size("H")?, size("Hkv")?, size("D")?]),
        Some("AdamW") => adamw(size("P")?),
        Some("softmax forward + backward") => softmax([size("N")?, size("W")?]),
        Some("linear cross-entropy") => output_head([size("N")?, size("W")?, size("V")?]),
        Some("sampling") => sampling([size("N")?, size("V")?]),
        Some("training step") => step(size("T")?, dtype),
        Some("copy") => copy(size("bytes")?),
        other => bail!("no such operation: {other:?}"),
    }
}

/// Normal deviates, other ones each time.
fn draw(rng: &mut StdRng, shape: &[usize], dtype: Dtype) -> Result<Tensor> {
    Ok(Tensor::randn(shape, 1.0, Dtype::F32, &Device::Cpu, rng)?.to_dtype(dtype)?)
}

/// Causal, of one sequence.
fn attention([tokens, heads, dim]: [usize; 3], dtype: Dtype, backward: bool) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut draw = || draw(&mut rng, &[1, tokens, heads, dim], dtype);
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

/// One new token over a cache in one piece, or in pages of 16 tokens.
fn decode([keys, heads, dim]: [usize; 3], dtype: Dtype, paged: bool) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut draw = |tokens| draw(&mut rng, &[1, tokens, heads, dim], dtype);
    let mut cache = if paged { KvCache::new(1).paged(16) } else { KvCache::new(1) };
    cache.append(&draw(keys)?, &draw(keys)?, None)?;
    let q = draw(1)?;
    let options = AttentionOptions { causal: true, ..Default::default() };
    Ok(Box::new(move || {
        no_grad(|| ops::attention_decode(&q, &cache, &options))?;
        Ok(())
    }))
}

fn matmul([m, k, n]: [usize; 3], dtype: Dtype) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let (a, b) = (draw(&mut rng, &[m, k], dtype)?, draw(&mut rng, &[k, n], dtype)?);
    Ok(Box::new(move || {
        no_grad(|| a.matmul(&b))?;
        Ok(())
    }))
}

/// Layer norm of a sum with the residual, with all its gradients.
fn layer_norm([rows, width]: [usize; 2]) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut draw = |shape: &[usize]| draw(&mut rng, shape, Dtype::F32);
    let seeds = [draw(&[rows, width])?, draw(&[rows, width])?];
    let [x, residual] = [draw(&[rows, width])?.requires_grad(), draw(&[rows, width])?.requires_grad()];
    let [weight, bias] = [draw(&[width])?.requires_grad(), draw(&[width])?.requires_grad()];
    let options = NormOptions::new(1e-5);
    Ok(Box::new(move || {
        let (y, sum) = ops::layer_norm(&x, Some(&residual), Some(&weight), Some(&bias), &options)?;
        seeded(&[&y, &sum], &seeds)?.backward()?;
        Ok(())
    }))
}

fn rope([tokens, heads, kv_heads, dim]: [usize; 4]) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut draw = |heads| draw(&mut rng, &[1, tokens, heads, dim], Dtype::F32);
    let (q, k) = (draw(heads)?, draw(kv_heads)?);
    let rope = Rope::new(dim, 1e4, &Device::Cpu)?;
    let positions = Tensor::from_vec((0..tokens as u32).collect(), &[tokens], &Device::Cpu)?;
    Ok(Box::new(move || {
        no_grad(|| ops::rope(&q, &k, &positions, &rope))?;
        Ok(())
    }))
}

/// A step with one parameter.
fn adamw(count: usize) -> Result<Work> {
    let parameter = draw(&mut StdRng::seed_from_u64(1), &[count], Dtype::F32)?.requires_grad();
    let gradients = parameter.mul(&parameter)?.sum_all()?.backward()?;
    let mut optimiser = AdamW::new(vec![("p".to_owned(), parameter)], AdamWOptions::default())?;
    Ok(Box::new(move || {
        optimiser.step(&gradients, 1e-5)?;
        Ok(())
    }))
}

fn softmax([rows, width]: [usize; 2]) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let x = draw(&mut rng, &[rows, width], Dtype::F32)?.requires_grad();
    let seed = draw(&mut rng, &[rows, width], Dtype::F32)?;
    Ok(Box::new(move || {
        seeded(&[&ops::softmax(&x)?], std::slice::from_ref(&seed))?.backward()?;
        Ok(())
    }))
}

/// Linear and cross-entropy, with the gradients of the input and the weight.
fn output_head([rows, width, classes]: [usize; 3]) -> Result<Work> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut draw =
        |rows| -> Result<Tensor> { Ok(draw(&mut rng, &[rows, width], Dtype::F32)?.requires_grad()) };
    let (hidden, weight) = (draw(rows)?, draw(classes)?);
    let targets = (0..rows).map(|i| (i * 7919 % classes) as u32).collect();
    let targets = Tensor::from_vec(targets, &[rows], &Device::Cpu)?;
    Ok(Box::new(move || {
        ops::linear_cross_entropy(&hidden, &weight, &targets, &LossOptions::default())?.backward()?;
        Ok(())
    }))
}

/// A token of each row.
fn sampling([rows, classes]: [usize; 2]) -> Result<Work> {
    let logits = draw(&mut StdRng::seed_from_u64(1), &[rows, classes], Dtype::F32)?;
    let options = SampleOptions { temperature: 0.8, top_k: Some(50), top_p: 0.9 };
    Ok(Box::new(move || {
        ops::sample(&logits, &options, Random::default())?;
        Ok(())
    }))
}

/// On all threads: what work that only moves bytes is measured against.
fn copy(bytes: usize) -> Result<Work> {
    const CHUNK: usize = 1 << 20;
    let (source, mut target) = (vec![1u8; bytes], vec![2u8; bytes]);
    Ok(Box::new(move || {
        let chunks = target.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK));
        chunks.for_each(|(target, source)| target.copy_from_slice(source));
        Ok(())
    }))
}

/// Of GPT-2 124M, on one window: forward, backward, clipping and AdamW.
fn step(tokens: usize, dtype: Dtype) -> Result<Work> {
    let config = Gpt2Config { n_positions: tokens, ..Gpt2Config::default() };
    let model = Gpt2::new(config, &Device::Cpu, dtype, &mut StdRng::seed_from_u64(1))?;
    let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
    let options = AdamWOptions { max_grad_norm: Some(1.0), ..AdamWOptions::default() };
    let mut optimiser = AdamW::new(parameters, options)?;
    let mut rng = StdRng::seed_from_u64(2);
    let ids: Vec<u32> = (0..=tokens).map(|_| rng.next_u32() % 50_257).collect();
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
