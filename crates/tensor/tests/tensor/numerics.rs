//! Every operation in `f32`, `bf16` and `f16` against itself in `f64`.

use longhand_tensor::ops::{
    Activation, AttentionOptions, Gelu, IGNORE_INDEX, LossOptions, NormOptions, Rope,
};
use longhand_tensor::{Device, Dropout, Dtype, Random, Result, Tensor, ops};
use proptest::prelude::*;

use crate::{doubles, indices, strided, tensor};

type Function = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>>;

/// An operation with inputs in `f64` (and `u32`).
pub struct Case {
    name: &'static str,
    function: Function,
    inputs: Vec<Tensor>,
}

fn case(
    name: &'static str,
    inputs: Vec<Tensor>,
    function: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'static,
) -> Case {
    Case { name, function: Box::new(function), inputs }
}

/// Every operation, at sizes that depend on the seed. The head dim is one that GPUs take as well.
pub fn cases(seed: u64) -> Vec<Case> {
    let of = |shape: &[usize], i: u64| tensor(shape, seed ^ i);
    let (rows, width) = (1 + (seed % 40) as usize, 8 + (seed / 40 % 60) as usize);
    let options = AttentionOptions { causal: seed.is_multiple_of(2), ..Default::default() };
    let targets: Vec<u32> =
        (0..rows as u32).map(|i| if i % 5 == 4 { IGNORE_INDEX } else { i * 7 % width as u32 }).collect();
    let loss = LossOptions { label_smoothing: 0.1, z_loss: 1e-2, softcap: Some(3.0) };
    let interleaved = seed.is_multiple_of(3);
    let positions: Vec<u32> = (0..rows as u32).map(|i| i * 50_021).collect();
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * i % 11).collect();
    vec![
        case("add", vec![of(&[rows, width], 1), of(&[width], 2)], |x| Ok(vec![x[0].add(&x[1])?])),
        case("sub", vec![of(&[rows, width], 1), of(&[rows, 1], 2)], |x| Ok(vec![x[0].sub(&x[1])?])),
        case("mul", vec![strided(&[rows, width], 0, 1, seed), of(&[width], 2)], |x| {
            Ok(vec![x[0].mul(&x[1])?])
        }),
        case("add_scaled", vec![of(&[rows, width], 1), of(&[width], 2)], |x| {
            Ok(vec![x[0].add_scaled(&x[1], -0.3)?])
        }),
        case("scale", vec![of(&[rows, width], 1)], |x| Ok(vec![x[0].scale(-0.3)?])),
        // Of squares, since a sum of either sign may be small beside its own rounding errors.
        case("mean_all", vec![of(&[rows, width], 1)], |x| Ok(vec![x[0].mul(&x[0])?.mean_all()?])),
        case("sum", vec![of(&[rows, 6, width], 1)], |x| {
            let square = x[0].mul(&x[0])?;
            Ok(vec![square.sum(0)?, square.sum(1)?, square.mean(2)?])
        }),
        case("index", vec![of(&[3, 11, width], 1), of(&[3, rows, width], 2), indices(&ids, &[rows])], |x| {
            Ok(vec![x[0].index_select(1, &x[2])?, x[0].index_add(1, &x[2], &x[1])?])
        }),
        case("split and cat", vec![of(&[rows, 6, width], 1)], |x| {
            let parts = x[0].split(&[1, 3, 2], 1)?;
            Ok(vec![Tensor::cat(&[&parts[2], &parts[0]], 1)?, parts[1].transpose(0, 2)?.contiguous()?])
        }),
        case("narrow", vec![of(&[rows, 6, width], 1)], |x| Ok(vec![x[0].narrow(1, 2, 3)?])),
        case("gelu tanh", vec![of(&[rows, width], 1)], |x| Ok(vec![x[0].gelu(Gelu::Tanh)?])),
        case("relu squared with bias", vec![of(&[rows, width], 1), of(&[width], 2)], |x| {
            Ok(vec![ops::activation(&x[0], Some(&x[1]), Activation::ReluSquared)?])
        }),
        case("swiglu of halves", vec![of(&[2, rows, 2 * width], 1), of(&[2 * width], 2)], |x| {
            Ok(vec![ops::gated_halves(&x[0], Some(&x[1]), Activation::Silu)?])
        }),
        // Two slices of columns, which are not copied.
        case(
            "geglu of slices",
            vec![of(&[rows, 3 * width], 1), of(&[width], 2), of(&[width], 3)],
            move |x| {
                let (gate, up) = (x[0].narrow(1, 0, width)?, x[0].narrow(1, 2 * width, width)?);
                Ok(vec![ops::gated(&gate, &up, Some((&x[1], &x[2])), Activation::GeluTanh)?])
            },
        ),
        case("gelu erf", vec![of(&[rows, width], 1)], |x| Ok(vec![x[0].gelu(Gelu::Erf)?])),
        case("matmul", vec![of(&[2, rows, 24], 1), strided(&[2, 24, width], 1, 2, seed)], |x| {
            Ok(vec![x[0].matmul(&x[1])?])
        }),
        case("linear", vec![of(&[2, rows, 24], 1), of(&[width, 24], 2), of(&[width], 3)], |x| {
            Ok(vec![ops::linear(&x[0], &x[1].transpose(0, 1)?, Some(&x[2]))?])
        }),
        case("embedding", vec![of(&[11, width], 1), indices(&ids, &[rows])], |x| {
            Ok(vec![ops::embedding(&x[0], &x[1])?])
        }),
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
        ),
        case("softmax", vec![strided(&[rows, width], 0, 1, seed)], |x| Ok(vec![ops::softmax(&x[0])?])),
        case("log_sum_exp", vec![of(&[rows, width], 1)], |x| Ok(vec![ops::log_sum_exp(&x[0])?])),
        case("cross_entropy", vec![of(&[rows, width], 1), indices(&targets, &[rows])], |x| {
            Ok(vec![ops::cross_entropy(&x[0], &x[1], &LossOptions::default())?])
        }),
        case(
            "cross_entropy, every term",
            vec![of(&[rows, width], 1), indices(&targets, &[rows])],
            move |x| Ok(vec![ops::cross_entropy(&x[0], &x[1], &loss)?]),
        ),
        case(
            "linear_cross_entropy",
            vec![of(&[rows, 24], 1), strided(&[width, 24], 0, 1, seed), indices(&targets, &[rows])],
            |x| Ok(vec![ops::linear_cross_entropy(&x[0], &x[1], &x[2], &LossOptions::default())?]),
        ),
        case(
            "layer_norm",
            vec![of(&[rows, width], 1), of(&[rows, width], 2), of(&[width], 3), of(&[width], 4)],
            |x| {
                let (y, r) =
                    ops::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), Some(&x[3]), &NormOptions::new(1e-5))?;
                Ok(vec![y, r])
            },
        ),
        case("layer norm alone", vec![of(&[rows, width], 1), of(&[width], 3), of(&[width], 4)], |x| {
            Ok(vec![ops::layer_norm(&x[0], None, Some(&x[1]), Some(&x[2]), &NormOptions::new(1e-5))?.0])
        }),
        case(
            "rms_norm with dropout",
            vec![of(&[rows, width], 1), of(&[rows, width], 2), of(&[width], 3)],
            move |x| {
                let dropout = Some(Dropout { probability: 0.25, random: Random { seed, offset: 1 } });
                let options = NormOptions { dropout, ..NormOptions::new(1e-5) };
                let (y, r) = ops::rms_norm(&x[0], Some(&x[1]), Some(&x[2]), &options)?;
                Ok(vec![y, r])
            },
        ),
        case("rms_norm alone", vec![of(&[rows, width], 1)], |x| {
            Ok(vec![ops::rms_norm(&x[0], None, None, &NormOptions::new(1e-5))?.0])
        }),
        case(
            "attention_merge",
            vec![
                of(&[2, rows, 3, width], 1),
                strided(&[2, rows, 3, width], 1, 2, seed),
                of(&[2, 3, rows], 3),
                of(&[2, 3, rows], 4),
            ],
            |x| {
                let [a, b] = [2, 3]
                    .map(|i| x[i].to_dtype(if x[i].dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }));
                let (out, lse) = ops::attention_merge(&[(x[0].clone(), a?), (x[1].clone(), b?)])?;
                Ok(vec![out, lse.to_dtype(x[0].dtype())?])
            },
        ),
        case(
            "attention",
            vec![of(&[2, rows, 4, 64], 1), of(&[2, rows + 9, 2, 64], 2), of(&[2, rows + 9, 2, 64], 3)],
            move |x| Ok(vec![ops::attention(&x[0], &x[1], &x[2], &options)?]),
        ),
    ]
}

impl Case {
    /// Computes outputs and gradients in `dtype` on `device` and holds them against `f64` on the CPU, from the same
    /// rounded inputs.
    pub fn check(&self, dtype: Dtype, device: &Device) -> std::result::Result<(), String> {
        let rounded: Vec<Tensor> = self.inputs.iter().map(|input| to(input, dtype)).collect();
        let exact: Vec<Tensor> = rounded.iter().map(|input| to(input, Dtype::F64)).collect();
        let rounded: Vec<Tensor> = rounded.iter().map(|input| input.to_device(device).unwrap()).collect();
        let found = self.run(&rounded).map_err(|error| format!("{}: {error}", self.name))?;
        let expected = self.run(&exact).map_err(|error| format!("{}: {error}", self.name))?;
        for (kind, found, expected) in
            [("result", &found[0], &expected[0]), ("gradient", &found[1], &expected[1])]
        {
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                close(found, expected, tolerance(dtype, kind == "gradient"))
                    .map_err(|text| format!("{} {dtype}, {kind} {i}: {text}", self.name))?;
            }
        }
        Ok(())
    }

    /// Outputs, and gradients.
    fn run(&self, inputs: &[Tensor]) -> Result<[Vec<Vec<f64>>; 2]> {
        let leaf =
            |input: &Tensor| if input.dtype().is_float() { input.requires_grad() } else { input.clone() };
        let leaves: Vec<Tensor> = inputs.iter().map(leaf).collect();
        let outputs = (self.function)(&leaves)?;
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
}

fn to(input: &Tensor, dtype: Dtype) -> Tensor {
    if input.dtype().is_float() { input.to_dtype(dtype).unwrap() } else { input.clone() }
}

/// Relative to the largest element: of a 16-bit type, twice the error of a result that is rounded once, three times for
/// gradients, and the rounding of the output. Of f32, 168 roundings: what a plain sum of some dozens of terms may be off by.
fn tolerance(dtype: Dtype, is_gradient: bool) -> f64 {
    let roundings = if is_gradient { 3.0 + 1.0 } else { 2.0 + 1.0 };
    match dtype {
        Dtype::F32 => 1e-5,
        Dtype::F16 => roundings * 2f64.powi(-11),
        _ => roundings * 2f64.powi(-8),
    }
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) -> std::result::Result<(), String> {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-3f64, |max, x| max.max(x.abs()));
    let right = |(a, b): (&f64, &f64)| (a - b).abs() <= tolerance * scale;
    match found.iter().zip(expected).position(|pair| !right(pair)) {
        None => Ok(()),
        Some(i) => Err(format!("element {i} is {}, and {} in f64 (largest {scale})", found[i], expected[i])),
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
