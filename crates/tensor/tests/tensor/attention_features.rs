//! Masks, scores, sinks and dropout of attention, in every combination, against the formula and finite differences.

use longhand_tensor::ops::{
    AttentionOptions, BlockKind, BlockMask, Blocks, Documents, Dual, Named, Position, Score, ScoreMask,
};
use longhand_tensor::{Device, Dropout, Dtype, Random, Result, Tensor, check_gradient, ops};
use proptest::prelude::*;

use crate::gpu::gpus;
use crate::{doubles, indices, tensor, values};

/// What is attended to, and with which features. Sizes of documents, where there are any, make those of the tensors.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    queries: usize,
    keys: usize,
    kv_heads: usize,
    group: usize,
    dim: usize,
    value_dim: usize,
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
    prefix: Option<usize>,
    documents: Vec<[usize; 2]>,
    mask: bool,
    score: bool,
    softcap: bool,
    alibi: bool,
    /// Which dimensions of the bias have one element.
    bias: Option<[bool; 4]>,
    sinks: bool,
    dropout: bool,
    blocks: Option<Choice>,
    seed: u64,
}

/// A block mask: one that is found, or one whose kinds are the user's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Found,
    Chosen,
}

/// With up to so many tokens.
fn cases(tokens: usize) -> impl Strategy<Value = Case> {
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

const CAP: f64 = 1.5;
const RANDOM: Random = Random { seed: 7, offset: 3 };
const PROBABILITY: f64 = 0.25;

fn shown(at: Position) -> bool {
    !(at.query * 5 + at.key * 3 + at.head + at.batch).is_multiple_of(4)
}

fn scored(at: Position, score: Dual) -> Dual {
    let factor = 1.0 + ((at.query + 2 * at.key + at.head) % 3) as f64 * 0.25;
    (score * factor + score.powi(2) * 0.2).max(score - 1.0)
}

impl Case {
    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// q, k, v, bias and sinks.
    fn inputs(&self) -> Vec<Tensor> {
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
    fn bias_sizes(&self) -> [usize; 4] {
        let longest = |side: usize| self.documents.iter().map(|lengths| lengths[side]).max().unwrap_or(0);
        if self.documents.is_empty() {
            [self.batch, self.heads(), self.queries, self.keys]
        } else {
            [self.documents.len(), self.heads(), longest(0), longest(1)]
        }
    }

    fn slopes(&self) -> Vec<f64> {
        values(self.heads(), self.seed ^ 5).iter().map(|slope| slope.abs() * 0.2).collect()
    }

    fn options(&self, inputs: &[Tensor]) -> AttentionOptions {
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
    fn block_mask(&self, choice: Choice, options: &AttentionOptions, device: &Device) -> BlockMask {
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

    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let (out, lse) = ops::attention_with_lse(&inputs[0], &inputs[1], &inputs[2], &self.options(inputs))?;
        Ok(vec![out, lse])
    }

    /// Within the sequence that both are in, and how many queries and keys that has.
    fn local(&self, at: Position) -> Option<(Position, usize, usize)> {
        if self.documents.is_empty() {
            return Some((at, self.queries, self.keys));
        }
        let mut local = Position { batch: 0, ..at };
        for &[queries, keys] in &self.documents {
            if local.query < queries || local.key < keys {
                return (local.query < queries && local.key < keys).then_some((local, queries, keys));
            }
            local.query -= queries;
            local.key -= keys;
            local.batch += 1;
        }
        None
    }

    fn kept(&self, at: Position) -> bool {
        let Some((Position { batch, head, query, key }, ..)) = self.local(at) else { return false };
        let patch = |place: usize| (place / 16 * 8 + place % 8) as u32;
        let words = RANDOM.words([patch(query), patch(key), (batch * self.heads() + head) as u32, 0]);
        f64::from(words[query / 8 % 2 * 2 + key / 8 % 2]) >= PROBABILITY * 4_294_967_296.0
    }

    /// The score, by the formula; `None` where the key is hidden.
    fn score(&self, at: Position, product: f64, bias: Option<&[f64]>) -> Option<f64> {
        let (local, queries, keys) = self.local(at)?;
        let Position { batch: sequence, head, query: t, key: s } = local;
        let distance = s as i64 - (t + keys) as i64 + queries as i64;
        let right = if self.causal { Some(0) } else { self.right };
        let early = self.prefix.is_some_and(|prefix| s < prefix + sequence);
        if self.left.is_some_and(|left| distance < -(left as i64))
            || !early && right.is_some_and(|right| distance > right as i64)
            || self.mask && !shown(local)
        {
            return None;
        }
        let mut score = product * 0.8;
        if self.score {
            score = scored(local, Dual::variable(score)).value;
        }
        if self.softcap {
            score = CAP * (score / CAP).tanh();
        }
        if self.alibi {
            score -= self.slopes()[head] * distance.abs() as f64;
        }
        if let (Some(one), Some(bias)) = (self.bias, bias) {
            let sizes = self.bias_sizes();
            let index = (0..4).fold(0, |index, dim| match one[dim] {
                true => index,
                false => index * sizes[dim] + [sequence, head, t, s][dim],
            });
            score += bias[index];
        }
        Some(score)
    }

    /// `out` and the log-sum-exp.
    fn plain(&self, inputs: &[Tensor]) -> (Vec<f64>, Vec<f64>) {
        let Case { batch, queries, keys, kv_heads, group, dim, value_dim, .. } = *self;
        let heads = self.heads();
        let data: Vec<Vec<f64>> = inputs.iter().map(doubles).collect();
        let bias = self.bias.map(|_| &data[3][..]);
        let mut out = vec![0.0; batch * queries * heads * value_dim];
        let mut lse = Vec::new();
        for b in 0..batch {
            for h in 0..heads {
                for t in 0..queries {
                    let q = &data[0][((b * queries + t) * heads + h) * dim..][..dim];
                    let row = |s: usize| (b * keys + s) * kv_heads + h / group;
                    let scores: Vec<f64> = (0..keys)
                        .map(|s| {
                            let product = q.iter().zip(&data[1][row(s) * dim..]).map(|(q, k)| q * k).sum();
                            let at = Position { batch: b, head: h, query: t, key: s };
                            self.score(at, product, bias).unwrap_or(f64::NEG_INFINITY)
                        })
                        .collect();
                    let sink = if self.sinks { data[data.len() - 1][h].exp() } else { 0.0 };
                    let sum = scores.iter().map(|score| score.exp()).sum::<f64>() + sink;
                    lse.push(sum.ln());
                    for (s, score) in scores.iter().enumerate().filter(|(_, score)| score.is_finite()) {
                        let kept = self.kept(Position { batch: b, head: h, query: t, key: s });
                        let factor = if !self.dropout {
                            1.0
                        } else if kept {
                            1.0 / (1.0 - PROBABILITY)
                        } else {
                            0.0
                        };
                        let target = &mut out[((b * queries + t) * heads + h) * value_dim..][..value_dim];
                        for (target, v) in target.iter_mut().zip(&data[2][row(s) * value_dim..]) {
                            *target += factor * score.exp() / sum * v;
                        }
                    }
                }
            }
        }
        (out, lse)
    }
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() }).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Over several blocks of queries and keys.
    #[test]
    fn every_combination_of_features_gives_what_the_formula_gives(case in cases(220)) {
        let inputs = case.inputs();
        let found = case.run(&inputs).unwrap();
        let (out, lse) = case.plain(&inputs);
        prop_assert!(largest_difference(&doubles(&found[0]), &out) < 1e-11);
        prop_assert!(largest_difference(&doubles(&found[1]), &lse) < 1e-11);
    }

    #[test]
    fn every_combination_of_features_has_the_gradients_of_finite_differences(case in cases(5)) {
        let inputs = case.inputs();
        case.agrees(&inputs, |inputs| Ok(inputs.to_vec()))?;
    }

    /// Over several blocks: along one direction, since there are many elements.
    #[test]
    fn gradients_over_several_blocks_are_those_of_finite_differences(case in cases(220)) {
        let inputs = case.inputs();
        let step = Tensor::from_slice(&[0.0], &[1], &Device::Cpu).unwrap();
        case.agrees(&[step], |step| {
            let moved = |(i, input): (usize, &Tensor)| {
                input.add(&tensor(input.shape(), case.seed ^ (20 + i as u64)).mul(&step[0])?)
            };
            inputs.iter().enumerate().map(moved).collect()
        })?;
    }
}

impl Case {
    /// The gradients by `variables`, of which the inputs are made, agree with finite differences.
    fn agrees(
        &self,
        variables: &[Tensor],
        inputs: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> std::result::Result<(), TestCaseError> {
        let error = |error: longhand_tensor::Error| TestCaseError::fail(error.to_string());
        let lse = doubles(&self.run(&inputs(variables).map_err(error)?).map_err(error)?[1]);
        let function = |variables: &[Tensor]| {
            let mut outputs = self.run(&inputs(variables)?)?;
            // Where it is that of no key, the log-sum-exp has no gradient to check.
            if !lse.iter().all(|lse| lse.is_finite()) {
                outputs.pop();
            }
            Ok(outputs)
        };
        if let Some(worst) = check_gradient(function, variables).map_err(error)? {
            prop_assert!(worst.error < 5e-6, "{worst}");
        }
        Ok(())
    }
}

/// With head dims that GPUs take, and more than a block of queries and keys.
const PLAIN: Case = Case {
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

#[test]
fn features_on_a_gpu_are_those_on_the_cpu() {
    let packed =
        Case { batch: 1, queries: 90, keys: 107, documents: vec![[70, 37], [0, 40], [20, 30]], ..PLAIN };
    let cases = [
        Case { left: Some(20), right: Some(9), ..PLAIN },
        Case { causal: true, mask: true, blocks: Some(Choice::Found), ..PLAIN },
        Case { mask: true, blocks: Some(Choice::Chosen), ..PLAIN },
        Case { causal: true, prefix: Some(80), ..PLAIN },
        Case { causal: true, left: Some(12), ..packed.clone() },
        Case { right: Some(3), prefix: Some(5), ..packed.clone() },
        Case {
            softcap: true,
            alibi: true,
            sinks: true,
            causal: true,
            bias: Some([true, false, false, false]),
            ..PLAIN
        },
        Case { bias: Some([false, true, false, true]), ..packed.clone() },
        Case { mask: true, score: true, softcap: true, dropout: true, sinks: true, ..packed },
    ];
    for device in gpus() {
        for case in &cases {
            // A bias and sinks may be of another type than what is attended to.
            let dtype = |i| if i < 3 { Dtype::Bf16 } else { Dtype::F32 };
            let inputs = case.inputs();
            let inputs: Vec<Tensor> =
                inputs.iter().enumerate().map(|(i, input)| input.to_dtype(dtype(i)).unwrap()).collect();
            let run = |device: &Device| -> Result<Vec<Vec<f64>>> {
                let leaves: Vec<Tensor> = inputs
                    .iter()
                    .map(|input| Ok(input.to_device(device)?.requires_grad()))
                    .collect::<Result<_>>()?;
                let outputs = case.run(&leaves)?;
                let weighed = |output: &Tensor, seed| {
                    let weights = tensor(output.shape(), seed).to_dtype(output.dtype())?.to_device(device)?;
                    output.mul(&weights)?.sum_all()?.to_dtype(Dtype::F32)
                };
                let loss = weighed(&outputs[0], 77)?.add(&weighed(&outputs[1], 78)?)?;
                let gradients = loss.backward()?;
                let gradients = leaves.iter().filter_map(|leaf| gradients.get(leaf));
                Ok(outputs.iter().chain(gradients).map(doubles).collect())
            };
            let (found, expected) = (run(&device).unwrap(), run(&Device::Cpu).unwrap());
            assert_eq!(found.len(), 2 + inputs.len());
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let largest =
                    expected.iter().filter(|x| x.is_finite()).fold(1.0, |max: f64, x| max.max(x.abs()));
                let error = largest_difference(found, expected) / largest;
                assert!(error < 0.02, "{device}, {case:?}: tensor {i} is off by {error}");
            }
        }
    }
}

#[test]
fn a_block_mask_is_for_its_masks_and_sizes() {
    let x = tensor(&[1, 130, 2, 2], 1);
    let causal = AttentionOptions { causal: true, ..Default::default() };
    let sizes = [1, 2, 130, 130];
    let find = |options, sizes| BlockMask::find(options, sizes, Blocks::default(), &Device::Cpu).unwrap();
    let message = |blocks: BlockMask| {
        let options = AttentionOptions { blocks: Some(blocks), ..causal.clone() };
        ops::attention(&x, &x, &x, &options).map_or_else(|error| error.to_string(), |_| "fine".to_string())
    };
    assert_eq!(message(find(&causal, sizes)), "fine");
    assert!(
        message(find(&causal, [1, 2, 130, 129]))
            .starts_with("attention: blocks is a block mask for [1, 2, 130, 129]")
    );
    assert!(message(find(&Default::default(), sizes)).contains("a block mask for other masks"));
    let kinds = [BlockKind::Full; 3];
    let error = BlockMask::choose(&causal, sizes, Blocks::default(), &kinds, &Device::Cpu).unwrap_err();
    assert_eq!(error.to_string(), "attention: kinds of blocks is 3 of them, expected 4: [1, 1, 2, 2]");

    let kinds = [BlockKind::Full, BlockKind::Empty, BlockKind::Empty, BlockKind::Full];
    let chosen = BlockMask::choose(&causal, sizes, Blocks::default(), &kinds, &Device::Cpu).unwrap();
    let options = AttentionOptions { blocks: Some(chosen), ..causal.clone() };
    let last = doubles(&ops::attention(&x, &x, &x, &options).unwrap())[129 * 4..].to_vec();
    let window = AttentionOptions { causal: true, window_left: Some(1), ..Default::default() };
    let expected = doubles(&ops::attention(&x, &x, &x, &window).unwrap())[129 * 4..].to_vec();
    assert!(largest_difference(&last, &expected) < 1e-12);
}

/// What ring attention and cascades do, with all gradients through the log-sum-exp of each half.
#[test]
fn halves_of_the_keys_merge_to_attention_over_all_of_them_forward_and_backward() {
    let inputs = [tensor(&[1, 40, 2, 64], 1), tensor(&[1, 100, 1, 64], 2), tensor(&[1, 100, 1, 64], 3)];
    let options = AttentionOptions::default();
    let run = |device: &Device, dtype: Dtype, halved: bool| -> Result<Vec<Vec<f64>>> {
        let leaves =
            inputs.each_ref().map(|x| x.to_dtype(dtype).unwrap().to_device(device).unwrap().requires_grad());
        let [q, k, v] = &leaves;
        let (out, lse) = if halved {
            let half = |start, len| {
                ops::attention_with_lse(q, &k.narrow(1, start, len)?, &v.narrow(1, start, len)?, &options)
            };
            ops::attention_merge(&[half(0, 37)?, half(37, 63)?])?
        } else {
            ops::attention_with_lse(q, k, v, &options)?
        };
        let weighed =
            |x: &Tensor, seed| x.mul(&tensor(x.shape(), seed).to_dtype(dtype)?.to_device(device)?)?.sum_all();
        let gradients = weighed(&out, 4)?.add(&weighed(&lse, 5)?)?.backward()?;
        let gradients = leaves.iter().filter_map(|leaf| gradients.get(leaf));
        Ok([&out, &lse].into_iter().chain(gradients).map(doubles).collect())
    };
    let expected = run(&Device::Cpu, Dtype::F64, false).unwrap();
    assert_eq!(expected.len(), 5);
    let on_gpus = gpus().into_iter().map(|device| (device, Dtype::F32, 1e-5));
    for (device, dtype, tolerance) in [(Device::Cpu, Dtype::F64, 1e-12)].into_iter().chain(on_gpus) {
        for (found, expected) in run(&device, dtype, true).unwrap().iter().zip(&expected) {
            let error = largest_difference(found, expected);
            assert!(error < tolerance, "off by {error} on {device}");
        }
    }
}

/// With a bias of minus infinity, as masks are often made.
#[test]
fn a_bias_of_minus_infinity_hides_keys_and_whole_rows() {
    let x = tensor(&[1, 3, 1, 2], 1);
    let hidden = f64::NEG_INFINITY;
    let bias = [0.0, hidden, hidden, 0.0, 0.0, hidden, hidden, hidden, hidden];
    let bias = Tensor::from_slice(&bias, &[3, 3], &Device::Cpu).unwrap();
    let leaves = [x.requires_grad(), bias.requires_grad()];
    let options = AttentionOptions { bias: Some(leaves[1].clone()), ..Default::default() };
    let out = ops::attention(&leaves[0], &leaves[0], &leaves[0], &options).unwrap();
    let causal = AttentionOptions { causal: true, ..Default::default() };
    let expected = doubles(&ops::attention(&x, &x, &x, &causal).unwrap());
    assert_eq!(doubles(&out)[..4], expected[..4]);
    assert_eq!(doubles(&out)[4..], [0.0; 2]);
    let gradients = out.sum_all().unwrap().backward().unwrap();
    for leaf in &leaves {
        assert!(doubles(gradients.get(leaf).unwrap()).iter().all(|gradient| gradient.is_finite()));
    }
}

#[test]
fn options_that_do_not_fit_are_named() {
    let x = tensor(&[2, 3, 4, 2], 1);
    let message = |options: AttentionOptions| ops::attention(&x, &x, &x, &options).unwrap_err().to_string();
    let new = AttentionOptions::default;
    let documents = |lengths: &[usize]| Some(Documents::new(lengths, &Device::Cpu).unwrap());
    let dropout = |probability| Some(Dropout { probability, random: RANDOM });
    let found = [
        (
            message(AttentionOptions { alibi: Some(tensor(&[3], 1)), ..new() }),
            "attention: alibi is of shape [3], expected of shape [4], one for each head of q",
        ),
        (
            message(AttentionOptions { sinks: Some(tensor(&[4, 1], 1)), ..new() }),
            "attention: sinks is of shape [4, 1], expected of shape [4], one for each head of q",
        ),
        (
            message(AttentionOptions { bias: Some(tensor(&[4, 2, 3], 1)), ..new() }),
            "attention: shapes [4, 2, 3] and [2, 4, 3, 3] do not fit: the bias must broadcast to (B, H, T, S)",
        ),
        (
            message(AttentionOptions { bias: Some(indices(&[1], &[1])), ..new() }),
            "attention: elements are u32, expected a floating-point type",
        ),
        (
            message(AttentionOptions { documents: documents(&[1, 2]), ..new() }),
            "attention: documents is given with a batch of 2, expected given with one batch",
        ),
        (
            message(AttentionOptions { causal: true, prefix: Some(indices(&[1], &[1])), ..new() }),
            "attention: prefix is of shape [1], expected of shape [2], one for each batch or document",
        ),
        (
            message(AttentionOptions { prefix: Some(indices(&[1, 1], &[2])), ..new() }),
            "attention: prefix is given with neither, expected given with `causal` or `window_right`",
        ),
        (
            message(AttentionOptions { causal: true, prefix: Some(tensor(&[2], 1)), ..new() }),
            "attention: elements are f64, expected u32 for the prefix",
        ),
        (
            message(AttentionOptions { softcap: Some(0.0), ..new() }),
            "attention: softcap is 0, expected positive and finite",
        ),
        (
            message(AttentionOptions { scale: Some(f64::NAN), ..new() }),
            "attention: scale is NaN, expected positive and finite",
        ),
        (
            message(AttentionOptions { dropout: dropout(1.0), ..new() }),
            "attention: dropout probability is 1, expected 0 to less than 1",
        ),
    ];
    for (found, expected) in found {
        assert!(found.starts_with(expected), "{found:?} does not start with {expected:?}");
    }
    let one = tensor(&[1, 3, 4, 2], 1);
    let options = AttentionOptions { documents: documents(&[1, 1]), ..new() };
    assert_eq!(
        ops::attention(&one, &one, &one, &options).unwrap_err().to_string(),
        "attention: number of queries in documents is 2, expected as many as the tensors have, 3"
    );
    let error = Documents::with_keys(&[1], &[1, 2], &Device::Cpu).unwrap_err().to_string();
    assert_eq!(
        error,
        "attention: documents is lengths of 1 in queries and of 2 in keys, expected as many of each"
    );
}
