//! Steps of AdamW.

use crate::Precision::{self, Bf16, F16, F32};
use crate::tolerance::Rule::Forward;
use crate::{Canonical, Case, Draw, Error, Layout, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::adamw::{AdamW as Kernel, AdamWArgs, AdamWTensor, State};
use longhand_reference::{self as reference, AdamWOptions};
use std::fmt;

/// One optimizer and its tensors.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// Of parameters.
    pub parameter: Precision,
    /// Of gradients.
    pub gradient: Precision,
    /// Whether parameters have f32 copies.
    pub master: bool,
    /// The tensors.
    pub tensors: Vec<ParameterSize>,
    /// Steps already taken.
    pub steps_before: u32,
    /// Steps to take.
    pub steps: u32,
    /// Learning rate.
    pub lr: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// What gradients are multiplied by, from device memory.
    pub gradient_scale: Option<f32>,
    /// Of parameters, moments and gradients.
    pub seed: u64,
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct ParameterSize {
    /// Elements.
    pub count: usize,
    /// Elements that it starts after an aligned address.
    pub shift: usize,
    /// Its own.
    pub weight_decay: f32,
}

const BETAS: (f64, f64) = (0.9, 0.999);

impl Case for AdamW {
    fn operation(&self) -> &'static str {
        "AdamW"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let seeds = (0..).map(|i| self.seed.wrapping_add(i));
        let tensors = seeds.zip(&self.tensors).map(|(seed, size)| Tensor::new(self, *size, seed, trial));
        let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let plan = Kernel::new(self.parameter.dtype(), self.gradient.dtype()).master(self.master);
        let plan = plan.plan(trial.stream().device())?;
        let table: Vec<AdamWTensor> = tensors.iter().map(Tensor::on_device).collect();
        let table = plan.tensors(trial.stream(), &table)?;

        let state = trial.stream().alloc(size_of::<State>())?;
        state.upload(0, bytemuck::bytes_of(&State::new(self.steps_before.into(), self.lr)))?;
        let scale = self.gradient_scale.map(|scale| trial.vector("gradient scale", F32, &[scale.into()]));
        let scale = scale.transpose()?;
        let args = AdamWArgs {
            tensors: &table,
            state: state.ptr(),
            gradient_scale: scale.as_ref().map_or(DevicePtr::NULL, View::ptr),
            beta1: BETAS.0,
            beta2: BETAS.1,
            eps: self.eps,
        };
        for step in 1..=self.steps {
            let gradients =
                tensors.iter_mut().map(|tensor| tensor.step(self, self.steps_before + step, trial));
            let gradients = gradients.collect::<Result<Vec<_>, _>>()?;
            let pointers: Vec<DevicePtr> = gradients.iter().map(View::ptr).collect();
            table.gradients().set(&pointers)?;
            // SAFETY: the tensors and the gradients just set have the sizes that the table was made with, and live on
            // beyond the synchronisation.
            trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        }
        tensors.iter().try_for_each(|tensor| tensor.judge(self, trial))?;
        let mut after = [0; size_of::<State>()];
        state.download(0, &mut after)?;
        let after: State = bytemuck::pod_read_unaligned(&after);
        trial.judge_number("step", after.step as f64, f64::from(self.steps_before + self.steps));
        Ok(())
    }
}

impl fmt::Display for AdamW {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AdamW { parameter, gradient, .. } = self;
        write!(f, "{parameter}, gradients {gradient}{}", if self.master { ", master" } else { "" })?;
        let elements: usize = self.tensors.iter().map(|size| size.count).sum();
        write!(f, ", {} tensors, {elements} elements", self.tensors.len())
    }
}

impl AdamW {
    /// The types that the kernels take: of parameters, of gradients, and whether there is a master.
    pub const TYPES: [(Precision, Precision, bool); 5] =
        [(F32, F32, false), (Bf16, Bf16, false), (Bf16, Bf16, true), (Bf16, F32, true), (F16, F16, true)];

    /// The cases that tell the most: each combination of types, over tensors around the edges of a chunk.
    #[must_use]
    pub fn telling() -> Vec<AdamW> {
        let size = |count, shift| ParameterSize { count, shift, weight_decay: 0.1 };
        let case = |(parameter, gradient, master)| AdamW {
            parameter,
            gradient,
            master,
            tensors: vec![size(16_385, 0), size(0, 0), size(1000, 1), size(7, 0)],
            steps_before: 10,
            steps: 2,
            lr: 1e-3,
            eps: 1e-8,
            gradient_scale: Some(0.5),
            seed: 1,
        };
        AdamW::TYPES.into_iter().map(case).collect()
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let count = 4 * 16_384;
        let case = AdamW {
            parameter: Bf16,
            gradient: Bf16,
            master: true,
            tensors: vec![ParameterSize { count, shift: 0, weight_decay: 0.1 }],
            steps_before: 0,
            steps: 1,
            lr: 1e-3,
            eps: 1e-8,
            gradient_scale: None,
            seed: 1,
        };
        // The gradient is read, the parameter written; master, m and v are both.
        vec![Canonical::moving("adamw", case, count * (2 + 2 + 3 * 8))]
    }

    fn options(&self, weight_decay: f32) -> AdamWOptions {
        AdamWOptions {
            lr: self.lr.into(),
            beta1: BETAS.0,
            beta2: BETAS.1,
            eps: self.eps.into(),
            weight_decay: weight_decay.into(),
        }
    }
}

/// A parameter and its moments.
#[derive(Clone)]
struct Values {
    parameter: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

/// A parameter on the device, and what it has to become.
struct Tensor {
    size: ParameterSize,
    draw: Draw,
    expected: Values,
    /// With a master copy, this is of that
    plain: Values,
    parameter: View,
    master: Option<View>,
    m: View,
    v: View,
}

impl Tensor {
    fn new(case: &AdamW, size: ParameterSize, seed: u64, trial: &Trial) -> Result<Tensor, Error> {
        let mut f32s = Draw::new(F32, seed);
        let values = Values {
            parameter: Draw::new(if case.master { F32 } else { case.parameter }, seed).vec(size.count),
            m: f32s.vec(size.count),
            v: f32s.vec(size.count).iter().map(|x| f64::from((x * x + 0.01) as f32)).collect(),
        };
        let upload = |name, precision, values: &[f64]| trial.input(name, precision, &size.layout(), values);
        let master = case.master.then(|| upload("master", F32, &values.parameter));
        Ok(Tensor {
            size,
            draw: Draw::new(case.gradient, seed),
            parameter: upload("parameter", case.parameter, &values.parameter)?,
            master: master.transpose()?,
            m: upload("m", F32, &values.m)?,
            v: upload("v", F32, &values.v)?,
            plain: values.clone(),
            expected: values,
        })
    }

    fn on_device(&self) -> AdamWTensor {
        AdamWTensor {
            count: self.size.count,
            parameter: self.parameter.ptr(),
            master: self.master.as_ref().map_or(DevicePtr::NULL, View::ptr),
            m: self.m.ptr(),
            v: self.v.ptr(),
            weight_decay: self.size.weight_decay,
        }
    }

    /// Draws a gradient, steps what is expected, and returns the gradient on the device.
    fn step(&mut self, case: &AdamW, step: u32, trial: &Trial) -> Result<View, Error> {
        let gradient = self.draw.vec(self.size.count);
        let scale = case.gradient_scale.unwrap_or(1.0);
        let options = case.options(self.size.weight_decay);

        let scaled: Vec<f64> = gradient.iter().map(|g| g * f64::from(scale)).collect();
        let Values { parameter, m, v } = &mut self.expected;
        reference::adamw(&options, step.into(), parameter, &scaled, m, v);

        let scaled: Vec<f64> = gradient.iter().map(|g| (*g as f32 * scale).into()).collect();
        let Values { parameter, m, v } = &mut self.plain;
        let precision = if case.master { F32 } else { case.parameter };
        plain::adamw(precision, &options, step.into(), parameter, &scaled, m, v);

        trial.input("gradient", case.gradient, &self.size.layout(), &gradient)
    }

    fn judge(&self, case: &AdamW, trial: &mut Trial) -> Result<(), Error> {
        let Tensor { plain, expected, .. } = self;
        let mut rounded = plain.parameter.clone();
        rounded.iter_mut().for_each(|x| *x = case.parameter.round(*x as f32).into());
        trial.judge(Forward, &self.parameter, &rounded, &expected.parameter)?;
        if let Some(master) = &self.master {
            trial.judge(Forward, master, &plain.parameter, &expected.parameter)?;
        }
        trial.judge(Forward, &self.m, &plain.m, &expected.m)?;
        trial.judge(Forward, &self.v, &plain.v, &expected.v)
    }
}

impl ParameterSize {
    fn layout(self) -> Layout {
        Layout::contiguous(&[self.count]).shifted(self.shift)
    }
}
