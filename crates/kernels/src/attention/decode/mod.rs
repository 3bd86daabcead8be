//! `kernels/attention/decode.cu` and `decode_combine.cu`: attention of a few new tokens over a cache.

mod tuning;

use longhand_gpu::{Arch, Constants, Device, DevicePtr, Stream, params};

use super::arguments::Arguments;
use super::description::Number;
use super::operands::{MaskParams, ScoringParams};
use super::{Attention, AttentionShape, Heads, Operands, Strides};
use crate::check::{Check, MAX_BLOCKS_YZ};
use crate::extent::Extent;
use crate::kv_cache::{CacheSizes, CacheStrides, KernelPages, KvCache, MAX_TOKENS, Storage};
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};
use tuning::{Block, MAX_SPLITS, TILE, splits};

const OPERATION: &str = "attention decode";
const CHECK: Check = Check(OPERATION);
const HEADERS: &[(&str, &str)] = cuda_files!["attention/decode_tile.cuh", "kv_cache/cache.cuh"];
/// The most new tokens of a sequence in one launch: with more, the tiles of the forward kernel waste less.
pub const MAX_NEW_TOKENS: usize = 16;
const COMBINE_THREADS: u32 = 128;

params! {
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    struct Params {
        q: DevicePtr,
        k: DevicePtr,
        v: DevicePtr,
        k_scales: DevicePtr,
        v_scales: DevicePtr,
        lengths: DevicePtr,
        out: DevicePtr,
        lse: DevicePtr,
        partial_out: DevicePtr,
        partial_lse: DevicePtr,
        pages: KernelPages,
        q_strides: Strides,
        out_strides: Strides,
        k_strides: CacheStrides,
        v_strides: CacheStrides,
        k_scale_strides: CacheStrides,
        v_scale_strides: CacheStrides,
        mask: MaskParams,
        scoring: ScoringParams,
        T: i32,
        S: i32,
        kv_heads: i32,
        heads_per_kv: i32,
    }
}

mod combine {
    use super::{DevicePtr, Strides, params};

    params! {
        #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
        pub struct Params {
            pub partial_out: DevicePtr,
            pub partial_lse: DevicePtr,
            pub sinks: DevicePtr,
            pub out: DevicePtr,
            pub lse: DevicePtr,
            pub out_strides: Strides,
            pub rows: i64,
            pub T: i32,
            pub heads: i32,
            pub splits: i32,
            pub _pad: u32,
        }
    }
}

/// Attention of 1 to 16 new tokens of each sequence over a cache of keys and values (Dao et al. 2023, "Flash-Decoding
/// for long-context inference"), forward only: its inputs have no gradient.
///
/// The keys of a sequence are split over as many blocks as it takes to fill the device; query heads that share a key head
/// read it once, as long as they and the new tokens are no more than 16 rows together. Deterministic: the same inputs
/// give the same bits on the same kind of device.
///
/// ```no_run
/// use longhand_gpu::{Device, DevicePtr};
/// use longhand_kernels::Dtype;
/// use longhand_kernels::attention::{
///     Attention, AttentionDecode, AttentionDecodeArgs, AttentionShape, Heads, Operands, Strides,
/// };
/// use longhand_kernels::kv_cache::{CacheStrides, Cached, KvCache, Pages};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::cuda(0)?;
/// let stream = device.new_stream()?;
/// let attention = Attention::new(Dtype::Bf16, 128).causal(true);
/// let plan = AttentionDecode::new(attention).plan(&device)?;
///
/// // One new token of each of 16 sequences, in a cache with room for 8192 tokens of each.
/// let shape = AttentionShape { batch: 16, queries: 1, keys: 8192, heads: 32, kv_heads: 8 };
/// let cache_bytes = 16 * 8192 * 8 * 128 * 2;
/// let (k, v) = (stream.alloc(cache_bytes)?, stream.alloc(cache_bytes)?);
/// let (q, out) = (stream.alloc(16 * 32 * 128 * 2)?, stream.alloc(16 * 32 * 128 * 2)?);
/// let (lse, lengths) = (stream.alloc(16 * 32 * 4)?, stream.alloc(16 * 4)?);
/// let workspace = stream.alloc(plan.workspace_bytes(&shape))?;
/// let heads = |data: DevicePtr| Heads { data, strides: Strides::token_major(1, 32, 128) };
/// let cached = |data: DevicePtr| Cached {
///     data,
///     strides: CacheStrides::token_major(8192, 8, 128),
///     scales: DevicePtr::NULL,
///     scale_strides: CacheStrides::NONE,
/// };
/// let args = AttentionDecodeArgs {
///     shape,
///     scale: 0.088,
///     q: heads(q.ptr()),
///     cache: KvCache { k: cached(k.ptr()), v: cached(v.ptr()), pages: Pages::Contiguous { tokens: 8192 } },
///     lengths: lengths.ptr(),
///     out: heads(out.ptr()),
///     lse: lse.ptr(),
///     workspace: workspace.ptr(),
///     operands: Operands::default(),
/// };
/// // SAFETY: all tensors lie within the allocations above, which outlive the launch.
/// unsafe { plan.launch(&stream, &args)? };
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttentionDecode {
    attention: Attention,
    storage: Storage,
    paged: bool,
    splits: Option<usize>,
}

impl AttentionDecode {
    /// Over a contiguous cache of the queries' own type, bf16 or f16. Masks and scores are those of `attention`: S is the
    /// length of each sequence, and the new tokens are its last. It has no dropout, bias, prefix, documents or
    /// blocks.
    #[must_use]
    pub fn new(attention: Attention) -> AttentionDecode {
        AttentionDecode { attention, storage: Storage::Plain, paged: false, splits: None }
    }

    /// What the elements of the cache are.
    #[must_use]
    pub fn storage(self, storage: Storage) -> AttentionDecode {
        AttentionDecode { storage, ..self }
    }

    /// Whether the cache is in pages.
    #[must_use]
    pub fn paged(self, paged: bool) -> AttentionDecode {
        AttentionDecode { paged, ..self }
    }

    /// How many blocks share the keys of a sequence, 1 to 128; `None` for as many as it takes to fill the device.
    #[must_use]
    pub fn splits(self, splits: impl Into<Option<usize>>) -> AttentionDecode {
        AttentionDecode { splits: splits.into(), ..self }
    }

    fn check(&self, arch: Arch) -> Result<()> {
        let attention = &self.attention;
        attention.check(OPERATION, arch)?;
        if attention.dtype == Dtype::F32 {
            return Err(CHECK.error("dtype", attention.dtype, "bf16 or f16"));
        }
        if let Some(probability) = attention.dropout.map(Number::get) {
            return Err(CHECK.error("dropout", probability, "none: it is for training"));
        }
        for (feature, given, instead) in [
            ("bias", attention.bias, "none: a score expression may look one up"),
            ("prefix", attention.prefix, "none: new tokens follow it, and see all of it"),
            ("documents", attention.documents, "none: each batch is a sequence of its own length"),
            ("blocks", attention.blocks.is_some(), "none: a mask expression hides keys one by one"),
        ] {
            if given {
                return Err(CHECK.error(feature, "given", instead));
            }
        }
        if let Some(splits) = self.splits {
            CHECK.size("splits", splits, 1, MAX_SPLITS)?;
        }
        Ok(())
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a dtype, head dim or feature that there is no kernel for, or a
    /// device older than sm_80; [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<AttentionDecodePlan> {
        self.check(device.arch())?;
        let kernel = Loaded::new(device, &variant(self))?;
        let resident = kernel.blocks_per_multiprocessor(device.arch());
        Ok(AttentionDecodePlan {
            decode: self.clone(),
            blocks_at_once: (device.multiprocessors() * resident) as usize,
            kernel,
            combine: Loaded::new(device, &combine_variant(&self.attention))?,
        })
    }

    fn block(&self) -> Block {
        Block::of(self.attention.dtype, self.storage, self.head_dims())
    }

    /// Of keys and values.
    fn head_dims(&self) -> [usize; 2] {
        [self.attention.head_dim, self.attention.value_dim]
    }
}

fn variant(decode: &AttentionDecode) -> Variant {
    let [file] = cuda_files!["attention/decode.cu"];
    let block = decode.block();
    let constants = decode.attention.tile_constants(block.tile());
    let constants = decode.storage.constants(constants, decode.attention.dtype).bool("PAGED", decode.paged);
    let program = decode.attention.program(*file, constants).headers(HEADERS).params(Params::LAYOUT);
    let threads = block.warps as u32 * 32;
    let shared_bytes = block.shared_bytes(decode.attention.dtype, decode.storage, decode.head_dims()) as u32;
    Variant { program, entry: "attention_decode", threads, shared_bytes }
}

/// Lanes that share a row in the merge: no more than have something to load.
fn group(value_dim: usize) -> usize {
    (value_dim / 8).next_power_of_two().min(32)
}

fn combine_variant(attention: &Attention) -> Variant {
    let [file] = cuda_files!["attention/decode_combine.cu"];
    let constants = Constants::new()
        .alias("Element", attention.dtype.cuda_name())
        .int("VALUE_DIM", attention.value_dim as i64)
        .int("GROUP", group(attention.value_dim) as i64)
        .int("THREADS", COMBINE_THREADS);
    Variant {
        program: program(*file, &[], constants).params(combine::Params::LAYOUT),
        entry: "attention_decode_combine",
        threads: COMBINE_THREADS,
        shared_bytes: 0,
    }
}

/// Representatives: the head dims and types of models, every storage, and the most registers.
pub(crate) fn variants() -> Vec<Variant> {
    let causal = |dtype, dim| Attention::new(dtype, dim).causal(true);
    let all = |attention: Attention| attention.window(1, None).softcap(30.0).alibi(true).sinks(true);
    let bf16 = || AttentionDecode::new(causal(Dtype::Bf16, 128));
    let decodes = [
        bf16(),
        AttentionDecode::new(causal(Dtype::F16, 64)).paged(true),
        bf16().storage(Storage::Int8).paged(true),
        AttentionDecode::new(causal(Dtype::F16, 128)).storage(Storage::E4m3),
        AttentionDecode::new(all(causal(Dtype::Bf16, 256))).paged(true),
        AttentionDecode::new(all(causal(Dtype::Bf16, 256))).storage(Storage::E4m3).paged(true),
        AttentionDecode::new(causal(Dtype::Bf16, 72).value_dim(40).mask("(q ^ k) % 3 != 0")).paged(true),
    ];
    let combined = [causal(Dtype::Bf16, 128), causal(Dtype::F16, 256)];
    decodes.iter().map(variant).chain(combined.iter().map(combine_variant)).collect()
}

/// What [`AttentionDecodePlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDecodeArgs<'a> {
    /// `queries` (T) are the new tokens of each sequence, at most 16; `keys` the most that a sequence has with them, at most
    /// what the cache has room for: what is beyond is not seen.
    pub shape: AttentionShape,
    /// What `q k^T` is multiplied by, positive: 1 / sqrt(`D`), usually.
    pub scale: f32,
    /// `(B, T, H, D)`.
    pub q: Heads,
    /// With the keys and values of the new tokens: see [`KvAppend`](crate::kv_cache::KvAppend). Every head begins at a
    /// multiple of 16 bytes. What is on a page that the cache has not is read as zeros. Not looked at where `keys` is 0.
    pub cache: KvCache,
    /// `(B)` u32: how many tokens each sequence has with the new ones, which are its last. Null where each has `keys`.
    pub lengths: DevicePtr,
    /// `(B, T, H, Dv)`, overwritten. A query that sees no key gets 0.
    pub out: Heads,
    /// `(B, H, T)` contiguous f32, overwritten: the natural logarithm of the sum of `exp(score)` over keys and sink. A query
    /// that sees neither gets -inf.
    pub lse: DevicePtr,
    /// [`AttentionDecodePlan::workspace_bytes`] of scratch memory, at a multiple of 16 bytes.
    pub workspace: DevicePtr,
    /// What the attention was described with.
    pub operands: Operands<'a>,
}

/// A compiled [`AttentionDecode`].
#[derive(Clone, Debug)]
pub struct AttentionDecodePlan {
    decode: AttentionDecode,
    /// That the device has room for.
    blocks_at_once: usize,
    kernel: Loaded,
    combine: Loaded,
}

impl AttentionDecodePlan {
    /// Scratch memory that a launch of this shape needs; 0 where one block walks over all keys of a sequence.
    #[must_use]
    pub fn workspace_bytes(&self, shape: &AttentionShape) -> usize {
        match self.splits(shape) {
            1 => 0,
            splits => splits * rows(shape) * (self.decode.attention.value_dim + 1) * 4,
        }
    }

    fn splits(&self, shape: &AttentionShape) -> usize {
        let blocks = shape.batch * blocks_of_sequence(shape);
        let steps = shape.keys.div_ceil(TILE * self.decode.block().warps);
        self.decode.splits.unwrap_or_else(|| splits(blocks, self.blocks_at_once, steps))
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no queries.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; `out`, `lse` and `workspace` overlap nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &AttentionDecodeArgs<'_>) -> Result<()> {
        let AttentionDecodeArgs { shape, q, cache, out, operands, .. } = *args;
        let AttentionShape { batch, queries, keys, heads, kv_heads } = shape;
        let attention = &self.decode.attention;
        let arguments = check(&self.decode, args, self.workspace_bytes(&shape))?;
        if batch * queries * heads == 0 {
            return Ok(());
        }
        let splits = self.splits(&shape);
        let partial_lse = args.workspace.offset((splits * rows(&shape) * attention.value_dim * 4) as i64);
        let params = Params {
            q: q.data,
            k: cache.k.data,
            v: cache.v.data,
            k_scales: cache.k.scales,
            v_scales: cache.v.scales,
            lengths: args.lengths,
            out: out.data,
            lse: args.lse,
            partial_out: args.workspace,
            partial_lse,
            pages: KernelPages::new(&cache.pages, keys),
            q_strides: q.strides,
            out_strides: out.strides,
            k_strides: cache.k.strides,
            v_strides: cache.v.strides,
            k_scale_strides: cache.k.scale_strides,
            v_scale_strides: cache.v.scale_strides,
            mask: operands.mask_params(attention, &arguments),
            scoring: operands.scoring_params(attention, &arguments, args.scale)?,
            T: queries as i32,
            S: keys as i32,
            kv_heads: kv_heads as i32,
            heads_per_kv: (heads / kv_heads) as i32,
        };
        let grid = [splits, blocks_of_sequence(&shape), batch].map(|blocks| blocks as u32);
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.kernel.launch(stream, grid, &params) }?;
        if splits == 1 {
            return Ok(());
        }
        let params = combine::Params {
            partial_out: args.workspace,
            partial_lse,
            sinks: operands.sinks,
            out: out.data,
            lse: args.lse,
            out_strides: out.strides,
            rows: rows(&shape) as i64,
            T: queries as i32,
            heads: heads as i32,
            splits: splits as i32,
            _pad: 0,
        };
        let blocks = (rows(&shape) * group(attention.value_dim)).div_ceil(COMBINE_THREADS as usize);
        // SAFETY: as above.
        unsafe { self.combine.launch(stream, [blocks as u32, 1], &params) }
    }
}

fn rows(shape: &AttentionShape) -> usize {
    shape.batch * shape.heads * shape.queries
}

/// Blocks that the queries of one sequence take, before keys are split.
fn blocks_of_sequence(shape: &AttentionShape) -> usize {
    let rows = shape.heads / shape.kv_heads.max(1) * shape.queries;
    shape.kv_heads * rows.div_ceil(TILE)
}

fn check(
    decode: &AttentionDecode,
    args: &AttentionDecodeArgs<'_>,
    workspace_bytes: usize,
) -> Result<Arguments> {
    let &AttentionDecode { ref attention, storage, paged, .. } = decode;
    let AttentionShape { batch, queries, keys, heads, kv_heads } = args.shape;
    let arguments =
        Arguments { operation: OPERATION, dtype: attention.dtype, shape: args.shape, documents: false };
    arguments.check_shape(args.scale)?;
    CHECK.size("queries", queries, 0, MAX_NEW_TOKENS)?;
    CHECK.size("keys", keys, 0, MAX_TOKENS.min(args.cache.capacity()))?;
    CHECK.size("heads * queries in tiles of 16", blocks_of_sequence(&args.shape), 0, MAX_BLOCKS_YZ)?;
    args.operands.check(attention, &arguments)?;
    arguments.check_queries("q", &args.q)?;
    arguments.check_queries_written("out", &args.out, attention.value_dim)?;
    arguments.check_per_query("lse", args.lse, 4)?;
    if batch * queries * heads == 0 {
        return Ok(arguments);
    }
    CHECK.optional("lengths", args.lengths, Dtype::F32)?;
    if workspace_bytes > 0 {
        CHECK.memory("workspace", args.workspace, 16)?;
    }
    let operands = args.operands.extents(attention, &arguments);
    let tensors = [
        arguments.of_queries("q", &args.q, attention.head_dim),
        Extent::contiguous("lengths", args.lengths, batch, 4),
        arguments.of_queries("out", &args.out, attention.value_dim).written(),
        arguments.per_query("lse", args.lse).written(),
        Extent::contiguous("workspace", args.workspace, workspace_bytes, 1).written(),
    ];
    if keys > 0 {
        let (dtype, head_dims) = (attention.dtype, decode.head_dims());
        let sizes = CacheSizes { check: CHECK, dtype, storage, paged, batch, kv_heads, head_dims };
        sizes.check(&args.cache, false)?;
        sizes.check_alignment(&args.cache)?;
        arguments.check_apart(tensors.iter().chain(&operands).chain(&sizes.extents(&args.cache)))?;
    } else {
        arguments.check_apart(tensors.iter().chain(&operands))?;
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Blocks;
    use crate::extent::assert_apart;
    use crate::kv_cache::{Cached, Pages};

    const SHAPE: AttentionShape = AttentionShape { batch: 2, queries: 3, keys: 100, heads: 8, kv_heads: 2 };

    fn causal() -> Attention {
        Attention::new(Dtype::Bf16, 64).causal(true)
    }

    fn args() -> AttentionDecodeArgs<'static> {
        let heads = |address| Heads { data: DevicePtr(address), strides: Strides::token_major(3, 8, 64) };
        let cached = |address| Cached {
            data: DevicePtr(address),
            strides: CacheStrides::token_major(100, 2, 64),
            scales: DevicePtr::NULL,
            scale_strides: CacheStrides::NONE,
        };
        AttentionDecodeArgs {
            shape: SHAPE,
            scale: 0.125,
            q: heads(1 << 22),
            cache: KvCache {
                k: cached(1 << 20),
                v: cached(1 << 21),
                pages: Pages::Contiguous { tokens: 100 },
            },
            lengths: DevicePtr::NULL,
            out: heads(1 << 23),
            lse: DevicePtr(1 << 24),
            workspace: DevicePtr(1 << 25),
            operands: Operands::default(),
        }
    }

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let decode = AttentionDecode::new(causal());
        assert_apart(
            AttentionDecodeArgs { lengths: DevicePtr(1 << 26), ..args() },
            |args| check(&decode, args, 4096).map(drop),
            3,
            &[
                ("out", |args| &mut args.out.data),
                ("lse", |args| &mut args.lse),
                ("workspace", |args| &mut args.workspace),
                ("q", |args| &mut args.q.data),
                ("lengths", |args| &mut args.lengths),
                ("cache.k", |args| &mut args.cache.k.data),
                ("cache.v", |args| &mut args.cache.v.data),
            ],
            &[],
        );
    }

    fn message(attention: Attention, change: impl Fn(&mut AttentionDecodeArgs<'_>)) -> String {
        let mut args = args();
        change(&mut args);
        check(&AttentionDecode::new(attention), &args, 4096)
            .map_or_else(|error| error.to_string(), |_| "fine".into())
    }

    #[test]
    fn an_argument_that_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        let is = |change: &dyn Fn(&mut AttentionDecodeArgs<'_>), expected: &str| {
            assert_eq!(message(causal(), change), format!("attention decode: {expected}"));
        };
        assert_eq!(message(causal(), |_| ()), "fine");
        assert_eq!(message(causal(), |args| args.shape.queries = 0), "fine");
        is(&|args| args.shape.queries = 17, "queries is 17, it has to be 0 to 16");
        is(&|args| args.shape.keys = 101, "keys is 101, it has to be 0 to 100");
        is(&|args| args.shape.heads = 7, "heads is 7, it has to be a multiple of kv_heads (2)");
        is(&|args| args.scale = 0.0, "scale is 0, it has to be positive and finite");
        is(
            &|args| args.q.strides.token = 516,
            "token stride of q is 516, it has to be a multiple of 8 elements (16 bytes)",
        );
        is(
            &|args| args.out.data = DevicePtr(8),
            "out is DevicePtr(0x8), it has to be an address that is a multiple of 16",
        );
        is(
            &|args| args.out.strides.head = 32,
            "stride of out is 32, it has to be at least 64: its elements overlap",
        );
        is(
            &|args| args.lse = DevicePtr::NULL,
            "lse is DevicePtr(0x0), it has to be an address that is a multiple of 4",
        );
        is(
            &|args| args.lengths = DevicePtr(2),
            "lengths is DevicePtr(0x2), it has to be an address that is a multiple of 4",
        );
        is(
            &|args| args.workspace = DevicePtr::NULL,
            "workspace is DevicePtr(0x0), it has to be an address that is a multiple of 16",
        );
        is(
            &|args| args.cache.k.strides.token = 132,
            "token stride of cache.k is 132, it has to be a multiple of 16 bytes (8 elements)",
        );
        is(
            &|args| args.cache.v.scales = DevicePtr(16),
            "cache.v.scales is DevicePtr(0x10), it has to be null: the elements are not quantised",
        );
        is(
            &|args| args.operands.sinks = DevicePtr(16),
            "sinks is DevicePtr(0x10), it has to be null: the attention was described without",
        );
        assert_eq!(
            message(causal().alibi(true), |_| ()),
            "attention decode: slopes is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
    }

    #[test]
    fn without_keys_the_cache_is_not_looked_at() {
        let none = |args: &mut AttentionDecodeArgs<'_>| {
            args.shape.keys = 0;
            args.cache.k.data = DevicePtr::NULL;
        };
        assert_eq!(message(causal(), none), "fine");
    }

    #[test]
    fn what_there_is_no_kernel_for_is_an_error() {
        let is = |decode: AttentionDecode, expected: &str| {
            let error = decode.check("sm_80".parse().unwrap()).unwrap_err().to_string();
            assert_eq!(error, format!("attention decode: {expected}"));
        };
        let new = AttentionDecode::new;
        is(new(Attention::new(Dtype::F32, 64)), "dtype is f32, it has to be bf16 or f16");
        is(new(Attention::new(Dtype::F16, 68)), "head dim is 68, it has to be a multiple of 8 from 8 to 256");
        is(new(causal().value_dim(264)), "value dim is 264, it has to be a multiple of 8 from 8 to 256");
        is(new(causal().dropout(0.1)), "dropout is 0.1, it has to be none: it is for training");
        is(new(causal().bias(true)), "bias is given, it has to be none: a score expression may look one up");
        is(
            new(causal().prefix(true)),
            "prefix is given, it has to be none: new tokens follow it, and see all of it",
        );
        is(
            new(causal().documents(true)),
            "documents is given, it has to be none: each batch is a sequence of its own length",
        );
        let blocks = Blocks::default();
        is(
            new(causal().mask("q == k").blocks(blocks)),
            "blocks is given, it has to be none: a mask expression hides keys one by one",
        );
        for splits in [0, 129] {
            is(new(causal()).splits(splits), &format!("splits is {splits}, it has to be 1 to 128"));
        }
        let error = new(causal()).check("sm_75".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "attention decode: architecture is sm_75, it has to be sm_80 or later");
    }
}
