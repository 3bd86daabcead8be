//! AdamW and clipping.

use longhand_reference as reference;
use longhand_tensor::{
    AdamW, AdamWOptions, Device, Dtype, Gradients, Moments, Rounding, Tensor, clip_grad_norm,
};
use proptest::prelude::*;

use crate::{doubles, tensor};

/// Gradients that are these tensors.
fn gradients(parameters: &[Tensor], of: &[Tensor]) -> Gradients {
    let mut gradients = Gradients::default();
    parameters.iter().zip(of).for_each(|(parameter, gradient)| gradients.set(parameter, gradient.clone()));
    gradients
}

fn named(parameters: &[Tensor]) -> Vec<(String, Tensor)> {
    parameters.iter().enumerate().map(|(i, parameter)| (format!("p{i}"), parameter.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn steps_are_those_of_the_formula(sizes in prop::collection::vec(0..40usize, 1..4), decay in 0.0..0.5, seed: u64) {
        let options =
            AdamWOptions { betas: (0.8, 0.95), eps: 1e-6, weight_decay: decay, ..Default::default() };
        let start: Vec<Tensor> = sizes.iter().map(|&size| tensor(&[size], seed ^ size as u64)).collect();
        for (dtype, tolerance) in [(Dtype::F64, 1e-12), (Dtype::F32, 1e-5)] {
            let parameters: Vec<Tensor> =
                start.iter().map(|x| Tensor::from_vec(doubles(x), x.shape(), &Device::Cpu).unwrap())
                    .map(|x| x.to_dtype(dtype).unwrap().requires_grad()).collect();
            // The first decays, the others do not.
            let mut optimiser = AdamW::new(named(&parameters), options).unwrap().decay_where(|name, _| name == "p0").unwrap();
            let mut expected: Vec<[Vec<f64>; 3]> =
                start.iter().map(|x| [doubles(x), vec![0.0; x.numel()], vec![0.0; x.numel()]]).collect();
            for step in 1..6u64 {
                let grads: Vec<Tensor> =
                    sizes.iter().map(|&size| tensor(&[size], seed ^ step).to_dtype(dtype).unwrap()).collect();
                let lr = 0.1 / step as f64;
                optimiser.step(&gradients(&parameters, &grads), lr).unwrap();
                for (i, ([p, m, v], grad)) in expected.iter_mut().zip(&grads).enumerate() {
                    let weight_decay = if i == 0 { decay } else { 0.0 };
                    let options =
                        reference::AdamWOptions { lr, beta1: 0.8, beta2: 0.95, eps: 1e-6, weight_decay };
                    reference::adamw(&options, step, p, &doubles(grad), m, v);
                }
            }
            for (parameter, [expected, ..]) in parameters.iter().zip(&expected) {
                for (found, expected) in doubles(parameter).iter().zip(expected) {
                    prop_assert!((found - expected).abs() < tolerance, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_restored_optimiser_goes_on_as_if_never_stopped(half: bool, stochastic: bool, eight_bit: bool, seed: u64) {
        let dtype = if half { Dtype::Bf16 } else { Dtype::F32 };
        let options = AdamWOptions {
            rounding: if stochastic { Rounding::Stochastic { seed } } else { Rounding::Master },
            moments: if eight_bit { Moments::EightBit } else { Moments::Full },
            max_grad_norm: Some(1.0),
            ..AdamWOptions::default()
        };
        let parameter = || tensor(&[20], seed).to_dtype(dtype).unwrap().requires_grad();
        let grad = |step: u64| vec![tensor(&[20], seed ^ step).to_dtype(dtype).unwrap()];
        let (straight, stopped) = ([parameter()], [parameter()]);
        let mut optimiser = AdamW::new(named(&straight), options).unwrap();
        let mut first = AdamW::new(named(&stopped), options).unwrap();
        for step in 0..3 {
            optimiser.step(&gradients(&straight, &grad(step)), 0.01).unwrap();
            first.step(&gradients(&stopped, &grad(step)), 0.01).unwrap();
        }
        let state = first.state().unwrap();
        // What was saved must not change with the optimiser that it was restored to.
        let mut second = AdamW::new(named(&stopped), options).unwrap();
        second.load_state(&state).unwrap();
        prop_assert_eq!(second.steps().unwrap(), 3);
        let before: Vec<Vec<f64>> = state[2..].iter().map(|(_, tensor)| doubles(tensor)).collect();
        for step in 3..6 {
            optimiser.step(&gradients(&straight, &grad(step)), 0.01).unwrap();
            second.step(&gradients(&stopped, &grad(step)), 0.01).unwrap();
        }
        prop_assert_eq!(doubles(&straight[0]), doubles(&stopped[0]));
        let after: Vec<Vec<f64>> = state[2..].iter().map(|(_, tensor)| doubles(tensor)).collect();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn clipping_leaves_the_direction_and_limits_the_norm(
        sizes in prop::collection::vec(0..50usize, 1..4), max in 0.1..20.0, seed: u64,
    ) {
        let parameters: Vec<Tensor> = sizes.iter().map(|&size| tensor(&[size], seed).requires_grad()).collect();
        let grads: Vec<Tensor> = sizes.iter().map(|&size| tensor(&[size], seed ^ size as u64)).collect();
        let all = |gradients: &Gradients| -> Vec<f64> {
            parameters.iter().flat_map(|parameter| doubles(gradients.get(parameter).unwrap())).collect()
        };
        let norm_of = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut clipped = gradients(&parameters, &grads);
        let before = all(&clipped);
        let norm = clip_grad_norm(&mut clipped, &parameters, max).unwrap();
        let norm = norm.item().unwrap();
        prop_assert!((norm - norm_of(&before)).abs() < 1e-9);
        let factor = (max / (norm + 1e-6)).min(1.0);
        for (before, after) in before.iter().zip(all(&clipped)) {
            prop_assert!((before * factor - after).abs() < 1e-12);
        }
    }
}

/// 1 + 2^-9 rounds to 1 in bf16: without a master copy, the parameter would never move.
#[test]
fn small_updates_of_a_16_bit_parameter_add_up() {
    let parameter = Tensor::full(&[4], 1.0, Dtype::Bf16, &Device::Cpu).unwrap().requires_grad();
    let grad = Tensor::full(&[4], 1.0, Dtype::Bf16, &Device::Cpu).unwrap();
    let options = AdamWOptions { weight_decay: 0.0, ..Default::default() };
    let mut optimiser = AdamW::new(named(std::slice::from_ref(&parameter)), options).unwrap();
    for _ in 0..100 {
        optimiser
            .step(&gradients(std::slice::from_ref(&parameter), std::slice::from_ref(&grad)), 1e-3)
            .unwrap();
    }
    assert!(doubles(&parameter).iter().all(|x| (x - 0.9).abs() < 0.004), "{:?}", doubles(&parameter));
}

#[test]
fn a_parameter_without_a_gradient_stops_the_step_before_anything_changed() {
    let parameters = [tensor(&[2], 1).requires_grad(), tensor(&[2], 2).requires_grad()];
    let mut optimiser = AdamW::new(named(&parameters), AdamWOptions::default()).unwrap();
    let before = doubles(&parameters[0]);
    let error = optimiser.step(&gradients(&parameters[..1], &[tensor(&[2], 3)]), 0.1).unwrap_err();
    assert!(error.to_string().starts_with("AdamW: parameter `p1` has no gradient"), "{error}");
    assert_eq!((doubles(&parameters[0]), optimiser.steps().unwrap()), (before, 0));
}

#[test]
fn a_state_of_other_parameters_is_refused() {
    let of = |size: usize| {
        AdamW::new(named(&[tensor(&[size], 1).requires_grad()]), AdamWOptions::default()).unwrap()
    };
    let error = of(3).load_state(&of(2).state().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "AdamW: state `p0.exp_avg` is Tensor([2], f64, cpu), expected Tensor([3], f64, cpu)");
    let error = of(3).load_state(&of(3).state().unwrap()[..3]).unwrap_err().to_string();
    assert_eq!(error, "AdamW: state `p0.exp_avg_sq` is missing, expected there");
}

/// Without a copy, updates smaller than half a rounding step add up in the mean.
#[test]
fn small_updates_add_up_when_rounded_stochastically() {
    let parameter = Tensor::full(&[4096], 1.0, Dtype::Bf16, &Device::Cpu).unwrap().requires_grad();
    let grad = Tensor::full(&[4096], 1.0, Dtype::Bf16, &Device::Cpu).unwrap();
    let rounding = Rounding::Stochastic { seed: 5 };
    let options = AdamWOptions { weight_decay: 0.0, rounding, ..Default::default() };
    let mut optimiser = AdamW::new(named(std::slice::from_ref(&parameter)), options).unwrap();
    for _ in 0..100 {
        let gradients = gradients(std::slice::from_ref(&parameter), std::slice::from_ref(&grad));
        optimiser.step(&gradients, 1e-3).unwrap();
    }
    let values = doubles(&parameter);
    let mean = values.iter().sum::<f64>() / 4096.0;
    assert!((mean - 0.9).abs() < 1e-3, "{mean}");
    assert!(values.iter().any(|x| *x > 0.9) && values.iter().any(|x| *x < 0.9));
    assert!(optimiser.state().unwrap().iter().all(|(name, _)| name != "p0.master"));
}

#[test]
fn moments_in_8_bits_take_nearly_the_same_steps() {
    let start = tensor(&[1000], 1).to_dtype(Dtype::F32).unwrap();
    let run = |moments| {
        let parameter = [Tensor::from_vec(doubles(&start), start.shape(), &Device::Cpu)
            .unwrap()
            .to_dtype(start.dtype())
            .unwrap()
            .requires_grad()];
        let mut optimiser =
            AdamW::new(named(&parameter), AdamWOptions { moments, ..Default::default() }).unwrap();
        for step in 0..20 {
            let grad = tensor(&[1000], step % 3 + 7).to_dtype(Dtype::F32).unwrap();
            optimiser.step(&gradients(&parameter, &[grad]), 0.01).unwrap();
        }
        doubles(&parameter[0])
    };
    let (full, eight_bit) = (run(Moments::Full), run(Moments::EightBit));
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let (off, moved) = (distance(&full, &eight_bit), distance(&full, &doubles(&start)));
    assert!(off > 0.0 && off < 0.1 * moved, "{off} off, {moved} moved");
}

#[test]
fn a_step_with_a_gradient_that_is_not_finite_is_skipped_and_counted() {
    let parameters = [tensor(&[3], 1).requires_grad(), tensor(&[2], 2).requires_grad()];
    let options = AdamWOptions { max_grad_norm: Some(1.0), ..Default::default() };
    let mut optimiser = AdamW::new(named(&parameters), options).unwrap();
    let before: Vec<Vec<f64>> = parameters.iter().map(doubles).collect();
    for bad in [f64::NAN, f64::INFINITY] {
        let bad = Tensor::from_vec(vec![1.0, bad], &[2], &Device::Cpu).unwrap();
        let norm = optimiser.step(&gradients(&parameters, &[tensor(&[3], 3), bad]), 0.1).unwrap();
        assert!(!norm.item().unwrap().is_finite());
    }
    assert_eq!(parameters.iter().map(doubles).collect::<Vec<_>>(), before);
    assert_eq!((optimiser.steps().unwrap(), optimiser.skipped().unwrap()), (0, 2));
    optimiser.step(&gradients(&parameters, &[tensor(&[3], 3), tensor(&[2], 3)]), 0.1).unwrap();
    assert_eq!((optimiser.steps().unwrap(), optimiser.skipped().unwrap()), (1, 2));
    assert!(doubles(&parameters[1]) != before[1]);
}

/// Clipping within the step is clipping before it.
#[test]
fn an_optimiser_clips_as_clip_grad_norm_does() {
    let start = tensor(&[50], 1);
    let run = |clips: bool| {
        let parameter = [Tensor::from_vec(doubles(&start), start.shape(), &Device::Cpu)
            .unwrap()
            .to_dtype(start.dtype())
            .unwrap()
            .requires_grad()];
        let max_grad_norm = clips.then_some(0.5);
        let options = AdamWOptions { eps: 1.0, max_grad_norm, ..Default::default() };
        let mut optimiser = AdamW::new(named(&parameter), options).unwrap();
        for step in 0..3 {
            let mut gradients = gradients(&parameter, &[tensor(&[50], step)]);
            if !clips {
                clip_grad_norm(&mut gradients, &parameter, 0.5).unwrap();
            }
            optimiser.step(&gradients, 0.1).unwrap();
        }
        doubles(&parameter[0])
    };
    for (clipped_within, clipped_before) in run(true).into_iter().zip(run(false)) {
        assert!((clipped_within - clipped_before).abs() < 1e-12);
    }
}

#[test]
fn options_that_contradict_the_parameters_are_refused() {
    let new = |dtype, options| {
        let parameter = tensor(&[2], 1).to_dtype(dtype).unwrap().requires_grad();
        AdamW::new(named(&[parameter]), options).err().unwrap().to_string()
    };
    let stochastic = AdamWOptions { rounding: Rounding::Stochastic { seed: 0 }, ..Default::default() };
    assert_eq!(
        new(Dtype::F16, stochastic),
        "AdamW: elements are f16, expected bf16, or f32, for stochastic rounding"
    );
    let eight_bit = AdamWOptions { moments: Moments::EightBit, ..Default::default() };
    assert_eq!(
        new(Dtype::F64, eight_bit),
        "AdamW: elements are f64, expected f32, bf16 or f16 for 8-bit moments"
    );
    let clipped = AdamWOptions { max_grad_norm: Some(0.0), ..Default::default() };
    assert_eq!(new(Dtype::F32, clipped), "AdamW: max_grad_norm is 0, expected positive");
}

/// The gradient of x^2 / 2 is x: a rule may return the parameter itself.
#[test]
fn a_gradient_may_be_the_parameter_itself() {
    let parameter = tensor(&[5], 1).requires_grad();
    let before = doubles(&parameter);
    let mut optimiser = AdamW::new(named(std::slice::from_ref(&parameter)), AdamWOptions::default()).unwrap();
    let itself = gradients(std::slice::from_ref(&parameter), std::slice::from_ref(&parameter));
    optimiser.step(&itself, 0.1).unwrap();
    assert!(before.iter().zip(doubles(&parameter)).all(|(before, after)| before.abs() > after.abs()));
}
