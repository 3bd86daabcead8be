//! The emulator itself: instructions of lanes per second on two real kernels, with every check on and with none, on
//! one CPU thread; and matrix products. It runs on the CPU alone.

use anyhow::{Result, bail};
use longhand_benches::{Bench, Gpu, Row};
use longhand_emulator::{Checks, Module, Options, Shape};
use longhand_gpu::Buffer;
use longhand_kernels::Dtype;
use longhand_kernels::attention::{
    Attention, AttentionForwardArgs, AttentionShape, Heads, Operands, Strides,
};
use longhand_kernels::norm::{Norm, NormForwardArgs};
use longhand_tensor::Device;

const CHECKS: [(&str, Checks); 2] = [("no checks", Checks::NONE), ("all checks", Checks::ALL)];

fn options(checks: Checks) -> Options {
    Options { checks, threads: 1, ..Options::default() }
}

/// An emulated device of the newest architecture that every kernel has PTX for.
fn emulated(checks: Checks) -> Result<Gpu> {
    match Device::emulated("sm_90a".parse()?, options(checks))? {
        Device::Gpu(gpu) => Ok(Gpu::new(gpu)),
        Device::Cpu => bail!("an emulated device is a GPU"),
    }
}

type Launch<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// Launches once to count, and then again and again.
fn kernel(bench: &mut Bench, name: &str, checks: &str, gpu: &Gpu, mut launch: Launch<'_>) -> Result<()> {
    gpu.device.record_reports(true);
    launch()?;
    let counted = gpu.device.take_reports().iter().map(|report| report.total.lane_instructions).sum();
    gpu.device.record_reports(false);
    let row = Row::new("emulator", "bf16", "threads", 1).variant(&format!("{name}, {checks}"));
    bench.measure(row.of(counted, "lane-instruction"), || Ok(launch))
}

/// Layer norm + residual of 256 rows of 1024.
fn layer_norm(gpu: &Gpu) -> Result<Launch<'_>> {
    const ROWS: usize = 256;
    const WIDTH: usize = 1024;
    let plan = Norm::layer(Dtype::Bf16, WIDTH).plan_forward(&gpu.device)?;
    let bf16 = |count| gpu.random(Dtype::Bf16, count);
    let (x, residual, sum, out) =
        (bf16(ROWS * WIDTH)?, bf16(ROWS * WIDTH)?, bf16(ROWS * WIDTH)?, bf16(ROWS * WIDTH)?);
    let (weight, bias) = (bf16(WIDTH)?, bf16(WIDTH)?);
    let (mean, rstd) = (gpu.random(Dtype::F32, ROWS)?, gpu.random(Dtype::F32, ROWS)?);
    Ok(Box::new(move || {
        let args = NormForwardArgs {
            rows: ROWS,
            eps: 1e-5,
            x: x.ptr(),
            x_stride: WIDTH as i64,
            residual: residual.ptr(),
            dropout: None,
            weight: weight.ptr(),
            bias: bias.ptr(),
            sum: sum.ptr(),
            out: out.ptr(),
            mean: mean.ptr(),
            rstd: rstd.ptr(),
        };
        // SAFETY: every tensor is an allocation above of this shape, and launches are done when they return.
        Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
    }))
}

/// Causal attention of two heads of 64 over 256 tokens.
fn attention(gpu: &Gpu) -> Result<Launch<'_>> {
    const TOKENS: usize = 256;
    const HEADS: usize = 2;
    let plan = Attention::new(Dtype::Bf16, 64).causal(true).forward(&gpu.device)?;
    let tensor = || gpu.random(Dtype::Bf16, TOKENS * HEADS * 64);
    let (q, k, v, out) = (tensor()?, tensor()?, tensor()?, tensor()?);
    let lse = gpu.random(Dtype::F32, TOKENS * HEADS)?;
    let heads =
        |buffer: &Buffer| Heads { data: buffer.ptr(), strides: Strides::token_major(TOKENS, HEADS, 64) };
    Ok(Box::new(move || {
        let args = AttentionForwardArgs {
            shape: AttentionShape { batch: 1, queries: TOKENS, keys: TOKENS, heads: HEADS, kv_heads: HEADS },
            scale: 0.125,
            q: heads(&q),
            k: heads(&k),
            v: heads(&v),
            out: heads(&out),
            lse: lse.ptr(),
            operands: Operands::default(),
        };
        // SAFETY: as above.
        Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
    }))
}

/// One warp and a thousand `mma.sync`: time for each.
fn products(bench: &mut Bench) -> Result<()> {
    const COUNT: usize = 1000;
    let row = Row::new("emulator", "bf16", "threads", 1).variant("mma.m16n8k16, no checks");
    bench.measure(row.of(COUNT as u64, "mma"), || {
        let product = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 \
                       {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%f0, %f1, %f2, %f3};\n";
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry products()\n\
             {{\n.reg .f32 %f<4>;\n.reg .b32 %r<6>;\n{}ret;\n}}\n",
            product.repeat(COUNT)
        );
        let gpu = longhand_emulator::Gpu::with_options("sm_90a".parse()?, options(Checks::NONE));
        let module = Module::from_ptx(&gpu, &text)?;
        let shape = Shape { grid: [1; 3], block: [32, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
        Ok(move || {
            module.launch("products", &shape, &[])?;
            Ok(())
        })
    })
}

fn emulator(bench: &mut Bench) -> Result<()> {
    products(bench)?;
    for (name, checks) in CHECKS {
        let gpu = emulated(checks)?;
        if let Err(error) = gpu.device.compiler() {
            return bench.leave_out("emulator: kernels", &error.to_string());
        }
        kernel(bench, "layer norm forward", name, &gpu, layer_norm(&gpu)?)?;
        kernel(bench, "attention forward", name, &gpu, attention(&gpu)?)?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main_on_cpu(emulator)
}
