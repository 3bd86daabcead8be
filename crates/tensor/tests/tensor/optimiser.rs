//! AdamW and clipping.

use longhand_reference as reference;
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, Gradients, Tensor, clip_grad_norm};
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
        let options = AdamWOptions { betas: (0.8, 0.95), eps: 1e-6, weight_decay: decay };
        let start: Vec<Tensor> = sizes.iter().map(|&size| tensor(&[size], seed ^ size as u64)).collect();
        for (dtype, tolerance) in [(Dtype::F64, 1e-12), (Dtype::F32, 1e-5)] {
            let parameters: Vec<Tensor> =
                start.iter().map(|x| Tensor::from_vec(doubles(x), x.shape(), &Device::Cpu).unwrap())
                    .map(|x| x.to_dtype(dtype).unwrap().requires_grad()).collect();
            // The first decays, the others do not.
            let mut optimiser = AdamW::new(named(&parameters), options).unwrap().decay_where(|name, _| name == "p0");
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
    fn a_restored_optimiser_goes_on_as_if_never_stopped(half: bool, seed: u64) {
        let dtype = if half { Dtype::Bf16 } else { Dtype::F32 };
        let parameter = || tensor(&[20], seed).to_dtype(dtype).unwrap().requires_grad();
        let grad = |step: u64| vec![tensor(&[20], seed ^ step).to_dtype(dtype).unwrap()];
        let (straight, stopped) = ([parameter()], [parameter()]);
        let mut optimiser = AdamW::new(named(&straight), AdamWOptions::default()).unwrap();
        let mut first = AdamW::new(named(&stopped), AdamWOptions::default()).unwrap();
        for step in 0..3 {
            optimiser.step(&gradients(&straight, &grad(step)), 0.01).unwrap();
            first.step(&gradients(&stopped, &grad(step)), 0.01).unwrap();
        }
        let state = first.state().unwrap();
        // What was saved must not change with the optimiser that it was restored to.
        let mut second = AdamW::new(named(&stopped), AdamWOptions::default()).unwrap();
        second.load_state(&state).unwrap();
        prop_assert_eq!(second.steps(), 3);
        let before: Vec<Vec<f64>> = state[1..].iter().map(|(_, tensor)| doubles(tensor)).collect();
        for step in 3..6 {
            optimiser.step(&gradients(&straight, &grad(step)), 0.01).unwrap();
            second.step(&gradients(&stopped, &grad(step)), 0.01).unwrap();
        }
        prop_assert_eq!(doubles(&straight[0]), doubles(&stopped[0]));
        let after: Vec<Vec<f64>> = state[1..].iter().map(|(_, tensor)| doubles(tensor)).collect();
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
        prop_assert!((norm - norm_of(&before)).abs() < 1e-9);
        let factor = if norm > max { max / norm } else { 1.0 };
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
    assert_eq!((doubles(&parameters[0]), optimiser.steps()), (before, 0));
}

#[test]
fn a_state_of_other_parameters_is_refused() {
    let of = |size: usize| {
        AdamW::new(named(&[tensor(&[size], 1).requires_grad()]), AdamWOptions::default()).unwrap()
    };
    let error = of(3).load_state(&of(2).state().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "AdamW: state `p0.exp_avg` is Tensor([2], f64, cpu), expected Tensor([3], f64, cpu)");
    let error = of(3).load_state(&of(3).state().unwrap()[..2]).unwrap_err().to_string();
    assert_eq!(error, "AdamW: state `p0.exp_avg_sq` is missing, expected there");
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
