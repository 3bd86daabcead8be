//! The emulator itself: instructions of lanes per second on two real kernels, with every check on and with none, on
//! one CPU thread; and matrix products.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longhand_benches::Gpu;
use longhand_emulator::{Checks, Module, Options, Shape};
use longhand_gpu::{Buffer, Device};
use longhand_kernels::attention::{AttentionForward, AttentionForwardArgs, AttentionShape, Heads, Strides};
use longhand_kernels::norm::{LayerNormForward, LayerNormForwardArgs};
use longhand_kernels::{Dtype, Error, Result};

const CHECKS: [(&str, Checks); 2] = [("none", Checks::NONE), ("all", Checks::ALL)];

fn options(checks: Checks) -> Options {
    Options { checks, threads: 1, ..Options::default() }
}

/// An emulated device of the newest architecture that every kernel has PTX for.
fn gpu(checks: Checks) -> Result<Gpu> {
    let device = Device::emulated_with("sm_90a".parse()?, options(checks))?;
    Ok(Gpu { stream: device.new_stream()?, device })
}

/// Launches once to count, and then again and again.
fn kernel(c: &mut Criterion, name: &str, checks: &str, gpu: &Gpu, mut launch: impl FnMut() -> Result<()>) {
    gpu.device.record_reports(true);
    launch().expect("the kernel runs");
    let counted: u64 = gpu.device.take_reports().iter().map(|report| report.total.lane_instructions).sum();
    gpu.device.record_reports(false);
    let mut group = c.benchmark_group(format!("emulator/{name}"));
    group.throughput(Throughput::Elements(counted));
    group.bench_function(BenchmarkId::new("checks", checks), |b| {
        b.iter(|| launch().expect("the kernel runs"));
    });
    group.finish();
}

/// Layer norm + residual of 256 rows of 1024.
fn layer_norm(c: &mut Criterion, name: &str, checks: Checks) -> Result<()> {
    const ROWS: usize = 256;
    const WIDTH: usize = 1024;
    let gpu = gpu(checks)?;
    let plan = LayerNormForward::new(Dtype::Bf16, WIDTH)?.plan(&gpu.device)?;
    let [x, residual, sum, out] = [(); 4].map(|()| gpu.random_bf16(ROWS * WIDTH).expect("memory"));
    let [weight, bias] = [(); 2].map(|()| gpu.random_bf16(WIDTH).expect("memory"));
    let [mean, rstd] = [(); 2].map(|()| gpu.random_f32(ROWS).expect("memory"));
    let args = LayerNormForwardArgs {
        rows: ROWS,
        eps: 1e-5,
        x: x.ptr(),
        x_stride: WIDTH as i64,
        residual: residual.ptr(),
        weight: weight.ptr(),
        bias: bias.ptr(),
        sum: sum.ptr(),
        out: out.ptr(),
        mean: mean.ptr(),
        rstd: rstd.ptr(),
    };
    // SAFETY: every tensor is an allocation above of this shape, and launches are done when they return.
    kernel(c, "layer_norm_forward", name, &gpu, || unsafe { plan.launch(&gpu.stream, &args) });
    Ok(())
}

/// Causal attention of two heads of 64 over 256 tokens.
fn attention(c: &mut Criterion, name: &str, checks: Checks) -> Result<()> {
    const TOKENS: usize = 256;
    const HEADS: usize = 2;
    let gpu = gpu(checks)?;
    let plan = AttentionForward::new(Dtype::Bf16, 64).causal(true).plan(&gpu.device)?;
    let [q, k, v, out] = [(); 4].map(|()| gpu.random_bf16(TOKENS * HEADS * 64).expect("memory"));
    let lse = gpu.random_f32(TOKENS * HEADS)?;
    let heads =
        |buffer: &Buffer| Heads { data: buffer.ptr(), strides: Strides::token_major(TOKENS, HEADS, 64) };
    let args = AttentionForwardArgs {
        shape: AttentionShape { batch: 1, queries: TOKENS, keys: TOKENS, heads: HEADS, kv_heads: HEADS },
        scale: 0.125,
        q: heads(&q),
        k: heads(&k),
        v: heads(&v),
        out: heads(&out),
        lse: lse.ptr(),
    };
    // SAFETY: as above.
    kernel(c, "attention_forward", name, &gpu, || unsafe { plan.launch(&gpu.stream, &args) });
    Ok(())
}

fn kernels(c: &mut Criterion) {
    for (name, checks) in CHECKS {
        let ran = layer_norm(c, name, checks).and_then(|()| attention(c, name, checks));
        match ran {
            Ok(()) => {}
            Err(Error::Gpu(error @ longhand_gpu::Error::LibraryNotFound { .. })) => {
                return eprintln!("emulator: kernels skipped: {error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// One warp and a thousand `mma.sync`: time for each.
fn products(c: &mut Criterion) {
    const COUNT: usize = 1000;
    let product = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 \
                   {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%f0, %f1, %f2, %f3};\n";
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry products()\n\
         {{\n.reg .f32 %f<4>;\n.reg .b32 %r<6>;\n{}ret;\n}}\n",
        product.repeat(COUNT)
    );
    let gpu = longhand_emulator::Gpu::with_options("sm_90a".parse().expect("a name"), options(Checks::NONE));
    let module = Module::from_ptx(&gpu, &text).expect("the text is PTX");
    let shape = Shape { grid: [1; 3], block: [32, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    let mut group = c.benchmark_group("emulator/mma_m16n8k16_bf16");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("warp", |b| b.iter(|| module.launch("products", &shape, &[]).expect("it runs")));
    group.finish();
}

criterion_group! { name = benches; config = longhand_benches::criterion(); targets = kernels, products }
criterion_main!(benches);
