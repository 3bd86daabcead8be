//! The graph and the walk back through it.

use longhand_tensor::ops::Gelu;
use longhand_tensor::{
    AdamW, Backward, Device, Dropout, Dtype, Forward, Gradients, Operation, Random, Result, Tensor, apply,
    check_gradient, checkpoint, checkpoint_chunks, no_grad, ops,
};

use crate::{doubles, tensor};

fn vector(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, &[values.len()], &Device::Cpu).unwrap()
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => "no error".into(),
        Err(error) => error.to_string(),
    }
}

/// Twice its input, with a backward that the test chooses.
struct Double(fn(&Backward<'_>) -> Result<Vec<Option<Tensor>>>);

impl Operation for Double {
    fn name(&self) -> &str {
        "double"
    }
    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        Ok(Forward::new([inputs[0].scale(2.0)?]))
    }
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        (self.0)(ctx)
    }
}

fn double(rule: Double, x: &Tensor) -> Tensor {
    apply(rule, &[x]).unwrap().remove(0)
}

#[test]
fn gradients_of_every_path_add_up() {
    let x = vector(&[2.0, 3.0]).requires_grad();
    // x^2 + 5 x, with x on three paths.
    let y = x.mul(&x).unwrap().add(&x.scale(5.0).unwrap()).unwrap().sum_all().unwrap();
    let gradients = y.backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [9.0, 11.0]);
}

#[test]
fn gradients_of_micro_batches_accumulate() {
    let x = vector(&[2.0, 3.0]).requires_grad();
    let mut sum = Gradients::default();
    for factor in [1.0, 2.5] {
        sum.accumulate(&x.scale(factor).unwrap().sum_all().unwrap()).unwrap();
    }
    assert_eq!(sum.get(&x).unwrap().to_vec::<f32>().unwrap(), [3.5, 3.5]);
}

#[test]
fn a_sum_that_a_rule_adds_to_is_its_alone() {
    let (x, y) = (vector(&[1.0, 2.0]).requires_grad(), vector(&[0.0, 0.0]).requires_grad());
    let sum = |parts: [Tensor; 2]| parts[0].add(&parts[1]).unwrap().sum_all().unwrap();
    // Backward comes to the newest part first.
    let adds = Double(|ctx| {
        let sum = ctx.take_sum(0).unwrap();
        assert_eq!(sum.to_vec::<f32>()?, [3.0, 3.0]);
        assert!(ctx.take_sum(0).is_none());
        Ok(vec![Some(sum.add(&ctx.grad(0)?.scale(2.0)?)?)])
    });
    let gradients = sum([double(adds, &x), x.scale(3.0).unwrap()]).backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [5.0, 5.0]);

    // The gradient of x + y is the same tensor for both of them.
    let finds_none = Double(|ctx| {
        assert!(ctx.take_sum(0).is_none());
        Ok(vec![Some(ctx.grad(0)?.scale(2.0)?)])
    });
    let gradients = sum([double(finds_none, &x), x.add(&y).unwrap()]).backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [3.0, 3.0]);
    assert_eq!(gradients.get(&y).unwrap().to_vec::<f32>().unwrap(), [1.0, 1.0]);
}

#[test]
fn a_gradient_is_still_there_after_a_rule_failed_that_could_have_added_to_it() {
    let x = vector(&[1.0]).requires_grad();
    let mut gradients = Gradients::default();
    gradients.accumulate(&x.scale(3.0).unwrap()).unwrap();
    let fails =
        Double(|ctx| Err(longhand_tensor::Error::argument("double", "x", ctx.inputs().to_string(), "2")));
    assert!(gradients.accumulate(&double(fails, &x)).is_err());
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 3.0);
}

#[test]
fn the_gradient_of_a_table_that_is_used_twice_is_added_up_in_place() {
    let table = Tensor::from_slice(&[1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2], &Device::Cpu)
        .unwrap()
        .requires_grad();
    let ids = Tensor::from([2u32, 0, 2]);
    let of_ids = ops::embedding(&table, &ids).unwrap().sum_all().unwrap();
    let of_all = table.scale(10.0).unwrap().sum_all().unwrap();
    let gradients = of_ids.add(&of_all).unwrap().backward().unwrap();
    assert_eq!(gradients.get(&table).unwrap().to_vec::<f64>().unwrap(), [11.0, 11.0, 10.0, 10.0, 12.0, 12.0]);
}

#[test]
fn a_tensor_that_needs_no_gradient_has_none() {
    let (x, frozen) = (vector(&[2.0]).requires_grad(), vector(&[3.0]));
    let gradients = x.mul(&frozen).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&frozen).is_none());
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 3.0);
}

#[test]
fn nothing_is_recorded_without_a_leaf_or_inside_no_grad_or_after_detach() {
    let x = vector(&[1.0]).requires_grad();
    assert!(!vector(&[1.0]).scale(2.0).unwrap().needs_gradient());
    assert!(!no_grad(|| x.scale(2.0)).unwrap().needs_gradient());
    assert!(!x.detach().scale(2.0).unwrap().needs_gradient());
    assert!(x.scale(2.0).unwrap().needs_gradient());
}

#[test]
fn recording_comes_back_after_a_panic_inside_no_grad() {
    let x = vector(&[1.0]).requires_grad();
    let panicked = std::panic::catch_unwind(|| no_grad(|| panic!("inside")));
    assert!(panicked.is_err());
    assert!(x.scale(2.0).unwrap().needs_gradient());
}

#[test]
fn the_gradient_of_a_vector_is_refused() {
    let y = vector(&[1.0, 2.0]).requires_grad().scale(2.0).unwrap();
    assert_eq!(
        message(y.backward()),
        "backward: the result of scale has shape [2], and only the gradient of a single number is defined; reduce it \
         first with `sum_all` or `mean_all`"
    );
}

#[test]
fn a_tensor_that_depends_on_no_leaf_is_refused() {
    let expected = "backward: the tensor depends on nothing whose gradient is wanted";
    assert!(message(vector(&[1.0]).sum_all().unwrap().backward()).starts_with(expected));
}

#[test]
fn a_second_walk_through_a_freed_graph_is_refused() {
    let x = vector(&[1.0]).requires_grad();
    let y = x.gelu(Gelu::Tanh).unwrap();
    let (a, b) = (y.scale(2.0).unwrap().sum_all().unwrap(), y.sum_all().unwrap());
    a.backward().unwrap();
    let found = message(b.backward());
    assert!(
        found.starts_with("backward: passed through activation before, which freed the tensors saved for it"),
        "{found}"
    );
}

#[test]
fn a_saved_tensor_that_the_optimiser_changed_is_refused() {
    let weight = vector(&[1.0]).requires_grad();
    let x = vector(&[3.0]).requires_grad();
    let y = x.mul(&weight).unwrap().sum_all().unwrap();
    let mut optimiser = AdamW::new(vec![("weight".into(), weight.clone())], Default::default()).unwrap();
    optimiser.step(&weight.scale(1.0).unwrap().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
    let found = message(y.backward());
    assert!(found.starts_with("backward: a tensor saved for mul was modified in place since"), "{found}");
}

#[test]
fn an_operation_without_a_rule_is_refused_when_a_gradient_passes_and_only_then() {
    struct Opaque;
    impl Operation for Opaque {
        fn name(&self) -> &str {
            "opaque"
        }
        fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
            Ok(Forward::new([inputs[0].scale(2.0)?]))
        }
    }
    let x = vector(&[1.0]);
    assert_eq!(apply(Opaque, &[&x]).unwrap()[0].item().unwrap(), 2.0);
    let y = apply(Opaque, &[&x.requires_grad()]).unwrap().remove(0).sum_all().unwrap();
    let found = message(y.backward());
    assert!(
        found.starts_with("opaque: has no backward rule, and a gradient through it was asked for"),
        "{found}"
    );
}

#[test]
fn a_rule_that_returns_no_gradient_of_the_right_kind_is_refused() {
    let through = |rule: fn(&Backward<'_>) -> Result<Vec<Option<Tensor>>>| {
        let x = vector(&[1.0, 2.0]).requires_grad();
        message(apply(Double(rule), &[&x]).unwrap().remove(0).sum_all().unwrap().backward())
    };
    let prefix = "double: its backward rule returned ";
    let found = through(|_| Ok(vec![None]));
    assert_eq!(found, format!("{prefix}no gradient for input 0, expected one, since it is wanted"));
    let found = through(|_| Ok(vec![]));
    assert_eq!(found, format!("{prefix}0 entries, expected 1, one per input"));
    let found = through(|ctx| Ok(vec![Some(ctx.grad(0)?.narrow(0, 0, 1)?)]));
    assert_eq!(
        found,
        format!("{prefix}a gradient of shape [1] in f32, expected shape [2] in f32 for input 0")
    );
    let found = through(|ctx| ctx.kept::<u8>().map(|_| vec![]));
    assert!(found.starts_with(&format!("{prefix}nothing: it reads a value of type u8, which")), "{found}");
    let found = through(|ctx| Ok(vec![Some(ctx.saved(0)?.clone())]));
    assert!(found.starts_with(&format!("{prefix}nothing: it reads saved tensor 0")), "{found}");
    assert_eq!(through(|ctx| Ok(vec![Some(ctx.grad(0)?.scale(2.0)?)])), "no error");
}

/// An operation with two outputs, of which one may be unused, that saves something that is neither input nor output.
#[test]
fn operations_have_any_number_of_outputs_and_saved_tensors() {
    struct SumAndProduct;
    impl Operation for SumAndProduct {
        fn name(&self) -> &str {
            "sum_and_product"
        }
        fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
            let (a, b) = (&inputs[0], &inputs[1]);
            let doubled = needs[0].then(|| b.scale(2.0)).transpose()?;
            Ok(Forward::new([a.add(b)?, a.mul(b)?]).save([doubled, needs[1].then(|| a.clone())]))
        }
        fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
            let (sum, product) = (ctx.grad(0)?, ctx.grad(1)?);
            let by_a = ctx.needs(0).then(|| sum.add(&product.mul(ctx.saved(0)?)?.scale(0.5)?)).transpose()?;
            let by_b = ctx.needs(1).then(|| sum.add(&product.mul(ctx.saved(1)?)?)).transpose()?;
            Ok(vec![by_a, by_b])
        }
    }
    let (a, b) = (vector(&[2.0]).requires_grad(), vector(&[5.0]).requires_grad());
    let outputs = apply(SumAndProduct, &[&a, &b]).unwrap();
    let gradients = outputs[1].sum_all().unwrap().backward().unwrap();
    assert_eq!([&a, &b].map(|leaf| gradients.get(leaf).unwrap().item().unwrap()), [5.0, 2.0]);

    let outputs = apply(SumAndProduct, &[&a, &b.detach()]).unwrap();
    let gradients = outputs[0].add(&outputs[1]).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(gradients.get(&a).unwrap().item().unwrap(), 6.0);
}

/// A graph that is walked or freed by recursion would overflow the stack.
#[test]
fn a_long_chain_is_walked_and_freed() {
    let x = vector(&[1.0]).requires_grad();
    let chain = |length: usize| (0..length).fold(x.clone(), |y, _| y.scale(1.0).unwrap()).sum_all().unwrap();
    let gradients = chain(50_000).backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 1.0);
    drop(chain(50_000));
}

#[test]
fn a_leaf_may_be_the_loss_itself() {
    let x = Tensor::full(&[], 2.0, Dtype::F32, &Device::Cpu).unwrap().requires_grad();
    assert_eq!(x.backward().unwrap().get(&x).unwrap().item().unwrap(), 1.0);
}

/// Tied weights: the table is read by rows, and again, transposed, by the product.
#[test]
fn a_table_used_twice_gets_the_sum_of_both_gradients() {
    let table = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu).unwrap().requires_grad();
    let ids = Tensor::from_slice(&[1u32], &[1], &Device::Cpu).unwrap();
    let row = ops::embedding(&table, &ids).unwrap();
    let logits = ops::linear(&row, &table.transpose(0, 1).unwrap(), None).unwrap();
    let gradients = logits.sum_all().unwrap().backward().unwrap();
    // Of the row: the sum of the table's rows, (4, 6), to row 1. Of the table: row 1, (3, 4), to both rows.
    assert_eq!(gradients.get(&table).unwrap().to_vec::<f32>().unwrap(), [3.0, 4.0, 7.0, 10.0]);
}

/// Two layers with dropout, an input that is also added at the end, and parameters that each layer captures.
fn layers(x: &Tensor, weights: &[Tensor], again: bool) -> Result<Tensor> {
    let mut y = x.clone();
    for (i, weight) in weights.iter().enumerate() {
        let weight = weight.clone();
        let layer = move |inputs: &[Tensor]| -> Result<Vec<Tensor>> {
            let heads = ops::linear(&inputs[0], &weight, None)?.reshape(&[1, 5, 2, 2])?;
            let options = ops::AttentionOptions {
                causal: true,
                dropout: Some(Dropout { probability: 0.4, random: Random { seed: 1, offset: i as u64 } }),
                ..Default::default()
            };
            let mixed = ops::attention(&heads, &heads, &heads, &options)?.reshape(&[5, 4])?;
            Ok(vec![mixed.add(&inputs[0])?, heads])
        };
        y = if again { checkpoint(layer, &[&y])? } else { layer(&[y])? }.swap_remove(0);
    }
    y.add(x)?.gelu(Gelu::Tanh)?.sum_all()
}

#[test]
fn a_checkpoint_gives_the_same_gradients_bit_for_bit() {
    let x = tensor(&[5, 4], 1).requires_grad();
    let weights = [2, 3].map(|seed| tensor(&[4, 4], seed).requires_grad());
    let run = |again: bool| {
        let loss = layers(&x, &weights, again).unwrap();
        let gradients = loss.backward().unwrap();
        let of = |leaf: &Tensor| doubles(gradients.get(leaf).unwrap());
        (loss.item().unwrap(), of(&x), of(&weights[0]), of(&weights[1]))
    };
    assert_eq!(run(true), run(false));
    // Frozen parameters and inputs.
    let frozen = [weights[0].detach(), weights[1].clone()];
    let gradients = layers(&x.detach(), &frozen, true).unwrap().backward().unwrap();
    assert!(gradients.get(&weights[1]).is_some() && gradients.get(&x).is_none());
    assert!(gradients.get(&frozen[0]).is_none());
}

#[test]
fn chunks_give_what_the_whole_gives_with_its_gradients() {
    let weight = tensor(&[4, 4], 2);
    for (size, dim) in [(1, 0), (2, 0), (3, 1), (5, 0), (9, 1)] {
        let function = |x: &[Tensor]| {
            let weight = x[1].clone();
            let body = move |x: &Tensor| {
                let rows = if dim == 0 { x.clone() } else { x.transpose(0, 1)? };
                let out = ops::linear(&rows, &weight, None)?.gelu(Gelu::Tanh)?;
                if dim == 0 { Ok(out) } else { out.transpose(0, 1) }
            };
            Ok(vec![checkpoint_chunks(body, &x[0], dim, size)?])
        };
        let x = if dim == 0 { tensor(&[5, 4], 1) } else { tensor(&[4, 5], 1) };
        let worst = check_gradient(function, &[x.clone(), weight.clone()]).unwrap().unwrap();
        assert!(worst.error < 1e-7, "{worst}");
        let whole =
            ops::linear(&if dim == 0 { x.clone() } else { x.transpose(0, 1).unwrap() }, &weight, None);
        let whole = whole.unwrap().gelu(Gelu::Tanh).unwrap();
        let whole = if dim == 0 { whole } else { whole.transpose(0, 1).unwrap() };
        let chunked = function(&[x, weight.clone()]).unwrap().remove(0);
        assert_eq!(chunked.shape(), whole.shape());
        let pairs = doubles(&chunked).into_iter().zip(doubles(&whole));
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) < 1e-14);
    }
    // Nothing, and what cannot be.
    let same = |x: &Tensor| Ok(x.clone());
    assert_eq!(checkpoint_chunks(same, &tensor(&[0, 3], 1), 0, 2).unwrap().shape(), [0, 3]);
    let x = tensor(&[3], 1);
    let found = message(checkpoint_chunks(same, &x, 0, 0));
    assert_eq!(found, "checkpoint_chunks: size is 0, expected at least 1");
    assert!(
        message(checkpoint_chunks(same, &x, 1, 2)).starts_with("checkpoint_chunks: dim is 1, expected less")
    );
    let found = message(checkpoint_chunks(|x| x.reshape(&[1, 1, x.numel()]), &x, 0, 2));
    assert!(found.starts_with("cat: shapes [1, 1, 2] and [1, 1, 1] do not fit"), "{found}");
}

#[test]
fn checkpoints_nest() {
    let x = tensor(&[3], 4);
    let function = |x: &[Tensor]| {
        let inner = |x: &[Tensor]| checkpoint(|x| Ok(vec![x[0].mul(&x[0])?.gelu(Gelu::Erf)?]), &[&x[0]]);
        checkpoint(move |x| Ok(vec![inner(x)?[0].mul(&x[0])?]), &[&x[0]])
    };
    let worst = check_gradient(function, &[x]).unwrap().unwrap();
    assert!(worst.error < 1e-7, "{worst}");
}

#[test]
fn a_checkpoint_that_no_gradient_will_pass_is_not_recorded() {
    let x = vector(&[1.0, 2.0]);
    let twice = |x: &[Tensor]| Ok(vec![x[0].scale(2.0)?]);
    assert!(!checkpoint(twice, &[&x]).unwrap()[0].needs_gradient());
    assert!(!no_grad(|| checkpoint(twice, &[&x.requires_grad()])).unwrap()[0].needs_gradient());
    assert!(checkpoint(twice, &[&x.requires_grad()]).unwrap()[0].needs_gradient());
    // What it returns may be what it was given.
    let leaf = x.requires_grad();
    let gradients =
        checkpoint(|x| Ok(x.to_vec()), &[&leaf]).unwrap()[0].sum_all().unwrap().backward().unwrap();
    assert_eq!(gradients.get(&leaf).unwrap().to_vec::<f32>().unwrap(), [1.0; 2]);
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_said() {
    let weight = vector(&[2.0]).requires_grad();
    let x = vector(&[3.0]).requires_grad();
    let captured = weight.clone();
    let product = move || {
        let captured = captured.clone();
        checkpoint(move |x| Ok(vec![x[0].mul(&captured)?]), &[&x]).unwrap().remove(0)
    };
    let y = product();
    y.scale(2.0).unwrap().sum_all().unwrap().backward().unwrap();
    let found = message(y.sum_all().unwrap().backward());
    assert!(found.starts_with("backward: passed through checkpoint before"), "{found}");

    let y = product().sum_all().unwrap();
    let mut optimiser = AdamW::new(vec![("weight".into(), weight.clone())], Default::default()).unwrap();
    optimiser.step(&weight.scale(1.0).unwrap().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
    let found = message(y.backward());
    assert!(found.starts_with("backward: a tensor saved for checkpoint was modified in place"), "{found}");

    let runs = std::sync::atomic::AtomicUsize::new(0);
    let fickle = move |x: &[Tensor]| match runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Ok(vec![x[0].scale(2.0)?]),
        _ => Ok(vec![x[0].reshape(&[1, 1])?]),
    };
    let y = checkpoint(fickle, &[&weight]).unwrap()[0].sum_all().unwrap();
    assert_eq!(
        message(y.backward()),
        "checkpoint: its backward rule returned outputs of shapes [[1, 1]], expected outputs of shapes [[1]]"
    );
}
