//! What is saved as the way to make it: the outputs of operations that are cheap to run again.

use longhand_tensor::ops::{self, Activation, Gelu, NormOptions};
use longhand_tensor::profile::{Phase, Profile, profile};
use longhand_tensor::{
    AdamW, Backward, Device, Dropout, Dtype, Forward, Operation, Random, Result, Tensor, apply, checkpoint,
};

use crate::gpu::gpus;
use crate::{doubles, tensor};

/// How often an operation was run again.
fn recomputed(profile: &Profile, name: &str) -> usize {
    let again =
        |event: &&longhand_tensor::profile::Event| event.phase == Phase::Recompute && event.operation == name;
    profile.events().iter().filter(again).count()
}

fn sum(x: &Tensor) -> Tensor {
    x.mul(&tensor(x.shape(), 9).to_dtype(x.dtype()).unwrap().to_device(x.device()).unwrap())
        .unwrap()
        .sum_all()
        .unwrap()
}

/// The gradients of `f(x, weight)` by both, and how often an activation or a norm was run again for them.
fn gradients(
    x: &Tensor,
    weight: &Tensor,
    f: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> ([Vec<f64>; 2], usize) {
    let (x, weight) = (x.requires_grad(), weight.requires_grad());
    let (gradients, profile) = profile(|| sum(&f(&x, &weight).unwrap()).backward().unwrap());
    let again = ["activation", "gated", "gated_halves", "layer_norm", "rms_norm"]
        .map(|name| recomputed(&profile, name));
    ([&x, &weight].map(|leaf| doubles(gradients.get(leaf).unwrap())), again.iter().sum())
}

type Made = fn(&Tensor) -> Result<Tensor>;

/// What is computed again, each form of it: of 16 columns it makes 16 or 8.
fn cheap() -> [Made; 6] {
    const OPTIONS: NormOptions = NormOptions {
        eps: 1e-5,
        dropout: Some(Dropout { probability: 0.25, random: Random { seed: 3, offset: 1 } }),
    };
    [
        |x| x.gelu(Gelu::Tanh),
        |x| x.gelu(Gelu::Erf),
        |x| ops::gated(&x.narrow(1, 0, 8)?, &x.narrow(1, 8, 8)?, None, Activation::Silu),
        |x| ops::gated_halves(x, Some(&x.sum(0)?), Activation::GeluTanh),
        |x| Ok(ops::layer_norm(x, Some(x), Some(&x.sum(0)?), Some(&x.mean(0)?), &OPTIONS)?.0),
        |x| Ok(ops::rms_norm(x, None, Some(&x.sum(0)?), &NormOptions::new(1e-5))?.0),
    ]
}

#[test]
fn what_is_computed_again_has_the_bits_of_what_would_have_been_saved() {
    let devices = [(Device::Cpu, Dtype::F32), (Device::Cpu, Dtype::Bf16)];
    let devices = devices.into_iter().chain(gpus().into_iter().map(|gpu| (gpu, Dtype::Bf16)));
    for (device, dtype) in devices {
        let on = |x: Tensor| x.to_dtype(dtype).unwrap().to_device(&device).unwrap();
        let x = on(tensor(&[6, 16], 1));
        for f in cheap() {
            let width = f(&x).unwrap().shape()[1];
            let weight = on(tensor(&[width, 8], 2));
            let again = gradients(&x, &weight, |x, weight| ops::linear(&f(x)?, weight, None));
            // The product reads a copy, which is nobody's output that could be made again.
            let kept = gradients(&x, &weight, |x, weight| ops::linear(&f(x)?.scale(1.0)?, weight, None));
            assert_eq!((again.1, kept.1), (1, 0), "{device}");
            assert_eq!(again.0, kept.0, "{device} {dtype}");
        }
    }
}

/// As the projections to queries, keys and values read one norm: the first that backward comes to has it made.
#[test]
fn what_several_operations_read_is_computed_again_once() {
    let weights = |width: usize| [16, 17, 18].map(|seed| tensor(&[width, 8], seed));
    let read = |y: &Tensor, weight: &Tensor| -> Result<Tensor> {
        let [a, b, c] = weights(y.shape()[1]);
        let linear = |weight: &Tensor| ops::linear(y, &weight.requires_grad(), None);
        // In between, another is made again; and one reads a view of it.
        let gate = linear(&a)?.mul(&ops::activation(&linear(&b)?, None, Activation::Silu)?)?;
        gate.add(&linear(&c)?)?.add(&y.reshape(&[2, 3, y.shape()[1]])?.matmul(weight)?.reshape(&[6, 8])?)
    };
    for f in cheap() {
        let x = tensor(&[6, 16], 1);
        let weight = tensor(&[f(&x).unwrap().shape()[1], 8], 2);
        let again = gradients(&x, &weight, |x, weight| read(&f(x)?, weight));
        let kept = gradients(&x, &weight, |x, weight| read(&f(x)?.scale(1.0)?, weight));
        // One for `f`, and one for the activation, which the product saved.
        assert_eq!((again.1, kept.1), (2, 1));
        assert_eq!(again.0, kept.0);
    }
}

/// Of two readers, backward passes one: what was made for it does not wait for the other.
#[test]
fn what_is_computed_again_does_not_outlive_what_made_it() {
    let (x, weight) = (tensor(&[6, 16], 1).requires_grad(), tensor(&[16, 4], 2).requires_grad());
    let y = x.gelu(Gelu::Tanh).unwrap();
    let [one, other] = [(); 2].map(|()| sum(&ops::linear(&y, &weight, None).unwrap()));
    let (gradients, profile) = profile(|| one.backward().unwrap());
    assert_eq!(recomputed(&profile, "activation"), 1);
    assert!(gradients.get(&x).is_some());
    let error = other.backward().err().unwrap().to_string();
    assert!(error.starts_with("backward: passed through activation before"), "{error}");
}

#[test]
fn views_of_all_that_is_computed_again_are_views_of_it_in_backward_too_and_parts_are_kept() {
    let (x, weight) = (tensor(&[6, 16], 1), tensor(&[3, 4], 2));
    let views: [(Made, usize); 5] = [
        (|y| y.reshape(&[2, 16, 3]), 1),
        (|y| y.reshape(&[2, 3, 16])?.transpose(1, 2), 1),
        (|y| y.reshape(&[3, 32])?.broadcast_to(&[2, 3, 32])?.transpose(1, 2), 1),
        (|y| y.split(&[2, 13, 1], 1)?.swap_remove(1).narrow(1, 2, 3), 0),
        (|y| y.narrow(1, 3, 1)?.broadcast_to(&[6, 3]), 0),
    ];
    for (view, expected) in views {
        let of = |y: &Tensor, weight: &Tensor| view(y)?.matmul(weight);
        let again = gradients(&x, &weight, |x, weight| of(&x.gelu(Gelu::Tanh)?, weight));
        let kept = gradients(&x, &weight, |x, weight| of(&x.gelu(Gelu::Tanh)?.scale(1.0)?, weight));
        assert_eq!((again.1, kept.1), (expected, 0));
        assert_eq!(again.0, kept.0);
    }
}

#[test]
fn nothing_is_computed_again_but_where_a_gradient_passes_through_it() {
    let (x, weight) = (tensor(&[6, 16], 1), tensor(&[16, 4], 2).requires_grad());
    let again = |body: &dyn Fn() -> Tensor| {
        let (_, profile) = profile(|| sum(&body()).backward().unwrap());
        recomputed(&profile, "activation")
    };
    let leaf = x.requires_grad();
    let linear = |y: &Tensor, weight: &Tensor| ops::linear(y, weight, None).unwrap();
    let gelu = |x: &Tensor| x.gelu(Gelu::Tanh).unwrap();
    assert_eq!(again(&|| linear(&gelu(&leaf), &weight)), 1);
    assert_eq!(again(&|| linear(&gelu(&x), &weight)), 0, "of frozen inputs");
    assert_eq!(again(&|| linear(&gelu(&leaf).detach(), &weight)), 0, "detached");
    assert_eq!(again(&|| linear(&gelu(&leaf).detach().requires_grad(), &weight)), 0, "a leaf of its own");
    assert_eq!(again(&|| linear(&gelu(&leaf), &weight.detach())), 0, "by a frozen weight");
    // Within a checkpoint, the walk runs it twice: with all else, and for the product.
    let body = |weight: &Tensor| {
        let weight = weight.clone();
        move |x: &[Tensor]| Ok(vec![ops::linear(&x[0].gelu(Gelu::Tanh)?, &weight, None)?])
    };
    assert_eq!(again(&|| checkpoint(body(&weight), &[&leaf]).unwrap().remove(0)), 2);
}

/// A leaf made of an output has a graph of its own, which can be walked after that of the output was.
#[test]
fn a_leaf_made_of_an_output_does_not_need_what_made_it() {
    let (x, weight) = (tensor(&[6, 16], 1).requires_grad(), tensor(&[16, 4], 2).requires_grad());
    let y = x.gelu(Gelu::Tanh).unwrap();
    let leaf = y.detach().requires_grad();
    let loss = sum(&ops::linear(&leaf, &weight, None).unwrap());
    sum(&y).backward().unwrap();
    assert!(loss.backward().unwrap().get(&weight).is_some());
}

#[test]
fn a_chain_of_activations_keeps_every_other_one() {
    const LENGTH: usize = 20_000;
    let x = Tensor::from([0.5f32]).requires_grad();
    let ((), profile) = profile(|| {
        let y = (0..LENGTH).fold(x.clone(), |x, _| x.gelu(Gelu::Tanh).unwrap());
        y.backward().unwrap();
    });
    assert_eq!(recomputed(&profile, "activation"), LENGTH / 2);
}

#[test]
fn what_cannot_be_computed_again_is_an_error_that_names_the_operation() {
    let message = |result: Result<longhand_tensor::Gradients>| result.err().unwrap().to_string();
    let weight = tensor(&[4, 2], 2).requires_grad();
    let bias = tensor(&[4], 3).requires_grad();
    let activated = || ops::activation(&tensor(&[3, 4], 1), Some(&bias), Activation::Silu).unwrap();

    let loss = sum(&ops::linear(&activated(), &weight, None).unwrap());
    let mut optimiser = AdamW::new(vec![("bias".into(), bias.clone())], Default::default()).unwrap();
    optimiser.step(&sum(&bias).backward().unwrap(), 0.1).unwrap();
    assert!(
        message(loss.backward())
            .starts_with("backward: a tensor saved for activation was modified in place since")
    );

    let y = activated();
    let loss = sum(&ops::linear(&y, &weight, None).unwrap());
    sum(&y).backward().unwrap();
    assert!(message(loss.backward()).starts_with("backward: passed through activation before"));

    /// Says that it is computed again, and has nothing or something else.
    struct Forgets(Option<Tensor>);
    impl Operation for Forgets {
        fn name(&self) -> &str {
            "forgets"
        }
        fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
            Ok(Forward::new([inputs[0].scale(2.0)?]))
        }
        fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
            Ok(vec![Some(ctx.grad(0)?.scale(2.0)?)])
        }
        fn recomputes(&self, _: usize) -> bool {
            true
        }
        fn recompute(&self, output: usize, ctx: &Backward<'_>) -> Result<Tensor> {
            self.0.clone().map_or_else(|| Nothing.recompute(output, ctx), Ok)
        }
    }
    /// With a trait's default for everything.
    struct Nothing;
    impl Operation for Nothing {
        fn name(&self) -> &str {
            "nothing"
        }
        fn forward(&self, _: &[Tensor], _: &[bool]) -> Result<Forward> {
            Ok(Forward::new([]))
        }
    }
    let found = |forgets| {
        let y = apply(forgets, &[&tensor(&[2], 1).requires_grad()]).unwrap().remove(0);
        message(sum(&y.mul(&y).unwrap()).backward())
    };
    assert_eq!(
        found(Forgets(None)),
        "nothing: its backward rule returned nothing: it has no `recompute`, expected output 0 again, as `recomputes` promises"
    );
    assert_eq!(
        found(Forgets(Some(tensor(&[3], 1)))),
        "forgets: its backward rule returned output 0 again, of shape [3] in f64, expected shape [2] in f64, as before"
    );
}
