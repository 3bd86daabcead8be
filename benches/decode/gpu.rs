//! The kernels: the heads of Llama 3 8B, 1 to 64 sequences. The second-level cache is full of something else each time.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row};
use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::Dtype;
use longhand_kernels::attention::{
    Attention, AttentionDecode, AttentionDecodeArgs, AttentionShape, Heads, Operands, Strides,
};
use longhand_kernels::kv_cache::{CacheStrides, Cached, KvCache, Pages, Storage};

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const PAGE_TOKENS: usize = 16;
const KEYS: [usize; 4] = [1024, 8192, 32_768, 131_072];
/// Of all sequences together: 8 GiB of bf16.
const MOST_KEYS: usize = 1 << 21;

#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    paged: bool,
    storage: Storage,
}

pub fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    for batch in [1, 16, 64] {
        for paged in [false, true] {
            for storage in [Storage::Plain, Storage::Int8, Storage::E4m3] {
                // What does not depend on the pages is measured of one piece alone.
                if storage == Storage::Int8 && paged {
                    continue;
                }
                for keys in gpu.lengths(&KEYS, 64) {
                    if batch * keys <= MOST_KEYS {
                        Case { batch, paged, storage }.measure(bench, gpu, keys)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Elements and scales.
struct Side {
    elements: Buffer,
    scales: Buffer,
}

impl Case {
    fn shape(self, keys: usize) -> AttentionShape {
        AttentionShape { batch: self.batch, queries: 1, keys, heads: HEADS, kv_heads: KV_HEADS }
    }

    fn row(self, keys: usize) -> Row {
        let dtype = match self.storage {
            Storage::Plain => "bf16",
            Storage::Int8 => "int8",
            Storage::E4m3 => "e4m3",
        };
        let place = if self.paged { "paged" } else { "contiguous" };
        let row = Row::new("attention decode", dtype, "S", keys).variant(&format!("{place} B{}", self.batch));
        row.sizes([("B", self.batch), ("T", 1), ("H", HEADS), ("Hkv", KV_HEADS), ("D", HEAD_DIM)])
    }

    /// Of keys and values with their scales.
    fn bytes(self, keys: usize) -> usize {
        let scale = if self.storage == Storage::Plain { 0 } else { 4 };
        2 * self.batch * keys * KV_HEADS * (HEAD_DIM * self.storage.size(Dtype::Bf16) + scale)
    }

    fn side(self, gpu: &Gpu, keys: usize) -> Result<Side> {
        let heads = self.batch * keys * KV_HEADS;
        let (dtype, elements, scales) = match self.storage {
            Storage::Plain => (Dtype::Bf16, heads * HEAD_DIM, 0),
            // Any bytes will do: the NaN of e4m3 comes out as 480.
            Storage::Int8 | Storage::E4m3 => (Dtype::F16, heads * HEAD_DIM / 2, heads),
        };
        let elements = gpu.random_positive(dtype, elements)?;
        Ok(Side { elements, scales: gpu.random_positive(Dtype::F32, scales)? })
    }

    fn measure(self, bench: &mut Bench, gpu: &Gpu, keys: usize) -> Result<()> {
        let bytes = self.bytes(keys);
        bench.measure_flushed(self.row(keys).moves(bytes).needs(bytes), || {
            let attention = Attention::new(Dtype::Bf16, HEAD_DIM).causal(true);
            let decode = AttentionDecode::new(attention).storage(self.storage).paged(self.paged);
            let plan = decode.plan(&gpu.device)?;
            let shape = self.shape(keys);
            let sides = [self.side(gpu, keys)?, self.side(gpu, keys)?];
            // Pages in an order in which no two neighbours are neighbours in memory.
            let pages = self.batch * keys / PAGE_TOKENS;
            let numbers: Vec<u32> = (0..pages).map(|i| (i * 4099 % pages) as u32).collect();
            let table = gpu.stream.alloc(4 * pages)?;
            table.upload(0, bytemuck::cast_slice(&numbers))?;
            let elements = self.batch * HEADS * HEAD_DIM;
            let [q, out] = [gpu.random(Dtype::Bf16, elements)?, gpu.random(Dtype::Bf16, elements)?];
            let lse = gpu.random(Dtype::F32, self.batch * HEADS)?;
            let workspace = gpu.stream.alloc(plan.workspace_bytes(&shape))?;
            let gpu = gpu.clone();
            Ok(move || {
                let heads = |buffer: &Buffer| Heads {
                    data: buffer.ptr(),
                    strides: Strides::token_major(1, HEADS, HEAD_DIM),
                };
                let args = AttentionDecodeArgs {
                    shape,
                    scale: 1.0 / (HEAD_DIM as f32).sqrt(),
                    q: heads(&q),
                    cache: self.cache(&sides, table.ptr(), keys),
                    lengths: DevicePtr::NULL,
                    out: heads(&out),
                    lse: lse.ptr(),
                    workspace: workspace.ptr(),
                    operands: Operands::default(),
                };
                // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
                Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
            })
        })
    }

    fn cache(self, sides: &[Side; 2], table: DevicePtr, keys: usize) -> KvCache {
        let page_tokens = if self.paged { PAGE_TOKENS } else { keys };
        let cached = |side: &Side| Cached {
            data: side.elements.ptr(),
            strides: CacheStrides::head_major(page_tokens, KV_HEADS, HEAD_DIM),
            scales: if self.storage == Storage::Plain { DevicePtr::NULL } else { side.scales.ptr() },
            scale_strides: CacheStrides::head_major(page_tokens, KV_HEADS, 1),
        };
        let pages_of_sequence = keys / PAGE_TOKENS;
        let pages = if self.paged {
            Pages::Paged {
                table,
                table_stride: pages_of_sequence as i64,
                pages_of_sequence,
                pages: self.batch * pages_of_sequence,
                page_tokens,
            }
        } else {
            Pages::Contiguous { tokens: keys }
        };
        KvCache { k: cached(&sides[0]), v: cached(&sides[1]), pages }
    }
}
