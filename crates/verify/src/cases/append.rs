//! New keys and values, written to a cache.

use super::cache::CacheLayout;
use crate::tolerance::Rule::{Exact, Forward};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::attention::{Heads, Strides};
use longhand_kernels::kv_cache::{KvAppend as Kernel, KvAppendArgs, Storage};
use longhand_reference as reference;
use std::fmt;

/// One launch.
#[derive(Clone, Debug)]
pub struct KvAppend {
    /// Of the new keys and values.
    pub precision: Precision,
    /// What the cache holds.
    pub storage: Storage,
    /// Tokens given for each sequence, and heads.
    pub sizes: [usize; 2],
    /// Elements of a key and of a value.
    pub dims: [usize; 2],
    /// Elements of a key that turn; 0 for none.
    pub rotary: usize,
    /// Whether neighbours turn together.
    pub interleaved: bool,
    /// What the turned elements are multiplied by.
    pub factor: f32,
    /// For each sequence, the tokens that it has in the end, and how many of those given are new.
    pub sequences: Vec<[usize; 2]>,
    /// Tokens that there is room for: some may be left out.
    pub room: usize,
    /// Tokens of a page; None for a contiguous cache.
    pub page_tokens: Option<usize>,
    /// Whether the first page of the first sequence is one that the cache has not.
    pub lost: bool,
    /// Elements between heads.
    pub gap: usize,
    /// Of the inputs.
    pub seed: u64,
}

impl KvAppend {
    /// Five tokens of three heads, appended as they are to a contiguous cache.
    #[must_use]
    pub fn new(precision: Precision, dims: [usize; 2]) -> KvAppend {
        KvAppend {
            precision,
            storage: Storage::Plain,
            sizes: [5, 3],
            dims,
            rotary: 0,
            interleaved: false,
            factor: 1.0,
            sequences: vec![[20, 5], [5, 5]],
            room: 20,
            page_tokens: None,
            lost: false,
            gap: 0,
            seed: 1,
        }
    }

    /// The cases that tell the most: every type and storage; turned and not; in pages and not; tokens without a place.
    #[must_use]
    pub fn telling() -> Vec<KvAppend> {
        let base = KvAppend::new(Precision::Bf16, [64, 64]);
        let paged = KvAppend { page_tokens: Some(4), ..base.clone() };
        let mut cases: Vec<KvAppend> =
            Precision::ALL.map(|precision| KvAppend { precision, ..base.clone() }).into();
        for storage in [Storage::Int8, Storage::E4m3] {
            cases.extend([
                KvAppend { storage, ..base.clone() },
                KvAppend { storage, rotary: 64, precision: Precision::F32, ..paged.clone() },
                KvAppend { storage, rotary: 6, dims: [10, 7], gap: 3, interleaved: true, ..paged.clone() },
            ]);
        }
        cases.extend([
            KvAppend { rotary: 32, factor: 1.2, interleaved: true, dims: [64, 128], ..paged.clone() },
            KvAppend {
                rotary: 64,
                page_tokens: Some(3),
                sequences: vec![[20, 2], [3, 0], [2, 4]],
                ..paged.clone()
            },
            KvAppend { room: 18, ..paged.clone() },
            KvAppend { lost: true, sequences: vec![[6, 5], [5, 5]], ..paged },
            KvAppend { sizes: [0, 3], sequences: vec![[4, 0]], ..base },
        ]);
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let [tokens, kv_heads, dim] = [16, 8, 128];
        let case = |storage| KvAppend {
            storage,
            sizes: [tokens, kv_heads],
            rotary: dim,
            sequences: vec![[64, tokens]; 2],
            room: 64,
            page_tokens: Some(16),
            ..KvAppend::new(Precision::Bf16, [dim, dim])
        };
        let one = |name, storage: Storage| {
            let heads = 2 * tokens * kv_heads;
            // Keys and values are read and written, with their scales.
            let scale = if storage == Storage::Plain { 0 } else { 4 };
            Canonical::moving(
                name,
                case(storage),
                2 * heads * (dim * (2 + storage.size(Precision::Bf16.dtype())) + scale),
            )
        };
        vec![one("kv_cache_append", Storage::Plain), one("kv_cache_append_e4m3", Storage::E4m3)]
    }

    fn layout(&self) -> CacheLayout {
        CacheLayout {
            storage: self.storage,
            precision: self.precision,
            batch: self.sequences.len(),
            room: self.room,
            kv_heads: self.sizes[1],
            dims: self.dims,
            page_tokens: self.page_tokens,
            heads_first: false,
            align: 1,
            gap: self.gap,
            lost: self.lost,
        }
    }

    /// `(B, T, Hkv, dim)`.
    fn new_layout(&self, dim: usize) -> Layout {
        let [tokens, heads] = self.sizes;
        let near = dim + self.gap;
        let strides = [tokens * heads * near, heads * near, near, 1].map(|stride| stride as i64);
        Layout::strided(&[self.sequences.len(), tokens, heads, dim], &strides)
    }

    /// Of each token given that gets a place: its row in `(B, T)`, its sequence, and the place.
    fn places(&self, layout: &CacheLayout) -> Vec<(usize, usize, usize)> {
        let tokens = self.sizes[0];
        let mut places = Vec::new();
        for (b, &[length, count]) in self.sequences.iter().enumerate() {
            for t in 0..count.min(tokens) {
                match (length + t).checked_sub(count.min(tokens)) {
                    Some(place) if place < self.room && !layout.is_lost(b, place) => {
                        places.push((b * tokens + t, b, place));
                    }
                    _ => (),
                }
            }
        }
        places
    }

    /// `10000^(-2 i / rotary)`, rounded to f32.
    fn frequencies(&self) -> Vec<f64> {
        let frequency = |i| 10_000f64.powf(-2.0 * f64::from(i) / self.rotary as f64) as f32;
        (0..self.rotary as u32 / 2).map(|i| frequency(i).into()).collect()
    }
}

impl Case for KvAppend {
    fn operation(&self) -> &'static str {
        "kv cache append"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &KvAppend { precision, storage, sizes: [tokens, kv_heads], dims, .. } = self;
        let (batch, layout, frequencies) = (self.sequences.len(), self.layout(), self.frequencies());
        let mut draw = Draw::new(precision, self.seed);
        let new = dims.map(|dim| draw.vec(batch * tokens * kv_heads * dim));
        let k = trial.input("k", precision, &self.new_layout(dims[0]), &new[0])?;
        let v = trial.input("v", precision, &self.new_layout(dims[1]), &new[1])?;
        let (blank, scales) = ([layout.blank(0), layout.blank(1)], layout.blank_scales());
        let cache = layout.upload(trial, [&blank[0], &blank[1]], [&scales, &scales])?;
        let of_each = |i: usize| self.sequences.iter().map(|it| it[i] as u32).collect::<Vec<_>>();
        let (lengths, counts) = (trial.integers(&of_each(0))?, trial.integers(&of_each(1))?);
        let all_full = self.sequences.iter().all(|it| it[0] == self.room);
        let all_new = self.sequences.iter().all(|it| it[1] == tokens);
        let device_frequencies = trial.vector("frequencies", Precision::F32, &frequencies)?;
        let kernel = Kernel::new(precision.dtype(), dims[0])
            .value_dim(dims[1])
            .storage(storage)
            .rotary(self.rotary)
            .interleaved(self.interleaved)
            .paged(self.page_tokens.is_some());
        let plan = kernel.plan(trial.stream().device())?;
        let args = KvAppendArgs {
            batch,
            tokens,
            kv_heads,
            keys: self.room,
            k: tensor(&k),
            v: tensor(&v),
            cache: cache.kernel,
            lengths: if all_full { DevicePtr::NULL } else { lengths.ptr() },
            counts: if all_new { DevicePtr::NULL } else { counts.ptr() },
            frequencies: device_frequencies.ptr(),
            factor: self.factor,
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;

        let places = self.places(&layout);
        for (side, name) in ["keys", "values"].into_iter().enumerate() {
            let mut bytes = vec![0; cache.sides[side][0].len()];
            cache.sides[side][0].download(0, &mut bytes)?;
            let mut scales = vec![0f32; cache.sides[side][1].len() / 4];
            cache.sides[side][1].download(0, bytemuck::cast_slice_mut(&mut scales))?;
            let (mut found, mut plain, mut exact) = (Vec::new(), Vec::new(), Vec::new());
            for &(row, b, place) in &places {
                for head in 0..kv_heads {
                    let x = &new[side][(row * kv_heads + head) * dims[side]..][..dims[side]];
                    let scale = scales.get(layout.scale(b, place, head)).copied().unwrap_or(1.0);
                    let row = layout.row(side, b, place, head);
                    found.extend(layout.values(&bytes[row.clone()], scale));
                    bytes[row].fill(0xff);
                    if let Some(scale) = scales.get_mut(layout.scale(b, place, head)) {
                        *scale = f32::from_bits(u32::MAX);
                    }
                    let turned = self.turned(side, x, place as u32, &frequencies);
                    plain.extend(plain::requantised(precision, storage, &turned[0]));
                    exact.extend(&turned[1]);
                }
            }
            // What does not turn is rounded as it is said to be, to the bit.
            let turns = side == 0 && self.rotary > 0;
            let (rule, expected) = if turns { (Forward, &exact) } else { (Exact, &plain) };
            trial.judge_values(rule, name, precision, found, &plain, expected);
            let written = bytes.iter().position(|&byte| byte != 0xff);
            let scale_written = scales.iter().position(|scale| scale.to_bits() != u32::MAX);
            if let Some(offset) = written.or(scale_written) {
                return Err(Error::WrittenBetween { tensor: name, offset });
            }
        }
        Ok(())
    }
}

impl KvAppend {
    /// A head as it is turned in f32, and exactly.
    fn turned(&self, side: usize, x: &[f64], position: u32, frequencies: &[f64]) -> [Vec<f64>; 2] {
        if side == 1 || self.rotary == 0 {
            return [x.to_vec(), x.to_vec()];
        }
        let rope = reference::Rope { frequencies, factor: self.factor.into(), interleaved: self.interleaved };
        [
            plain::rope(Precision::F32, x, &[position], 1, x.len(), &rope, false),
            reference::rope(x, &[position], 1, x.len(), &rope),
        ]
    }
}

fn tensor(view: &View) -> Heads {
    let [batch, token, head] = [0, 1, 2].map(|dim| view.strides()[dim]);
    Heads { data: view.ptr(), strides: Strides { batch, token, head } }
}

impl fmt::Display for KvAppend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KvAppend { precision, sizes: [tokens, heads], dims: [key, value], rotary, .. } = self;
        write!(f, "{precision} B{} T{tokens} H{heads} D{key}", self.sequences.len())?;
        if key != value {
            write!(f, "/{value}")?;
        }
        match self.storage {
            Storage::Plain => Ok(()),
            Storage::Int8 => f.write_str(" to int8"),
            Storage::E4m3 => f.write_str(" to e4m3"),
        }?;
        if *rotary > 0 {
            write!(f, " rotary {rotary}")?;
        }
        if let Some(tokens) = self.page_tokens {
            write!(f, " pages of {tokens}")?;
        }
        let words =
            [(self.interleaved, " interleaved"), (self.lost, " a page lost"), (self.gap > 0, " strided")];
        words.iter().filter(|(is, _)| *is).try_for_each(|(_, word)| f.write_str(word))
    }
}
