//! The kernel: up to a billion parameters.

use anyhow::Result;
use bytemuck::Zeroable;
use longhand_benches::{Bench, Gpu};
use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::Dtype::F32;
use longhand_kernels::adamw::{AdamW, AdamWArgs, AdamWPlan, AdamWTensor, AdamWTensors, State};

use super::row;

const PARAMETERS: [usize; 6] = [1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28, 1 << 30];

/// A parameter with its gradient, `m` and `v`.
struct Set {
    tensors: AdamWTensors,
    _memory: [Buffer; 4],
}

fn set(gpu: &Gpu, plan: &AdamWPlan, count: usize) -> Result<Set> {
    let [parameter, gradient, m] =
        [gpu.random(F32, count)?, gpu.random(F32, count)?, gpu.random(F32, count)?];
    let v = gpu.random_positive(F32, count)?;
    let tensor = AdamWTensor {
        count,
        parameter: parameter.ptr(),
        master: DevicePtr::NULL,
        m: m.ptr(),
        v: v.ptr(),
        m_scale: DevicePtr::NULL,
        v_scale: DevicePtr::NULL,
        number: 0,
        weight_decay: 0.01,
    };
    let tensors = plan.tensors(&gpu.stream, &[tensor])?;
    tensors.gradients().set(&[gradient.ptr()])?;
    Ok(Set { tensors, _memory: [parameter, gradient, m, v] })
}

pub fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    for count in gpu.lengths(&PARAMETERS, 1 << 14) {
        let bytes = 16 * count;
        bench.measure(row(count).needs(gpu.sets(bytes) * bytes), || {
            let plan = AdamW::new(F32, F32).plan(&gpu.device)?;
            let mut sets = gpu.cycle(bytes, || set(gpu, &plan, count))?;
            let state = gpu.stream.alloc(size_of_val(&State::zeroed()))?;
            state.upload(0, bytemuck::bytes_of(&State::new(0, 0, 1e-5)))?;
            Ok(move || {
                let args = AdamWArgs {
                    tensors: &sets.take().tensors,
                    state: state.ptr(),
                    norm: DevicePtr::NULL,
                    gradient_scale: DevicePtr::NULL,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    seed: 0,
                };
                // SAFETY: every tensor is an allocation of `count` elements, and lives until criterion has
                // synchronised.
                unsafe {
                    plan.advance(&gpu.stream, &args)?;
                    plan.launch(&gpu.stream, &args)?;
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}
