//! Attention of new tokens over a cache, against attention over all tokens at once; on the CPU, and on GPUs against it.

use longhand_tensor::ops::{AttentionOptions, Documents, Rope, Score, ScoreMask};
use longhand_tensor::{Device, Dropout, Dtype, KvCache, Random, Result, Storage, Tensor, ops};
use proptest::prelude::*;

use crate::gpu::gpus;
use crate::{doubles, tensor};

/// Sequences that grow in steps of their own, then together.
#[derive(Clone, Debug)]
struct Case {
    /// Tokens that each sequence begins with.
    prompts: Vec<usize>,
    /// Tokens of each step of all sequences.
    steps: Vec<usize>,
    kv_heads: usize,
    group: usize,
    /// Of keys and values.
    dims: [usize; 2],
    storage: Storage,
    page_tokens: Option<usize>,
    rope: Option<usize>,
    options: Options,
    seed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
    softcap: bool,
    alibi: bool,
    sinks: bool,
    mask: bool,
    score: bool,
}

impl Options {
    fn of(self, heads: usize, device: &Device) -> Result<AttentionOptions> {
        let by_head = |seed| tensor(&[heads], seed).to_dtype(Dtype::F32)?.to_device(device);
        let mask = ScoreMask::new(|at| (at.key + at.head) % 3 != 0).cuda("(k + h) % 3 != 0", &[]);
        let score = Score::new(|at, score| if at.key % 2 == 0 { score } else { score * 0.5 })
            .cuda("k % 2 == 0 ? score : score * 0.5f", &[]);
        Ok(AttentionOptions {
            causal: self.causal,
            window_left: self.left,
            window_right: self.right,
            softcap: self.softcap.then_some(1.5),
            alibi: self.alibi.then(|| by_head(5)).transpose()?,
            sinks: self.sinks.then(|| by_head(6)).transpose()?,
            mask: self.mask.then_some(mask),
            score: self.score.then_some(score),
            ..Default::default()
        })
    }
}

impl Case {
    fn new(prompts: &[usize], steps: &[usize]) -> Case {
        Case {
            prompts: prompts.to_vec(),
            steps: steps.to_vec(),
            kv_heads: 2,
            group: 3,
            dims: [16, 16],
            storage: Storage::Plain,
            page_tokens: None,
            rope: None,
            options: Options { causal: true, ..Options::default() },
            seed: 1,
        }
    }

    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn tokens(&self, sequence: usize) -> usize {
        self.prompts[sequence] + self.steps.iter().sum::<usize>()
    }

    /// Queries, keys and values of all tokens of a sequence.
    fn all(&self, sequence: usize, dtype: Dtype, device: &Device) -> Result<[Tensor; 3]> {
        let (tokens, [dim, value_dim]) = (self.tokens(sequence), self.dims);
        let shapes = [
            [1, tokens, self.heads(), dim],
            [1, tokens, self.kv_heads, dim],
            [1, tokens, self.kv_heads, value_dim],
        ];
        let draw = |(i, shape): (usize, [usize; 4])| {
            tensor(&shape, self.seed + (3 * sequence + i) as u64).to_dtype(dtype)?.to_device(device)
        };
        let [q, k, v] = [0, 1, 2].map(|i| draw((i, shapes[i])));
        Ok([q?, k?, v?])
    }

    fn rope(&self, device: &Device) -> Result<Option<Rope>> {
        self.rope.map(|dim| Rope::new(dim, 100.0, device)).transpose()
    }

    /// What the queries of every step get.
    fn decoded(&self, dtype: Dtype, device: &Device) -> Result<Vec<f64>> {
        let batch = self.prompts.len();
        let all = (0..batch).map(|b| self.all(b, dtype, device)).collect::<Result<Vec<_>>>()?;
        let (rope, options) = (self.rope(device)?, self.options.of(self.heads(), device)?);
        let cache = KvCache::new(batch).storage(self.storage);
        let mut cache = self.page_tokens.map_or(cache.clone(), |tokens| cache.paged(tokens));
        for (b, [_, k, v]) in all.iter().enumerate() {
            let prompt = self.prompts[b];
            cache.append_to(b, &k.narrow(1, 0, prompt)?, &v.narrow(1, 0, prompt)?, rope.as_ref())?;
        }
        let mut out = Vec::new();
        let mut start = 0;
        for &step in &self.steps {
            let new = |i: usize| -> Result<Tensor> {
                let parts = (0..batch).map(|b| all[b][i].narrow(1, self.prompts[b] + start, step));
                Tensor::cat(&parts.collect::<Result<Vec<_>>>()?.iter().collect::<Vec<_>>(), 0)
            };
            cache.append(&new(1)?, &new(2)?, rope.as_ref())?;
            out.extend(doubles(&ops::attention_decode(&new(0)?, &cache, &options)?));
            start += step;
        }
        assert_eq!(cache.lengths(), (0..batch).map(|b| self.tokens(b)).collect::<Vec<_>>());
        Ok(out)
    }

    /// The same by attention over the tokens of each sequence so far.
    fn attended(&self, dtype: Dtype, device: &Device) -> Result<Vec<f64>> {
        let batch = self.prompts.len();
        let (rope, options) = (self.rope(device)?, self.options.of(self.heads(), device)?);
        let mut out = Vec::new();
        let mut start = 0;
        for &step in &self.steps {
            start += step;
            for b in 0..batch {
                let [q, mut k, v] = self.all(b, dtype, device)?;
                let length = self.prompts[b] + start;
                let positions: Vec<u32> = (0..k.shape()[1] as u32).collect();
                if let Some(rope) = &rope {
                    let positions = Tensor::from_slice(&positions, &[positions.len()], device)?;
                    k = ops::rope(&k, &k, &positions, rope)?.1;
                }
                let seen = |tensor: &Tensor| tensor.narrow(1, 0, length);
                let q = q.narrow(1, length - step, step)?;
                out.extend(doubles(&ops::attention(&q, &seen(&k)?, &seen(&v)?, &options)?));
            }
        }
        Ok(out)
    }
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "element {i}: {found}, expected {expected}");
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let steps = prop_oneof![4 => prop::collection::vec(1..5usize, 0..4), 1 => Just(vec![20, 1])];
    let sizes =
        (prop::collection::vec(0..200usize, 1..4), steps, 1..3usize, 1..4usize, [1..40usize, 1..40usize]);
    let side = || prop::option::weighted(0.3, 0..100usize);
    let masks = (any::<bool>(), side(), side(), prop::bool::weighted(0.2));
    let scores = [(); 4].map(|()| prop::bool::weighted(0.3));
    let layout = (prop::option::of(1..70usize), any::<bool>(), prop::bool::weighted(0.3), any::<u64>());
    (sizes, masks, scores, layout).prop_map(|(sizes, masks, [softcap, alibi, sinks, score], layout)| {
        let (mut prompts, steps, kv_heads, group, dims) = sizes;
        let (causal, left, right, mask) = masks;
        let (page_tokens, equal, turns, seed) = layout;
        if equal {
            prompts = vec![prompts[0]; prompts.len()];
        }
        let options = Options { causal, left, right, softcap, alibi, sinks, mask, score };
        let rope = (turns && dims[0] > 1).then_some(dims[0] / 2 * 2);
        let seed = seed % 1000;
        Case {
            prompts,
            steps,
            kv_heads,
            group,
            dims,
            page_tokens,
            rope,
            options,
            seed,
            ..Case::new(&[], &[])
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn decoding_over_a_cache_is_attention_over_all_tokens(case in cases()) {
        let (found, expected) =
            (case.decoded(Dtype::F64, &Device::Cpu).unwrap(), case.attended(Dtype::F64, &Device::Cpu).unwrap());
        assert_near(&found, &expected, 1e-9);
    }
}

/// Elements of 8 bits are off by a half of a step: of 254 over the range of a head, or a sixteenth of each element.
#[test]
fn what_is_quantised_is_near_what_is_not() {
    for (storage, tolerance) in [(Storage::Int8, 0.03), (Storage::E4m3, 0.12)] {
        for page_tokens in [None, Some(7)] {
            let case = Case { storage, page_tokens, rope: Some(8), ..Case::new(&[40, 0, 13], &[1, 3, 18]) };
            let plain = Case { storage: Storage::Plain, ..case.clone() };
            for dtype in [Dtype::F64, Dtype::F32, Dtype::Bf16] {
                let found = case.decoded(dtype, &Device::Cpu).unwrap();
                assert_near(&found, &plain.decoded(dtype, &Device::Cpu).unwrap(), tolerance);
                assert_ne!(found, plain.decoded(dtype, &Device::Cpu).unwrap());
            }
        }
    }
}

#[test]
fn decoding_on_a_gpu_is_that_on_the_cpu() {
    let all = Options {
        causal: true,
        left: Some(30),
        softcap: true,
        alibi: true,
        sinks: true,
        mask: true,
        score: true,
        right: None,
    };
    let ragged = Case::new(&[70, 0, 33], &[1, 3, 18]);
    let even = Case::new(&[70, 70], &[1, 40]);
    let cases = [
        (Dtype::Bf16, even.clone()),
        (Dtype::F32, even.clone()),
        (Dtype::F16, Case { page_tokens: Some(5), rope: Some(8), ..ragged.clone() }),
        (Dtype::Bf16, Case { storage: Storage::E4m3, rope: Some(16), ..ragged.clone() }),
        (Dtype::Bf16, Case { storage: Storage::Int8, dims: [8, 24], page_tokens: Some(16), ..even.clone() }),
        (Dtype::Bf16, Case { options: all, page_tokens: Some(16), steps: vec![2], ..ragged }),
    ];
    for device in gpus() {
        for (dtype, case) in &cases {
            let (found, expected) =
                (case.decoded(*dtype, &device).unwrap(), case.decoded(*dtype, &Device::Cpu).unwrap());
            assert_near(&found, &expected, if *dtype == Dtype::F32 { 1e-5 } else { 2e-2 });
        }
    }
}

#[test]
fn clones_go_their_own_ways_and_what_is_dropped_is_forgotten() {
    for device in [Device::Cpu].into_iter().chain(gpus()) {
        for page_tokens in [None, Some(4)] {
            let options = AttentionOptions { causal: true, ..Default::default() };
            let heads = |tokens, seed| {
                tensor(&[1, tokens, 1, 8], seed).to_dtype(Dtype::Bf16).unwrap().to_device(&device).unwrap()
            };
            let cache = KvCache::new(1);
            let mut cache = page_tokens.map_or(cache.clone(), |tokens| cache.paged(tokens));
            let attended =
                |cache: &KvCache| doubles(&ops::attention_decode(&heads(1, 9), cache, &options).unwrap());
            cache.append(&heads(6, 1), &heads(6, 2), None).unwrap();
            let before = attended(&cache);
            let mut other = cache.clone();
            other.append(&heads(1, 3), &heads(1, 4), None).unwrap();
            cache.append(&heads(1, 5), &heads(1, 6), None).unwrap();
            assert_ne!(attended(&cache), attended(&other));
            for cache in [&mut cache, &mut other] {
                cache.truncate(0, 6).unwrap();
                assert_eq!(attended(cache), before);
            }
            cache.append(&heads(1, 3), &heads(1, 4), None).unwrap();
            other.append(&heads(1, 3), &heads(1, 4), None).unwrap();
            assert_eq!(attended(&cache), attended(&other));
        }
    }
}

#[test]
fn what_does_not_fit_a_cache_is_an_error_and_changes_nothing() {
    let heads = |shape: [usize; 4]| Tensor::zeros(&shape, Dtype::F32, &Device::Cpu).unwrap();
    let mut cache = KvCache::new(2);
    cache.append(&heads([2, 3, 2, 8]), &heads([2, 3, 2, 4]), None).unwrap();
    let mut is = |k: Tensor, v: Tensor, expected: &str| {
        let error = cache.append(&k, &v, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(cache.lengths(), [3, 3]);
    };
    is(heads([1, 1, 2, 8]), heads([1, 1, 2, 4]), "kv cache: B is 1, expected 2");
    is(
        heads([2, 1, 2, 4]),
        heads([2, 1, 2, 4]),
        "is 2 heads of 4 and 4 elements, expected 2 heads of 8 and 4 elements",
    );
    is(heads([2, 1, 2, 8]), heads([2, 2, 2, 4]), "k and v must agree in B, T and Hkv");
    is(
        heads([2, 1, 2, 8]).to_dtype(Dtype::Bf16).unwrap(),
        heads([2, 1, 2, 4]).to_dtype(Dtype::Bf16).unwrap(),
        "f32 and bf16",
    );
    is(heads([2, 1, 2, 8]).requires_grad(), heads([2, 1, 2, 4]), "k is one whose gradient is wanted");
    let rope = Rope::new(16, 100.0, &Device::Cpu).unwrap();
    let error = cache.append(&heads([2, 1, 2, 8]), &heads([2, 1, 2, 4]), Some(&rope)).unwrap_err();
    assert!(error.to_string().contains("2 n at most D, 8"), "{error}");
    let error = cache.truncate(1, 4).unwrap_err().to_string();
    assert!(error.contains("tokens is 4, expected at most 3"), "{error}");
    let error = cache.append_to(2, &heads([1, 1, 2, 8]), &heads([1, 1, 2, 4]), None).unwrap_err().to_string();
    assert!(error.contains("sequence is 2, expected less than 2"), "{error}");
    let error =
        KvCache::new(1).paged(0).append(&heads([1, 1, 2, 8]), &heads([1, 1, 2, 4]), None).unwrap_err();
    assert!(error.to_string().contains("tokens of a page is 0, expected at least 1"), "{error}");
    let bytes =
        KvCache::new(1).storage(Storage::Int8).append(&heads([1, 1, 2, 4]), &heads([1, 1, 2, 8]), None);
    assert!(bytes.unwrap_err().to_string().contains("head dim is 4, expected a multiple of 8"));

    let q = heads([2, 1, 4, 8]);
    let is = |q: &Tensor, cache: &KvCache, options: AttentionOptions, expected: &str| {
        let error = ops::attention_decode(q, cache, &options).unwrap_err().to_string();
        assert!(error.starts_with("attention_decode: ") && error.contains(expected), "{error}");
    };
    let plain = AttentionOptions::default;
    is(&q, &KvCache::new(2), plain(), "cache is empty");
    is(&heads([1, 1, 4, 8]), &cache, plain(), "B is 1, expected 2");
    is(
        &heads([2, 1, 3, 8]),
        &cache,
        plain(),
        "q is of 3 heads of 8 elements, expected of a multiple of 2 heads",
    );
    is(&q.requires_grad(), &cache, plain(), "no backward rule");
    let dropout = Dropout { probability: 0.1, random: Random { seed: 1, offset: 2 } };
    is(
        &q,
        &cache,
        AttentionOptions { dropout: Some(dropout), ..plain() },
        "dropout is given, expected none over a cache",
    );
    is(&q, &cache, AttentionOptions { bias: Some(heads([1, 1, 1, 1])), ..plain() }, "bias is given");
    let documents = Documents::new(&[1], &Device::Cpu).unwrap();
    is(&q, &cache, AttentionOptions { documents: Some(documents), ..plain() }, "documents is given");
}
