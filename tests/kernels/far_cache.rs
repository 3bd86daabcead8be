//! A cache whose elements lie further apart than 32 bits count: in the emulator's memory, which takes no more of the host
//! than what is written.

use longhand_gpu::nvrtc::locate;
use longhand_gpu::{Buffer, Device, DevicePtr, Stream};
use longhand_kernels::Dtype;
use longhand_kernels::attention::{
    Attention, AttentionDecode, AttentionDecodeArgs, AttentionShape, Heads, Operands, Strides,
};
use longhand_kernels::kv_cache::{CacheStrides, Cached, KvAppend, KvAppendArgs, KvCache, Pages, Storage};

const TOKENS: usize = 3;
const DIM: usize = 64;
/// Of a row of keys or values in the cache, at most.
const ROW_BYTES: usize = DIM * 2;

/// Keys and values of int8 or bf16 with scales, of which one token lies `stride` elements behind the other.
struct FarCache {
    elements: Buffer,
    scales: Buffer,
    storage: Storage,
    stride: usize,
}

impl FarCache {
    fn new(stream: &Stream, storage: Storage, stride: usize) -> FarCache {
        let bytes = |size: usize| (TOKENS - 1) * stride * size;
        let elements = stream.alloc(bytes(storage.size(Dtype::Bf16)) + 2 * ROW_BYTES).unwrap();
        let scales = stream.alloc(bytes(4) + 8).unwrap();
        FarCache { elements, scales, storage, stride }
    }

    /// One token on each page, or all on one.
    fn kernel(&self, table: Option<DevicePtr>) -> KvCache {
        let stride = self.stride as i64;
        let strides = CacheStrides { page: if table.is_some() { stride } else { 0 }, token: stride, head: 0 };
        let cached = |side: i64| Cached {
            data: self.elements.ptr().offset(side * ROW_BYTES as i64),
            strides,
            scales: if self.storage == Storage::Plain {
                DevicePtr::NULL
            } else {
                self.scales.ptr().offset(side * 4)
            },
            scale_strides: strides,
        };
        let pages = match table {
            None => Pages::Contiguous { tokens: TOKENS },
            Some(table) => {
                Pages::Paged { table, table_stride: 3, pages_of_sequence: 3, pages: TOKENS, page_tokens: 1 }
            }
        };
        KvCache { k: cached(0), v: cached(1), pages }
    }

    /// Elements and scales of the last token.
    fn last(&self) -> Vec<u8> {
        let mut last = vec![0; 2 * ROW_BYTES];
        self.elements
            .download((TOKENS - 1) * self.stride * self.storage.size(Dtype::Bf16), &mut last)
            .unwrap();
        let mut scales = vec![0; 8];
        self.scales.download((TOKENS - 1) * self.stride * 4, &mut scales).unwrap();
        if self.storage != Storage::Plain {
            last.extend(scales);
        }
        last
    }
}

/// What three appended tokens leave at the last place of the cache, and what one query makes of them.
fn append_and_decode(device: &Device, storage: Storage, paged: bool, stride: usize) -> [Vec<u8>; 2] {
    let stream = device.new_stream().unwrap();
    let cache = FarCache::new(&stream, storage, stride);
    let table = stream.alloc(12).unwrap();
    table.upload(0, bytemuck::cast_slice(&[2i32, 0, 1])).unwrap();
    let kernel = cache.kernel(paged.then(|| table.ptr()));
    let value = |i: usize| ((7 * i + 5 * (i / DIM)) % 32) as f32 / 16.0 - 1.0;
    let new: Vec<u8> = (0..7 * DIM).flat_map(|i| ((value(i).to_bits() >> 16) as u16).to_le_bytes()).collect();
    let inputs = stream.alloc(new.len()).unwrap();
    inputs.upload(0, &new).unwrap();
    let heads = |data: DevicePtr| Heads { data, strides: Strides::token_major(TOKENS, 1, DIM) };
    let input = |rows: usize| heads(inputs.ptr().offset((rows * ROW_BYTES) as i64));

    let append = KvAppend::new(Dtype::Bf16, DIM).storage(storage).paged(paged).plan(device).unwrap();
    let args = KvAppendArgs {
        batch: 1,
        tokens: TOKENS,
        kv_heads: 1,
        keys: TOKENS,
        k: input(0),
        v: input(TOKENS),
        cache: kernel,
        lengths: DevicePtr::NULL,
        counts: DevicePtr::NULL,
        frequencies: DevicePtr::NULL,
        factor: 1.0,
    };
    // SAFETY: all of it lies within the buffers above.
    unsafe { append.launch(&stream, &args) }.unwrap();

    let attention = Attention::new(Dtype::Bf16, DIM).causal(true);
    let decode =
        AttentionDecode::new(attention).storage(storage).paged(paged).splits(1).plan(device).unwrap();
    let (out, lse) = (stream.alloc(ROW_BYTES).unwrap(), stream.alloc(4).unwrap());
    let args = AttentionDecodeArgs {
        shape: AttentionShape { batch: 1, queries: 1, keys: TOKENS, heads: 1, kv_heads: 1 },
        scale: 0.125,
        q: input(2 * TOKENS),
        cache: kernel,
        lengths: DevicePtr::NULL,
        out: heads(out.ptr()),
        lse: lse.ptr(),
        workspace: DevicePtr::NULL,
        operands: Operands::default(),
    };
    // SAFETY: as above.
    unsafe { decode.launch(&stream, &args) }.unwrap();
    let mut decoded = vec![0; ROW_BYTES];
    out.download(0, &mut decoded).unwrap();
    [cache.last(), decoded]
}

#[test]
fn a_cache_is_the_same_when_tokens_lie_four_billion_elements_apart() {
    if let Err(error) = locate() {
        println!("skipped: {error}");
        return;
    }
    let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
    for (storage, paged) in [(Storage::Plain, false), (Storage::Int8, true)] {
        let near = append_and_decode(&device, storage, paged, 8 * DIM);
        assert!(near.iter().all(|part| part.iter().any(|&byte| byte != 0)));
        assert_eq!(append_and_decode(&device, storage, paged, (1 << 32) + 16), near);
    }
}
