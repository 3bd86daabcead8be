//! Every operation that the crate has, as its sources say: its gradient is checked, and takes nothing where it is not wanted.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use longhand_tensor::ops::{Activation, AttentionOptions, LossOptions, NormOptions, Rope, SampleOptions};
use longhand_tensor::profile::{Phase, Profile, profile};
use longhand_tensor::{
    Device, Dropout, Dtype, Gradients, Random, Result, Tensor, check_gradient, checkpoint, ops,
};

use crate::gpu::gpus;
use crate::{doubles, indices, strided, tensor};

type Function = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>>;

/// An operation, and what it is checked with.
struct Row {
    /// The file of its `impl Operation for`, and for what that is.
    place: &'static str,
    /// What profiles and errors call it, under each of its names.
    names: &'static [&'static str],
    /// The test that draws shapes, strides and empty tensors for it.
    drawn_by: &'static str,
    inputs: Vec<Tensor>,
    function: Function,
}

/// What has no gradient, or none that finite differences in f64 could tell, and the test of that.
const OTHERS: [(&str, &str); 4] = [
    ("attention/decode.rs: Decode", "what_does_not_fit_a_cache_is_an_error_and_changes_nothing"),
    ("cast.rs: Cast", "the_gradient_of_a_conversion_is_converted_back"),
    ("sample.rs: Sample", "the_gradient_of_a_drawn_token_is_refused"),
    ("to_device.rs: ToDevice", "gradients_go_back_to_the_device_that_they_are_of"),
];

fn row(
    place: &'static str,
    names: &'static [&'static str],
    drawn_by: &'static str,
    inputs: &[Tensor],
    function: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'static,
) -> Row {
    Row { place, names, drawn_by, inputs: inputs.to_vec(), function: Box::new(function) }
}

fn rows() -> Vec<Row> {
    let of = tensor;
    let x = || strided(&[3, 4], 0, 1, 1);
    let views = "views_match";
    let broadcast = "add_sub_and_mul_of_broadcast_shapes_match";
    let random = Random { seed: 3, offset: 1 };
    let ids = indices(&[2, 0, 2], &[3]);
    vec![
        row("add.rs: Add", &["add"], broadcast, &[x(), of(&[4], 2)], |x| Ok(vec![x[0].add(&x[1])?])),
        row("sub.rs: Sub", &["sub"], broadcast, &[x(), of(&[3, 1], 2)], |x| Ok(vec![x[0].sub(&x[1])?])),
        row("mul.rs: Mul", &["mul"], broadcast, &[x(), of(&[4], 2)], |x| Ok(vec![x[0].mul(&x[1])?])),
        row("add_scaled.rs: AddScaled", &["add_scaled"], broadcast, &[x(), of(&[4], 2)], |x| {
            Ok(vec![x[0].add_scaled(&x[1], -0.7)?])
        }),
        row("scale.rs: Scale", &["scale"], "scale_and_reductions_match", &[x()], |x| {
            Ok(vec![x[0].scale(-2.0)?])
        }),
        row("reduce.rs: Sum", &["sum_all", "mean_all"], "scale_and_reductions_match", &[x()], |x| {
            Ok(vec![x[0].sum_all()?, x[0].mean_all()?])
        }),
        row("axis.rs: Sum", &["sum", "mean"], "sums_and_means_along_a_dimension_match", &[x()], |x| {
            Ok(vec![x[0].sum(0)?, x[0].mean(1)?])
        }),
        row("reshape.rs: Reshape", &["reshape"], views, &[x()], |x| Ok(vec![x[0].reshape(&[2, 6])?])),
        row("contiguous.rs: Contiguous", &["contiguous"], views, &[x()], |x| Ok(vec![x[0].contiguous()?])),
        row("slice.rs: Narrow", &["narrow"], views, &[x()], |x| Ok(vec![x[0].narrow(1, 1, 2)?])),
        row("slice.rs: Split", &["split"], views, &[x()], |x| x[0].split(&[1, 0, 3], 1)),
        row("shape.rs: Permute", &["permute", "transpose"], "slices_and_views_match", &[x()], |x| {
            Ok(vec![x[0].permute(&[1, 0])?, x[0].transpose(0, 1)?])
        }),
        row("shape.rs: BroadcastTo", &["broadcast_to"], "slices_and_views_match", &[x()], |x| {
            Ok(vec![x[0].broadcast_to(&[2, 3, 4])?])
        }),
        row("cat.rs: Cat", &["cat"], "cat_matches", &[x(), of(&[2, 4], 2)], |x| {
            Ok(vec![Tensor::cat(&[&x[0], &x[1]], 0)?])
        }),
        row("matmul.rs: Matmul", &["matmul"], "matmul_matches", &[x(), of(&[4, 2], 2)], |x| {
            Ok(vec![x[0].matmul(&x[1])?])
        }),
        row("linear.rs: Linear", &["linear"], "linear_matches", &[x(), of(&[4, 2], 2), of(&[2], 3)], |x| {
            Ok(vec![ops::linear(&x[0], &x[1], Some(&x[2]))?])
        }),
        row("embedding.rs: Embedding", &["embedding"], "embedding_matches", &[x(), ids.clone()], |x| {
            Ok(vec![ops::embedding(&x[0], &x[1])?, ops::embedding_with_padding(&x[0], &x[1], 1)?])
        }),
        row(
            "index.rs: IndexAdd",
            &["index_add"],
            "picking_and_adding_up_by_index_match",
            &[x(), of(&[3, 4], 2), ids],
            |x| Ok(vec![x[0].index_add(0, &x[2], &x[1])?]),
        ),
        row(
            "activation.rs: Activate",
            &["activation", "gated", "gated_halves"],
            "activations_match",
            &[x(), of(&[3, 4], 2), of(&[4], 3), of(&[4], 4)],
            |x| {
                Ok(vec![
                    ops::activation(&x[0], Some(&x[2]), Activation::GeluTanh)?,
                    ops::gated(&x[0], &x[1], Some((&x[2], &x[3])), Activation::Silu)?,
                    ops::gated_halves(&x[0], Some(&x[2]), Activation::GeluErf)?,
                ])
            },
        ),
        row(
            "norm.rs: Norm",
            &["layer_norm", "rms_norm"],
            "norms_match",
            &[x(), of(&[3, 4], 2), of(&[4], 3), of(&[4], 4)],
            move |x| {
                let dropout = Some(Dropout { probability: 0.3, random });
                let options = NormOptions { dropout, ..NormOptions::new(1e-2) };
                let (y, r) = ops::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), Some(&x[3]), &options)?;
                let (z, s) = ops::rms_norm(&x[0], Some(&x[1]), Some(&x[2]), &NormOptions::new(1e-2))?;
                Ok(vec![y, r, z, s])
            },
        ),
        row(
            "softmax.rs: Softmax",
            &["softmax", "log_sum_exp"],
            "softmax_and_log_sum_exp_match",
            &[x()],
            |x| Ok(vec![ops::softmax(&x[0])?, ops::log_sum_exp(&x[0])?]),
        ),
        row(
            "cross_entropy.rs: CrossEntropy",
            &["cross_entropy"],
            "cross_entropy_matches",
            &[x(), indices(&[1, 3, 0], &[3])],
            |x| Ok(vec![ops::cross_entropy(&x[0], &x[1], &LossOptions::default())?]),
        ),
        row(
            "cross_entropy.rs: PerRow",
            &["cross_entropy_per_row"],
            "cross_entropy_matches",
            &[x(), indices(&[1, 3, 0], &[3])],
            |x| Ok(vec![ops::cross_entropy_per_row(&x[0], &x[1], &LossOptions::default())?]),
        ),
        row(
            "linear_cross_entropy.rs: LinearCrossEntropy",
            &["linear_cross_entropy"],
            "cross_entropy_matches",
            &[x(), of(&[5, 4], 2), indices(&[1, 4, 0], &[3])],
            |x| Ok(vec![ops::linear_cross_entropy(&x[0], &x[1], &x[2], &LossOptions::default())?]),
        ),
        row(
            "rope.rs: Rotation",
            &["rope"],
            "rope_matches",
            &[of(&[1, 3, 2, 4], 1), of(&[1, 3, 1, 4], 2)],
            |x| {
                let rope = Rope::new(4, 100.0, &Device::Cpu)?;
                let (q, k) = ops::rope(&x[0], &x[1], &Tensor::arange(5..8, &Device::Cpu)?, &rope)?;
                Ok(vec![q, k])
            },
        ),
        row(
            "attention/mod.rs: Attention",
            &["attention"],
            "every_combination_of_features_has_the_gradients_of_finite_differences",
            &[
                of(&[1, 3, 2, 3], 1),
                of(&[1, 4, 1, 3], 2),
                of(&[1, 4, 1, 2], 3),
                of(&[2, 1, 4], 4),
                of(&[2], 5),
            ],
            |x| {
                let (bias, sinks) = (Some(x[3].clone()), Some(x[4].clone()));
                let options = AttentionOptions { causal: true, bias, sinks, ..Default::default() };
                let (out, lse) = ops::attention_with_lse(&x[0], &x[1], &x[2], &options)?;
                Ok(vec![out, lse])
            },
        ),
        row(
            "merge.rs: Merge",
            &["attention_merge"],
            "attention_merge_matches",
            &[of(&[1, 3, 2, 2], 1), of(&[1, 3, 2, 2], 2), of(&[1, 2, 3], 3), of(&[1, 2, 3], 4)],
            |x| {
                let parts = [(x[0].clone(), x[2].clone()), (x[1].clone(), x[3].clone())];
                let (out, lse) = ops::attention_merge(&parts)?;
                Ok(vec![out, lse])
            },
        ),
    ]
}

/// The file and type of every `impl Operation for` in the sources.
fn places() -> BTreeSet<String> {
    fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, visit) } else { visit(&path) }
        }
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    walk(&sources, &mut |path| {
        let file = path.strip_prefix(&sources).unwrap().to_string_lossy().replace('\\', "/");
        let file = file.strip_prefix("ops/").unwrap_or(&file).to_string();
        for line in fs::read_to_string(path).unwrap().lines() {
            if let Some(name) = line.strip_prefix("impl Operation for ") {
                assert!(found.insert(format!("{file}: {}", name.trim_end_matches(" {"))), "{path:?}");
            }
        }
    });
    found
}

/// Whose rule was asked for: what the walk back ran itself, and not what a rule did.
fn ran_backward(profile: &Profile) -> BTreeSet<&str> {
    let asked = profile.events().iter().filter(|event| event.phase == Phase::Backward && event.depth == 0);
    asked.map(|event| event.operation.as_str()).collect()
}

/// A new operation fails here until it has a row, and a test that draws its shapes.
#[test]
fn every_operation_has_a_gradient_that_is_checked() {
    let tests = [
        include_str!("gradients.rs"),
        include_str!("attention_features/mod.rs"),
        include_str!("decode.rs"),
        include_str!("gpu.rs"),
        include_str!("every_operation.rs"),
    ];
    let rows = rows();
    let listed = rows.iter().map(|row| (row.place, row.drawn_by)).chain(OTHERS);
    for (place, test) in listed.clone() {
        let name = format!("fn {test}(");
        assert!(tests.iter().any(|file| file.contains(&name)), "{place}: there is no test {test}");
    }
    let listed: BTreeSet<String> = listed.map(|(place, _)| place.to_string()).collect();
    assert_eq!(places(), listed);

    for row in &rows {
        let (worst, profile) = profile(|| check_gradient(&row.function, &row.inputs));
        let worst = worst.unwrap_or_else(|error| panic!("{}: {error}", row.place)).unwrap();
        assert!(worst.error < 1e-6, "{}: {worst}", row.place);
        let ran = ran_backward(&profile);
        for name in row.names {
            assert!(ran.contains(name), "{}: the gradient of {name} was not asked for", row.place);
        }
    }
}

/// The gradients of those inputs that are `wanted`, and how many bytes of tensors backward made.
fn gradients(row: &Row, wanted: impl Fn(usize) -> bool) -> (Vec<Option<Vec<f64>>>, usize) {
    let leaf = |(i, x): (usize, &Tensor)| if wanted(i) { x.requires_grad() } else { x.clone() };
    let leaves: Vec<Tensor> = row.inputs.iter().enumerate().map(leaf).collect();
    let (gradients, profile) = profile(|| -> Result<Gradients> {
        let mut loss = Tensor::zeros(&[], Dtype::F64, &Device::Cpu)?;
        for (output, seed) in (row.function)(&leaves)?.iter().zip(20..) {
            loss = loss.add(&output.mul(&tensor(output.shape(), seed))?.sum_all()?)?;
        }
        loss.backward()
    });
    let gradients = gradients.unwrap();
    let backward = profile.by_operation().into_iter().filter(|line| line.phase == Phase::Backward);
    (leaves.iter().map(|x| gradients.get(x).map(doubles)).collect(), backward.map(|line| line.bytes).sum())
}

/// The inputs whose gradients take no memory, since they are the upstream one or views of it.
fn free(place: &str) -> &'static [usize] {
    match place {
        "add.rs: Add" | "sub.rs: Sub" | "add_scaled.rs: AddScaled" | "index.rs: IndexAdd" => &[0],
        "cat.rs: Cat" => &[0, 1],
        _ => &[],
    }
}

/// Of each input alone: the same gradient bit for bit, without the memory of the others.
#[test]
fn a_gradient_that_is_not_wanted_is_not_computed() {
    for row in rows() {
        let floats: Vec<usize> =
            (0..row.inputs.len()).filter(|&i| row.inputs[i].dtype() == Dtype::F64).collect();
        let (all, most) = gradients(&row, |i| floats.contains(&i));
        for &input in &floats {
            let (alone, bytes) = gradients(&row, |i| i == input);
            for (i, (alone, all)) in alone.iter().zip(&all).enumerate() {
                assert_eq!(alone.is_some(), i == input, "{}: input {i}", row.place);
                assert!(alone.is_none() || alone == all, "{}: input {i} alone", row.place);
            }
            if floats.iter().any(|i| *i != input && !free(row.place).contains(i)) {
                assert!(bytes < most, "{}: input {input} alone takes {bytes} of {most} bytes", row.place);
            }
        }
    }
}

/// Keys and values that are frozen, queries that are: the kernels of the others are not launched, nor their memory taken.
#[test]
fn a_gradient_that_is_not_wanted_is_not_computed_on_a_gpu() {
    let bf16 = |shape: &[usize], seed| tensor(shape, seed).to_dtype(Dtype::Bf16).unwrap();
    let tensor32 = |shape: &[usize], seed| tensor(shape, seed).to_dtype(Dtype::F32).unwrap();
    let attention = |x: &[Tensor]| -> Result<Vec<Tensor>> {
        let options = AttentionOptions { sinks: Some(x[3].clone()), causal: true, ..Default::default() };
        Ok(vec![ops::attention(&x[0], &x[1], &x[2], &options)?])
    };
    let norm = |x: &[Tensor]| -> Result<Vec<Tensor>> {
        let (y, r) = ops::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), Some(&x[3]), &NormOptions::new(1e-5))?;
        Ok(vec![y, r])
    };
    let rope = |x: &[Tensor]| -> Result<Vec<Tensor>> {
        let rope = Rope::new(16, 100.0, x[0].device())?;
        let (q, k) = ops::rope(&x[0], &x[1], &Tensor::arange(3..8, x[0].device())?, &rope)?;
        Ok(vec![q, k])
    };
    let heads = |tokens, heads, seed| bf16(&[1, tokens, heads, 64], seed);
    let gated = |x: &[Tensor]| -> Result<Vec<Tensor>> {
        Ok(vec![ops::gated(&x[0], &x[1], Some((&x[2], &x[3])), Activation::Silu)?])
    };
    let halves = |x: &[Tensor]| -> Result<Vec<Tensor>> {
        Ok(vec![ops::gated_halves(&x[0], Some(&x[1]), Activation::Silu)?])
    };
    let merge = |x: &[Tensor]| -> Result<Vec<Tensor>> {
        let (out, lse) = ops::attention_merge(&[(x[0].clone(), x[2].clone()), (x[1].clone(), x[3].clone())])?;
        Ok(vec![out, lse.to_dtype(Dtype::Bf16)?])
    };
    // Bytes of what the gradient of each input alone takes. One kernel makes those of keys and values.
    let (q, kv, matrix, vector) = (2 * 20 * 2 * 64, 2 * 40 * 64, 2 * 5 * 64, 2 * 64);
    let rows: [(&str, Vec<Tensor>, Vec<usize>, Function); 6] = [
        (
            "attention",
            vec![heads(20, 2, 1), heads(40, 1, 2), heads(40, 1, 3), bf16(&[2], 4)],
            vec![q, 2 * kv, 2 * kv, 4 * 2],
            Box::new(attention),
        ),
        (
            "layer_norm",
            vec![bf16(&[5, 64], 1), bf16(&[5, 64], 2), bf16(&[64], 3), bf16(&[64], 4)],
            vec![matrix, matrix, vector, vector],
            Box::new(norm),
        ),
        ("rope", vec![heads(5, 2, 1), heads(5, 1, 2)], vec![2 * 5 * 2 * 64, 2 * 5 * 64], Box::new(rope)),
        (
            "gated",
            vec![bf16(&[5, 64], 1), bf16(&[5, 64], 2), bf16(&[64], 3), bf16(&[64], 4)],
            vec![matrix, matrix, vector, vector],
            Box::new(gated),
        ),
        ("gated_halves", vec![bf16(&[5, 64], 1), bf16(&[64], 2)], vec![matrix, vector], Box::new(halves)),
        (
            "attention_merge",
            vec![heads(5, 1, 1), heads(5, 1, 2), tensor32(&[1, 1, 5], 3), tensor32(&[1, 1, 5], 4)],
            vec![matrix, matrix, 4 * 5, 4 * 5],
            Box::new(merge),
        ),
    ];
    for device in gpus() {
        for (name, inputs, expected, function) in &rows {
            let inputs: Vec<Tensor> = inputs.iter().map(|x| x.to_device(&device).unwrap()).collect();
            let run = |wanted: &dyn Fn(usize) -> bool| {
                let leaf = |(i, x): (usize, &Tensor)| if wanted(i) { x.requires_grad() } else { x.clone() };
                let leaves: Vec<Tensor> = inputs.iter().enumerate().map(leaf).collect();
                let (gradients, profile) = profile(|| -> Result<Gradients> {
                    let sums = function(&leaves)?.into_iter().map(|out| out.mul(&out)?.sum_all());
                    let sums = sums.collect::<Result<Vec<_>>>()?;
                    sums[1..].iter().try_fold(sums[0].clone(), |sum, x| sum.add(x))?.backward()
                });
                let gradients = gradients.unwrap();
                let backward = profile.by_operation().into_iter();
                let mut own =
                    backward.filter(|line| line.operation == *name && line.phase == Phase::Backward);
                let of: Vec<_> = leaves.iter().map(|x| gradients.get(x).map(doubles)).collect();
                (of, own.next().unwrap().bytes)
            };
            let (all, _) = run(&|_| true);
            for input in 0..inputs.len() {
                let (alone, bytes) = run(&|i| i == input);
                assert_eq!(alone[input], all[input], "{name}: input {input} alone on {device}");
                assert_eq!(bytes, expected[input], "{name}: input {input} alone on {device}");
            }
        }
    }
}

#[test]
fn the_gradient_of_a_drawn_token_is_refused() {
    let logits = tensor(&[2, 3], 1).to_dtype(Dtype::F32).unwrap().requires_grad();
    for tokens in [ops::argmax(&logits), ops::sample(&logits, &SampleOptions::GREEDY, Random::default())] {
        let chosen = tokens.unwrap().to_dtype(Dtype::F32).unwrap().sum_all().unwrap();
        let error = chosen.backward().err().unwrap().to_string();
        assert!(error.contains(": has no backward rule, and a gradient through it was asked for"), "{error}");
    }
}

/// A checkpoint computes again only what leads to something that is wanted.
#[test]
fn what_is_frozen_within_a_checkpoint_costs_no_gradient() {
    let (x, frozen) = (tensor(&[3, 4], 1).requires_grad(), tensor(&[4, 4], 2));
    let (gradients, profile) = profile(|| {
        checkpoint(move |x| Ok(vec![ops::linear(&x[0], &frozen, None)?]), &[&x])?[0].sum_all()?.backward()
    });
    assert!(gradients.unwrap().get(&x).is_some());
    let products = profile.events().iter().filter(|e| e.operation == "matmul" && e.phase == Phase::Backward);
    assert_eq!(products.count(), 1);
}
