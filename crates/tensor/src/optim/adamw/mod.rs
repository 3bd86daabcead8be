//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

mod cpu;
mod dynamic_map;
mod gpu;
mod state;

use std::collections::HashSet;

use state::State;

use super::norm;
use crate::ops::check_device;
use crate::profile::{Phase, operation, phase};
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
    /// Gradients are scaled, as [`clip_grad_norm`](crate::clip_grad_norm) does, so that the norm of all of them together
    /// is at most this; `None` leaves them as they are.
    pub max_grad_norm: Option<f64>,
    /// How 16-bit parameters are rounded.
    pub rounding: Rounding,
    /// What the running means are stored in.
    pub moments: Moments,
}

/// How a 16-bit parameter keeps updates that are smaller than half its rounding step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// An `f32` copy of it is what is optimised, and the parameter is that, rounded to nearest.
    Master,
    /// Of `bf16`, without a copy: up with the probability of how far the exact value is on the way, else down (Gupta et al.
    /// 2015, arXiv 1502.02551, section 3), which is right in the mean. The bits depend on seed, step and the element's
    /// place alone: they are the same on every device.
    Stochastic {
        /// Of the random bits.
        seed: u64,
    },
}

impl Rounding {
    fn seed(self) -> u64 {
        match self {
            Rounding::Master => 0,
            Rounding::Stochastic { seed } => seed,
        }
    }
}

/// What the running means of [`AdamW`] are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// `f32`; `f64` for `f64` parameters.
    Full,
    /// 8 bits, with an `f32` scale for each 256: a quarter of the memory. The dynamic map of Dettmers et al. 2022 (arXiv
    /// 2110.02861), as in bitsandbytes.
    EightBit,
}

impl AdamWOptions {
    fn check(&self) -> Result<()> {
        let fits = |name: &str, value: f64, fits: bool, expected: &str| match fits {
            true => Ok(()),
            false => Err(Error::argument(NAME, name, value.to_string(), expected)),
        };
        for beta in [self.betas.0, self.betas.1] {
            fits("a beta", beta, (0.0..1.0).contains(&beta), "0 to less than 1")?;
        }
        for (name, value) in [("eps", self.eps), ("weight_decay", self.weight_decay)] {
            fits(name, value, is_size(value), "a number, 0 or above")?;
        }
        self.max_grad_norm.map_or(Ok(()), |max| fits("max_grad_norm", max, max > 0.0, "positive"))
    }
}

fn is_size(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

impl Default for AdamWOptions {
    /// PyTorch's: betas 0.9 and 0.999, eps 1e-8, weight decay 0.01. No clipping, masters, full moments.
    fn default() -> Self {
        AdamWOptions {
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: None,
            rounding: Rounding::Master,
            moments: Moments::Full,
        }
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
/// A step whose gradients are not all finite changes nothing, and is counted ([`AdamW::skipped`]). On a GPU, that is
/// decided there, and so is how much is clipped: a step waits for nothing.
pub struct AdamW {
    options: AdamWOptions,
    parameters: Vec<Parameter>,
    device: Device,
    /// Of the CPU; on a GPU, as they were when `on_gpu` was made.
    counters: Counters,
    /// Once there was a step.
    on_gpu: Option<gpu::OnGpu>,
}

#[derive(Clone, Copy, Default)]
struct Counters {
    step: u64,
    skipped: u64,
}

struct Parameter {
    name: String,
    tensor: Tensor,
    decays: bool,
    state: State,
}

const NAME: &str = "AdamW";

impl AdamW {
    /// For these parameters, each a contiguous tensor that [`requires_grad`](Tensor::requires_grad) returned, under
    /// the name that checkpoints and errors give it. All of them decay; see [`AdamW::decay_where`].
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{AdamW, AdamWOptions, Tensor};
    ///
    /// let weight = Tensor::from([1.0f32]).requires_grad();
    /// let options = AdamWOptions { max_grad_norm: Some(1.0), ..Default::default() };
    /// let mut optimiser = AdamW::new(vec![("weight".into(), weight.clone())], options)?;
    /// optimiser.step(&weight.mul(&weight)?.backward()?, 0.1)?;
    /// assert!(weight.item()? < 1.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a parameter is not contiguous, or not of a floating-point type that the options are for; when parameters are
    /// on several devices (each wants an optimiser of its own); when a name or a tensor is there twice; when a beta is not
    /// in [0, 1), eps or weight decay is negative, or `max_grad_norm` is not positive.
    pub fn new(parameters: Vec<(String, Tensor)>, options: AdamWOptions) -> Result<Self> {
        options.check()?;
        if let Some(((_, first), rest)) = parameters.split_first() {
            rest.iter().try_for_each(|(_, other)| check_device(NAME, first, other))?;
        }
        let device = parameters.first().map_or(Device::Cpu, |(_, tensor)| tensor.device().clone());
        let (mut names, mut storages) = (HashSet::new(), HashSet::new());
        let parameters = parameters.into_iter().map(|(name, tensor)| {
            let argument = format!("parameter `{name}`");
            if !tensor.is_contiguous() || !tensor.dtype().is_float() {
                let found = format!("{} with strides {:?}", tensor.described(), tensor.strides());
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
            Ok(Parameter { state: State::new(&options, &tensor)?, decays: true, name, tensor })
        });
        let parameters = parameters.collect::<Result<_>>()?;
        Ok(AdamW { options, parameters, device, counters: Counters::default(), on_gpu: None })
    }

    /// Lets only those parameters decay for which `decays(name, tensor)`. Usual for transformers: matrices decay,
    /// biases and norms do not.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{AdamW, Device, Dtype, Tensor};
    /// let leaf = |shape: &[usize]| Tensor::ones(shape, Dtype::F32, &Device::Cpu).map(|x| x.requires_grad());
    /// let parameters = vec![("weight".to_string(), leaf(&[2, 2])?), ("bias".to_string(), leaf(&[2])?)];
    /// let optimiser = AdamW::new(parameters, Default::default())?.decay_where(|_, tensor| tensor.rank() > 1)?;
    /// assert_eq!(optimiser.parameters().map(|(name, _)| name).collect::<Vec<_>>(), ["weight", "bias"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the GPU fails to say how many steps it took.
    pub fn decay_where(mut self, decays: impl Fn(&str, &Tensor) -> bool) -> Result<Self> {
        self.counters = self.counters()?;
        self.on_gpu = None;
        for parameter in &mut self.parameters {
            parameter.decays = decays(&parameter.name, &parameter.tensor);
        }
        Ok(self)
    }

    /// How many steps were taken. Waits for the GPU.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn steps(&self) -> Result<u64> {
        Ok(self.counters()?.step)
    }

    /// How many steps were not taken, since a gradient was not finite. Waits for the GPU.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{AdamW, Gradients, Tensor};
    /// let weight = Tensor::from([1.0f32]).requires_grad();
    /// let mut optimiser = AdamW::new(vec![("weight".into(), weight.clone())], Default::default())?;
    /// let mut overflowed = Gradients::default();
    /// overflowed.set(&weight, Tensor::from([f32::INFINITY]));
    /// optimiser.step(&overflowed, 0.1)?;
    /// assert_eq!((optimiser.steps()?, optimiser.skipped()?, weight.item()?), (0, 1, 1.0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn skipped(&self) -> Result<u64> {
        Ok(self.counters()?.skipped)
    }

    fn counters(&self) -> Result<Counters> {
        self.on_gpu.as_ref().map_or(Ok(self.counters), gpu::OnGpu::counters)
    }

    /// The parameters with their names.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parameters.iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor))
    }

    /// Changes every parameter in place, unless a gradient is not finite. Returns the norm of all gradients together,
    /// before clipping, of shape `[]`; on a GPU it stays there, and reading it waits.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{AdamW, Tensor};
    /// let x = Tensor::from([1.0f32]).requires_grad();
    /// let mut optimiser = AdamW::new(vec![("x".into(), x.clone())], Default::default())?;
    /// optimiser.step(&x.mul(&x)?.backward()?, 0.1)?;
    /// assert!(x.item()? < 1.0); // changed in place
    /// assert_eq!(optimiser.steps()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a parameter has no gradient, or one of another shape, or `lr` is negative or no number: then nothing was changed.
    pub fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<Tensor> {
        let device = self.device.clone();
        phase(Phase::Update, || operation(NAME, Some(&device), || self.update(gradients, lr)))
    }

    fn update(&mut self, gradients: &Gradients, lr: f64) -> Result<Tensor> {
        if !is_size(lr) {
            return Err(Error::argument(NAME, "lr", lr.to_string(), "a number, 0 or above"));
        }
        let gradients = self
            .parameters
            .iter()
            .map(|parameter| parameter.gradient(gradients))
            .collect::<Result<Vec<_>>>()?;
        let norm = match &self.device {
            Device::Cpu => {
                let norm = norm::on_cpu(NAME, &gradients)?;
                self.step_on_cpu(&gradients, norm, lr)?;
                Tensor::full(&[], norm, Dtype::F64, &Device::Cpu)?
            }
            Device::Gpu(gpu) => {
                let on_gpu = match self.on_gpu.take() {
                    Some(on_gpu) => on_gpu,
                    None => gpu::OnGpu::new(gpu, &self.options, &self.parameters, self.counters)?,
                };
                self.on_gpu.insert(on_gpu).step(&self.options, &gradients, lr)?
            }
        };
        self.parameters.iter().for_each(|parameter| parameter.tensor.storage().bump_version());
        Ok(norm)
    }

    fn step_on_cpu(&mut self, gradients: &[Tensor], norm: f64, lr: f64) -> Result<()> {
        if !norm.is_finite() {
            self.counters.skipped += 1;
            return Ok(());
        }
        self.counters.step += 1;
        let step = self.counters.step;
        let scale = self.options.max_grad_norm.map_or(1.0, |max| norm::factor(norm, max));
        for (numbered, gradient) in self.parameters.iter().enumerate().zip(gradients) {
            let decay = self.options.decay_of(numbered.1);
            let coefficients = cpu::Coefficients::new(&self.options, decay, (lr, scale), step);
            cpu::step(&self.options, numbered, gradient, &coefficients, step)?;
        }
        Ok(())
    }

    /// Everything a checkpoint needs beside the parameters: `step` and `skipped` (`u32`, one number each); for each
    /// parameter `NAME.exp_avg` and `NAME.exp_avg_sq` (the names PyTorch uses), with `_scale` for 8-bit ones, whose
    /// codes are four to a `u32`; and `NAME.master` where there is one. The tensors are the optimiser's own: write them
    /// out before the next step. Waits for the GPU.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{AdamW, Tensor};
    /// let x = Tensor::from([1.0f32]).requires_grad();
    /// let new = || AdamW::new(vec![("x".into(), x.clone())], Default::default());
    /// let mut optimiser = new()?;
    /// optimiser.step(&x.mul(&x)?.backward()?, 0.1)?;
    /// let mut other = new()?;
    /// other.load_state(&optimiser.state()?)?;
    /// assert_eq!(other.steps()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the GPU fails, or there is no memory for the counters.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let Counters { step, skipped } = self.counters()?;
        let counter = |name: &str, count: u64| -> Result<(String, Tensor)> {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            Ok((name.to_string(), Tensor::from_slice(&[count], &[1], &Device::Cpu)?))
        };
        let of_parameters = self.parameters.iter().flat_map(|Parameter { name, state, .. }| {
            state.named().into_iter().map(move |(kind, tensor)| (format!("{name}.{kind}"), tensor.clone()))
        });
        let counters = [counter("step", step)?, counter("skipped", skipped)?];
        Ok(counters.into_iter().chain(of_parameters).collect())
    }

    /// Takes over what [`AdamW::state`] returned, for the same parameters under the same options.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{AdamW, Tensor};
    /// let weight = Tensor::from([1.0f32]).requires_grad();
    /// let new = || AdamW::new(vec![("weight".into(), weight.clone())], Default::default());
    /// let mut before = new()?;
    /// before.step(&weight.mul(&weight)?.backward()?, 0.1)?;
    /// let mut after = new()?;
    /// after.load_state(&before.state()?)?; // from a checkpoint, say
    /// assert_eq!(after.steps()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a tensor is missing or its shape or element type is another; then nothing was changed.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        let find = |name: &str| {
            let found = state.iter().find(|(key, _)| key == name).map(|(_, tensor)| tensor);
            found.ok_or_else(|| Error::argument(NAME, &format!("state `{name}`"), "missing", "there"))
        };
        let counter = |name: &str| {
            let first = find(name)?.to_vec::<u32>()?.first().copied();
            let missing = || Error::argument(NAME, &format!("state `{name}`"), "empty", "one number");
            first.map(u64::from).ok_or_else(missing)
        };
        let counters = Counters { step: counter("step")?, skipped: counter("skipped")? };
        let load = |Parameter { name, state, .. }: &Parameter| {
            state.with(|kind, like| {
                let name = format!("{name}.{kind}");
                let found = find(&name)?;
                if found.shape() == like.shape() && found.dtype() == like.dtype() {
                    return found.copied(like.device());
                }
                let (found, expected) = (found.described(), like.described());
                Err(Error::argument(NAME, &format!("state `{name}`"), found, expected))
            })
        };
        let loaded = self.parameters.iter().map(load).collect::<Result<Vec<_>>>()?;
        self.counters = counters;
        self.on_gpu = None;
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
            let expected = format!("of the shape and device of {}", self.tensor.described());
            return Err(Error::argument(NAME, &argument, found.described(), expected));
        }
        if std::ptr::eq(found.storage(), self.tensor.storage()) {
            return found.copied(found.device()); // it is about to change
        }
        found.detach().to_dtype(self.tensor.dtype())?.contiguous()
    }
}
