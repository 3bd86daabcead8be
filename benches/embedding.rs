//! Embedding by context length, GPT-2's table of 50,257 rows of 768, in bytes: forward reads a row and writes it for each
//! token; backward reads a row for each token and writes the whole table.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row, normal};
use longhand_kernels::Dtype;
use longhand_kernels::embedding::{
    EmbeddingBackward, EmbeddingBackwardArgs, EmbeddingForward, EmbeddingForwardArgs, EmbeddingShape,
};
use longhand_tensor::{Device, Tensor, no_grad, ops};

const VOCABULARY: usize = 50_257;
const WIDTH: usize = 768;
const TOKENS: [usize; 4] = [256, 1024, 4096, 16_384];
const GPU_TOKENS: [usize; 4] = [1024, 8192, 65_536, 524_288];

fn row(pass: &str, tokens: usize, table: usize, (dtype, bytes): (&str, usize)) -> Row {
    let rows = if pass == "forward" { 2 * tokens } else { tokens + table };
    let row = Row::new(&format!("embedding {pass}"), dtype, "N", tokens).variant(&format!("W{WIDTH}"));
    row.sizes([("V", table), ("W", WIDTH)]).moves(rows * WIDTH * bytes)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for tokens in TOKENS {
        let lookup = || -> Result<_> {
            let table = normal(&[VOCABULARY, WIDTH])?.requires_grad();
            let ids = (0..tokens).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
            let ids = Tensor::from_vec(ids, &[tokens], &Device::Cpu)?;
            Ok(move || ops::embedding(&table, &ids))
        };
        bench.measure(row("forward", tokens, VOCABULARY, ("f32", 4)), || {
            let lookup = lookup()?;
            Ok(move || Ok(no_grad(&lookup)?))
        })?;
        bench.measure_backward(row("backward", tokens, VOCABULARY, ("f32", 4)), || {
            let lookup = lookup()?;
            Ok(move || Ok(vec![lookup()?]))
        })?;
    }
    Ok(())
}

fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    const ELEMENT: (&str, usize) = ("bf16", 2);
    let table = if gpu.device.is_emulated() { 512 } else { VOCABULARY };
    for tokens in gpu.lengths(&GPU_TOKENS, 64) {
        let bytes = 2 * (table + tokens) * WIDTH;
        let shape = EmbeddingShape { vocabulary: table, width: WIDTH, count: tokens };
        let set = || {
            let [table, rows] =
                [gpu.random(Dtype::Bf16, table * WIDTH)?, gpu.random(Dtype::Bf16, tokens * WIDTH)?];
            Ok((table, rows, gpu.random_ids(tokens, shape.vocabulary)?))
        };
        let needed = gpu.sets(bytes) * bytes;
        bench.measure(row("forward", tokens, table, ELEMENT).needs(needed), || {
            let plan = EmbeddingForward::new(Dtype::Bf16).plan(&gpu.device)?;
            let mut sets = gpu.cycle(bytes, set)?;
            Ok(move || {
                let (weight, out, ids) = sets.take();
                let args =
                    EmbeddingForwardArgs { shape, weight: weight.ptr(), ids: ids.ptr(), out: out.ptr() };
                // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
                Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
            })
        })?;
        bench.measure(row("backward", tokens, table, ELEMENT).needs(needed), || {
            let plan = EmbeddingBackward::new(Dtype::Bf16).plan(&gpu.device)?;
            let workspace = gpu.stream.alloc(plan.workspace_bytes(shape))?;
            let mut sets = gpu.cycle(bytes, set)?;
            Ok(move || {
                let (dweight, dout, ids) = sets.take();
                let args = EmbeddingBackwardArgs {
                    shape,
                    dout: dout.ptr(),
                    ids: ids.ptr(),
                    padding: None,
                    dweight: dweight.ptr(),
                    workspace: workspace.ptr(),
                };
                // SAFETY: as above.
                Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
            })
        })?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu)
}
