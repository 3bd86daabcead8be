//! Block masks.

use std::fmt::Display;
use std::sync::Arc;

use longhand_kernels::attention as kernel;
use longhand_kernels::attention::{BlockKind, Blocks};

use super::{Attention, AttentionOptions, Documents, Inputs, NAME};
use crate::cpu::attention::{Position, Sizes};
use crate::layout::count;
use crate::{Device, Dtype, Error, Gpu, Result, Tensor};

/// In which blocks of queries and keys there is anything to compute: [`AttentionOptions::blocks`]. GPUs visit these alone,
/// and ask a [`mask`](AttentionOptions::mask) only in those that are partial. Made once, for all layers and steps that
/// have the same masks and sizes; its memory there grows with `T / size * S / size`
/// ([`lists_bytes`](kernel::BlockMaskPlan::lists_bytes)).
#[derive(Clone, Debug)]
pub struct BlockMask {
    blocks: Blocks,
    masks: Masks,
    /// Batches or documents, heads, queries and keys of the longest.
    sizes: [usize; 4],
    /// Those that are the user's own.
    chosen: Option<Arc<[BlockKind]>>,
    device: Device,
    /// On a GPU.
    lists: Option<Tensor>,
}

/// What says which keys a query sees, but for numbers and tensors in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Masks {
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
    prefix: bool,
    documents: bool,
    expression: Option<String>,
}

impl Masks {
    fn of(options: &AttentionOptions) -> Masks {
        let cuda = |mask: &super::ScoreMask| mask.cuda.as_ref().map(|expression| expression.text.clone());
        Masks {
            causal: options.causal,
            left: options.window_left,
            right: options.window_right,
            prefix: options.prefix.is_some(),
            documents: options.documents.is_some(),
            expression: options.mask.as_ref().and_then(cuda),
        }
    }
}

impl BlockMask {
    /// Finds the blocks in which the masks of `options` leave anything, for tensors of `(batch, query heads, queries, keys)`:
    /// what a GPU asks every mask once for every place. The CPU has its own way, and nothing to find.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::ops::{AttentionOptions, BlockMask, Blocks, Named, ScoreMask};
    /// use longhand_tensor::{Device, Dtype, Tensor, ops};
    ///
    /// // The query's own block of 256 keys, and every fourth before it.
    /// let mask = ScoreMask::new(|at| at.key / 256 == at.query / 256 || at.key / 256 % 4 == 0)
    ///     .cuda("k / 256 == q / 256 || k / 256 % 4 == 0", &[]);
    /// let mut options = AttentionOptions { causal: true, mask: Some(mask), ..Default::default() };
    /// let blocks = Blocks { size: 256, ..Default::default() };
    /// options.blocks = Some(BlockMask::find(&options, [1, 2, 300, 300], blocks, &Device::Cpu)?);
    /// let x = Tensor::full(&[1, 300, 2, 8], 1.0, Dtype::F32, &Device::Cpu)?;
    /// assert_eq!(ops::attention(&x, &x, &x, &options)?.shape(), [1, 300, 2, 8]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the options do not fit, or the device has no memory for the lists.
    pub fn find(
        options: &AttentionOptions,
        sizes: [usize; 4],
        blocks: Blocks,
        device: &Device,
    ) -> Result<BlockMask> {
        BlockMask::new(options, sizes, blocks, None, device)
    }

    /// Blocks of the user's own: `kinds` is `(B or 1, H or 1, blocks of queries, blocks of keys)`, in row-major order. A
    /// query sees a key where its block is not empty and the masks of `options` let it, among them, unless the block is
    /// full, the user's own [`mask`](AttentionOptions::mask).
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::ops::{AttentionOptions, BlockKind, BlockMask, Blocks};
    /// use longhand_tensor::{Device, Dtype, Tensor, ops};
    ///
    /// // Two blocks of queries and two of keys: each query sees the keys of its own block.
    /// let kinds = [BlockKind::Full, BlockKind::Empty, BlockKind::Empty, BlockKind::Full];
    /// let mut options = AttentionOptions::default();
    /// let blocks = BlockMask::choose(&options, [1, 2, 256, 256], Blocks::default(), &kinds, &Device::Cpu)?;
    /// options.blocks = Some(blocks);
    /// let x = Tensor::ones(&[1, 256, 2, 8], Dtype::F32, &Device::Cpu)?;
    /// assert_eq!(ops::attention(&x, &x, &x, &options)?.shape(), [1, 256, 2, 8]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there are not as many kinds, or else as [`BlockMask::find`].
    pub fn choose(
        options: &AttentionOptions,
        sizes: [usize; 4],
        blocks: Blocks,
        kinds: &[BlockKind],
        device: &Device,
    ) -> Result<BlockMask> {
        BlockMask::new(options, sizes, blocks, Some(kinds), device)
    }

    fn new(
        options: &AttentionOptions,
        [batch, heads, queries, keys]: [usize; 4],
        blocks: Blocks,
        kinds: Option<&[BlockKind]>,
        device: &Device,
    ) -> Result<BlockMask> {
        let documents = options.documents.as_ref();
        let [longest_queries, longest_keys] = documents.map_or([queries, keys], Documents::longest);
        let mut mask = BlockMask {
            blocks,
            masks: Masks::of(options),
            sizes: [documents.map_or(batch, Documents::count), heads, longest_queries, longest_keys],
            chosen: kinds.map(Arc::from),
            device: device.clone(),
            lists: None,
        };
        mask.check_kinds()?;
        if let Device::Gpu(gpu) = device {
            let sizes = Sizes { batch, queries, keys, heads, kv_heads: heads, dim: 64, value_dim: 64 };
            mask.lists = Some(mask.list(options, gpu, sizes)?);
        }
        Ok(mask)
    }

    fn check_kinds(&self) -> Result<()> {
        if self.blocks.size == 0 {
            return Err(error("blocks.size", 0, "positive"));
        }
        let counts = self.blocks.counts(self.sizes);
        let Some(expected) = count(&counts) else {
            return Err(error("sizes", format!("{:?}", self.sizes), "with blocks that memory could hold"));
        };
        match &self.chosen {
            Some(kinds) if kinds.len() != expected => {
                let was = format!("{} of them", kinds.len());
                Err(error("kinds of blocks", was, format!("{expected}: {counts:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Finds or lists the blocks on a GPU.
    fn list(&self, options: &AttentionOptions, gpu: &Gpu, sizes: Sizes) -> Result<Tensor> {
        let masks = Attention(AttentionOptions {
            causal: options.causal,
            window_left: options.window_left,
            window_right: options.window_right,
            prefix: options.prefix.as_ref().map(|prefix| prefix.detach().contiguous()).transpose()?,
            documents: options.documents.clone(),
            mask: options.mask.clone(),
            blocks: Some(self.clone()),
            ..Default::default()
        });
        let none = gpu.empty(&[0], Dtype::Bf16)?;
        let inputs = Inputs { q: &none, k: &none, v: &none, bias: None, sinks: None };
        let held = masks.held(&inputs)?;
        let named = held.values()?;
        let operands = masks.operands(&none, &held, &named)?;
        let described = masks.described(&none, sizes)?;
        let plan = gpu.plans().block_mask.get(described, |described| described.block_mask(gpu.device()))?;
        let shape = masks.kernel_shape(sizes);
        let lists = gpu.empty(&[plan.lists_bytes(&shape, &operands.documents) / 4], Dtype::U32)?;
        let kinds = gpu.workspace(plan.kinds_bytes(&shape, &operands.documents))?;
        let args = kernel::BlockMaskArgs { shape, operands, kinds: kinds.ptr(), lists: lists.pointer(NAME)? };
        // SAFETY: kinds and lists are new, and as large as the plan says; what the masks call by name is held.
        unsafe {
            match &self.chosen {
                Some(chosen) => {
                    kinds.upload(0, &chosen.iter().map(|kind| *kind as u8).collect::<Vec<_>>())?;
                    plan.launch_lists(gpu.stream(), &args)?;
                }
                None => plan.launch(gpu.stream(), &args)?,
            }
        }
        Ok(lists)
    }

    /// Whether it is for an attention with these options, of so many sequences, heads, and queries and keys of the longest.
    pub(super) fn check(&self, options: &AttentionOptions, device: &Device, sizes: [usize; 4]) -> Result<()> {
        if *device != self.device {
            let (left, right) = (device.to_string(), self.device.to_string());
            return Err(Error::Devices { operation: NAME.into(), left, right });
        }
        if sizes != self.sizes {
            let expected = format!("one for {sizes:?} (batches or documents, heads, queries, keys)");
            return Err(error("blocks", format!("a block mask for {:?}", self.sizes), expected));
        }
        if Masks::of(options) != self.masks {
            return Err(error("blocks", "a block mask for other masks", "one for those of these options"));
        }
        Ok(())
    }

    pub(super) fn described(&self) -> Blocks {
        self.blocks
    }

    pub(super) fn lists(&self) -> Option<&Tensor> {
        self.lists.as_ref()
    }

    /// What the user chose, if he did.
    pub(super) fn kind(&self, at: Position) -> Option<BlockKind> {
        let kinds = self.chosen.as_ref()?;
        let [batches, heads, queries, keys] = self.blocks.counts(self.sizes);
        let mask = at.batch.min(batches - 1) * heads + at.head.min(heads - 1);
        let block = (mask * queries + at.query / self.blocks.size) * keys + at.key / self.blocks.size;
        Some(kinds[block])
    }

    pub(super) fn is_chosen(&self) -> bool {
        self.chosen.is_some()
    }
}

fn error(argument: &str, was: impl Display, expected: impl Display) -> Error {
    Error::argument(NAME, argument, was.to_string(), expected.to_string())
}
