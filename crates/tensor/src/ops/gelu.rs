//! The GELU activation.

use longhand_kernels::elementwise::Operation as Map;

use super::widened;
use crate::autograd::apply1;
use crate::cpu::Real;
use crate::cpu::elementwise::{map, zip};
use crate::dtype::with_real;
use crate::{Backward, Device, Forward, Operation, Result, Tensor};

/// Which form of GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`: GPT-2's (`gelu_new`, PyTorch's `approximate="tanh"`).
    Tanh,
    /// `x / 2 (1 + erf(x / sqrt(2)))`: the exact one.
    Erf,
}

/// GELU of each element.
///
/// # Errors
/// When the elements are integers.
pub fn gelu(x: &Tensor, form: Gelu) -> Result<Tensor> {
    apply1(form, &[x])
}

impl Tensor {
    /// GELU of each element.
    ///
    /// # Errors
    /// When the elements are integers.
    pub fn gelu(&self, form: Gelu) -> Result<Tensor> {
        gelu(self, form)
    }
}

impl Operation for Gelu {
    fn name(&self) -> &str {
        "gelu"
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let x = &inputs[0].contiguous()?;
        let out = match x.device() {
            Device::Cpu => cpu(*self, x)?,
            Device::Gpu(gpu) => {
                let map = if *self == Gelu::Tanh { Map::GeluTanh } else { Map::GeluErf };
                gpu.map("gelu", map, (x, None), 0.0, (x.shape(), x.dtype()))?
            }
        };
        Ok(Forward::new([out]).save([needs[0].then(|| x.clone())]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (x, grad) = (ctx.saved(0)?, &ctx.grad(0)?.contiguous()?);
        let out = match x.device() {
            Device::Cpu => cpu_backward(*self, x, grad)?,
            Device::Gpu(gpu) => {
                let map = if *self == Gelu::Tanh { Map::GeluTanhBackward } else { Map::GeluErfBackward };
                gpu.map("gelu", map, (x, Some(grad)), 0.0, (x.shape(), x.dtype()))?
            }
        };
        Ok(vec![Some(out)])
    }
}

fn cpu(form: Gelu, x: &Tensor) -> Result<Tensor> {
    let wide = widened("gelu", x)?;
    with_real!("gelu", wide.dtype(), T => {
        let values = &wide.read::<T>("gelu")?[..x.numel()];
        let out = match form {
            Gelu::Tanh => map(values, tanh_form::<T>),
            Gelu::Erf => map(values, erf_form::<T>),
        };
        Tensor::from_elements(out, x.shape()).to_dtype(x.dtype())
    })
}

fn cpu_backward(form: Gelu, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    let (x, grad) = (widened("gelu", x)?, widened("gelu", grad)?);
    with_real!("gelu", x.dtype(), T => {
        let (values, grad) = (&x.read::<T>("gelu")?[..x.numel()], &grad.read::<T>("gelu")?[..x.numel()]);
        let out = match form {
            Gelu::Tanh => zip(values, grad, tanh_form_gradient::<T>),
            Gelu::Erf => zip(values, grad, erf_form_gradient::<T>),
        };
        Tensor::from_elements(out, x.shape()).to_dtype(dtype)
    })
}

const CUBIC: f64 = 0.044_715;
/// `2 sqrt(2 / pi)`, since `(1 + tanh u) / 2 = 1 / (1 + exp(-2 u))`.
const SLOPE: f64 = 1.595_769_121_605_730_7;

#[inline(always)]
fn tanh_form<T: Real>(x: T) -> T {
    x * tanh_form_gate(x)
}

#[inline(always)]
fn tanh_form_gate<T: Real>(x: T) -> T {
    let u = T::from_f64(SLOPE) * (x + T::from_f64(CUBIC) * x * x * x);
    T::ONE / (T::ONE + (-u).exp())
}

/// `dy (gate + x gate (1 - gate) u')`.
#[inline(always)]
fn tanh_form_gradient<T: Real>(x: T, grad: T) -> T {
    let gate = tanh_form_gate(x);
    let slope = T::from_f64(SLOPE) * (T::ONE + T::from_f64(3.0 * CUBIC) * x * x);
    grad * gate * (T::ONE + x * (T::ONE - gate) * slope)
}

#[inline(always)]
fn erf_form<T: Real>(x: T) -> T {
    x * erf_form_gate(x)
}

/// The normal distribution function.
#[inline(always)]
fn erf_form_gate<T: Real>(x: T) -> T {
    T::from_f64(0.5) * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

/// `dy (gate + x density)`.
#[inline(always)]
fn erf_form_gradient<T: Real>(x: T, grad: T) -> T {
    let density = T::from_f64(0.398_942_280_401_432_7) * (T::from_f64(-0.5) * x * x).exp();
    grad * (erf_form_gate(x) + x * density)
}
