//! Block masks.

use super::Attention;
use super::scores::Drawn;
use crate::{Error, Trial, View};
use longhand_kernels::attention::{self as kernel, BlockKind, BlockMaskArgs, BlockMaskPlan};
use longhand_reference::AttentionShape;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A block mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Queries, and keys, of a block, in units of 128; one more than this.
    pub larger: usize,
    /// Whether batches have blocks of their own.
    pub per_batch: bool,
    /// Whether heads have blocks of their own.
    pub per_head: bool,
    /// Whether they are drawn, as a user's own may be, rather than found by asking the masks.
    pub chosen: bool,
}

impl Blocks {
    fn size(self) -> usize {
        128 * (1 + self.larger)
    }

    pub(super) fn describe(self) -> kernel::Blocks {
        kernel::Blocks { size: self.size(), per_batch: self.per_batch, per_head: self.per_head }
    }
}

/// The kinds of the blocks of one case.
pub(super) struct Kinds {
    blocks: Blocks,
    /// Masks of batches and heads, blocks of queries and keys.
    sizes: [usize; 4],
    kinds: Vec<BlockKind>,
}

impl Kinds {
    /// Of so many sequences, of which the longest has so many queries and keys.
    fn new(blocks: Blocks, sequences: usize, heads: usize, longest: [usize; 2]) -> Kinds {
        let several = |each: bool, all: usize| if each { all } else { all.min(1) };
        let [queries, keys] = longest.map(|tokens| tokens.div_ceil(blocks.size()));
        let sizes = [several(blocks.per_batch, sequences), several(blocks.per_head, heads), queries, keys];
        Kinds { blocks, sizes, kinds: vec![BlockKind::Empty; sizes.iter().product()] }
    }

    /// Those that a user chose, where he did.
    pub fn chosen(
        blocks: Blocks,
        sequences: usize,
        heads: usize,
        longest: [usize; 2],
        seed: u64,
    ) -> Option<Kinds> {
        let mut chosen = Kinds::new(blocks, sequences, heads, longest);
        let mut random = StdRng::seed_from_u64(seed);
        let kinds = [BlockKind::Empty, BlockKind::Partial, BlockKind::Full];
        chosen.kinds.iter_mut().for_each(|kind| *kind = kinds[random.random_range(0..3)]);
        blocks.chosen.then_some(chosen)
    }

    /// Of the block of a query and a key of a sequence.
    pub fn get(&self, sequence: usize, head: usize, query: usize, key: usize) -> BlockKind {
        let [batches, heads, queries, keys] = self.sizes;
        let mask = sequence.min(batches - 1) * heads + head.min(heads - 1);
        let size = self.blocks.size();
        self.kinds[(mask * queries + query / size) * keys + key / size]
    }

    fn bytes(&self) -> Vec<u8> {
        self.kinds.iter().map(|kind| *kind as u8).collect()
    }
}

/// What the masks of a case make of each block.
fn found(attention: &Attention, drawn: &Drawn<'_>, blocks: Blocks) -> Kinds {
    let AttentionShape { batch, queries, keys, heads, .. } = attention.shape;
    let mask = &attention.mask;
    let mut found = Kinds::new(blocks, mask.sequences(batch), heads, mask.longest([queries, keys]));
    let [batches, heads, query_blocks, key_blocks] = found.sizes;
    let mut kinds = Vec::new();
    for sequence in 0..batches {
        let place = mask.sequence(&attention.shape, sequence);
        for head in 0..heads {
            for (query_block, key_block) in
                (0..query_blocks).flat_map(|q| (0..key_blocks).map(move |k| (q, k)))
            {
                let tokens =
                    |block: usize, all: usize| block * blocks.size()..all.min((block + 1) * blocks.size());
                let (mut any, mut all) = (false, true);
                for query in tokens(query_block, place.queries) {
                    for key in tokens(key_block, place.keys) {
                        let sees = drawn.visible(place.batch, head, place.query + query, place.key + key);
                        (any, all) = (any | sees, all & sees);
                    }
                }
                kinds.push(match (any, all) {
                    (false, _) => BlockKind::Empty,
                    (true, true) => BlockKind::Full,
                    (true, false) => BlockKind::Partial,
                });
            }
        }
    }
    found.kinds = kinds;
    found
}

/// Finds the blocks, or lists those that were chosen: what forward and backward are given.
pub(super) fn lists(
    attention: &Attention,
    drawn: &Drawn<'_>,
    operands: kernel::Operands<'_>,
    trial: &mut Trial,
) -> Result<Option<View>, Error> {
    let Some(blocks) = attention.mask.blocks else { return Ok(None) };
    let plan: BlockMaskPlan = attention.described().block_mask(trial.stream().device())?;
    let shape = attention.kernel_shape();
    let lists = trial.workspace(plan.lists_bytes(&shape, &operands.documents))?;
    let bytes = plan.kinds_bytes(&shape, &operands.documents);
    let kinds = trial.stream().alloc(bytes)?;
    let args = BlockMaskArgs { shape, operands, kinds: kinds.ptr(), lists: lists.ptr() };
    if let Some(chosen) = &drawn.kinds {
        kinds.upload(0, &chosen.bytes())?;
        // SAFETY: all lies in buffers of these sizes, which live on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch_lists(stream, &args) })?;
    } else {
        // SAFETY: as above.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        let mut written = vec![0; bytes];
        kinds.download(0, &mut written)?;
        let expected = found(attention, drawn, blocks).bytes();
        let wrong = written.iter().zip(&expected).filter(|(written, expected)| written != expected).count();
        trial.judge_number("kinds that are wrong", wrong as f64, 0.0);
    }
    Ok(Some(lists))
}
