use longhand_kernels::activation::Function;
use longhand_reference as reference;
use std::f32::consts::{FRAC_1_SQRT_2, PI};

/// The formula as it stands, in f32.
#[must_use]
pub fn activation(function: Function, x: f32) -> f32 {
    match function {
        Function::GeluTanh => 0.5 * x * (1.0 + inner(x).tanh()),
        Function::GeluErf => x * normal(x),
        Function::Silu => x * sigmoid(x),
        Function::ReluSquared => x.max(0.0) * x.max(0.0),
    }
}

/// Its derivative as it stands, in f32.
#[must_use]
pub fn activation_slope(function: Function, x: f32) -> f32 {
    match function {
        Function::GeluTanh => {
            let tanh = inner(x).tanh();
            let dinner = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            0.5 * (1.0 + tanh + x * (1.0 - tanh * tanh) * dinner)
        }
        Function::GeluErf => normal(x) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
        Function::Silu => sigmoid(x) + x * sigmoid(x) * (1.0 - sigmoid(x)),
        Function::ReluSquared => 2.0 * x.max(0.0),
    }
}

fn inner(x: f32) -> f32 {
    (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)
}

fn normal(x: f32) -> f32 {
    0.5 * (1.0 + reference::erf(f64::from(x * FRAC_1_SQRT_2)) as f32)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
