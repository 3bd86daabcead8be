//! Every operation in `f32`, `bf16` and `f16` against itself in `f64`, beside the textbook algorithm in the same type.

use longhand_tensor::ops::{
    Activation, AttentionOptions, Gelu, IGNORE_INDEX, LossOptions, NormOptions, Rope,
};
use longhand_tensor::{Device, Dropout, Dtype, Random, Result, Tensor, ops};
use longhand_verify::Precision;
use longhand_verify::tolerance::{Output, Rule};
use proptest::prelude::*;

use crate::{doubles, indices, plain, strided, tensor};

type Function = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>>;

/// An operation with inputs in `f64` (and `u32`).
pub struct Case {
    name: &'static str,
    function: Function,
    /// The textbook algorithm; none where elements are only moved.
    plain: Option<Function>,
    inputs: Vec<Tensor>,
}

fn case(
    name: &'static str,
    inputs: Vec<Tensor>,
    function: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'static,
    plain: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'static,
) -> Case {
    Case { name, function: Box::new(function), plain: Some(Box::new(plain)), inputs }
}

/// An operation that computes nothing.
fn moves(
    name: &'static str,
    inputs: Vec<Tensor>,
    function: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'static,
) -> Case {
    Case { name, function: Box::new(function), plain: None, inputs }
}

/// Every operation, at sizes that depend on the seed. The head dim is one that GPUs take as well.
pub fn cases(seed: u64) -> Vec<Case> {
    let of = |shape: &[usize], i: u64| tensor(shape, seed ^ i);
    let (rows, width) = (1 + (seed % 40) as usize, 8 + (seed / 40 % 60) as usize);
    let is_causal = seed.is_multiple_of(2);
    let options = AttentionOptions { causal: is_causal, ..Default::default() };
    let targets: Vec<u32> =
        (0..rows as u32).map(|i| if i % 5 == 4 { IGNORE_INDEX } else { i * 7 % width as u32 }).collect();
    let targets = || indices(&targets, &[rows]);
    let loss = LossOptions { label_smoothing: 0.1, z_loss: 1e-2, softcap: Some(3.0) };
    let interleaved = seed.is_multiple_of(3);
    let positions: Vec<u32> = (0..rows as u32).map(|i| i * 50_021).collect();
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * i % 11).collect();
    let ids = || indices(&ids, &[rows]);
    let dropout = Dropout { probability: 0.25, random: Random { seed, offset: 1 } };
    vec![
        case(
            "add",
            vec![of(&[rows, width], 1), of(&[width], 2)],
            |x| Ok(vec![x[0].add(&x[1])?]),
            |x| Ok(vec![plain::with_bias(&x[0], &x[1])?]),
        ),
        case(
            "sub",
            vec![of(&[rows, width], 1), of(&[rows, 1], 2)],
            |x| Ok(vec![x[0].sub(&x[1])?]),
            |x| Ok(vec![plain::sub(&x[0], &plain::like_columns(&x[1], &x[0])?)?]),
        ),
        case(
            "mul",
            vec![strided(&[rows, width], 0, 1, seed), of(&[width], 2)],
            |x| Ok(vec![x[0].mul(&x[1])?]),
            |x| Ok(vec![plain::mul(&x[0], &plain::like_rows(&x[1], &x[0])?)?]),
        ),
        case(
            "add_scaled",
            vec![of(&[rows, width], 1), of(&[width], 2)],
            |x| Ok(vec![x[0].add_scaled(&x[1], -0.3)?]),
            |x| Ok(vec![plain::with_bias(&x[0], &plain::scale(&x[1], -0.3)?)?]),
        ),
        case(
            "scale",
            vec![of(&[rows, width], 1)],
            |x| Ok(vec![x[0].scale(-0.3)?]),
            |x| Ok(vec![plain::scale(&x[0], -0.3)?]),
        ),
        case(
            "mean_all",
            vec![of(&[rows, width], 1)],
            // Of squares, since a sum of either sign may be small beside its own rounding errors.
            |x| Ok(vec![x[0].mul(&x[0])?.mean_all()?]),
            |x| {
                let squares = plain::mul(&x[0], &x[0])?.reshape(&[1, x[0].numel()])?;
                Ok(vec![plain::scale(&plain::row_sums(&squares)?.reshape(&[])?, 1.0 / x[0].numel() as f32)?])
            },
        ),
        case(
            "sum",
            vec![of(&[rows, 6, width], 1)],
            |x| {
                let squares = x[0].mul(&x[0])?;
                Ok(vec![squares.sum(0)?, squares.sum(1)?, squares.mean(2)?])
            },
            |x| {
                let squares = plain::mul(&x[0], &x[0])?;
                let mean = plain::scale(&plain::sum(&squares, 2)?, 1.0 / x[0].shape()[2] as f32)?;
                Ok(vec![plain::sum(&squares, 0)?, plain::sum(&squares, 1)?, mean])
            },
        ),
        case(
            "index",
            vec![of(&[3, 11, width], 1), of(&[3, rows, width], 2), ids()],
            |x| Ok(vec![x[0].index_select(1, &x[2])?, x[0].index_add(1, &x[2], &x[1])?]),
            |x| {
                let hot = plain::one_hot(&x[2], 11, &x[0])?;
                let hot = hot.broadcast_to(&[3, hot.shape()[0], 11])?;
                let added = plain::product(&hot.transpose(1, 2)?, &x[1])?;
                Ok(vec![plain::product(&hot, &x[0])?, plain::add(&x[0], &added)?])
            },
        ),
        moves("split and cat", vec![of(&[rows, 6, width], 1)], |x| {
            let parts = x[0].split(&[1, 3, 2], 1)?;
            Ok(vec![Tensor::cat(&[&parts[2], &parts[0]], 1)?, parts[1].transpose(0, 2)?.contiguous()?])
        }),
        moves("narrow", vec![of(&[rows, 6, width], 1)], |x| Ok(vec![x[0].narrow(1, 2, 3)?])),
        case(
            "gelu tanh",
            vec![of(&[rows, width], 1)],
            |x| Ok(vec![x[0].gelu(Gelu::Tanh)?]),
            |x| Ok(vec![plain::gelu_tanh(&x[0])?]),
        ),
        case(
            "relu squared with bias",
            vec![of(&[rows, width], 1), of(&[width], 2)],
            |x| Ok(vec![ops::activation(&x[0], Some(&x[1]), Activation::ReluSquared)?]),
            |x| Ok(vec![plain::relu_squared(&plain::with_bias(&x[0], &x[1])?)?]),
        ),
        case(
            "swiglu of halves",
            vec![of(&[2, rows, 2 * width], 1), of(&[2 * width], 2)],
            |x| Ok(vec![ops::gated_halves(&x[0], Some(&x[1]), Activation::Silu)?]),
            move |x| {
                let x = plain::with_bias(&x[0], &x[1])?;
                Ok(vec![plain::mul(&plain::silu(&x.narrow(2, 0, width)?)?, &x.narrow(2, width, width)?)?])
            },
        ),
        // Two slices of columns, which are not copied.
        case(
            "geglu of slices",
            vec![of(&[rows, 3 * width], 1), of(&[width], 2), of(&[width], 3)],
            move |x| {
                let (gate, up) = (x[0].narrow(1, 0, width)?, x[0].narrow(1, 2 * width, width)?);
                Ok(vec![ops::gated(&gate, &up, Some((&x[1], &x[2])), Activation::GeluTanh)?])
            },
            move |x| {
                let gate = plain::with_bias(&x[0].narrow(1, 0, width)?, &x[1])?;
                let up = plain::with_bias(&x[0].narrow(1, 2 * width, width)?, &x[2])?;
                Ok(vec![plain::mul(&plain::gelu_tanh(&gate)?, &up)?])
            },
        ),
        case(
            "gelu erf",
            vec![of(&[rows, width], 1)],
            |x| Ok(vec![x[0].gelu(Gelu::Erf)?]),
            |x| Ok(vec![plain::gelu_erf(&x[0])?]),
        ),
        case(
            "matmul",
            vec![of(&[2, rows, 24], 1), strided(&[2, 24, width], 1, 2, seed)],
            |x| Ok(vec![x[0].matmul(&x[1])?]),
            |x| Ok(vec![plain::product(&x[0], &x[1])?]),
        ),
        case(
            "linear",
            vec![of(&[2, rows, 24], 1), of(&[width, 24], 2), of(&[width], 3)],
            |x| Ok(vec![ops::linear(&x[0], &x[1].transpose(0, 1)?, Some(&x[2]))?]),
            move |x| {
                let y = plain::product(&x[0].reshape(&[2 * rows, 24])?, &x[1].transpose(0, 1)?)?;
                Ok(vec![plain::with_bias(&y, &x[2])?.reshape(&[2, rows, width])?])
            },
        ),
        case(
            "embedding",
            vec![of(&[11, width], 1), ids()],
            |x| Ok(vec![ops::embedding(&x[0], &x[1])?]),
            |x| Ok(vec![plain::product(&plain::one_hot(&x[1], 11, &x[0])?, &x[0])?]),
        ),
        case(
            "rope",
            vec![
                of(&[2, rows, 4, 40], 1),
                strided(&[2, rows, 2, 40], 1, 2, seed),
                indices(&positions, &[rows]),
            ],
            move |x| {
                let rope = Rope { factor: 1.1, interleaved, ..Rope::new(32, 1e4, x[0].device())? };
                let (q, k) = ops::rope(&x[0], &x[1], &x[2], &rope)?;
                Ok(vec![q, k])
            },
            move |x| {
                let frequencies = Rope::new(32, 1e4, &Device::Cpu)?.frequencies.to_vec::<f32>()?;
                let turned = |heads| plain::rope(heads, &positions, (&frequencies, 1.1), interleaved);
                Ok(vec![turned(&x[0])?, turned(&x[1])?])
            },
        ),
        case(
            "softmax",
            vec![strided(&[rows, width], 0, 1, seed)],
            |x| Ok(vec![ops::softmax(&x[0])?]),
            |x| Ok(vec![plain::softmax(&x[0])?]),
        ),
        case(
            "log_sum_exp",
            vec![of(&[rows, width], 1)],
            |x| Ok(vec![ops::log_sum_exp(&x[0])?]),
            move |x| Ok(vec![plain::log_sum_exp(&x[0])?.reshape(&[rows])?]),
        ),
        case(
            "log_softmax",
            vec![of(&[rows, width], 1)],
            |x| Ok(vec![ops::log_softmax(&x[0])?]),
            |x| {
                let lse = plain::log_sum_exp(&x[0])?;
                Ok(vec![plain::sub(&x[0], &plain::like_columns(&lse, &x[0])?)?])
            },
        ),
        case(
            "cross_entropy_per_row",
            vec![of(&[rows, width], 1), targets()],
            move |x| Ok(vec![ops::cross_entropy_per_row(&x[0], &x[1], &loss)?]),
            move |x| Ok(vec![plain::losses(&x[0], &x[1], &loss)?.0.reshape(&[rows])?]),
        ),
        case(
            "cross_entropy",
            vec![of(&[rows, width], 1), targets()],
            |x| Ok(vec![ops::cross_entropy(&x[0], &x[1], &LossOptions::default())?]),
            |x| Ok(vec![plain::cross_entropy(&x[0], &x[1], &LossOptions::default())?]),
        ),
        case(
            "cross_entropy, every term",
            vec![of(&[rows, width], 1), targets()],
            move |x| Ok(vec![ops::cross_entropy(&x[0], &x[1], &loss)?]),
            move |x| Ok(vec![plain::cross_entropy(&x[0], &x[1], &loss)?]),
        ),
        case(
            "linear_cross_entropy",
            vec![of(&[rows, 24], 1), strided(&[width, 24], 0, 1, seed), targets()],
            |x| Ok(vec![ops::linear_cross_entropy(&x[0], &x[1], &x[2], &LossOptions::default())?]),
            |x| {
                let logits = plain::product(&x[0], &x[1].transpose(0, 1)?)?;
                Ok(vec![plain::cross_entropy(&logits, &x[2], &LossOptions::default())?])
            },
        ),
        case(
            "layer_norm",
            vec![of(&[rows, width], 1), of(&[rows, width], 2), of(&[width], 3), of(&[width], 4)],
            |x| {
                let (y, r) =
                    ops::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), Some(&x[3]), &NormOptions::new(1e-5))?;
                Ok(vec![y, r])
            },
            move |x| {
                let [residual, weight, bias] = [1, 2, 3].map(|i| Some(&x[i]));
                Ok(plain::Norm { residual, weight, bias, ..plain::Norm::layer(1e-5) }.of(&x[0])?.into())
            },
        ),
        case(
            "layer norm alone",
            vec![of(&[rows, width], 1), of(&[width], 3), of(&[width], 4)],
            |x| Ok(vec![ops::layer_norm(&x[0], None, Some(&x[1]), Some(&x[2]), &NormOptions::new(1e-5))?.0]),
            move |x| {
                let [weight, bias] = [1, 2].map(|i| Some(&x[i]));
                let [y, _] = plain::Norm { weight, bias, ..plain::Norm::layer(1e-5) }.of(&x[0])?;
                Ok(vec![y])
            },
        ),
        case(
            "rms_norm with dropout",
            vec![of(&[rows, width], 1), of(&[rows, width], 2), of(&[width], 3)],
            move |x| {
                let options = NormOptions { dropout: Some(dropout), ..NormOptions::new(1e-5) };
                let (y, r) = ops::rms_norm(&x[0], Some(&x[1]), Some(&x[2]), &options)?;
                Ok(vec![y, r])
            },
            move |x| {
                let ones = Tensor::ones(&[rows, width], Dtype::F32, &Device::Cpu)?;
                let options = NormOptions { dropout: Some(dropout), ..NormOptions::new(1e-5) };
                let dropped = ops::rms_norm(&ones, None, None, &options)?.1.to_vec::<f32>()?;
                let [residual, weight] = [1, 2].map(|i| Some(&x[i]));
                Ok(plain::Norm { residual, weight, dropout: Some(dropped), ..plain::Norm::rms(1e-5) }
                    .of(&x[0])?
                    .into())
            },
        ),
        case(
            "rms_norm alone",
            vec![of(&[rows, width], 1)],
            |x| Ok(vec![ops::rms_norm(&x[0], None, None, &NormOptions::new(1e-5))?.0]),
            move |x| {
                let [y, _] = plain::Norm::rms(1e-5).of(&x[0])?;
                Ok(vec![y])
            },
        ),
        case(
            "attention_merge",
            vec![
                of(&[2, rows, 3, width], 1),
                strided(&[2, rows, 3, width], 1, 2, seed),
                of(&[2, 3, rows], 3),
                of(&[2, 3, rows], 4),
            ],
            |x| {
                let [a, b] = [2, 3].map(|i| wide(&x[i]));
                let (out, lse) = ops::attention_merge(&[(x[0].clone(), a?), (x[1].clone(), b?)])?;
                Ok(vec![out, lse.to_dtype(x[0].dtype())?])
            },
            |x| {
                let [a, b] = [2, 3].map(|i| wide(&x[i]));
                let [out, lse] = plain::attention_merge([(&x[0], &a?), (&x[1], &b?)])?;
                Ok(vec![out, lse.to_dtype(x[0].dtype())?])
            },
        ),
        case(
            "attention",
            vec![of(&[2, rows, 4, 64], 1), of(&[2, rows + 9, 2, 64], 2), of(&[2, rows + 9, 2, 64], 3)],
            move |x| Ok(vec![ops::attention(&x[0], &x[1], &x[2], &options)?]),
            move |x| Ok(vec![plain::attention(&x[0], &x[1], &x[2], is_causal)?]),
        ),
    ]
}

/// As the LSE of attention is given.
fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(if x.dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 })
}

impl Case {
    /// Computes outputs and gradients in `dtype` on `device` and holds them against `f64` on the CPU, from the same
    /// rounded inputs: by the rule that kernels are judged by, twice the error of the textbook algorithm in that type, or
    /// three times for gradients, and its rounding.
    pub fn check(&self, dtype: Dtype, device: &Device) -> std::result::Result<(), String> {
        let rounded: Vec<Tensor> = self.inputs.iter().map(|input| to(input, dtype)).collect();
        let exact: Vec<Tensor> = rounded.iter().map(|input| to(input, Dtype::F64)).collect();
        let run = |function: &Function, inputs: &[Tensor]| {
            run(function, inputs).map_err(|error| format!("{} {dtype}: {error}", self.name))
        };
        let expected = run(&self.function, &exact)?;
        let plain = self.plain.as_ref().map(|plain| run(plain, &rounded)).transpose()?;
        let placed: Vec<Tensor> = rounded.iter().map(|input| input.to_device(device).unwrap()).collect();
        let found = run(&self.function, &placed)?;
        for (kind, name) in ["result", "gradient"].into_iter().enumerate() {
            assert_eq!(found[kind].len(), expected[kind].len(), "{}", self.name);
            for (i, (found, expected)) in found[kind].iter().zip(&expected[kind]).enumerate() {
                let (rule, plain) = match (&plain, kind) {
                    (None, _) => (Rule::Exact, expected),
                    (Some(plain), 0) => (Rule::Forward, &plain[kind][i]),
                    (Some(plain), _) => (Rule::Gradient, &plain[kind][i]),
                };
                let judged = Output::new(name, precision(dtype), found, plain, expected).judge(rule);
                if let Some(failure) = judged.failure {
                    return Err(format!("{} {dtype}, number {i}: {failure}", self.name));
                }
            }
        }
        Ok(())
    }
}

/// Outputs, and gradients.
fn run(function: &Function, inputs: &[Tensor]) -> Result<[Vec<Vec<f64>>; 2]> {
    let leaf = |input: &Tensor| if input.dtype().is_float() { input.requires_grad() } else { input.clone() };
    let leaves: Vec<Tensor> = inputs.iter().map(leaf).collect();
    let outputs = function(&leaves)?;
    let results: Vec<Vec<f64>> = outputs.iter().map(doubles).collect();
    let mut loss: Option<Tensor> = None;
    for output in outputs {
        // Weights that every type holds exactly.
        let weights: Vec<f64> = (0..output.numel()).map(|i| (i % 7) as f64 / 4.0 - 0.75).collect();
        let weights = Tensor::from_vec(weights, output.shape(), &Device::Cpu)?;
        let weights = weights.to_dtype(output.dtype())?.to_device(output.device())?;
        let sum = output.mul(&weights)?.sum_all()?;
        loss = Some(match loss {
            Some(loss) => loss.add(&sum)?,
            None => sum,
        });
    }
    let gradients = loss.map(|loss| loss.backward()).transpose()?.unwrap_or_default();
    Ok([results, leaves.iter().filter_map(|leaf| gradients.get(leaf)).map(doubles).collect()])
}

fn to(input: &Tensor, dtype: Dtype) -> Tensor {
    if input.dtype().is_float() { input.to_dtype(dtype).unwrap() } else { input.clone() }
}

fn precision(dtype: Dtype) -> Precision {
    match dtype {
        Dtype::Bf16 => Precision::Bf16,
        Dtype::F16 => Precision::F16,
        _ => Precision::F32,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn operations_are_as_precise_as_their_type(seed: u64) {
        for case in cases(seed) {
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
                case.check(dtype, &Device::Cpu).map_err(TestCaseError::fail)?;
            }
        }
    }
}

#[test]
fn conversions_round_to_the_nearest_and_ties_to_even() {
    let x = [
        1.0f32,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        -1.003,
        f32::INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        -0.0,
    ];
    let tensor = Tensor::from_slice(&x, &[x.len()], &Device::Cpu).unwrap();
    let found = tensor.to_dtype(Dtype::Bf16).unwrap().to_vec::<longhand_tensor::bf16>().unwrap();
    assert_eq!(found, x.map(longhand_tensor::bf16::from_f32));
    let nan = Tensor::from_slice(&[f32::NAN, f32::from_bits(0x7f80_0001)], &[2], &Device::Cpu).unwrap();
    assert!(doubles(&nan.to_dtype(Dtype::Bf16).unwrap()).iter().all(|x| x.is_nan()));
}
