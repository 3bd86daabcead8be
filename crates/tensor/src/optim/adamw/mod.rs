//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

mod cpu;
mod gpu;

use std::collections::HashSet;

use crate::{Device, Dtype, Error, Gradients, Result, Tensor};

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
/// `m` and `v` are `f32` (`f64` for `f64` parameters). A 16-bit parameter would lose every update smaller than half its
/// rounding step, so an `f32` master copy of it is what is optimised, and the parameter is that, rounded.
pub struct AdamW {
    options: AdamWOptions,
    parameters: Vec<Parameter>,
    /// Steps taken.
    step: u32,
    /// The parameters that are on GPUs, once there was a step.
    groups: Vec<gpu::Group>,
}

struct Parameter {
    name: String,
    tensor: Tensor,
    decays: bool,
    state: State,
}

/// What is remembered of one parameter between steps.
struct State {
    mean: Tensor,
    mean_square: Tensor,
    /// Of a 16-bit parameter.
    master: Option<Tensor>,
}

const NAME: &str = "AdamW";

impl AdamW {
    /// For these parameters, each a contiguous tensor that [`requires_grad`](Tensor::requires_grad) returned, under
    /// the name that checkpoints and errors give it. All of them decay; see [`AdamW::decay_where`].
    ///
    /// # Errors
    /// When a parameter is not contiguous or not of a floating-point type, or a name or a tensor is
    /// there twice.
    pub fn new(parameters: Vec<(String, Tensor)>, options: AdamWOptions) -> Result<Self> {
        let (mut names, mut storages) = (HashSet::new(), HashSet::new());
        let parameters = parameters.into_iter().map(|(name, tensor)| {
            let argument = format!("parameter `{name}`");
            if !tensor.is_contiguous() || !tensor.dtype().is_float() {
                let found = format!("{tensor:?} with strides {:?}", tensor.strides());
                return Err(Error::argument(
                    NAME,
                    &argument,
                    found,
                    "contiguous, of floating-point elements",
                ));
            }
            if !names.insert(name.clone()) || !storages.insert(std::ptr::from_ref(tensor.storage())) {
                let expected = "one parameter for each name, with elements of its own";
                return Err(Error::argument(NAME, &argument, "there twice", expected));
            }
            Ok(Parameter { state: State::new(&tensor)?, decays: true, name, tensor })
        });
        Ok(AdamW { options, parameters: parameters.collect::<Result<_>>()?, step: 0, groups: Vec::new() })
    }

    /// Lets only those parameters decay for which `decays(name, tensor)`. Usual for transformers: matrices decay,
    /// biases and norms do not.
    #[must_use]
    pub fn decay_where(mut self, decays: impl Fn(&str, &Tensor) -> bool) -> Self {
        for parameter in &mut self.parameters {
            parameter.decays = decays(&parameter.name, &parameter.tensor);
        }
        self.groups.clear();
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
    /// When a parameter has no gradient, or one of another shape: then nothing was changed.
    pub fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        let gradients = self
            .parameters
            .iter()
            .map(|parameter| parameter.gradient(gradients))
            .collect::<Result<Vec<_>>>()?;
        if self.groups.is_empty() {
            self.groups = gpu::groups(&self.options, &self.parameters)?;
        }
        self.step += 1;
        for group in &self.groups {
            group.step(&self.options, &gradients, self.step, lr)?;
        }
        for (parameter, gradient) in self.parameters.iter().zip(&gradients) {
            if parameter.tensor.device().is_cpu() {
                let decay = self.options.decay_of(parameter);
                cpu::step(parameter, gradient, &cpu::Coefficients::new(&self.options, decay, lr, self.step))?;
            }
            parameter.tensor.storage().bump_version();
        }
        Ok(())
    }

    /// Everything a checkpoint needs beside the parameters: `step`; `NAME.exp_avg` and `NAME.exp_avg_sq` (the names
    /// PyTorch uses) for each parameter, and `NAME.master` for a 16-bit one. The tensors are the optimiser's own: write
    /// them out before the next step.
    ///
    /// # Errors
    /// When there is no memory for the step counter.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let step = Tensor::from_slice(&[self.step], &[1], &Device::Cpu)?;
        let of_parameters = self.parameters.iter().flat_map(|Parameter { name, state, .. }| {
            state.named().into_iter().map(move |(kind, tensor)| (format!("{name}.{kind}"), tensor.clone()))
        });
        Ok(std::iter::once(("step".to_string(), step)).chain(of_parameters).collect())
    }

    /// Takes over what [`AdamW::state`] returned, for the same parameters.
    ///
    /// # Errors
    /// When a tensor is missing or its shape or element type is another; then nothing was changed.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        let find = |name: &str| {
            let found = state.iter().find(|(key, _)| key == name).map(|(_, tensor)| tensor);
            found.ok_or_else(|| Error::argument(NAME, &format!("state `{name}`"), "missing", "there"))
        };
        let step = find("step")?.to_vec::<u32>()?.first().copied();
        let step = step.ok_or_else(|| Error::argument(NAME, "state `step`", "empty", "one number"))?;
        let load = |Parameter { name, state, .. }: &Parameter| {
            let copy = |kind: &str, like: &Tensor| {
                let name = format!("{name}.{kind}");
                let found = find(&name)?;
                if found.shape() == like.shape() && found.dtype() == like.dtype() {
                    return found.copied(like.device());
                }
                let (found, expected) = (format!("{found:?}"), format!("{like:?}"));
                Err(Error::argument(NAME, &format!("state `{name}`"), found, expected))
            };
            Ok(State {
                mean: copy("exp_avg", &state.mean)?,
                mean_square: copy("exp_avg_sq", &state.mean_square)?,
                master: state.master.as_ref().map(|master| copy("master", master)).transpose()?,
            })
        };
        let loaded = self.parameters.iter().map(load).collect::<Result<Vec<_>>>()?;
        self.step = step;
        self.groups.clear();
        self.parameters.iter_mut().zip(loaded).for_each(|(parameter, state)| parameter.state = state);
        Ok(())
    }
}

impl AdamWOptions {
    fn decay_of(&self, parameter: &Parameter) -> f64 {
        if parameter.decays { self.weight_decay } else { 0.0 }
    }
}

impl Parameter {
    /// Contiguous, in the parameter's own element type and place.
    fn gradient(&self, gradients: &Gradients) -> Result<Tensor> {
        let found = gradients
            .get(&self.tensor)
            .ok_or_else(|| Error::MissingGradient { operation: NAME.into(), parameter: self.name.clone() })?;
        if found.shape() != self.tensor.shape() || found.device() != self.tensor.device() {
            let argument = format!("gradient of `{}`", self.name);
            let expected = format!("of the shape and device of {:?}", self.tensor);
            return Err(Error::argument(NAME, &argument, format!("{found:?}"), expected));
        }
        if std::ptr::eq(found.storage(), self.tensor.storage()) {
            return found.copied(found.device()); // it is about to change
        }
        found.detach().to_dtype(self.tensor.dtype())?.contiguous()
    }
}

impl State {
    fn new(parameter: &Tensor) -> Result<State> {
        let dtype = if parameter.dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
        let zeros = || Tensor::zeros(parameter.shape(), dtype, parameter.device());
        let master = (parameter.dtype() != dtype).then(|| parameter.detach().to_dtype(dtype)).transpose()?;
        Ok(State { mean: zeros()?, mean_square: zeros()?, master })
    }

    fn named(&self) -> Vec<(&'static str, &Tensor)> {
        let moments = [("exp_avg", &self.mean), ("exp_avg_sq", &self.mean_square)];
        moments.into_iter().chain(self.master.iter().map(|master| ("master", master))).collect()
    }
}
