//! Attention of a few new tokens over a cache.

use super::super::cache::CacheLayout;
use super::{HeadLayout, Mask, Scores, heads};
use crate::tolerance::Rule::Forward;
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::attention::{self as kernel, AttentionDecodeArgs};
use longhand_kernels::kv_cache::Storage;
use longhand_reference::{self as reference, AttentionShape, Scoring};
use std::fmt;

/// One launch.
#[derive(Clone, Debug)]
pub struct AttentionDecode {
    /// Of queries and output; bf16 or f16.
    pub precision: Precision,
    /// What the cache holds.
    pub storage: Storage,
    /// New tokens of each sequence.
    pub queries: usize,
    /// Query heads and key heads.
    pub heads: [usize; 2],
    /// Elements of a key and of a value.
    pub dims: [usize; 2],
    /// Keys of each sequence.
    pub lengths: Vec<usize>,
    /// Tokens of a page; None for a contiguous cache.
    pub page_tokens: Option<usize>,
    /// Whether the first page of the first sequence is one that the cache has not.
    pub lost: bool,
    /// Of queries and output.
    pub layout: HeadLayout,
    /// Whether, in the cache, the tokens of a head are neighbours.
    pub heads_first: bool,
    /// Elements left out after each head of the cache, times 16.
    pub gap: usize,
    /// Blocks that share the keys of a sequence; None for what the plan chooses.
    pub splits: Option<usize>,
    /// Which keys a query sees; without prefixes and documents.
    pub mask: Mask,
    /// What becomes of scores; without bias and dropout.
    pub scores: Scores,
    /// Of the inputs.
    pub seed: u64,
}

impl AttentionDecode {
    /// One new token of each sequence, causal, in one split, with nothing done to scores.
    #[must_use]
    pub fn new(heads: [usize; 2], dim: usize, lengths: &[usize]) -> AttentionDecode {
        AttentionDecode {
            precision: Precision::Bf16,
            storage: Storage::Plain,
            queries: 1,
            heads,
            dims: [dim, dim],
            lengths: lengths.to_vec(),
            page_tokens: None,
            lost: false,
            layout: HeadLayout::default(),
            heads_first: false,
            gap: 0,
            splits: Some(1),
            mask: Mask { causal: true, ..Mask::default() },
            scores: Scores::default(),
            seed: 1,
        }
    }

    /// The cases that tell the most: every storage, contiguous and in pages, several splits, new tokens that are several,
    /// fewer keys than those, and everything that is done to scores.
    #[must_use]
    pub fn telling() -> Vec<AttentionDecode> {
        let base = AttentionDecode::new([8, 2], 128, &[200, 1, 77]);
        let paged = AttentionDecode { page_tokens: Some(16), splits: Some(3), ..base.clone() };
        let window = |left, right| Mask { left, right, ..Mask::default() };
        let capped = Scores { softcap: Some(2.0), alibi: true, sinks: true, ..Scores::default() };
        let own = Scores { expression: true, mask_expression: true, ..Scores::default() };
        let layout = HeadLayout { heads_before_tokens: true, gap: 8 };
        vec![
            base.clone(),
            AttentionDecode { splits: None, ..base.clone() },
            AttentionDecode { precision: Precision::F16, splits: Some(4), ..base.clone() },
            paged.clone(),
            AttentionDecode { page_tokens: Some(7), queries: 4, heads_first: true, ..paged.clone() },
            AttentionDecode { storage: Storage::Int8, ..paged.clone() },
            AttentionDecode { storage: Storage::E4m3, precision: Precision::F16, ..base.clone() },
            AttentionDecode {
                storage: Storage::E4m3,
                queries: 16,
                gap: 1,
                lengths: vec![300, 9],
                ..paged.clone()
            },
            AttentionDecode { lost: true, ..paged.clone() },
            AttentionDecode {
                dims: [72, 40],
                gap: 1,
                queries: 3,
                layout,
                mask: Mask::default(),
                ..base.clone()
            },
            AttentionDecode {
                dims: [256, 256],
                mask: window(Some(20), Some(0)),
                lengths: vec![90, 0],
                ..paged.clone()
            },
            AttentionDecode { queries: 6, mask: window(Some(9), Some(2)), ..paged },
            AttentionDecode { scores: capped, splits: Some(2), ..base.clone() },
            AttentionDecode { scores: own, queries: 2, splits: Some(2), ..base.clone() },
            AttentionDecode { queries: 5, lengths: vec![0, 3, 0], ..base },
        ]
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let keys = 512;
        let one = |name, storage: Storage, page_tokens: Option<usize>, splits| {
            let new = AttentionDecode::new([8, 2], 128, &[keys]);
            let case =
                AttentionDecode { storage, page_tokens, splits: Some(splits), heads_first: true, ..new };
            let ([heads, kv_heads], [key, value]) = (case.heads, case.dims);
            let scales = if storage == Storage::Plain { 0 } else { 8 };
            let row = (key + value) * storage.size(case.precision.dtype()) + scales;
            // Queries, keys, values and scales; out and lse; what splits leave for the one that merges them, which is
            // written and read.
            let parts = if splits > 1 { 2 * splits * heads * (value + 1) * 4 } else { 0 };
            let bytes = heads * (key * 2 + value * 2 + 4) + keys * kv_heads * row + parts;
            Canonical::multiplying(name, case, bytes, 2 * heads * keys * (key + value))
        };
        vec![
            one("attention_decode", Storage::Plain, None, 1),
            one("attention_decode_split", Storage::Plain, None, 4),
            one("attention_decode_int8", Storage::Int8, Some(16), 1),
            one("attention_decode_e4m3", Storage::E4m3, Some(16), 1),
        ]
    }

    fn cache(&self) -> CacheLayout {
        CacheLayout {
            storage: self.storage,
            precision: self.precision,
            batch: self.lengths.len(),
            room: self.keys(),
            kv_heads: self.heads[1],
            dims: self.dims,
            page_tokens: self.page_tokens,
            heads_first: self.heads_first,
            // Every head has to begin at a multiple of 16 bytes.
            align: 16,
            gap: 16 * self.gap,
            lost: self.lost,
        }
    }

    /// The most of a sequence.
    fn keys(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    fn kernel_shape(&self) -> kernel::AttentionShape {
        let [heads, kv_heads] = self.heads;
        let (batch, queries, keys) = (self.lengths.len(), self.queries, self.keys());
        kernel::AttentionShape { batch, queries, keys, heads, kv_heads }
    }

    /// Of one sequence.
    fn shape(&self, keys: usize) -> AttentionShape {
        let ([heads, kv_heads], [head_dim, value_dim]) = (self.heads, self.dims);
        AttentionShape { batch: 1, queries: self.queries, keys, heads, kv_heads, head_dim, value_dim }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dims[0] as f32).sqrt()
    }

    /// `(B, T, H, dim)`.
    fn query_layout(&self, dim: usize) -> Layout {
        let shape = [self.lengths.len(), self.queries, self.heads[0], dim];
        Layout::strided(&shape, &self.layout.strides(shape))
    }

    /// One side of the cache: its bytes and scales, and the values of each sequence's `(keys, Hkv, dim)`.
    fn side(&self, layout: &CacheLayout, side: usize, draw: &mut Draw) -> Side {
        let (mut bytes, mut scales) = (layout.blank(side), layout.blank_scales());
        let mut sequences = Vec::new();
        for (b, &length) in self.lengths.iter().enumerate() {
            let mut sequence = Vec::new();
            for (token, head) in
                (0..length).flat_map(|token| (0..self.heads[1]).map(move |head| (token, head)))
            {
                let values = draw.vec(self.dims[side]);
                let encoded: Vec<u8> = match self.storage {
                    Storage::Plain => values.iter().flat_map(|&x| self.precision.encode(x)).collect(),
                    Storage::Int8 => {
                        values.iter().map(|x| (x * 40.0).clamp(-127.0, 127.0) as i8 as u8).collect()
                    }
                    Storage::E4m3 => values.iter().map(|x| reference::to_e4m3(x * 100.0)).collect(),
                };
                let scale = (draw.vec(1)[0].abs() as f32 + 0.5) * 0.02;
                if self.storage != Storage::Plain {
                    scales[layout.scale(b, token, head)] = scale;
                }
                sequence.extend(match layout.is_lost(b, token) {
                    true => vec![0.0; self.dims[side]],
                    false => layout.values(&encoded, scale),
                });
                bytes[layout.row(side, b, token, head)].copy_from_slice(&encoded);
            }
            sequences.push(sequence);
        }
        Side { bytes, scales, sequences }
    }

    /// What the plain algorithm and the reference say of all sequences: out and lse.
    fn expected(&self, q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>]) -> [reference::Attention; 2] {
        let mut all = [(); 2].map(|()| reference::Attention { out: Vec::new(), lse: Vec::new() });
        let scale = self.scale().into();
        let rounded =
            |x: &[f64]| -> Vec<f64> { x.iter().map(|&x| self.precision.round(x as f32).into()).collect() };
        for (b, &length) in self.lengths.iter().enumerate() {
            let shape = self.shape(length);
            let drawn = self.scores.draw(&self.mask, self.precision, shape, self.seed);
            let visible = |_, h, t, s| drawn.visible(b, h, t, s);
            let score = |product, [_, h, t, s]: [usize; 4]| drawn.score(product, [b, h, t, s]);
            let scoring = Scoring { visible: &visible, score: &score, sinks: &drawn.sinks, ..Scoring::PLAIN };
            let of_sequence = self.queries * self.heads[0] * self.dims[0];
            let q = &q[b * of_sequence..][..of_sequence];
            // The plain algorithm brings what is quantised back to the type first.
            let (plain_k, plain_v) = (rounded(&k[b]), rounded(&v[b]));
            let plain = plain::attention(self.precision, &shape, q, &plain_k, &plain_v, scale, &scoring);
            let exact = reference::attention_scored(&shape, q, &k[b], &v[b], scale, &scoring);
            for (all, one) in all.iter_mut().zip([plain, exact]) {
                all.out.extend(one.out);
                all.lse.extend(one.lse);
            }
        }
        all
    }
}

struct Side {
    bytes: Vec<u8>,
    scales: Vec<f32>,
    sequences: Vec<Vec<f64>>,
}

impl Case for AttentionDecode {
    fn operation(&self) -> &'static str {
        "attention decode"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let (precision, [head_dim, value_dim]) = (self.precision, self.dims);
        let mut draw = Draw::new(precision, self.seed);
        let cache = self.cache();
        let q_values = draw.vec(self.query_layout(head_dim).count());
        let (k, v) = (self.side(&cache, 0, &mut draw), self.side(&cache, 1, &mut draw));
        let [plain, expected] = self.expected(&q_values, &k.sequences, &v.sequences);
        // What does not depend on the sequence.
        let drawn = self.scores.draw(&self.mask, precision, self.shape(self.keys()), self.seed);

        let q = trial.input("q", precision, &self.query_layout(head_dim), &q_values)?;
        let cache = cache.upload(trial, [&k.bytes, &v.bytes], [&k.scales, &v.scales])?;
        let ragged = self.lengths.iter().any(|&length| length != self.keys());
        let lengths =
            trial.integers(&self.lengths.iter().map(|&length| length as u32).collect::<Vec<_>>())?;
        let out = trial.output("out", precision, &self.query_layout(value_dim))?;
        let lse_layout = Layout::contiguous(&[self.lengths.len(), self.heads[0], self.queries]);
        let lse = trial.output("lse", Precision::F32, &lse_layout)?;
        let scores = drawn.upload(trial, precision)?;
        let named = drawn.named(&scores);
        let attention = kernel::Attention::new(precision.dtype(), head_dim).value_dim(value_dim);
        let plan =
            kernel::AttentionDecode::new(self.scores.describe(self.mask.describe(attention), &self.mask))
                .storage(self.storage)
                .paged(self.page_tokens.is_some())
                .splits(self.splits)
                .plan(trial.stream().device())?;
        let workspace = trial.workspace(plan.workspace_bytes(&self.kernel_shape()))?;
        let args = AttentionDecodeArgs {
            shape: self.kernel_shape(),
            scale: self.scale(),
            q: heads(&q),
            cache: cache.kernel,
            lengths: if ragged { lengths.ptr() } else { DevicePtr::NULL },
            out: heads(&out),
            lse: lse.ptr(),
            workspace: workspace.ptr(),
            operands: drawn.operands(&scores, &named, kernel::Operands::default()),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        workspace.download()?; // nothing was written around it
        trial.judge(Forward, &out, &plain.out, &expected.out)?;
        // One score can be anything down to 0, while the products it is the sum of are of size 1.
        trial.judge_with(Forward, &lse, &plain.lse, &expected.lse, 4e-6)
    }
}

impl fmt::Display for AttentionDecode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionDecode { precision, queries, heads: [heads, kv_heads], dims: [key, value], .. } = self;
        let (batch, keys) = (self.lengths.len(), self.keys());
        write!(f, "{precision} B{batch} T{queries} S{keys} H{heads}/{kv_heads} D{key}")?;
        if key != value {
            write!(f, "/{value}")?;
        }
        match self.storage {
            Storage::Plain => Ok(()),
            Storage::Int8 => f.write_str(" int8"),
            Storage::E4m3 => f.write_str(" e4m3"),
        }?;
        if let Some(tokens) = self.page_tokens {
            write!(f, " pages of {tokens}")?;
        }
        if let Some(splits) = self.splits {
            write!(f, " splits {splits}")?;
        }
        write!(f, " {}{}", self.mask, self.scores)?;
        let strided = self.heads_first || self.gap > 0 || self.layout != HeadLayout::default();
        let words = [
            (self.lengths.iter().any(|&length| length != keys), " ragged"),
            (self.lost, " a page lost"),
            (strided, " strided"),
        ];
        words.iter().filter(|(is, _)| *is).try_for_each(|(_, word)| f.write_str(word))
    }
}
