//! What is attended to, and with which features.

use longhand_tensor::ops::{
    AttentionOptions, BlockKind, BlockMask, Blocks, Documents, Dual, Named, Position, Score, ScoreMask,
};
use longhand_tensor::{Device, Dropout, Dtype, Random, Result, Tensor, ops};
use proptest::prelude::*;

use crate::{indices, tensor, values};

/// What is attended to, and with which features. Sizes of documents, where there are any, make those of the tensors.
#[derive(Clone, Debug)]
pub struct Case {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub kv_heads: usize,
    pub group: usize,
    pub dim: usize,
    pub value_dim: usize,
    pub causal: bool,
    pub left: Option<usize>,
    pub right: Option<usize>,
    pub prefix: Option<usize>,
    pub documents: Vec<[usize; 2]>,
    pub mask: bool,
    pub score: bool,
    pub softcap: bool,
    pub alibi: bool,
    /// Which dimensions of the bias have one element.
    pub bias: Option<[bool; 4]>,
    pub sinks: bool,
    pub dropout: bool,
    pub blocks: Option<Choice>,
    pub seed: u64,
}

/// A block mask: one that is found, or one whose kinds are the user's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Found,
    Chosen,
}

/// With up to so many tokens.
pub fn cases(tokens: usize) -> impl Strategy<Value = Case> {
    let sizes = (1..3usize, 0..=tokens, 0..=tokens, 1..3usize, 1..3usize, 1..4usize, 1..4usize);
    let side = || prop::option::weighted(0.3, 0..tokens);
    let documents = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec([0..tokens, 0..tokens], 1..4),
    ];
    let masks = (any::<bool>(), side(), side(), side(), documents, prop::bool::weighted(0.2));
    let rare = || prop::bool::weighted(0.3);
    let scores = (rare(), rare(), rare(), prop::option::weighted(0.4, any::<[bool; 4]>()), rare(), rare());
    (sizes, masks, scores, any::<u64>()).prop_map(|(sizes, masks, scores, seed)| {
        let (batch, queries, keys, kv_heads, group, dim, value_dim) = sizes;
        let (causal, left, right, prefix, documents, mask) = masks;
        let (score, softcap, alibi, bias, sinks, dropout) = scores;
        let total = |side: usize| documents.iter().map(|lengths| lengths[side]).sum();
        let alone = documents.is_empty();
        Case {
            batch: if alone { batch } else { 1 },
            queries: if alone { queries } else { total(0) },
            keys: if alone { keys } else { total(1) },
            kv_heads,
            group,
            dim,
            value_dim,
            causal,
            left,
            right,
            prefix: prefix.filter(|_| causal || right.is_some()),
            documents,
            mask,
            score,
            softcap,
            alibi,
            bias,
            sinks,
            dropout,
            blocks: None,
            seed,
        }
    })
}

pub const CAP: f64 = 1.5;
pub const RANDOM: Random = Random { seed: 7, offset: 3 };
pub const PROBABILITY: f64 = 0.25;

pub fn shown(at: Position) -> bool {
    !(at.query * 5 + at.key * 3 + at.head + at.batch).is_multiple_of(4)
}

pub fn scored(at: Position, score: Dual) -> Dual {
    let factor = 1.0 + ((at.query + 2 * at.key + at.head) % 3) as f64 * 0.25;
    (score * factor + score.powi(2) * 0.2).max(score - 1.0)
}

impl Case {
    pub fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// q, k, v, bias and sinks.
    pub fn inputs(&self) -> Vec<Tensor> {
        let Case { batch, queries, keys, kv_heads, dim, value_dim, seed, .. } = *self;
        let mut inputs = vec![
            tensor(&[batch, queries, self.heads(), dim], seed),
            tensor(&[batch, keys, kv_heads, dim], seed ^ 1),
            tensor(&[batch, keys, kv_heads, value_dim], seed ^ 2),
        ];
        if let Some(one) = self.bias {
            let sizes = self.bias_sizes();
            let shape: Vec<usize> =
                sizes.iter().zip(one).map(|(&size, one)| if one { 1 } else { size }).collect();
            inputs.push(tensor(&shape, seed ^ 3));
        }
        if self.sinks {
            inputs.push(tensor(&[self.heads()], seed ^ 4));
        }
        inputs
    }

    /// Of a bias that does not broadcast.
    pub fn bias_sizes(&self) -> [usize; 4] {
        let longest = |side: usize| self.documents.iter().map(|lengths| lengths[side]).max().unwrap_or(0);
        if self.documents.is_empty() {
            [self.batch, self.heads(), self.queries, self.keys]
        } else {
            [self.documents.len(), self.heads(), longest(0), longest(1)]
        }
    }

    pub fn slopes(&self) -> Vec<f64> {
        values(self.heads(), self.seed ^ 5).iter().map(|slope| slope.abs() * 0.2).collect()
    }

    pub fn options(&self, inputs: &[Tensor]) -> AttentionOptions {
        let (device, dtype) =
            (inputs[0].device(), if inputs[0].dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 });
        let lengths = |side: usize| self.documents.iter().map(|lengths| lengths[side]).collect::<Vec<_>>();
        let sequences = if self.documents.is_empty() { self.batch } else { self.documents.len() };
        let prefixes = |prefix: usize| (0..sequences as u32).map(|i| prefix as u32 + i).collect::<Vec<_>>();
        let mut options = AttentionOptions {
            causal: self.causal,
            scale: Some(0.8),
            window_left: self.left,
            window_right: self.right,
            prefix: self
                .prefix
                .map(|prefix| indices(&prefixes(prefix), &[sequences]).to_device(device).unwrap()),
            documents: (!self.documents.is_empty())
                .then(|| Documents::with_keys(&lengths(0), &lengths(1), device).unwrap()),
            mask: self.mask.then(|| {
                let stride = ("stride", Named::Integer(5));
                ScoreMask::new(shown).cuda("(q * stride + k * 3 + h + b) % 4 != 0", &[stride])
            }),
            score: self.score.then(|| {
                let text =
                    "fmaxf(score * (1.0f + (q + 2 * k + h) % 3 * step) + score * score * 0.2f, score - 1.0f)";
                Score::new(scored).cuda(text, &[("step", Named::Float(0.25))])
            }),
            softcap: self.softcap.then_some(CAP),
            alibi: self.alibi.then(|| {
                Tensor::from_vec(self.slopes(), &[self.heads()], &Device::Cpu)
                    .unwrap()
                    .to_dtype(dtype)
                    .unwrap()
                    .to_device(device)
                    .unwrap()
            }),
            bias: self.bias.map(|_| inputs[3].clone()),
            sinks: self.sinks.then(|| inputs[inputs.len() - 1].clone()),
            dropout: self.dropout.then_some(Dropout { probability: PROBABILITY, random: RANDOM }),
            blocks: None,
        };
        options.blocks = self.blocks.map(|choice| self.block_mask(choice, &options, device));
        options
    }

    /// One for each batch and head, of 128 by 128.
    pub fn block_mask(&self, choice: Choice, options: &AttentionOptions, device: &Device) -> BlockMask {
        let sizes = [self.batch, self.heads(), self.queries, self.keys];
        let blocks = Blocks { per_batch: true, per_head: true, ..Default::default() };
        let masks = sizes[0] * sizes[1] * sizes[2].div_ceil(128) * sizes[3].div_ceil(128);
        let kinds: Vec<BlockKind> = (0..masks)
            .map(|i| [BlockKind::Full, BlockKind::Partial, BlockKind::Empty][i * 5 % 7 % 3])
            .collect();
        match choice {
            Choice::Found => BlockMask::find(options, sizes, blocks, device),
            Choice::Chosen => BlockMask::choose(options, sizes, blocks, &kinds, device),
        }
        .unwrap()
    }

    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let (out, lse) = ops::attention_with_lse(&inputs[0], &inputs[1], &inputs[2], &self.options(inputs))?;
        Ok(vec![out, lse])
    }
}

/// With head dims that GPUs take, and more than a block of queries and keys.
pub const PLAIN: Case = Case {
    batch: 2,
    queries: 140,
    keys: 150,
    kv_heads: 1,
    group: 2,
    dim: 64,
    value_dim: 64,
    causal: false,
    left: None,
    right: None,
    prefix: None,
    documents: Vec::new(),
    mask: false,
    score: false,
    softcap: false,
    alibi: false,
    bias: None,
    sinks: false,
    dropout: false,
    blocks: None,
    seed: 5,
};
