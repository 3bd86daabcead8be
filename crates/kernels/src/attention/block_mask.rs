//! `kernels/attention/block_kinds.cu`, `block_lists.cu`.

use bytemuck::{Pod, Zeroable};
use longhand_gpu::{Device, DevicePtr, Stream, params};

use super::arguments::Arguments;
use super::expression::Expressions;
use super::operands::{DocumentsParams, MaskParams};
use super::tuning::Tile;
use super::{Attention, AttentionShape, Documents, HEADERS, Operands};
use crate::check::MAX_BLOCKS;
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Error, Result, Variant};

const OPERATION: &str = "attention block mask";
const KINDS_ENTRY: &str = "attention_block_kinds";
const LISTS_ENTRY: &str = "attention_block_lists";

/// Of both kernels.
const WARPS: u32 = 4;
/// Tiles of all kernels divide it.
const SMALLEST: usize = 128;
const LARGEST: usize = 1 << 20;

/// The blocks of a block mask ([`Attention::blocks`]): which of them a query sees anything of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blocks {
    /// How many queries, and how many keys, one block has: a multiple of 128, which is the tile that kernels compute.
    /// Larger blocks take less memory, and leave out less.
    pub size: usize,
    /// Whether each batch, or document, has blocks of its own, rather than all the same. It has to where there are
    /// documents or a prefix, or where the mask is of `b`.
    pub per_batch: bool,
    /// Whether each query head has blocks of its own, rather than all the same. It has to where the mask is of `h`.
    pub per_head: bool,
}

impl Default for Blocks {
    /// Of 128 by 128, the same for every batch and head.
    fn default() -> Blocks {
        Blocks { size: SMALLEST, per_batch: false, per_head: false }
    }
}

/// What a block is ([`BlockMaskArgs::kinds`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlockKind {
    /// No query sees any key of it. It costs nothing.
    Empty = 0,
    /// The [mask expression](Attention::mask) says which keys a query sees.
    Partial = 1,
    /// The mask expression hides nothing, and is not asked.
    Full = 2,
}

impl Blocks {
    /// How many kinds of blocks there are: of batches and of heads, 1 where all have the same; of blocks of queries and
    /// of keys. `sizes` are the numbers of batches or documents, of heads, and of queries and keys of the longest.
    ///
    /// ```
    /// use longhand_kernels::attention::Blocks;
    /// let blocks = Blocks { size: 128, per_batch: false, per_head: true };
    /// assert_eq!(blocks.counts([2, 4, 300, 129]), [1, 4, 3, 2]);
    /// ```
    #[must_use]
    pub fn counts(self, sizes: [usize; 4]) -> [usize; 4] {
        let [batches, heads, queries, keys] = sizes;
        let several = |each: bool, all: usize| if each { all } else { all.min(1) };
        let blocks = |tokens: usize| tokens.div_ceil(self.size);
        [several(self.per_batch, batches), several(self.per_head, heads), blocks(queries), blocks(keys)]
    }

    pub(super) fn check(self, operation: &'static str, attention: &Attention) -> Result<()> {
        let error = |argument: &str, was: &dyn std::fmt::Display, expected: String| {
            Err(Error::argument(operation, argument, was, expected))
        };
        if self.size == 0 || !self.size.is_multiple_of(SMALLEST) || self.size > LARGEST {
            let expected = format!("a multiple of {SMALLEST}, at most {LARGEST}");
            return error("blocks.size", &self.size, expected);
        }
        let of = |name| attention.expressions.mask_is_of(name);
        let batches = [
            (attention.documents, "there are documents"),
            (attention.prefix, "there is a prefix"),
            (of("b"), "the mask is of b"),
        ];
        if let Some((_, why)) = batches.iter().find(|(differ, _)| *differ && !self.per_batch) {
            return error("blocks.per_batch", &false, format!("true, because {why}"));
        }
        if of("h") && !self.per_head {
            return error("blocks.per_head", &false, "true, because the mask is of h".into());
        }
        Ok(())
    }
}

/// How many masks and blocks there are in one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    batches: usize,
    heads: usize,
    query_blocks: usize,
    key_blocks: usize,
}

impl Counts {
    /// Of sequences that have at most `longest` queries and keys.
    pub fn new(blocks: Blocks, shape: &AttentionShape, longest: [usize; 2]) -> Counts {
        let [queries, keys] = longest;
        let [batches, heads, query_blocks, key_blocks] =
            blocks.counts([shape.batch, shape.heads, queries, keys]);
        Counts { batches, heads, query_blocks, key_blocks }
    }

    fn kinds(self) -> usize {
        let Counts { batches, heads, query_blocks, key_blocks } = self;
        [heads, query_blocks, key_blocks].into_iter().fold(batches, usize::saturating_mul)
    }

    /// Of the lists by query, and of those by key: 4 for each block, and for each list.
    pub fn list_bytes(self) -> [usize; 2] {
        let masks = self.batches.saturating_mul(self.heads);
        [[self.query_blocks, 1 + self.key_blocks, 4], [self.key_blocks, 1 + self.query_blocks, 4]]
            .map(|sizes| sizes.into_iter().fold(masks, usize::saturating_mul))
    }

    pub fn params(self, blocks: Blocks, lists: DevicePtr) -> BlockMaskParams {
        let by_key = if lists.is_null() { lists } else { lists.offset(self.list_bytes()[0] as i64) };
        BlockMaskParams {
            by_query: lists,
            by_key,
            query_blocks: self.query_blocks as i32,
            key_blocks: self.key_blocks as i32,
            batch: if blocks.per_batch { self.heads as i32 } else { 0 },
            head: blocks.per_head.into(),
        }
    }
}

/// `BlockMask` of `block_mask.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct BlockMaskParams {
    by_query: DevicePtr,
    by_key: DevicePtr,
    query_blocks: i32,
    key_blocks: i32,
    batch: i32,
    head: i32,
}

mod kinds {
    use super::{DevicePtr, DocumentsParams, MaskParams, params};

    params! {
        #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
        pub struct Params {
            pub kinds: DevicePtr,
            pub mask: MaskParams,
            pub documents: DocumentsParams,
            pub named: [u64; 8],
            pub T: i32,
            pub S: i32,
        }
    }
}

mod lists {
    use super::{DevicePtr, params};

    params! {
        pub struct Params {
            pub kinds: DevicePtr,
            pub lists: DevicePtr,
            pub row_stride: i64,
            pub column_stride: i64,
            pub rows: i32,
            pub columns: i32,
        }
    }
}

impl Attention {
    /// Compiles the kernels that find the blocks of this attention ([`Attention::blocks`]): slow the first time, then from
    /// the cache.
    ///
    /// ```no_run
    /// use longhand_gpu::Device;
    /// use longhand_kernels::Dtype;
    /// use longhand_kernels::attention::{Attention, AttentionShape, BlockMaskArgs, Blocks, Documents, Operands};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (device, documents) = (Device::cuda(0)?, Documents::default());
    /// let stream = device.new_stream()?;
    /// let shape = AttentionShape { batch: 1, queries: 65_536, keys: 65_536, heads: 32, kv_heads: 8 };
    /// let attention = Attention::new(Dtype::Bf16, 128)
    ///     .causal(true)
    ///     .mask("q - k < 1024 || k < 128 || k / 128 % 16 == h % 16")
    ///     .blocks(Blocks { per_head: true, ..Blocks::default() });
    /// let plan = attention.block_mask(&device)?;
    /// let kinds = stream.alloc(plan.kinds_bytes(&shape, &documents))?; // 8 MB, which may go after the launch
    /// let lists = stream.alloc(plan.lists_bytes(&shape, &documents))?; // 67 MB
    /// let args =
    ///     BlockMaskArgs { shape, operands: Operands::default(), kinds: kinds.ptr(), lists: lists.ptr() };
    /// // SAFETY: kinds and lists are as large as the plan says, and outlive the launch.
    /// unsafe { plan.launch(&stream, &args)? };
    /// // For forward and backward, of as many layers as have this mask:
    /// let operands = Operands { blocks: lists.ptr(), ..Operands::default() };
    /// # let _ = operands;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Attention::forward`]; and where the attention was described without blocks.
    pub fn block_mask(&self, device: &Device) -> Result<BlockMaskPlan> {
        self.check(OPERATION, device.arch())?;
        let Some(blocks) = self.blocks else {
            return Err(Error::argument(OPERATION, "blocks", "none", "described: `Attention::blocks`"));
        };
        let attention = self.masks_alone();
        let [kinds, lists] = variants(&attention);
        let [kinds, lists] = [Loaded::new(device, &kinds)?, Loaded::new(device, &lists)?];
        Ok(BlockMaskPlan { attention, blocks, kinds, lists })
    }

    /// Without what the block mask does not depend on: attentions with the same masks have the same kernels.
    fn masks_alone(&self) -> Attention {
        let Attention { causal, left, right, prefix, documents, blocks, .. } = *self;
        let Expressions { mask, named, .. } = self.expressions.clone();
        let expressions = Expressions { mask, named, score: None };
        let all = Attention::new(Dtype::Bf16, 64);
        Attention { causal, left, right, prefix, documents, blocks, expressions, ..all }
    }
}

/// Of an attention that has masks alone, and blocks.
pub(super) fn variants(attention: &Attention) -> [Variant; 2] {
    let [kinds, lists] = *cuda_files!["attention/block_kinds.cu", "attention/block_lists.cu"];
    let size = attention.blocks.unwrap_or_default().size as u32;
    let constants = attention.tile_constants(Tile { block_q: size, block_k: size, warps: WARPS, stages: 1 });
    let variant = |program, entry| Variant { program, entry, threads: 32 * WARPS, shared_bytes: 0 };
    let list_constants =
        longhand_gpu::Constants::new().int("WARPS", WARPS).bool("BLOCK_MASK", true).int("MASK_BLOCK", size);
    [
        variant(attention.program(kinds, constants).params(kinds::Params::LAYOUT), KINDS_ENTRY),
        variant(program(lists, HEADERS, list_constants).params(lists::Params::LAYOUT), LISTS_ENTRY),
    ]
}

/// What a [`BlockMaskPlan`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct BlockMaskArgs<'a> {
    /// The sizes.
    pub shape: AttentionShape,
    /// As given to forward; only `prefix`, `documents` and `named` are read.
    pub operands: Operands<'a>,
    /// `(B or 1, H or 1, blocks of queries, blocks of keys)` contiguous u8, [`BlockMaskPlan::kinds_bytes`] of them: the
    /// [`BlockKind`] of each.
    pub kinds: DevicePtr,
    /// [`BlockMaskPlan::lists_bytes`], overwritten: what forward and backward take as [`Operands::blocks`].
    pub lists: DevicePtr,
}

/// The compiled kernels that find the blocks of an [`Attention`]: for one shape, and one set of operands, they have to be
/// found once.
#[derive(Clone, Debug)]
pub struct BlockMaskPlan {
    attention: Attention,
    blocks: Blocks,
    kinds: Loaded,
    lists: Loaded,
}

impl BlockMaskPlan {
    /// Bytes of the kinds: one for each block of each mask, so they grow with `T / size * S / size`.
    #[must_use]
    pub fn kinds_bytes(&self, shape: &AttentionShape, documents: &Documents) -> usize {
        self.counts(shape, documents).kinds()
    }

    /// Bytes of the lists: eight for each block of each mask, and four for each row and column of blocks. With blocks of
    /// 128, a mask of a million queries and keys takes 0.5 GB; of 1024, 8 MB.
    #[must_use]
    pub fn lists_bytes(&self, shape: &AttentionShape, documents: &Documents) -> usize {
        let [by_query, by_key] = self.counts(shape, documents).list_bytes();
        by_query.saturating_add(by_key)
    }

    fn counts(&self, shape: &AttentionShape, documents: &Documents) -> Counts {
        let longest = if self.attention.documents {
            [documents.longest_queries, documents.longest_keys]
        } else {
            [shape.queries, shape.keys]
        };
        Counts::new(self.blocks, shape, longest)
    }

    /// Enqueues on `stream` what asks all masks of the attention for every query and key, and writes `kinds` and `lists`: no
    /// allocation, no synchronisation. The order of lists is that of the blocks, so the same masks give the same bits.
    ///
    /// # Safety
    ///
    /// `kinds`, `lists` and the operands lie, with these sizes, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; `kinds` and `lists` overlap nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for sizes or addresses that the kernels cannot take; [`Error::Gpu`] where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &BlockMaskArgs<'_>) -> Result<()> {
        let (operands, counts, arguments) = self.check(args)?;
        if counts.kinds() > 0 {
            let blocks = counts.query_blocks * counts.key_blocks;
            let params = kinds::Params {
                kinds: args.kinds,
                mask: operands.mask_params(&self.attention, &arguments),
                documents: operands.documents_params(),
                named: self.attention.expressions.slots(&arguments, operands.named)?,
                T: args.shape.queries as i32,
                S: args.shape.keys as i32,
            };
            let grid = [blocks, counts.heads, counts.batches].map(|n| n as u32);
            // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
            unsafe { self.kinds.launch(stream, grid, &params) }?;
        }
        // SAFETY: as above.
        unsafe { self.launch_rows(stream, args, counts) }
    }

    /// The same of blocks that the caller chose: reads `kinds`, and writes `lists`. A query then sees a key where its block
    /// is not empty and the other masks let it, among them, unless the block is full, the mask expression. What is none of
    /// the [`BlockKind`]s counts as partial.
    ///
    /// # Safety
    ///
    /// As [`BlockMaskPlan::launch`].
    ///
    /// # Errors
    ///
    /// As [`BlockMaskPlan::launch`].
    pub unsafe fn launch_lists(&self, stream: &Stream, args: &BlockMaskArgs<'_>) -> Result<()> {
        let (_, counts, _) = self.check(args)?;
        // SAFETY: the caller answers for it.
        unsafe { self.launch_rows(stream, args, counts) }
    }

    unsafe fn launch_rows(&self, stream: &Stream, args: &BlockMaskArgs<'_>, counts: Counts) -> Result<()> {
        let Counts { batches, heads, query_blocks, key_blocks } = counts;
        let mask = counts.params(self.blocks, args.lists);
        for (lists, rows, columns, row_stride, column_stride) in [
            (mask.by_query, query_blocks, key_blocks, key_blocks, 1),
            (mask.by_key, key_blocks, query_blocks, 1, key_blocks),
        ] {
            if batches * heads * rows == 0 {
                continue;
            }
            let params = lists::Params {
                kinds: args.kinds,
                lists,
                row_stride: row_stride as i64,
                column_stride: column_stride as i64,
                rows: rows as i32,
                columns: columns as i32,
            };
            let grid = [(rows as u32).div_ceil(WARPS), heads as u32, batches as u32];
            // SAFETY: the caller answers for it.
            unsafe { self.lists.launch(stream, grid, &params) }?;
        }
        Ok(())
    }

    /// The operands that are read.
    fn check<'a>(&self, args: &BlockMaskArgs<'a>) -> Result<(Operands<'a>, Counts, Arguments)> {
        let Attention { dtype, documents, .. } = self.attention;
        let arguments = Arguments { operation: OPERATION, dtype, shape: args.shape, documents };
        arguments.check_shape(1.0)?;
        let Operands { prefix, documents, named, .. } = args.operands;
        let operands = Operands { prefix, documents, named, blocks: args.lists, ..Operands::default() };
        let counts = self.counts(&args.shape, &documents);
        operands.check(&self.attention, &arguments)?;
        if counts.kinds() > 0 {
            arguments.check_pointer("kinds", args.kinds, 1)?;
        }
        if counts.query_blocks.saturating_mul(counts.key_blocks) > MAX_BLOCKS {
            let was = format!("{} by {}", counts.query_blocks, counts.key_blocks);
            return Err(arguments.error("number of blocks", was, "at most 2^31: larger blocks make fewer"));
        }
        let [prefix, queries, keys, lists, rest @ ..] = operands.extents(&self.attention, &arguments);
        let kinds = Extent::contiguous("kinds", args.kinds, counts.kinds(), 1).written();
        arguments.check_apart([prefix, queries, keys, lists.written(), kinds].iter().chain(&rest))?;
        Ok((operands, counts, arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attention: &Attention) -> String {
        let arch = "sm_80".parse().unwrap();
        attention.check("attention forward", arch).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn blocks_are_of_whole_tiles_and_as_many_as_masks_differ() {
        let new = |blocks| Attention::new(Dtype::Bf16, 64).causal(true).blocks(blocks);
        let all = Blocks::default();
        for size in [0, 64, 192, 1 << 21] {
            let expected = format!(
                "attention forward: blocks.size is {size}, it has to be a multiple of 128, at most 1048576"
            );
            assert_eq!(message(&new(Blocks { size, ..all })), expected);
        }
        let masks = [
            (new(all), "fine"),
            (new(all).mask("q / bh == k"), "fine"),
            (
                new(all).documents(true),
                "blocks.per_batch is false, it has to be true, because there are documents",
            ),
            (
                new(all).prefix(true),
                "blocks.per_batch is false, it has to be true, because there is a prefix",
            ),
            (
                new(all).mask("q%2==b"),
                "blocks.per_batch is false, it has to be true, because the mask is of b",
            ),
            (
                new(all).mask("k < 3 * h"),
                "blocks.per_head is false, it has to be true, because the mask is of h",
            ),
        ];
        for (attention, expected) in masks {
            assert!(message(&attention).ends_with(expected), "{}", message(&attention));
            let own = Blocks { per_batch: true, per_head: true, ..all };
            assert_eq!(message(&attention.blocks(own)), "fine");
        }
    }

    #[test]
    fn lists_lie_behind_each_other() {
        let shape = AttentionShape { batch: 3, queries: 300, keys: 129, heads: 4, kv_heads: 2 };
        let blocks = Blocks { per_head: true, ..Blocks::default() };
        let counts = Counts::new(blocks, &shape, [300, 129]);
        assert_eq!(counts.kinds(), 4 * 3 * 2);
        assert_eq!(counts.list_bytes(), [4 * 3 * (1 + 2) * 4, 4 * 2 * (1 + 3) * 4]);
        let params = counts.params(blocks, DevicePtr(256));
        assert_eq!(params.by_key, DevicePtr(256 + 4 * 3 * 3 * 4));
        assert_eq!([params.query_blocks, params.key_blocks, params.batch, params.head], [3, 2, 0, 1]);
    }
}
