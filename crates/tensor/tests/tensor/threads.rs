//! Results do not depend on the number of threads.

use longhand_tensor::ops::{AttentionOptions, Gelu, LossOptions};
use longhand_tensor::{AdamW, Dtype, Result, Tensor, clip_grad_norm, ops};

use crate::{indices, tensor};

fn parameter(shape: &[usize], seed: u64) -> Tensor {
    tensor(shape, seed).scale(0.2).unwrap().to_dtype(Dtype::F32).unwrap().requires_grad()
}

/// One step of a small transformer layer that takes every operation over more than one piece of work. Returns the loss,
/// the norm of the gradients, and the parameters after the step.
fn step() -> Result<Vec<f32>> {
    let (batch, tokens, width, heads, vocabulary) = (2, 150, 96, 3, 300);
    let table = parameter(&[vocabulary, width], 1);
    let (scale, shift) = (parameter(&[width], 2), parameter(&[width], 3));
    let qkv = parameter(&[width, 3 * width], 4);
    let (up, up_bias) = (parameter(&[width, 4 * width], 5), parameter(&[4 * width], 6));
    let down = parameter(&[4 * width, width], 7);
    let ids: Vec<u32> = (0..(batch * tokens) as u32).map(|i| i * 7919 % vocabulary as u32).collect();

    let x = ops::embedding(&table, &indices(&ids, &[batch, tokens]))?;
    let norm = ops::NormOptions::new(1e-5);
    let (y, x) = ops::layer_norm(&x, None, Some(&scale), Some(&shift), &norm)?;
    let parts = ops::linear(&y, &qkv, None)?.reshape(&[batch, tokens, 3 * heads, width / heads])?;
    let parts = parts.split(&[heads; 3], 2)?;
    let options = AttentionOptions { causal: true, ..Default::default() };
    let mixed =
        ops::attention(&parts[0], &parts[1], &parts[2], &options)?.reshape(&[batch, tokens, width])?;
    let (y, x) = ops::layer_norm(&mixed, Some(&x), Some(&scale), Some(&shift), &norm)?;
    let y = ops::linear(&ops::linear(&y, &up, Some(&up_bias))?.gelu(Gelu::Tanh)?, &down, None)?;
    let logits = ops::linear(&y.add(&x)?, &table.transpose(0, 1)?, None)?;
    let loss = ops::cross_entropy(
        &logits.reshape(&[batch * tokens, vocabulary])?,
        &indices(&ids, &[ids.len()]),
        &LossOptions::default(),
    )?;

    let parameters = [table, scale, shift, qkv, up, up_bias, down];
    let mut gradients = loss.backward()?;
    let norm = clip_grad_norm(&mut gradients, &parameters, 0.5)?;
    let named =
        parameters.iter().enumerate().map(|(i, parameter)| (i.to_string(), parameter.clone())).collect();
    AdamW::new(named, Default::default())?.step(&gradients, 0.01)?;
    let mut results = vec![loss.item()? as f32, norm.item()? as f32];
    for parameter in &parameters {
        results.extend(parameter.to_vec::<f32>()?);
    }
    Ok(results)
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| step().unwrap())
    };
    let (one, three) = (with(1), with(3));
    assert!(one.iter().all(|x| x.is_finite()));
    assert!(one.iter().zip(&three).all(|(a, b)| a.to_bits() == b.to_bits()));
}
