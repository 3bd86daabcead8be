//! Which keys a query sees.

use super::Blocks;
use crate::{Error, Trial};
use longhand_gpu::Buffer;
use longhand_kernels::attention as kernel;
use longhand_reference as reference;
use std::fmt;

/// Masks, which restrict each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// Whether a query sees only the keys up to its own place.
    pub causal: bool,
    /// How many keys before its own place it sees.
    pub left: Option<usize>,
    /// How many keys after its own place it sees.
    pub right: Option<usize>,
    /// How many first keys it sees as well, in each batch or document, which take the next, starting over after the
    /// last; none without.
    pub prefixes: Vec<usize>,
    /// Queries and keys of each document, which together are those of the shape, and its batch is 1; without, batches
    /// are sequences.
    pub documents: Vec<[usize; 2]>,
    /// Which blocks are visited; without, all that the other masks leave anything of.
    pub blocks: Option<Blocks>,
}

/// One sequence.
pub(super) struct Sequence {
    pub queries: usize,
    pub keys: usize,
    /// Where it begins.
    pub batch: usize,
    pub query: usize,
    pub key: usize,
}

/// A place in one sequence.
pub(super) struct Local {
    pub sequence: usize,
    pub queries: usize,
    pub keys: usize,
    pub query: usize,
    pub key: usize,
}

impl Mask {
    /// Query and key within their document, if they have the same one.
    pub(super) fn local(
        &self,
        shape: &reference::AttentionShape,
        b: usize,
        t: usize,
        s: usize,
    ) -> Option<Local> {
        if self.documents.is_empty() {
            let reference::AttentionShape { queries, keys, .. } = *shape;
            return Some(Local { sequence: b, queries, keys, query: t, key: s });
        }
        let [mut query, mut key] = [t, s];
        for (sequence, &[queries, keys]) in self.documents.iter().enumerate() {
            if query < queries || key < keys {
                let same = query < queries && key < keys;
                return same.then_some(Local { sequence, queries, keys, query, key });
            }
            query -= queries;
            key -= keys;
        }
        None
    }

    pub(super) fn sequence(&self, shape: &reference::AttentionShape, index: usize) -> Sequence {
        let reference::AttentionShape { queries, keys, .. } = *shape;
        let Some(&[queries_of, keys_of]) = self.documents.get(index) else {
            return Sequence { queries, keys, batch: index, query: 0, key: 0 };
        };
        let before = |side: usize| self.documents[..index].iter().map(|lengths| lengths[side]).sum();
        Sequence { queries: queries_of, keys: keys_of, batch: 0, query: before(0), key: before(1) }
    }

    /// Whether query `t` sees key `s`, but for blocks and expressions.
    pub(super) fn visible(&self, shape: &reference::AttentionShape, b: usize, t: usize, s: usize) -> bool {
        let Some(Local { sequence, queries, keys, query, key }) = self.local(shape, b, t, s) else {
            return false;
        };
        let right = if self.causal { Some(0) } else { self.right };
        let sees = |left, right| reference::window(queries, keys, left, right)(b, 0, query, key);
        let prefix = self.prefix(sequence).is_some_and(|prefix| key < prefix);
        sees(self.left, None) && (prefix || sees(None, right))
    }

    fn prefix(&self, sequence: usize) -> Option<usize> {
        (!self.prefixes.is_empty()).then(|| self.prefixes[sequence % self.prefixes.len()])
    }

    /// The shape with the queries and keys of the documents, if there are any.
    #[must_use]
    pub fn shape(&self, shape: reference::AttentionShape) -> reference::AttentionShape {
        if self.documents.is_empty() {
            return shape;
        }
        let sum = |side: usize| self.documents.iter().map(|lengths| lengths[side]).sum();
        reference::AttentionShape { batch: 1, queries: sum(0), keys: sum(1), ..shape }
    }

    /// As the kernels are told.
    pub(super) fn describe(&self, attention: kernel::Attention) -> kernel::Attention {
        attention
            .causal(self.causal)
            .window(self.left, self.right)
            .prefix(!self.prefixes.is_empty())
            .documents(!self.documents.is_empty())
            .blocks(self.blocks.map(Blocks::describe))
    }

    /// Batches, or documents.
    pub(super) fn sequences(&self, batch: usize) -> usize {
        if self.documents.is_empty() { batch } else { self.documents.len() }
    }

    /// Queries and keys of the longest sequence.
    pub(super) fn longest(&self, shape: [usize; 2]) -> [usize; 2] {
        if self.documents.is_empty() {
            return shape;
        }
        [0, 1].map(|side| self.documents.iter().map(|lengths| lengths[side]).max().unwrap_or(0))
    }

    /// What the kernels are given.
    pub(super) fn upload(&self, trial: &Trial, batch: usize) -> Result<MaskOperands, Error> {
        let mut given = MaskOperands::default();
        if !self.prefixes.is_empty() {
            let lengths: Vec<u32> = (0..self.sequences(batch))
                .filter_map(|i| self.prefix(i))
                .map(|prefix| prefix as u32)
                .collect();
            given.prefix = Some(trial.integers(&lengths)?);
        }
        if !self.documents.is_empty() {
            let starts = |side: usize| -> Vec<u32> {
                let ends = self.documents.iter().scan(0, |end, lengths| {
                    *end += lengths[side] as u32;
                    Some(*end)
                });
                std::iter::once(0).chain(ends).collect()
            };
            given.documents = Some([trial.integers(&starts(0))?, trial.integers(&starts(1))?]);
            given.longest = self.longest([0, 0]);
        }
        Ok(given)
    }
}

/// Tensors of a [`Mask`].
#[derive(Debug, Default)]
pub(super) struct MaskOperands {
    prefix: Option<Buffer>,
    documents: Option<[Buffer; 2]>,
    longest: [usize; 2],
}

impl MaskOperands {
    pub fn operands<'a>(&self) -> kernel::Operands<'a> {
        let mut operands = kernel::Operands::default();
        if let Some(prefix) = &self.prefix {
            operands.prefix = prefix.ptr();
        }
        if let Some([queries, keys]) = &self.documents {
            let [longest_queries, longest_keys] = self.longest;
            operands.documents =
                kernel::Documents { queries: queries.ptr(), keys: keys.ptr(), longest_queries, longest_keys };
        }
        operands
    }
}

/// Such as `causal window 5- prefix 3,0`.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", if self.causal { "causal" } else { "full" })?;
        if self.left.is_some() || self.right.is_some() {
            let side = |side: Option<usize>| side.map(|n| n.to_string()).unwrap_or_default();
            write!(f, " window {}-{}", side(self.left), side(self.right))?;
        }
        if !self.prefixes.is_empty() {
            write!(f, " prefix {:?}", self.prefixes)?;
        }
        if !self.documents.is_empty() {
            write!(f, " documents {:?}", self.documents)?;
        }
        if let Some(Blocks { larger, per_batch, per_head, chosen }) = self.blocks {
            write!(f, " {} blocks of {}", if chosen { "chosen" } else { "found" }, 128 * (1 + larger))?;
            write!(f, "{}", if per_batch { ", of each batch" } else { "" })?;
            write!(f, "{}", if per_head { ", of each head" } else { "" })?;
        }
        Ok(())
    }
}
