//! The same operations on the emulated GPU, and on a GPU where there is one.

use longhand_gpu::emulator;
use longhand_tensor::ops::{IGNORE_INDEX, LossOptions, SampleOptions};
use longhand_tensor::{
    AdamW, AdamWOptions, Device, Dtype, Gradients, Moments, Random, Result, Rounding, Tensor, clip_grad_norm,
    ops,
};

use crate::numerics::cases;
use crate::{doubles, indices, tensor};

/// The emulated GPU, every check on, where there is NVRTC to compile for it; and the first GPU where there is one.
pub fn gpus() -> Vec<Device> {
    let emulated = match longhand_gpu::Compiler::new() {
        Ok(_) => Some(emulated()),
        Err(reason) => {
            println!("no kernels for the emulated GPU: {reason}");
            None
        }
    };
    emulated.into_iter().chain(Device::gpu(0)).collect()
}

fn emulated() -> Device {
    Device::emulated("sm_80".parse().unwrap(), emulator::Options::default()).unwrap()
}

#[test]
fn operations_on_a_gpu_are_as_precise_as_their_type() {
    for device in gpus() {
        for (seed, dtype) in [(3, Dtype::Bf16), (24, Dtype::F16), (1_000_033, Dtype::Bf16)] {
            for case in cases(seed) {
                case.check(dtype, &device).unwrap();
            }
        }
    }
}

#[test]
fn a_step_on_a_gpu_is_that_on_the_cpu() {
    let step = |device: &Device, dtype: Dtype| -> Result<Vec<f64>> {
        let parameter = tensor(&[1000], 1).to_dtype(dtype)?.to_device(device)?.requires_grad();
        let mut optimiser = AdamW::new(vec![("p".into(), parameter.clone())], AdamWOptions::default())?;
        for _ in 0..3 {
            let mut gradients = parameter.mul(&parameter)?.sum_all()?.backward()?;
            clip_grad_norm(&mut gradients, [&parameter], 1.0)?;
            optimiser.step(&gradients, 0.01)?;
        }
        Ok(doubles(&parameter))
    };
    for device in gpus() {
        for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 2e-2)] {
            let (on_gpu, on_cpu) = (step(&device, dtype).unwrap(), step(&Device::Cpu, dtype).unwrap());
            assert!(on_gpu.iter().zip(&on_cpu).all(|(a, b)| (a - b).abs() < tolerance));
        }
    }
}

/// Two steps, a skipped one between them, of an f32 and a bf16 parameter, clipped: what is left of each, and the counters.
fn mixed_steps(device: &Device, rounding: Rounding, moments: Moments) -> Result<(Vec<Vec<f64>>, [u64; 2])> {
    let parameter = |seed, dtype| tensor(&[1001], seed).to_dtype(dtype)?.to_device(device);
    let parameters = [parameter(1, Dtype::F32)?.requires_grad(), parameter(2, Dtype::Bf16)?.requires_grad()];
    let named = parameters.iter().enumerate().map(|(i, parameter)| (format!("p{i}"), parameter.clone()));
    let options =
        AdamWOptions { max_grad_norm: Some(2.0), rounding, moments, eps: 1e-3, ..Default::default() };
    let mut optimiser = AdamW::new(named.collect(), options)?;
    for step in 0..3 {
        let mut gradients = Gradients::default();
        for (parameter, seed) in parameters.iter().zip([10, 20]) {
            let gradient = tensor(&[1001], seed + step).to_dtype(parameter.dtype())?.to_device(device)?;
            let factor = if step == 1 && seed == 20 { f64::INFINITY } else { 1.0 };
            gradients.set(parameter, gradient.scale(factor)?);
        }
        optimiser.step(&gradients, 0.05)?;
        let state = optimiser.state()?; // what was saved goes on
        optimiser.load_state(&state)?;
    }
    let counters = [optimiser.steps()?, optimiser.skipped()?];
    Ok((parameters.iter().map(doubles).collect(), counters))
}

/// The random bits are the same, and so the parameter is, but where f32 is all but on the border.
#[test]
fn rounding_skipping_and_8_bit_moments_on_a_gpu_are_those_on_the_cpu() {
    let stochastic = Rounding::Stochastic { seed: 3 };
    let kinds =
        [(Rounding::Master, Moments::Full), (stochastic, Moments::Full), (stochastic, Moments::EightBit)];
    for device in gpus() {
        for (rounding, moments) in kinds {
            let (on_gpu, gpu_counters) = mixed_steps(&device, rounding, moments).unwrap();
            let (on_cpu, cpu_counters) = mixed_steps(&Device::Cpu, rounding, moments).unwrap();
            assert_eq!((gpu_counters, cpu_counters), ([2, 1], [2, 1]));
            let worst = on_gpu[0].iter().zip(&on_cpu[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < if moments == Moments::Full { 1e-6 } else { 1e-3 }, "{worst}");
            let differing = on_gpu[1].iter().zip(&on_cpu[1]).filter(|(a, b)| a != b).count();
            assert!(differing <= 3, "{rounding:?} {moments:?}: {differing} of 1001 differ");
        }
    }
}

/// The products whose sizes no tile divides, without terms, of f32 too, and of views.
#[test]
fn products_on_a_gpu_are_those_on_the_cpu() {
    let shapes = [(1, 1, 1), (65, 66, 67), (3, 130, 64), (64, 64, 200), (5, 7, 0), (0, 4, 4)];
    for device in gpus() {
        for (i, (m, n, k)) in shapes.into_iter().enumerate() {
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
                let factors = [[2, m, k], [2, k, n], [2, k, m], [2, n, k]];
                let rounded = factors.map(|shape| tensor(&shape, i as u64).to_dtype(dtype).unwrap());
                let on_gpu = rounded.each_ref().map(|factor| factor.to_device(&device).unwrap());
                let products = |[a, b, a_transposed, b_transposed]: &[Tensor; 4]| {
                    let (at, bt) = (a_transposed.transpose(1, 2)?, b_transposed.transpose(1, 2)?);
                    let pairs = [a.matmul(b), a.matmul(&bt), at.matmul(b), at.matmul(&bt)];
                    pairs.into_iter().map(|product| Ok(doubles(&product?))).collect::<Result<Vec<_>>>()
                };
                let tolerance = if dtype == Dtype::F32 { 1e-5 } else { 1e-2 } * (k as f64 + 1.0).sqrt();
                let (found, expected) = (products(&on_gpu).unwrap(), products(&rounded).unwrap());
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.len(), 2 * m * n);
                    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(worst <= tolerance, "{m} x {n} x {k} {dtype}: off by {worst}");
                }
            }
        }
    }
}

/// Several chunks of rows, whose parts of the weight's gradient are added up in f32; a gradient of the mean that is not 1.
#[test]
fn a_chunked_loss_on_a_gpu_is_that_on_the_cpu() {
    let (rows, width, classes) = (600, 24, 40);
    let targets: Vec<u32> =
        (0..rows as u32).map(|i| if i % 5 == 4 { IGNORE_INDEX } else { i % 40 }).collect();
    let options = LossOptions { label_smoothing: 0.1, z_loss: 1e-3, softcap: Some(5.0) };
    let run = |device: &Device, dtype: Dtype| -> Result<Vec<Vec<f64>>> {
        let leaf = |tensor: Tensor| -> Result<Tensor> {
            Ok(tensor.to_dtype(dtype)?.to_device(device)?.requires_grad())
        };
        let (hidden, weight) = (leaf(tensor(&[rows, width], 1))?, leaf(tensor(&[classes, width], 2))?);
        let targets = indices(&targets, &[rows]).to_device(device)?;
        let loss = ops::linear_cross_entropy(&hidden, &weight, &targets, &options)?;
        let gradients = loss.scale(-3.0)?.backward()?;
        let gradients = [&hidden, &weight].map(|leaf| gradients.get(leaf).map(doubles).unwrap_or_default());
        Ok([doubles(&loss)].into_iter().chain(gradients).collect())
    };
    for device in gpus() {
        for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 2e-2)] {
            let (found, expected) = (run(&device, dtype).unwrap(), run(&Device::Cpu, dtype).unwrap());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.len(), expected.len());
                let largest = expected.iter().fold(0.0f64, |max, x| max.max(x.abs()));
                let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst <= tolerance * largest, "{dtype}: off by {worst}, the largest is {largest}");
            }
        }
    }
}

#[test]
fn a_tensor_full_of_a_number_is_on_a_gpu_what_it_is_on_the_cpu() {
    for device in gpus() {
        for (dtype, value) in [(Dtype::F32, 0.1), (Dtype::Bf16, -1e-3), (Dtype::F16, 1e6), (Dtype::U32, 7.0)]
        {
            let [on_gpu, on_cpu] = [&device, &Device::Cpu]
                .map(|device| doubles(&Tensor::full(&[3, 5], value, dtype, device).unwrap()));
            assert_eq!(on_gpu, on_cpu);
        }
    }
}

#[test]
fn a_gpu_draws_the_tokens_that_the_cpu_draws() {
    let (rows, classes) = (24, 700);
    let options = [
        SampleOptions { temperature: 0.9, top_k: Some(30), top_p: 0.9 },
        SampleOptions { temperature: 2.0, top_k: None, top_p: 0.7 },
        SampleOptions { temperature: 1.0, top_k: Some(3), top_p: 1.0 },
        SampleOptions { temperature: 1.0, top_k: None, top_p: 1.0 },
    ];
    for device in gpus() {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            // Of f32 no two are equal; of bf16 many are.
            let logits = tensor(&[rows, classes], 5).scale(3.0).unwrap().to_dtype(dtype).unwrap();
            let on_gpu = logits.to_device(&device).unwrap();
            let tokens = |tensor: Result<Tensor>| tensor.unwrap().to_vec::<u32>().unwrap();
            assert_eq!(tokens(ops::argmax(&on_gpu)), tokens(ops::argmax(&logits)));
            for (offset, options) in (0..).zip(&options) {
                let random = Random { seed: 11, offset };
                let (found, expected) = (
                    tokens(ops::sample(&on_gpu, options, random)),
                    tokens(ops::sample(&logits, options, random)),
                );
                assert_eq!(found, expected, "{dtype} {options:?}");
            }
        }
    }
}

/// There and back within one graph.
#[test]
fn gradients_go_back_to_the_device_that_they_are_of() {
    for device in gpus() {
        let on_cpu = Tensor::from([1.0f32, -2.0, 3.0]).requires_grad();
        let on_gpu = Tensor::from([2.0f32]).to_device(&device).unwrap().requires_grad();
        let product = on_cpu.to_device(&device).unwrap().mul(&on_gpu).unwrap();
        let loss = product.to_device(&Device::Cpu).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let [of_cpu, of_gpu] = [&on_cpu, &on_gpu].map(|leaf| gradients.get(leaf).unwrap());
        assert_eq!((of_cpu.device(), of_gpu.device()), (&Device::Cpu, &device));
        assert_eq!((doubles(of_cpu), doubles(of_gpu)), (vec![2.0; 3], vec![2.0]));
    }
}

#[test]
fn each_emulated_gpu_is_one_of_its_own() {
    let [first, second] = [emulated(), emulated()];
    let ones = |device: &Device| Tensor::from_slice(&[1.0f32], &[1], device).unwrap();
    let error = ones(&first).add(&ones(&second)).unwrap_err().to_string();
    assert_eq!(error, "add: arguments are on emulated sm_80 and emulated sm_80; move one with `to_device`");
}

#[test]
fn what_a_gpu_does_not_take_is_refused() {
    let device = emulated();
    let error = tensor(&[2], 1).to_device(&device).unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor on a GPU: elements are f64, expected f32, bf16, f16 or u32; f64 is for the CPU"
    );
    let x = Tensor::zeros(&[2], Dtype::F32, &device).unwrap();
    let error = x.add(&Tensor::zeros(&[2], Dtype::F32, &Device::Cpu).unwrap()).unwrap_err().to_string();
    assert_eq!(error, "add: arguments are on emulated sm_80 and cpu; move one with `to_device`");
}

/// Where there is no GPU, asking for one says what to do.
#[test]
fn a_missing_gpu_is_an_error_and_not_a_panic() {
    if let Err(error) = Device::gpu(0) {
        assert!(error.to_string().len() > 20, "{error}");
        assert!(Device::default_device().is_cpu());
    }
}
