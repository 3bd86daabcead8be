//! The kernel, f32 parameters: up to a billion of them.

use bytemuck::Zeroable;
use criterion::{BenchmarkId, Criterion, Throughput};
use longhand_benches::Gpu;
use longhand_gpu::DevicePtr;
use longhand_kernels::adamw::{AdamW, AdamWArgs, AdamWTensor, State};
use longhand_kernels::{Dtype, Result};

const PARAMETERS: [usize; 4] = [1 << 20, 1 << 24, 1 << 28, 1 << 30];

pub fn gpu(c: &mut Criterion) {
    let Some(gpu) = Gpu::open("adamw") else { return };
    for count in PARAMETERS {
        let free = gpu.device.memory().expect("a device answers").free;
        if 16 * count > free {
            eprintln!(
                "adamw on the GPU, {count} parameters: skipped: {} bytes needed, {free} free",
                16 * count
            );
            continue;
        }
        step(c, &gpu, count).expect("the kernel takes any size");
    }
}

fn step(c: &mut Criterion, gpu: &Gpu, count: usize) -> Result<()> {
    let parameter = gpu.random_f32(count)?;
    let gradient = gpu.random_f32(count)?;
    let [m, v] = [gpu.stream.alloc(4 * count)?, gpu.stream.alloc(4 * count)?];
    m.fill(0)?;
    v.fill(0)?;
    let state = gpu.stream.alloc(size_of_val(&State::zeroed()))?;
    state.upload(0, bytemuck::bytes_of(&State::new(0, 1e-5)))?;

    let plan = AdamW::new(Dtype::F32, Dtype::F32).plan(&gpu.device)?;
    let tensor = AdamWTensor {
        count,
        parameter: parameter.ptr(),
        master: DevicePtr::NULL,
        m: m.ptr(),
        v: v.ptr(),
        weight_decay: 0.01,
    };
    let tensors = plan.tensors(&gpu.stream, &[tensor])?;
    tensors.gradients().set(&[gradient.ptr()])?;
    let args = AdamWArgs {
        tensors: &tensors,
        state: state.ptr(),
        gradient_scale: DevicePtr::NULL,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
    };
    // SAFETY: every tensor is an allocation above of `count` elements, and lives until the timing has synchronised.
    let launch = || unsafe { plan.launch(&gpu.stream, &args) };
    let mut group = c.benchmark_group("adamw/gpu_f32");
    group.throughput(Throughput::Bytes(28 * count as u64));
    group.bench_function(BenchmarkId::from_parameter(count), |b| {
        b.iter_custom(|iterations| gpu.time(iterations, launch).expect("a launch"));
    });
    group.finish();
    Ok(())
}
