//! The same operations on a GPU, where there is one.

use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, Result, Tensor, clip_grad_norm};

use crate::numerics::cases;
use crate::{doubles, tensor};

/// The GPU; says why a test is skipped where there is none.
fn gpu() -> Option<Device> {
    match Device::gpu(0) {
        Ok(device) => Some(device),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

#[test]
fn operations_on_a_gpu_are_as_precise_as_their_type() {
    let Some(device) = gpu() else { return };
    for case in [3u64, 24, 1_000_033, 98_765_432_100].into_iter().flat_map(cases) {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            case.check(dtype, &device).unwrap();
        }
    }
}

#[test]
fn a_step_on_a_gpu_is_that_on_the_cpu() {
    let Some(device) = gpu() else { return };
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
    for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 2e-2)] {
        let (on_gpu, on_cpu) = (step(&device, dtype).unwrap(), step(&Device::Cpu, dtype).unwrap());
        assert!(on_gpu.iter().zip(&on_cpu).all(|(a, b)| (a - b).abs() < tolerance));
    }
}

#[test]
fn what_a_gpu_does_not_take_is_refused() {
    let Some(device) = gpu() else { return };
    let error = tensor(&[2], 1).to_device(&device).unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor on a GPU: elements are f64, expected f32, bf16, f16 or u32; f64 is for the CPU"
    );
    let x = Tensor::zeros(&[2], Dtype::F32, &device).unwrap();
    let error = x.add(&Tensor::zeros(&[2], Dtype::F32, &Device::Cpu).unwrap()).unwrap_err().to_string();
    assert_eq!(error, "add: arguments are on gpu:0 and cpu; move one with `to_device`");
}

/// Where there is no GPU, asking for one says what to do.
#[test]
fn a_missing_gpu_is_an_error_and_not_a_panic() {
    if let Err(error) = Device::gpu(0) {
        assert!(error.to_string().len() > 20, "{error}");
        assert!(Device::default_device().is_cpu());
    }
}
