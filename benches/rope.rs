//! Rotary position embedding by context length, the heads of Llama 3 8B (on the CPU, a quarter of them): every head is
//! read once and written once.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row, normal};
use longhand_kernels::Dtype;
use longhand_kernels::attention::{Heads, Strides};
use longhand_kernels::rope::{Direction, Rope, RopeArgs};
use longhand_tensor::{Device, Tensor, no_grad, ops};

const HEAD_DIM: usize = 128;
const TOKENS: [usize; 4] = [256, 1024, 4096, 16_384];
const GPU_TOKENS: [usize; 4] = [1024, 8192, 65_536, 262_144];

fn row(tokens: usize, [heads, kv_heads]: [usize; 2], (dtype, bytes): (&str, usize)) -> Row {
    let row = Row::new("rope", dtype, "T", tokens).variant(&format!("D{HEAD_DIM} H{heads}/{kv_heads}"));
    let moved = 2 * tokens * (heads + kv_heads) * HEAD_DIM * bytes;
    row.sizes([("B", 1), ("H", heads), ("Hkv", kv_heads), ("D", HEAD_DIM)]).moves(moved)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    let heads = [8, 2];
    for tokens in TOKENS {
        bench.measure(row(tokens, heads, ("f32", 4)), || {
            let rope = ops::Rope::new(HEAD_DIM, 1e4, &Device::Cpu)?;
            let positions = Tensor::from_vec((0..tokens as u32).collect(), &[tokens], &Device::Cpu)?;
            let [q, k] = heads.map(|heads| normal(&[1, tokens, heads, HEAD_DIM]));
            let (q, k) = (q?, k?);
            Ok(move || Ok(no_grad(|| ops::rope(&q, &k, &positions, &rope))?))
        })?;
    }
    Ok(())
}

fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    let [heads, kv_heads] = [32, 8];
    for tokens in gpu.lengths(&GPU_TOKENS, 64) {
        let elements = |heads: usize| tokens * heads * HEAD_DIM;
        let bytes = 2 * elements(heads + kv_heads);
        let row = row(tokens, [heads, kv_heads], ("bf16", 2)).needs(gpu.sets(bytes) * bytes);
        bench.measure(row, || {
            let plan = Rope::new(Dtype::Bf16, HEAD_DIM).plan(&gpu.device)?;
            let frequencies = gpu.random(Dtype::F32, HEAD_DIM / 2)?;
            let positions = gpu.random_ids(tokens, tokens)?;
            let mut sets = gpu.cycle(bytes, || {
                Ok([gpu.random(Dtype::Bf16, elements(heads))?, gpu.random(Dtype::Bf16, elements(kv_heads))?])
            })?;
            Ok(move || {
                let [q, k] = sets.take();
                let q = Heads { data: q.ptr(), strides: Strides::token_major(tokens, heads, HEAD_DIM) };
                let k = Heads { data: k.ptr(), strides: Strides::token_major(tokens, kv_heads, HEAD_DIM) };
                let args = RopeArgs {
                    direction: Direction::Forward,
                    batch: 1,
                    tokens,
                    heads,
                    kv_heads,
                    q,
                    k,
                    q_out: q,
                    k_out: k,
                    positions: positions.ptr(),
                    positions_stride: 0,
                    frequencies: frequencies.ptr(),
                    factor: 1.0,
                };
                // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
                Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
            })
        })?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu)
}
