//! The kernels in bf16: one batch, 16 heads of 64 or 128.

use criterion::{BenchmarkId, Criterion, Throughput};
use longhand_benches::{Gpu, attention_flops};
use longhand_kernels::attention::{
    AttentionBackward, AttentionBackwardArgs, AttentionForward, AttentionForwardArgs, AttentionShape, Heads,
    Strides,
};
use longhand_kernels::{Dtype, Result};

const HEADS: usize = 16;
const TOKENS: [usize; 6] = [1024, 2048, 4096, 8192, 16_384, 32_768];

pub fn gpu(c: &mut Criterion) {
    let Some(gpu) = Gpu::open("attention") else { return };
    for head_dim in [64, 128] {
        for causal in [false, true] {
            for tokens in TOKENS {
                passes(c, &gpu, head_dim, causal, tokens).expect("the kernels take these shapes");
            }
        }
    }
}

fn passes(c: &mut Criterion, gpu: &Gpu, head_dim: usize, causal: bool, tokens: usize) -> Result<()> {
    let count = tokens * HEADS * head_dim;
    let shape = AttentionShape { batch: 1, queries: tokens, keys: tokens, heads: HEADS, kv_heads: HEADS };
    let [q, k, v, out, grad_out, grad_q, grad_k, grad_v] =
        [(); 8].map(|()| gpu.random_bf16(count).expect("device memory"));
    let lse = gpu.random_f32(tokens * HEADS)?;
    let heads = |buffer: &longhand_gpu::Buffer| Heads {
        data: buffer.ptr(),
        strides: Strides::token_major(tokens, HEADS, head_dim),
    };
    let operations = attention_flops(HEADS, tokens, head_dim, causal);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let variant = format!("bf16_d{head_dim}_{}", if causal { "causal" } else { "full" });

    let plan = AttentionForward::new(Dtype::Bf16, head_dim).causal(causal).plan(&gpu.device)?;
    let args = AttentionForwardArgs {
        shape,
        scale,
        q: heads(&q),
        k: heads(&k),
        v: heads(&v),
        out: heads(&out),
        lse: lse.ptr(),
    };
    // SAFETY: every tensor is an allocation above of this shape, and lives until the timing has synchronised.
    let forward = || unsafe { plan.launch(&gpu.stream, &args) };
    let mut group = c.benchmark_group(format!("attention/forward/gpu_{variant}"));
    group.throughput(Throughput::Elements(operations));
    group.bench_function(BenchmarkId::from_parameter(tokens), |b| {
        b.iter_custom(|iterations| gpu.time(iterations, forward).expect("a launch"));
    });
    group.finish();

    let plan = AttentionBackward::new(Dtype::Bf16, head_dim).causal(causal).plan(&gpu.device)?;
    let workspace = gpu.stream.alloc(plan.workspace_bytes(&shape))?;
    let args = AttentionBackwardArgs {
        shape,
        scale,
        q: heads(&q),
        k: heads(&k),
        v: heads(&v),
        out: heads(&out),
        grad_out: heads(&grad_out),
        lse: lse.ptr(),
        workspace: workspace.ptr(),
        grad_q: heads(&grad_q),
        grad_k: heads(&grad_k),
        grad_v: heads(&grad_v),
    };
    // SAFETY: as above; `out` and `lse` were left by the forward pass.
    let backward = || unsafe { plan.launch(&gpu.stream, &args) };
    let mut group = c.benchmark_group(format!("attention/backward/gpu_{variant}"));
    group.throughput(Throughput::Elements(operations * 5 / 2));
    group.bench_function(BenchmarkId::from_parameter(tokens), |b| {
        b.iter_custom(|iterations| gpu.time(iterations, backward).expect("a launch"));
    });
    group.finish();
    Ok(())
}
