//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

use rayon::prelude::*;

use crate::cpu::Real;
use crate::cpu::parallel::CHUNK;
use crate::cpu::simd::vectorised;
use crate::dtype::with_real;
use crate::{Device, Dtype, Element, Error, Gradients, Result, Tensor};

/// The constants of [`AdamW`]; the learning rate is an argument of [`AdamW::step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// How slowly the running means of the gradient and of its square move.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
    /// How much of a parameter is taken away per step, times the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    /// PyTorch's: betas 0.9 and 0.999, eps 1e-8, weight decay 0.01.
    fn default() -> Self {
        AdamWOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

/// Adam with decoupled weight decay, changing the parameters in place. At step `t`, for each element:
///
/// ```text
/// m = beta1 m + (1 - beta1) g
/// v = beta2 v + (1 - beta2) g^2
/// p = p - lr weight_decay p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
/// ```
///
/// `m` and `v` are `f32` (`f64` for `f64` parameters).
pub struct AdamW {
    options: AdamWOptions,
    parameters: Vec<Parameter>,
    step: u32,
}

struct Parameter {
    name: String,
    tensor: Tensor,
    decays: bool,
    mean: Tensor,
    mean_square: Tensor,
}

impl AdamW {
    /// For these parameters, each a contiguous tensor that [`requires_grad`](Tensor::requires_grad) returned, under
    /// the name that checkpoints and errors give it. All of them decay; see [`AdamW::decay_where`].
    ///
    /// # Errors
    /// When a parameter is not contiguous or not of a floating-point type, or a name is there twice.
    pub fn new(parameters: Vec<(String, Tensor)>, options: AdamWOptions) -> Result<Self> {
        let mut names = std::collections::HashSet::new();
        let parameters = parameters.into_iter().map(|(name, tensor)| {
            let problem = |found: &str| {
                Error::argument(
                    "AdamW",
                    &format!("parameter `{name}`"),
                    found,
                    "contiguous floating-point elements under a name of its own",
                )
            };
            if !names.insert(name.clone()) {
                return Err(problem("there twice"));
            }
            if !tensor.is_contiguous() || !tensor.dtype().is_float() {
                return Err(problem(&format!("{tensor:?} with strides {:?}", tensor.strides())));
            }
            let dtype = if tensor.dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
            let zeros = || Tensor::zeros(tensor.shape(), dtype, tensor.device());
            Ok(Parameter { mean: zeros()?, mean_square: zeros()?, decays: true, name, tensor })
        });
        Ok(AdamW { options, parameters: parameters.collect::<Result<_>>()?, step: 0 })
    }

    /// Lets only those parameters decay for which `decays(name, tensor)`. Usual for transformers: matrices decay,
    /// biases and norms do not.
    #[must_use]
    pub fn decay_where(mut self, decays: impl Fn(&str, &Tensor) -> bool) -> Self {
        for parameter in &mut self.parameters {
            parameter.decays = decays(&parameter.name, &parameter.tensor);
        }
        self
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u32 {
        self.step
    }

    /// The parameters with their names.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parameters.iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor))
    }

    /// Changes every parameter in place.
    ///
    /// # Errors
    /// When a parameter has no gradient: then nothing was changed.
    pub fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        let gradient_of = |parameter: &Parameter| {
            let found = gradients.get(&parameter.tensor);
            found.map(Tensor::contiguous).ok_or_else(|| Error::MissingGradient {
                operation: "AdamW".into(),
                parameter: parameter.name.clone(),
            })?
        };
        let found = self.parameters.iter().map(gradient_of).collect::<Result<Vec<_>>>()?;
        self.step += 1;
        for (parameter, gradient) in self.parameters.iter().zip(&found) {
            let coefficients = Coefficients::new(&self.options, parameter.decays, lr, self.step);
            match parameter.tensor.device() {
                Device::Cpu => cpu(parameter, gradient, &coefficients)?,
            }
            parameter.tensor.storage().bump_version();
        }
        Ok(())
    }

    /// Everything a checkpoint needs beside the parameters: `step`, and `NAME.exp_avg` and `NAME.exp_avg_sq` for each
    /// parameter (the names PyTorch uses). The tensors are the optimiser's own: write them out before the next step.
    ///
    /// # Errors
    /// When there is no memory for the step counter.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let step = Tensor::from_slice(&[self.step], &[1], &Device::Cpu)?;
        let moments = self.parameters.iter().flat_map(|parameter| {
            let Parameter { name, mean, mean_square, .. } = parameter;
            [(format!("{name}.exp_avg"), mean.clone()), (format!("{name}.exp_avg_sq"), mean_square.clone())]
        });
        Ok(std::iter::once(("step".to_string(), step)).chain(moments).collect())
    }

    /// Takes over what [`AdamW::state`] returned, for the same parameters.
    ///
    /// # Errors
    /// When a tensor is missing or its shape or element type is another; then nothing was changed.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        let find = |name: String, like: Option<&Tensor>| {
            let found = state.iter().find(|(key, _)| *key == name).map(|(_, tensor)| tensor);
            let found = found
                .ok_or_else(|| Error::argument("AdamW", &format!("state `{name}`"), "missing", "there"))?;
            match like {
                Some(like) if like.shape() != found.shape() || like.dtype() != found.dtype() => {
                    Err(Error::argument(
                        "AdamW",
                        &format!("state `{name}`"),
                        format!("{found:?}"),
                        format!("{like:?}"),
                    ))
                }
                Some(like) => copied(found, like.device()),
                None => Ok(found.clone()),
            }
        };
        let step = find("step".into(), None)?.to_device(&Device::Cpu)?.to_vec::<u32>()?;
        let load = |parameter: &Parameter| {
            let name = &parameter.name;
            Ok((
                find(format!("{name}.exp_avg"), Some(&parameter.mean))?,
                find(format!("{name}.exp_avg_sq"), Some(&parameter.mean_square))?,
            ))
        };
        let moments = self.parameters.iter().map(load).collect::<Result<Vec<_>>>()?;
        self.step = step.first().copied().unwrap_or(0);
        for (parameter, (mean, mean_square)) in self.parameters.iter_mut().zip(moments) {
            (parameter.mean, parameter.mean_square) = (mean, mean_square);
        }
        Ok(())
    }
}

/// The same elements in a storage of their own, since steps change them in place.
fn copied(tensor: &Tensor, device: &Device) -> Result<Tensor> {
    match tensor.dtype() {
        Dtype::F64 => Tensor::from_vec(tensor.to_vec::<f64>()?, tensor.shape(), device),
        _ => Tensor::from_vec(tensor.to_vec::<f32>()?, tensor.shape(), device),
    }
}

/// The update with everything that is the same for all elements worked out.
struct Coefficients {
    beta1: f64,
    beta2: f64,
    /// `1 - lr weight_decay`.
    keep: f64,
    /// `lr / (1 - beta1^t)`.
    rate: f64,
    /// `1 / sqrt(1 - beta2^t)`.
    inv_root: f64,
    eps: f64,
}

impl Coefficients {
    fn new(options: &AdamWOptions, decays: bool, lr: f64, step: u32) -> Self {
        let (beta1, beta2) = options.betas;
        let t = f64::from(step);
        Coefficients {
            beta1,
            beta2,
            keep: if decays { 1.0 - lr * options.weight_decay } else { 1.0 },
            rate: lr / (1.0 - beta1.powf(t)),
            inv_root: 1.0 / (1.0 - beta2.powf(t)).sqrt(),
            eps: options.eps,
        }
    }
}

fn cpu(parameter: &Parameter, gradient: &Tensor, coefficients: &Coefficients) -> Result<()> {
    let count = parameter.tensor.numel();
    let wide_gradient = gradient.to_dtype(parameter.mean.dtype())?;
    with_real!("AdamW", parameter.mean.dtype(), T => {
        let gradient = wide_gradient.read::<T>("AdamW")?;
        let (mut mean, mut square) = (parameter.mean.write::<T>("AdamW")?, parameter.mean_square.write::<T>("AdamW")?);
        let moments = mean[..count].par_chunks_mut(CHUNK).zip(square[..count].par_chunks_mut(CHUNK));
        let gradient = gradient[..count].par_chunks(CHUNK);
        macro_rules! update {
            ($E:ty) => {{
                let mut values = parameter.tensor.write::<$E>("AdamW")?;
                let work = values[..count].par_chunks_mut(CHUNK).zip(moments).zip(gradient);
                work.for_each(|((p, (m, v)), g)| update::<T, $E>(p, m, v, g, coefficients));
                Ok(())
            }};
        }
        match parameter.tensor.dtype() {
            Dtype::F64 => update!(f64),
            Dtype::F32 => update!(f32),
            Dtype::Bf16 => update!(half::bf16),
            Dtype::F16 => update!(half::f16),
            other => Err(Error::dtype("AdamW", other, "a floating-point type")),
        }
    })
}

vectorised! {
    fn update<T: Real, E: Element>(p: &mut [E], m: &mut [T], v: &mut [T], g: &[T], coefficients: &Coefficients) {
        let Coefficients { beta1, beta2, keep, rate, inv_root, eps } = *coefficients;
        let (beta1, rest1) = (T::from_f64(beta1), T::from_f64(1.0 - beta1));
        let (beta2, rest2) = (T::from_f64(beta2), T::from_f64(1.0 - beta2));
        let (keep, rate) = (T::from_f64(keep), T::from_f64(rate));
        let (inv_root, eps) = (T::from_f64(inv_root), T::from_f64(eps));
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            *m = beta1 * *m + rest1 * *g;
            *v = beta2 * *v + rest2 * *g * *g;
            let old = T::from_f64(p.to_f64());
            *p = E::from_f64((old * keep - rate * *m / (v.sqrt() * inv_root + eps)).to_f64());
        }
    }
}
