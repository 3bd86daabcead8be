//! Attention of one new token by the length of what was before: bound by how fast memory gives keys and values, each of which
//! is read once. Throughput counts their bytes, and those of their scales.
//!
//! On the CPU one sequence of GPT-2's 12 heads of 64, in one piece and in pages of 16.

mod gpu;

use anyhow::Result;
use longhand_benches::{Bench, Row, normal};
use longhand_tensor::{Dtype, KvCache, no_grad, ops};

const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
const KEYS: [usize; 4] = [1024, 4096, 16_384, 65_536];

fn cpu(bench: &mut Bench) -> Result<()> {
    for keys in KEYS {
        for (dtype, name) in [(Dtype::F32, "f32"), (Dtype::Bf16, "bf16")] {
            for page_tokens in [None, Some(16)] {
                let place = if page_tokens.is_some() { "paged" } else { "contiguous" };
                let row = Row::new("attention decode", name, "S", keys).variant(&format!("{place} B1"));
                let row = row.sizes([("B", 1), ("T", 1), ("H", HEADS), ("Hkv", HEADS), ("D", HEAD_DIM)]);
                bench.measure(row.moves(2 * keys * HEADS * HEAD_DIM * dtype.size()), || {
                    let heads = |tokens| normal(&[1, tokens, HEADS, HEAD_DIM])?.to_dtype(dtype);
                    let cache = KvCache::new(1);
                    let mut cache = page_tokens.map_or(cache.clone(), |tokens| cache.paged(tokens));
                    cache.append(&heads(keys)?, &heads(keys)?, None)?;
                    let q = heads(1)?;
                    let options = ops::AttentionOptions { causal: true, ..Default::default() };
                    Ok(move || Ok(no_grad(|| ops::attention_decode(&q, &cache, &options))?))
                })?;
            }
        }
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu::gpu)
}
