//! Whatever an operation is given, it returns a result or an error that names it: it never panics.

use std::fmt::Write;
use std::sync::OnceLock;

use longhand_gpu::emulator::Options;
use longhand_tensor::ops::{
    self, Activation, AttentionOptions, BlockMask, Blocks, Documents, Gelu, LossOptions, NormOptions, Rope,
    SampleOptions,
};
use longhand_tensor::{
    AdamW, AdamWOptions, Device, Dropout, Dtype, Gradients, KvCache, Moments, Random, Result, Storage,
    Tensor, check_gradient, checkpoint_chunks, clip_grad_norm, safetensors,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::tensor;

/// What a call is made with.
#[derive(Debug)]
struct Given {
    /// The first of them is on the CPU.
    tensors: [Tensor; 4],
    sizes: [usize; 4],
    number: f64,
    flag: bool,
}

const DTYPES: [Dtype; 5] = [Dtype::F64, Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::U32];
/// As no memory holds.
const HUGE: usize = 1 << 50;

fn gpu() -> Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    GPU.get_or_init(|| Device::emulated("sm_80".parse().unwrap(), Options::default()).unwrap()).clone()
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![14 => 0..4usize, 1 => Just(8), 1 => Just(HUGE), 1 => Just(usize::MAX), 1 => Just(usize::MAX / 2 + 1)]
}

fn number() -> impl Strategy<Value = f64> {
    prop::sample::select(vec![0.5, 1.0, 0.0, -1.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
}

/// Of few shapes, so that some fit together; rarely with as many elements as no memory holds, or none of many.
fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        9 => prop::sample::select(vec![vec![2, 3], vec![3, 3], vec![3], vec![2]]),
        6 => prop::sample::select(vec![vec![1, 3, 2, 8], vec![1, 2, 3], vec![4]]),
        4 => prop::collection::vec(0..4usize, 0..6),
        1 => prop::sample::select(vec![vec![HUGE], vec![HUGE, 0], vec![0, HUGE], vec![3, HUGE]]),
    ]
}

/// Mostly of one type, which the others are of too.
fn any_tensor(usual: Dtype, on_gpu: bool) -> impl Strategy<Value = Tensor> {
    let moves =
        if on_gpu { prop_oneof![9 => Just(false), 1 => Just(true)].boxed() } else { Just(false).boxed() };
    let dtype =
        prop_oneof![6 => Just(usual), 2 => Just(Dtype::U32), 1 => prop::sample::select(DTYPES.to_vec())];
    (shape(), dtype, 0..4u8, moves, any::<u64>()).prop_map(|(shape, dtype, form, moves, seed)| {
        let few = shape.iter().all(|size| *size < HUGE);
        let dtype = if moves && dtype == Dtype::F64 { Dtype::F32 } else { dtype };
        let device = if moves { gpu() } else { Device::Cpu };
        let of = |x: Tensor| x.to_dtype(dtype).unwrap().to_device(&device).unwrap();
        let x = match few {
            true => of(tensor(&shape, seed)),
            false if shape.contains(&0) => Tensor::zeros(&shape, dtype, &device).unwrap(),
            false => of(tensor(&[1], seed)).broadcast_to(&shape).unwrap(),
        };
        let x = if form & 1 == 1 && x.rank() > 1 { x.transpose(0, x.rank() - 1).unwrap() } else { x };
        if form & 2 == 2 { x.requires_grad() } else { x }
    })
}

fn given() -> impl Strategy<Value = Given> {
    let tensors = prop::sample::select(DTYPES.to_vec()).prop_flat_map(|usual| {
        let [a, b, c, d] = [false, true, true, true].map(|on_gpu| any_tensor(usual, on_gpu));
        (a, b, c, d)
    });
    let sizes = [size(), size(), size(), size()];
    (tensors, sizes, number(), any::<bool>()).prop_map(|((a, b, c, d), sizes, number, flag)| Given {
        tensors: [a, b, c, d],
        sizes,
        number,
        flag,
    })
}

type Call = fn(&Given) -> Result<Vec<Tensor>>;

fn one(tensor: Result<Tensor>) -> Result<Vec<Tensor>> {
    Ok(vec![tensor?])
}

fn two((a, b): (Tensor, Tensor)) -> Result<Vec<Tensor>> {
    Ok(vec![a, b])
}

/// Small sizes as they are, and the others so that loops over them end.
fn few(size: usize) -> usize {
    if size < HUGE { size } else { 7 }
}

impl Given {
    fn dtype(&self) -> Dtype {
        DTYPES[self.sizes[3] % DTYPES.len()]
    }

    fn options(&self) -> AttentionOptions {
        let [_, b, c, d] = &self.tensors;
        let [s0, s1, s2, _] = self.sizes;
        let given = |bit: usize| (s2 >> bit) & 1 == 1 && self.flag;
        AttentionOptions {
            causal: s0.is_multiple_of(2),
            window_left: given(0).then_some(s0),
            window_right: given(1).then_some(s1),
            scale: given(1).then_some(self.number),
            softcap: given(2).then_some(self.number),
            prefix: given(3).then(|| b.clone()),
            bias: given(2).then(|| c.clone()),
            sinks: given(0).then(|| d.clone()),
            alibi: given(3).then(|| d.clone()),
            dropout: given(1).then_some(self.dropout()),
            ..Default::default()
        }
    }

    fn dropout(&self) -> Dropout {
        Dropout { probability: self.number, random: Random { seed: self.sizes[0] as u64, offset: 3 } }
    }

    fn norm(&self) -> NormOptions {
        let dropout = (self.sizes[2] % 2 == 1).then(|| self.dropout());
        NormOptions { eps: if self.sizes[1] == 0 { self.number } else { 1e-5 }, dropout }
    }

    fn optional(&self, i: usize) -> Option<&Tensor> {
        self.sizes[i].is_multiple_of(2).then_some(&self.tensors[i])
    }
}

/// Each with a name that its errors hold; others are of what it consists of, where that has one of its own.
const CALLS: &[(&str, Call)] = &[
    ("zeros", |g| one(Tensor::zeros(&g.sizes[..2], g.dtype(), &Device::Cpu))),
    ("full", |g| one(Tensor::full(&g.sizes[..3], g.number, g.dtype(), &Device::Cpu))),
    ("randn", |g| {
        use rand::SeedableRng;
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        one(Tensor::randn(&g.sizes[1..], g.number, g.dtype(), &Device::Cpu, &mut rng))
    }),
    ("arange", |g| one(Tensor::arange(few(g.sizes[0]) as u32..few(g.sizes[1]) as u32, &Device::Cpu))),
    ("from_slice", |g| one(Tensor::from_slice(&[1.0f32, 2.0], &g.sizes[..2], &Device::Cpu))),
    ("zeros", |g| one(g.tensors[0].zeros_like())),
    ("to_vec", |g| g.tensors[0].to_vec::<f32>().map(|_| vec![])),
    ("item", |g| g.tensors[0].item().map(|_| vec![])),
    ("backward", |g| g.tensors[0].backward().map(|_| vec![])),
    ("add", |g| one(g.tensors[0].add(&g.tensors[1]))),
    ("sub", |g| one(g.tensors[0].sub(&g.tensors[1]))),
    ("mul", |g| one(g.tensors[0].mul(&g.tensors[1]))),
    ("add_scaled", |g| one(g.tensors[0].add_scaled(&g.tensors[1], g.number))),
    ("scale", |g| one(g.tensors[0].scale(g.number))),
    ("scale", |g| one(&g.tensors[0] / g.number)),
    ("sum_all", |g| one(g.tensors[0].sum_all())),
    ("mean_all", |g| one(g.tensors[0].mean_all())),
    ("sum", |g| one(g.tensors[0].sum(g.sizes[0]))),
    ("mean", |g| one(g.tensors[0].mean(g.sizes[0]))),
    ("reshape", |g| one(g.tensors[0].reshape(&g.sizes))),
    ("unsqueeze", |g| one(g.tensors[0].unsqueeze(g.sizes[0]))),
    ("squeeze", |g| one(g.tensors[0].squeeze(g.sizes[0]))),
    ("flatten", |g| one(g.tensors[0].flatten(g.sizes[0]..g.sizes[1]))),
    ("flatten", |g| one(g.tensors[0].flatten(g.sizes[0]..=g.sizes[1]))),
    ("permute", |g| one(g.tensors[0].permute(&g.sizes[..2]))),
    ("transpose", |g| one(g.tensors[0].transpose(g.sizes[0], g.sizes[1]))),
    ("broadcast_to", |g| one(g.tensors[0].broadcast_to(&g.sizes))),
    ("narrow", |g| one(g.tensors[0].narrow(g.sizes[0], g.sizes[1], g.sizes[2]))),
    ("split", |g| g.tensors[0].split(&g.sizes[..2], g.sizes[2])),
    ("chunk", |g| g.tensors[0].chunk(g.sizes[0], g.sizes[1])),
    ("slice", |g| one(g.tensors[0].slice((g.sizes[0].., g.sizes[1])))),
    ("slice", |g| one(g.tensors[0].slice((..=g.sizes[0], g.sizes[1]..g.sizes[2])))),
    ("cat", |g| one(Tensor::cat(&[&g.tensors[0], &g.tensors[1], &g.tensors[0]], g.sizes[0]))),
    ("stack", |g| one(Tensor::stack(&[&g.tensors[0], &g.tensors[1]], g.sizes[0]))),
    ("index_select", |g| one(g.tensors[0].index_select(g.sizes[0], &g.tensors[1]))),
    ("index_add", |g| one(g.tensors[0].index_add(g.sizes[0], &g.tensors[1], &g.tensors[2]))),
    ("contiguous", |g| one(g.tensors[0].contiguous())),
    ("to_dtype", |g| one(g.tensors[0].to_dtype(g.dtype()))),
    ("on a GPU", |g| one(g.tensors[0].to_device(&gpu()))),
    ("matmul", |g| one(g.tensors[0].matmul(&g.tensors[1]))),
    ("linear", |g| one(ops::linear(&g.tensors[0], &g.tensors[1], g.optional(2)))),
    ("embedding", |g| one(ops::embedding(&g.tensors[0], &g.tensors[1]))),
    ("embedding", |g| one(ops::embedding_with_padding(&g.tensors[0], &g.tensors[1], few(g.sizes[0]) as u32))),
    ("activation", |g| one(g.tensors[0].gelu(Gelu::Erf))),
    ("activation", |g| one(ops::activation(&g.tensors[0], g.optional(1), Activation::Silu))),
    ("gated", |g| {
        let biases = g.optional(2).zip(g.optional(3));
        one(ops::gated(&g.tensors[0], &g.tensors[1], biases, Activation::ReluSquared))
    }),
    ("gated_halves", |g| one(ops::gated_halves(&g.tensors[0], g.optional(1), Activation::GeluTanh))),
    ("layer_norm", |g| {
        let [x, ..] = &g.tensors;
        two(ops::layer_norm(x, g.optional(1), g.optional(2), g.optional(3), &g.norm())?)
    }),
    ("rms_norm", |g| two(ops::rms_norm(&g.tensors[0], g.optional(1), g.optional(2), &g.norm())?)),
    ("softmax", |g| one(ops::softmax(&g.tensors[0]))),
    ("log_softmax", |g| one(ops::log_softmax(&g.tensors[0]))),
    ("log_sum_exp", |g| one(ops::log_sum_exp(&g.tensors[0]))),
    ("cross_entropy", |g| one(ops::cross_entropy(&g.tensors[0], &g.tensors[1], &loss(g)))),
    ("cross_entropy_per_row", |g| one(ops::cross_entropy_per_row(&g.tensors[0], &g.tensors[1], &loss(g)))),
    ("linear_cross_entropy", |g| {
        let [hidden, weight, targets, _] = &g.tensors;
        one(ops::linear_cross_entropy(hidden, weight, targets, &loss(g)))
    }),
    ("rope", |g| {
        let rope = Rope::new(g.sizes[0], g.number, &Device::Cpu)?;
        two(ops::rope(&g.tensors[0], &g.tensors[1], &g.tensors[2], &rope)?)
    }),
    ("rope", |g| {
        let rope = Rope { frequencies: g.tensors[3].clone(), factor: g.number, interleaved: g.flag };
        two(ops::rope(&g.tensors[0], &g.tensors[1], &g.tensors[2], &rope)?)
    }),
    ("argmax", |g| one(ops::argmax(&g.tensors[0]))),
    ("sample", |g| {
        let top_k = (g.sizes[0] > 1).then_some(g.sizes[1]);
        let options = SampleOptions { temperature: g.number as f32, top_k, top_p: g.number };
        one(ops::sample(&g.tensors[0], &options, Random::default()))
    }),
    ("attention", |g| {
        let [q, k, v, _] = &g.tensors;
        two(ops::attention_with_lse(q, k, v, &g.options())?)
    }),
    // Of tensors that fit, so that options are what is wrong.
    ("attention", |g| {
        let x = tensor(&[1, 3, 2, 8], 1).to_dtype(g.tensors[3].dtype())?;
        two(ops::attention_with_lse(&x, &x, &x, &g.options())?)
    }),
    ("attention", |g| {
        let documents = Some(Documents::with_keys(&g.sizes[..2], &g.sizes[2..], &Device::Cpu)?);
        let options = AttentionOptions { documents, ..g.options() };
        let x = tensor(&[1, 3, 2, 8], 1);
        one(ops::attention(&x, &x, &x, &options))
    }),
    ("attention", |g| {
        let blocks = Blocks { size: g.sizes[3], per_batch: g.flag, per_head: true };
        let options = AttentionOptions { causal: true, ..Default::default() };
        let blocks = Some(BlockMask::choose(&options, g.sizes, blocks, &[], &Device::Cpu)?);
        let x = tensor(&[1, 3, 2, 8], 1);
        one(ops::attention(&x, &x, &x, &AttentionOptions { blocks, ..options }))
    }),
    ("attention_merge", |g| {
        let [a, b, c, d] = g.tensors.clone();
        two(ops::attention_merge(&[(a, c), (b, d)])?)
    }),
    ("kv cache", |g| {
        let mut cache = KvCache::new(few(g.sizes[0]));
        if g.flag {
            cache = cache.paged(g.sizes[1]);
        }
        if g.sizes[2] == 1 {
            cache = cache.storage(Storage::Int8);
        }
        let rope = Rope { frequencies: g.tensors[2].clone(), factor: g.number, interleaved: g.flag };
        cache.append(&g.tensors[0], &g.tensors[1], (g.sizes[3] == 1).then_some(&rope))?;
        cache.append_to(g.sizes[2], &g.tensors[1], &g.tensors[0], None)?;
        cache.truncate(g.sizes[2], g.sizes[3])?;
        Ok(vec![])
    }),
    ("attention", |g| {
        let mut cache = KvCache::new(1);
        let heads = tensor(&[1, 3, 2, 8], 1).to_dtype(g.tensors[1].dtype())?;
        if heads.dtype().is_float() {
            cache.append(&heads, &heads, None)?;
        }
        one(ops::attention_decode(&g.tensors[0], &cache, &g.options()))
    }),
    ("checkpoint_chunks", |g| {
        let longest = g.tensors[0].shape().iter().copied().max().unwrap_or(0);
        let size = if longest == HUGE { HUGE } else { g.sizes[1] };
        one(checkpoint_chunks(|x| x.reshape(x.shape()), &g.tensors[0], g.sizes[0], size))
    }),
    ("AdamW", |g| {
        let options = AdamWOptions {
            betas: (
                if g.sizes[0] == 0 { g.number } else { 0.9 },
                if g.sizes[1] == 0 { g.number } else { 0.9 },
            ),
            eps: if g.sizes[2] == 0 { g.number } else { 1e-8 },
            max_grad_norm: g.flag.then_some(g.number),
            moments: if g.sizes[3] == 0 { Moments::EightBit } else { Moments::Full },
            ..Default::default()
        };
        let parameter = tensor(&[few(g.sizes[0]), 3], 1).requires_grad();
        let mut gradients = Gradients::default();
        gradients.set(&parameter, g.tensors[1].clone());
        let mut optimiser = AdamW::new(vec![("x".into(), parameter)], options)?;
        one(optimiser.step(&gradients, g.number))
    }),
    ("AdamW", |g| {
        let named = g.tensors.iter().enumerate().map(|(i, x)| (i.to_string(), x.clone())).collect();
        AdamW::new(named, AdamWOptions::default()).map(|_| vec![])
    }),
    ("clip_grad_norm", |g| {
        let mut gradients = Gradients::default();
        gradients.set(&g.tensors[0], g.tensors[1].clone());
        gradients.set(&g.tensors[2], g.tensors[3].clone());
        one(clip_grad_norm(&mut gradients, [&g.tensors[0], &g.tensors[2]], g.number))
    }),
    ("check_gradient", |g| check_gradient(|x| Ok(x.to_vec()), &g.tensors[..1]).map(|_| vec![])),
];

fn loss(g: &Given) -> LossOptions {
    let mut options = LossOptions::default();
    if g.flag {
        options.label_smoothing = g.number as f32;
    } else {
        options.softcap = (g.sizes[0] == 1).then_some(g.number as f32);
    }
    options
}

/// Names of operations that others are made of.
const PARTS: [&str; 8] = [
    "contiguous: ",
    "reshape: ",
    "transpose: ",
    "to_dtype: ",
    "zeros: ",
    "cat: shape",
    "tensor on a GPU: ",
    "out of device memory",
];

/// The calls are the same every time, unless `PROPTEST_RNG_SEED` says otherwise: whether a change is at fault is then never
/// in doubt.
fn config() -> ProptestConfig {
    let environment = ProptestConfig::default();
    let rng_seed = match environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig { cases: 8000, rng_seed, failure_persistence: None, ..environment }
}

#[test]
fn a_window_wider_than_any_tensor_hides_nothing() {
    let x = tensor(&[1, 5, 2, 8], 1);
    let of = |window| {
        let options = AttentionOptions { window_left: window, window_right: window, ..Default::default() };
        ops::attention(&x, &x, &x, &options).unwrap().to_vec::<f64>().unwrap()
    };
    for window in [usize::MAX, usize::MAX / 2 + 1, usize::MAX / 2] {
        assert_eq!(of(Some(window)), of(None));
    }
}

#[test]
fn rows_of_a_transposed_column_are_where_they_are() {
    let x = tensor(&[1, 1, 2], 1);
    let y = ops::activation(&x.transpose(0, 2).unwrap(), None, Activation::Silu).unwrap();
    let expected = ops::activation(&x, None, Activation::Silu).unwrap();
    assert_eq!(y.to_vec::<f64>().unwrap(), expected.to_vec::<f64>().unwrap());
}

#[test]
fn a_gradient_that_no_memory_holds_is_an_error() {
    let wide = tensor(&[1], 1).requires_grad().broadcast_to(&[1, HUGE]).unwrap();
    let none = Tensor::zeros(&[0, HUGE], Dtype::F64, &Device::Cpu).unwrap();
    let error = wide.add(&none).unwrap().sum_all().unwrap().backward().err().unwrap().to_string();
    assert!(error.starts_with("sum: ") && error.contains("memory"), "{error}");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_argument_makes_an_operation_panic_and_errors_name_it(given in given(), call in 0..CALLS.len()) {
        let (name, call) = CALLS[call];
        match call(&given) {
            Err(error) => {
                let error = error.to_string();
                prop_assert!(error.contains(name) || PARTS.iter().any(|part| error.starts_with(part)), "{name}: {error}");
            }
            // Nor do the way back, or a look at it.
            Ok(outputs) => for output in outputs {
                let mut shown = String::new();
                write!(shown, "{output} {output:?}").unwrap();
                if let Ok(sum) = output.to_dtype(Dtype::F32).and_then(|x| x.sum_all())
                    && sum.needs_gradient()
                {
                    sum.backward().ok();
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_reading_safetensors_panic(place in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(), cuts: bool) {
        let (x, y) = (tensor(&[2, 3], 1), tensor(&[0], 2));
        let mut bytes = safetensors::serialize([("x", &x), ("y", &y)]).unwrap();
        // Mostly of the header.
        let length = bytes.len() - 32;
        bytes[place.index(length)] = byte;
        if cuts {
            bytes.truncate(cut.index(length));
        }
        if let Err(error) = safetensors::deserialize(&bytes, &Device::Cpu) {
            prop_assert!(error.to_string().contains("safetensors"), "{error}");
        }
    }
}
