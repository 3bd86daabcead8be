//! A training step on the emulated GPU, with the kernels that a GPU runs.

use longhand_gpu::{Compiler, emulator};
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, Tensor, clip_grad_norm};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The loss, the gradient of every parameter, and every parameter after one step.
struct Step {
    loss: f64,
    gradients: Vec<(String, Vec<f32>)>,
    parameters: Vec<(String, Vec<f32>)>,
}

fn step(device: &Device) -> Step {
    let config = Gpt2Config {
        vocab_size: 61,
        n_positions: 24,
        n_embd: 128,
        n_layer: 2,
        n_head: 2,
        ..Gpt2Config::default()
    };
    let model = Gpt2::new(config, device, Dtype::Bf16, &mut StdRng::seed_from_u64(3)).unwrap();
    let ids = |shift: u32| {
        let ids: Vec<u32> = (0..2 * 21).map(|i| (i * i + shift) % 61).collect();
        Tensor::from_vec(ids, &[2, 21], device).unwrap()
    };
    let named = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
    // With so large an eps, a step goes along the gradient, and not along its sign, which is chance where it is 0.
    let options = AdamWOptions { eps: 1.0, ..AdamWOptions::default() };
    let mut optimiser = AdamW::new(named, options).unwrap();

    let loss = model.loss(&ids(0), &ids(7)).unwrap();
    let mut gradients = loss.backward().unwrap();
    let values = |tensor: &Tensor| {
        let tensor = tensor.detach().to_device(&Device::Cpu).unwrap().to_dtype(Dtype::F32).unwrap();
        tensor.to_vec::<f32>().unwrap()
    };
    let of_each = |value: &dyn Fn(&Tensor) -> Vec<f32>| {
        model.parameters().iter().map(|p| (p.name.clone(), value(&p.tensor))).collect()
    };
    let before_clipping = of_each(&|tensor| values(gradients.get(tensor).unwrap()));
    clip_grad_norm(&mut gradients, model.parameters().iter().map(|p| &p.tensor), 1.0).unwrap();
    optimiser.step(&gradients, 1.0).unwrap();
    Step { loss: loss.item().unwrap(), gradients: before_clipping, parameters: of_each(&values) }
}

/// The distance of two vectors beside the length of the second.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let length: f64 = expected.iter().map(|b| square(*b)).sum();
    (difference / length.max(1e-12)).sqrt()
}

#[test]
fn a_training_step_on_the_emulated_gpu_is_that_on_the_cpu() {
    if let Err(reason) = Compiler::new() {
        return println!("skipped: {reason}");
    }
    let gpu = Device::emulated("sm_90a".parse().unwrap(), emulator::Options::default()).unwrap();
    let (found, expected) = (step(&gpu), step(&Device::Cpu));
    assert!((found.loss - expected.loss).abs() < 0.01 * expected.loss, "{} {}", found.loss, expected.loss);
    for ((name, found), (_, expected)) in found.gradients.iter().zip(&expected.gradients) {
        let distance = distance(found, expected);
        assert!(distance < 0.03, "the gradient of {name} is off by {distance} of its length");
    }
    for ((name, found), (_, expected)) in found.parameters.iter().zip(&expected.parameters) {
        let distance = distance(found, expected);
        assert!(distance < 0.03, "{name} is off by {distance} of its length after a step");
    }
}
