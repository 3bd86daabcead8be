//! `kernels/kv_cache/append.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use super::{CacheSizes, CacheStrides, KernelPages, KvCache, MAX_TOKENS, Storage};
use crate::attention::{Heads, Strides};
use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("kv cache append");
const HEADERS: &[(&str, &str)] = cuda_files!["kv_cache/cache.cuh"];
const THREADS: u32 = 256;
const MAX_HEAD_DIM: usize = 1024;

params! {
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    struct Params {
        k: DevicePtr,
        v: DevicePtr,
        k_cache: DevicePtr,
        v_cache: DevicePtr,
        k_scales: DevicePtr,
        v_scales: DevicePtr,
        lengths: DevicePtr,
        counts: DevicePtr,
        frequencies: DevicePtr,
        pages: KernelPages,
        k_strides: Strides,
        v_strides: Strides,
        k_cache_strides: CacheStrides,
        v_cache_strides: CacheStrides,
        k_scale_strides: CacheStrides,
        v_scale_strides: CacheStrides,
        heads: i64,
        T: i32,
        kv_heads: i32,
        factor: f32,
        _pad: u32,
    }
}

/// Writes the keys and values of new tokens to a cache, keys turned by rotary position embedding on the way if wanted
/// (Su et al. 2021, arXiv 2104.09864, eq. 34; frequencies as a table, as [`Rope`](crate::rope::Rope) takes them), and
/// both quantised if the cache is.
///
/// A head of a token is quantised with one scale, its largest element over 127 (int8) or 448 (e4m3), to the nearest. A
/// head of which an element is not finite gets a scale that is not, and so never comes back as numbers.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvAppend {
    dtype: Dtype,
    head_dim: usize,
    value_dim: usize,
    storage: Storage,
    rotary: usize,
    interleaved: bool,
    paged: bool,
}

impl KvAppend {
    /// Of heads of `head_dim` elements, as they are, to a contiguous cache.
    #[must_use]
    pub fn new(dtype: Dtype, head_dim: usize) -> KvAppend {
        KvAppend {
            dtype,
            head_dim,
            value_dim: head_dim,
            storage: Storage::Plain,
            rotary: 0,
            interleaved: false,
            paged: false,
        }
    }

    /// Where heads of values have another number of elements.
    #[must_use]
    pub fn value_dim(self, value_dim: usize) -> KvAppend {
        KvAppend { value_dim, ..self }
    }

    /// What the elements of the cache are.
    #[must_use]
    pub fn storage(self, storage: Storage) -> KvAppend {
        KvAppend { storage, ..self }
    }

    /// The first `rotary` elements of a key turn.
    #[must_use]
    pub fn rotary(self, rotary: usize) -> KvAppend {
        KvAppend { rotary, ..self }
    }

    /// Whether element `2i` turns with element `2i + 1`; else element `i` with `i + rotary / 2`.
    #[must_use]
    pub fn interleaved(self, interleaved: bool) -> KvAppend {
        KvAppend { interleaved, ..self }
    }

    /// Whether the cache is in pages.
    #[must_use]
    pub fn paged(self, paged: bool) -> KvAppend {
        KvAppend { paged, ..self }
    }

    fn check(&self) -> Result<()> {
        CHECK.size("head dim", self.head_dim, 1, MAX_HEAD_DIM)?;
        CHECK.size("value dim", self.value_dim, 1, MAX_HEAD_DIM)?;
        if !self.rotary.is_multiple_of(2) || self.rotary > self.head_dim {
            let expected = format!("even, and 0 to the head dim ({})", self.head_dim);
            return Err(CHECK.error("rotary", self.rotary, expected));
        }
        Ok(())
    }

    fn can_be_aligned(&self) -> bool {
        self.rotary.is_multiple_of(16) && self.head_dim.is_multiple_of(8) && self.value_dim.is_multiple_of(8)
    }

    /// Lanes that share a head: no more than have something to load.
    fn group(&self, vector: usize) -> usize {
        let keys = self.rotary / 2 / vector + (self.head_dim - self.rotary) / vector;
        keys.max(self.value_dim / vector).next_power_of_two().min(32)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a head dim or value dim outside 1 to 1024, or elements to turn that
    /// are odd or more than a key has; [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<KvAppendPlan> {
        self.check()?;
        let load = |vector| Loaded::new(device, &variant(*self, vector));
        Ok(KvAppendPlan { kind: *self, kernel: ByAlignment::new(self.can_be_aligned(), load)? })
    }
}

fn variant(kind: KvAppend, vector: usize) -> Variant {
    let [file] = cuda_files!["kv_cache/append.cu"];
    let constants = Constants::new().alias("Element", kind.dtype.cuda_name());
    let constants = kind
        .storage
        .constants(constants, kind.dtype)
        .int("KEY_DIM", kind.head_dim as i64)
        .int("VALUE_DIM", kind.value_dim as i64)
        .int("ROTARY", kind.rotary as i64)
        .bool("INTERLEAVED", kind.interleaved)
        .bool("PAGED", kind.paged)
        .int("VECTOR", vector as i64)
        .int("GROUP", kind.group(vector) as i64)
        .int("THREADS", THREADS);
    Variant {
        program: program(*file, HEADERS, constants).params(Params::LAYOUT),
        entry: "kv_cache_append",
        threads: THREADS,
        shared_bytes: 0,
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    let new = |dtype| KvAppend::new(dtype, 128);
    let kinds = [
        new(Dtype::Bf16),
        new(Dtype::F32).rotary(128).paged(true).storage(Storage::Int8),
        new(Dtype::Bf16).rotary(64).interleaved(true).storage(Storage::E4m3),
        new(Dtype::F16).rotary(128).paged(true),
    ];
    kinds.into_iter().flat_map(|kind| [variant(kind, 8), variant(kind, 1)]).collect()
}

/// What [`KvAppendPlan::launch`] writes. Any strides and alignment of whole elements will do; with all heads and the
/// frequencies at multiples of 16 bytes, memory is accessed in vectors.
#[derive(Clone, Copy, Debug)]
pub struct KvAppendArgs {
    /// `B`, at most 2³¹ - 1.
    pub batch: usize,
    /// `T`, at most 2³¹ - 1.
    pub tokens: usize,
    /// `Hkv`, at most 65,535.
    pub kv_heads: usize,
    /// The most tokens that a sequence has with the new ones, at most what the cache has room for. What is beyond has no
    /// place.
    pub keys: usize,
    /// `(B, T, Hkv, D)`: the new keys.
    pub k: Heads,
    /// `(B, T, Hkv, value dim)`: the new values.
    pub v: Heads,
    /// Written where the new tokens go; the rest stays.
    pub cache: KvCache,
    /// `(B)` u32: how many tokens each sequence has with the new ones, which are its last. Null where each has `keys`. A
    /// token without a place in the cache (before the first, past `keys`, or on a page that the cache has not) is left out.
    pub lengths: DevicePtr,
    /// `(B)` u32: how many of the `T` tokens are new in each sequence, the first so many. Null where all are.
    pub counts: DevicePtr,
    /// `(rotary / 2)` f32: radians per position of each pair. A token's position is its place in the sequence. Null where
    /// nothing turns.
    pub frequencies: DevicePtr,
    /// What the turned elements are multiplied by: 1, or YaRN's attention factor.
    pub factor: f32,
}

/// A compiled [`KvAppend`].
#[derive(Clone, Debug)]
pub struct KvAppendPlan {
    kind: KvAppend,
    kernel: ByAlignment<Loaded>,
}

impl KvAppendPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no tokens, heads or keys.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; keys and values of the cache, and their scales, overlap nothing else; no two new
    /// tokens have the same place, as they would if two sequences had a page in common there.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &KvAppendArgs) -> Result<()> {
        if !check(self.kind, args)? {
            return Ok(());
        }
        let KvAppendArgs { batch, tokens, kv_heads, k, v, cache, .. } = *args;
        let params = Params {
            k: k.data,
            v: v.data,
            k_cache: cache.k.data,
            v_cache: cache.v.data,
            k_scales: cache.k.scales,
            v_scales: cache.v.scales,
            lengths: args.lengths,
            counts: args.counts,
            frequencies: args.frequencies,
            pages: KernelPages::new(&cache.pages, args.keys),
            k_strides: k.strides,
            v_strides: v.strides,
            k_cache_strides: cache.k.strides,
            v_cache_strides: cache.v.strides,
            k_scale_strides: cache.k.scale_strides,
            v_scale_strides: cache.v.scale_strides,
            heads: (batch * tokens * kv_heads) as i64,
            T: tokens as i32,
            kv_heads: kv_heads as i32,
            factor: args.factor,
            _pad: 0,
        };
        let (kernel, vector) = self.kernel.get(is_aligned(self.kind, args));
        let group = self.kind.group(vector);
        let heads = batch * tokens * kv_heads;
        CHECK.size("batch * tokens * kv_heads", heads, 0, MAX_BLOCKS / group * THREADS as usize)?;
        let grid = [(heads * group).div_ceil(THREADS as usize) as u32, 2];
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { kernel.launch(stream, grid, &params) }
    }
}

fn sizes(kind: KvAppend, args: &KvAppendArgs) -> CacheSizes {
    let KvAppend { dtype, head_dim, value_dim, storage, paged, .. } = kind;
    let head_dims = [head_dim, value_dim];
    CacheSizes { check: CHECK, dtype, storage, paged, batch: args.batch, kv_heads: args.kv_heads, head_dims }
}

fn is_aligned(kind: KvAppend, args: &KvAppendArgs) -> bool {
    let new = [args.k, args.v].iter().all(|Heads { data, strides }| {
        let steps =
            [(args.batch, strides.batch), (args.tokens, strides.token), (args.kv_heads, strides.head)];
        aligned([*data]) && steps.iter().all(|&(size, stride)| size <= 1 || stride % 8 == 0)
    });
    new && aligned([args.frequencies]) && sizes(kind, args).is_aligned(&args.cache)
}

/// Whether there is something to do.
fn check(kind: KvAppend, args: &KvAppendArgs) -> Result<bool> {
    let KvAppendArgs { batch, tokens, kv_heads, .. } = *args;
    CHECK.size("batch", batch, 0, i32::MAX as usize)?;
    CHECK.size("tokens", tokens, 0, i32::MAX as usize)?;
    CHECK.size("kv_heads", kv_heads, 0, 65_535)?;
    CHECK.size("keys", args.keys, 0, MAX_TOKENS.min(args.cache.capacity()))?;
    if !args.factor.is_finite() {
        return Err(CHECK.error("factor", args.factor, "finite"));
    }
    if batch * tokens * kv_heads * args.keys == 0 {
        return Ok(false);
    }
    CHECK.heads("k", &args.k, kind.dtype, [batch, tokens, kv_heads, kind.head_dim])?;
    CHECK.heads("v", &args.v, kind.dtype, [batch, tokens, kv_heads, kind.value_dim])?;
    sizes(kind, args).check(&args.cache, true)?;
    CHECK.optional("lengths", args.lengths, Dtype::F32)?;
    CHECK.optional("counts", args.counts, Dtype::F32)?;
    if kind.rotary > 0 {
        CHECK.memory("frequencies", args.frequencies, 4)?;
    }
    let new =
        |name, heads, dim| Extent::heads(name, heads, [batch, tokens, kv_heads, dim], kind.dtype.size());
    let [k_cache, v_cache, k_scales, v_scales, table] = sizes(kind, args).extents(&args.cache);
    CHECK.apart(&[
        new("k", &args.k, kind.head_dim),
        new("v", &args.v, kind.value_dim),
        Extent::contiguous("lengths", args.lengths, batch, 4),
        Extent::contiguous("counts", args.counts, batch, 4),
        Extent::contiguous("frequencies", args.frequencies, kind.rotary / 2, 4),
        table,
        k_cache.written(),
        v_cache.written(),
        k_scales.written(),
        v_scales.written(),
    ])?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::assert_apart;
    use crate::kv_cache::{Cached, Pages};

    const KIND: KvAppend = KvAppend {
        dtype: Dtype::Bf16,
        head_dim: 64,
        value_dim: 64,
        storage: Storage::Plain,
        rotary: 64,
        interleaved: false,
        paged: false,
    };

    fn args() -> KvAppendArgs {
        let heads = |i: u64| Heads { data: DevicePtr(i << 20), strides: Strides::token_major(3, 2, 64) };
        let cached = |i: u64| Cached {
            data: DevicePtr(i << 20),
            strides: CacheStrides::token_major(10, 2, 64),
            scales: DevicePtr::NULL,
            scale_strides: CacheStrides::NONE,
        };
        KvAppendArgs {
            batch: 2,
            tokens: 3,
            kv_heads: 2,
            keys: 10,
            k: heads(1),
            v: heads(2),
            cache: KvCache { k: cached(3), v: cached(4), pages: Pages::Contiguous { tokens: 10 } },
            lengths: DevicePtr(5 << 20),
            counts: DevicePtr(6 << 20),
            frequencies: DevicePtr(7 << 20),
            factor: 1.0,
        }
    }

    #[test]
    fn the_cache_is_apart_from_all_else() {
        assert_apart(
            args(),
            |args| check(KIND, args).map(drop),
            2,
            &[
                ("cache.k", |args| &mut args.cache.k.data),
                ("cache.v", |args| &mut args.cache.v.data),
                ("k", |args| &mut args.k.data),
                ("v", |args| &mut args.v.data),
                ("lengths", |args| &mut args.lengths),
                ("counts", |args| &mut args.counts),
                ("frequencies", |args| &mut args.frequencies),
            ],
            &[],
        );
        // Keys and values of a token beside each other.
        let mut packed = args();
        let strides = CacheStrides { page: 10 * 4 * 64, token: 4 * 64, head: 64 };
        (packed.cache.k.strides, packed.cache.v.strides) = (strides, strides);
        packed.cache.v.data = packed.cache.k.data.offset(2 * 2 * 64);
        assert!(check(KIND, &packed).is_ok());
    }

    fn message(change: impl Fn(&mut KvAppendArgs)) -> String {
        let mut args = args();
        change(&mut args);
        check(KIND, &args)
            .map_or_else(|error| error.to_string(), |some| if some { "fine" } else { "nothing" }.into())
    }

    #[test]
    fn an_argument_that_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        assert_eq!(message(|_| ()), "fine");
        assert_eq!(message(|args| args.tokens = 0), "nothing");
        assert_eq!(message(|args| args.keys = 0), "nothing");
        assert_eq!(message(|args| args.keys = 11), "kv cache append: keys is 11, it has to be 0 to 10");
        assert_eq!(message(|args| args.lengths = DevicePtr::NULL), "fine");
        assert_eq!(
            message(|args| args.lengths = DevicePtr(2)),
            "kv cache append: lengths is DevicePtr(0x2), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(|args| args.frequencies = DevicePtr::NULL),
            "kv cache append: frequencies is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(|args| args.factor = f32::INFINITY),
            "kv cache append: factor is inf, it has to be finite"
        );
        assert_eq!(
            message(|args| args.cache.v.strides.page = 128),
            "kv cache append: stride of cache.v is 128, it has to be at least 256: its elements overlap"
        );
        assert_eq!(
            message(|args| args.k.data = DevicePtr(3)),
            "kv cache append: k is DevicePtr(0x3), it has to be an address that is a multiple of 2"
        );
    }

    #[test]
    fn elements_that_cannot_be_paired_are_refused() {
        let error = KvAppend::new(Dtype::F32, 64).rotary(66).check().unwrap_err().to_string();
        assert_eq!(error, "kv cache append: rotary is 66, it has to be even, and 0 to the head dim (64)");
        let error = KvAppend::new(Dtype::F32, 64).value_dim(0).check().unwrap_err().to_string();
        assert_eq!(error, "kv cache append: value dim is 0, it has to be 1 to 1024");
    }
}
