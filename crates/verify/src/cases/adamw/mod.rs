//! Steps of AdamW.

mod moment;
mod tensor;

use crate::Precision::{self, Bf16, F16, F32};
use crate::{Canonical, Case, Error, Trial, View};
use longhand_gpu::DevicePtr;
use longhand_kernels::Random;
use longhand_kernels::adamw::{AdamW as Kernel, AdamWArgs, AdamWTensor, Moments, Rounding, State};
use longhand_reference::AdamWOptions;
use std::fmt;
use tensor::Tensor;

/// One optimizer and its tensors.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// Of parameters.
    pub parameter: Precision,
    /// Of gradients.
    pub gradient: Precision,
    /// How parameters are rounded.
    pub rounding: Rounding,
    /// What moments are stored in.
    pub moments: Moments,
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
    /// What the norm is said to be, from device memory: where it is not finite, no step is to be taken.
    pub norm: Option<f32>,
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
        let numbered = (0..).zip(&self.tensors);
        let tensors = numbered.map(|(number, size)| Tensor::new(self, *size, number, trial));
        let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let plan = self.kernel().plan(trial.stream().device())?;
        let table: Vec<AdamWTensor> = tensors.iter().map(Tensor::on_device).collect();
        let table = plan.tensors(trial.stream(), &table)?;

        let state = trial.stream().alloc(size_of::<State>())?;
        state.upload(0, bytemuck::bytes_of(&State::new(self.steps_before.into(), 0, self.lr)))?;
        let number = |name, value: Option<f32>| -> Result<Option<View>, Error> {
            value.map(|value| trial.vector(name, F32, &[value.into()])).transpose()
        };
        let scale = number("gradient scale", self.gradient_scale)?;
        let norm = number("norm", self.norm)?;
        let args = AdamWArgs {
            tensors: &table,
            state: state.ptr(),
            norm: norm.as_ref().map_or(DevicePtr::NULL, View::ptr),
            gradient_scale: scale.as_ref().map_or(DevicePtr::NULL, View::ptr),
            beta1: BETAS.0,
            beta2: BETAS.1,
            eps: self.eps,
            seed: self.seed,
        };
        for step in 1..=self.steps {
            let step = self.steps_before + step;
            let expected = tensors.iter_mut().map(|tensor| tensor.expect(self, step, trial));
            let expected = expected.collect::<Result<Vec<_>, _>>()?;
            let pointers: Vec<DevicePtr> = expected.iter().map(|expected| expected.gradient.ptr()).collect();
            table.gradients().set(&pointers)?;
            // SAFETY: the tensors and the gradients just set have the sizes that the table was made with, and live on
            // beyond the synchronisation.
            trial.launch(|stream| unsafe {
                plan.advance(stream, &args)?;
                plan.launch(stream, &args)
            })?;
            for (tensor, expected) in tensors.iter().zip(&expected) {
                tensor.judge(self, expected, trial)?;
            }
        }
        let mut after = [0; size_of::<State>()];
        state.download(0, &mut after)?;
        let after: State = bytemuck::pod_read_unaligned(&after);
        let (taken, skipped) = if self.is_taken() { (self.steps, 0) } else { (0, self.steps) };
        trial.judge_number("step", after.step as f64, f64::from(self.steps_before + taken));
        trial.judge_number("skipped", after.skipped as f64, f64::from(skipped));
        Ok(())
    }
}

impl fmt::Display for AdamW {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AdamW { parameter, gradient, .. } = self;
        write!(f, "{parameter}, gradients {gradient}")?;
        f.write_str(match self.rounding {
            Rounding::Nearest => "",
            Rounding::Master => ", master",
            Rounding::Stochastic => ", stochastic",
        })?;
        f.write_str(if self.moments == Moments::EightBit { ", 8-bit moments" } else { "" })?;
        f.write_str(if self.is_taken() { "" } else { ", skipped" })?;
        let elements: usize = self.tensors.iter().map(|size| size.count).sum();
        write!(f, ", {} tensors, {elements} elements", self.tensors.len())
    }
}

impl AdamW {
    /// The types that the kernels take: of parameters, of gradients, and how parameters are rounded.
    pub const TYPES: [(Precision, Precision, Rounding); 6] = [
        (F32, F32, Rounding::Nearest),
        (Bf16, Bf16, Rounding::Nearest),
        (Bf16, Bf16, Rounding::Master),
        (Bf16, F32, Rounding::Master),
        (F16, F16, Rounding::Master),
        (Bf16, Bf16, Rounding::Stochastic),
    ];

    /// Those of them whose moments the tests store in 8 bits too.
    pub const EIGHT_BIT_TYPES: [(Precision, Precision, Rounding); 3] =
        [(F32, F32, Rounding::Nearest), (Bf16, Bf16, Rounding::Master), (Bf16, Bf16, Rounding::Stochastic)];

    /// The cases that tell the most: each combination of types, over tensors around the edges of a chunk and of a block
    /// of 8-bit moments; and a step that is not to be taken.
    #[must_use]
    pub fn telling() -> Vec<AdamW> {
        let size = |count, shift| ParameterSize { count, shift, weight_decay: 0.1 };
        let case = |(parameter, gradient, rounding), moments| AdamW {
            parameter,
            gradient,
            rounding,
            moments,
            tensors: vec![size(16_385, 0), size(0, 0), size(1000, 1), size(7, 0)],
            steps_before: 10,
            steps: 2,
            lr: 1e-3,
            eps: 1e-8,
            gradient_scale: Some(0.5),
            norm: Some(2.0),
            seed: 1,
        };
        let f32_moments = AdamW::TYPES.map(|types| case(types, Moments::F32));
        let eight_bit = AdamW::EIGHT_BIT_TYPES.map(|types| case(types, Moments::EightBit));
        let mut cases: Vec<AdamW> = f32_moments.into_iter().chain(eight_bit).collect();
        for (moments, norm) in [(Moments::F32, f32::NAN), (Moments::EightBit, f32::INFINITY)] {
            let tensors = vec![size(300, 0)];
            cases.push(AdamW { norm: Some(norm), tensors, ..case(AdamW::TYPES[5], moments) });
        }
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let count = 4 * 16_384;
        let case = |(parameter, gradient, rounding), moments| AdamW {
            parameter,
            gradient,
            rounding,
            moments,
            tensors: vec![ParameterSize { count, shift: 0, weight_decay: 0.1 }],
            steps_before: 0,
            steps: 1,
            lr: 1e-3,
            eps: 1e-8,
            gradient_scale: None,
            norm: None,
            seed: 1,
        };
        let [f32, _, master, _, _, stochastic] = AdamW::TYPES.map(|types| case(types, Moments::F32));
        let eight_bit = case(AdamW::TYPES[5], Moments::EightBit);
        // The gradient is read; parameter, m and v are read and written; so is a master, in place of reading the parameter.
        let scales = 2 * 2 * 4 * count / Moments::BLOCK;
        vec![
            Canonical::moving("adamw_f32", f32, count * 28),
            Canonical::moving("adamw", master, count * 28),
            Canonical::moving("adamw_stochastic", stochastic, count * 22),
            Canonical::moving("adamw_eight_bit", eight_bit, count * 10 + scales),
        ]
    }

    fn kernel(&self) -> Kernel {
        let kernel = Kernel::new(self.parameter.dtype(), self.gradient.dtype());
        kernel.rounding(self.rounding).moments(self.moments)
    }

    fn is_taken(&self) -> bool {
        self.norm.is_none_or(f32::is_finite)
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

    /// The word that element `i` of tensor `number` is rounded with.
    fn word(&self, step: u32, number: u32, i: usize) -> u32 {
        let quad = i as u64 / 4;
        let random = Random { seed: self.seed, offset: step.into() };
        random.words([quad as u32, (quad >> 32) as u32, number, 0])[i % 4]
    }
}
