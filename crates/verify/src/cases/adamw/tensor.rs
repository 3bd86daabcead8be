//! One parameter on the device, and what a step has to make of it.

use super::moment::Moment;
use super::{AdamW, ParameterSize};
use crate::Precision::F32;
use crate::tolerance::Rule::Forward;
use crate::{Draw, Error, Layout, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::adamw::{AdamWTensor, Rounding, round_stochastically};
use longhand_reference as reference;

/// A parameter on the device.
pub struct Tensor {
    size: ParameterSize,
    number: u32,
    draw: Draw,
    parameter: View,
    master: Option<View>,
    m: Moment,
    v: Moment,
}

/// What is to come out of a step.
pub struct Expected {
    /// On the device.
    pub gradient: View,
    step: u32,
    reference: Values,
    /// In f32, not yet rounded to the parameter's type, nor to 8 bits.
    plain: Values,
    /// For each element, how far off an f32 may be before it is rounded.
    slack: Values,
}

#[derive(Clone)]
struct Values {
    parameter: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Tensor {
    pub fn new(case: &AdamW, size: ParameterSize, number: u32, trial: &Trial) -> Result<Tensor, Error> {
        let seed = case.seed.wrapping_add(number.into());
        let has_master = case.rounding == Rounding::Master;
        let parameter = Draw::new(if has_master { F32 } else { case.parameter }, seed).vec(size.count);
        let layout = Layout::contiguous(&[size.count]).shifted(size.shift);
        let master = has_master.then(|| trial.input("master", F32, &layout, &parameter)).transpose()?;
        let mut draw = Draw::new(F32, seed);
        Ok(Tensor {
            size,
            number,
            draw: Draw::new(case.gradient, seed),
            parameter: trial.input("parameter", case.parameter, &layout, &parameter)?,
            master,
            m: Moment::new("m", case.moments, size, &mut draw, trial)?,
            v: Moment::new("v", case.moments, size, &mut draw, trial)?,
        })
    }

    pub fn on_device(&self) -> AdamWTensor {
        AdamWTensor {
            count: self.size.count,
            parameter: self.parameter.ptr(),
            master: self.master.as_ref().map_or(DevicePtr::NULL, View::ptr),
            m: self.m.ptr(),
            v: self.v.ptr(),
            m_scale: self.m.scale_ptr(),
            v_scale: self.v.scale_ptr(),
            number: self.number,
            weight_decay: self.size.weight_decay,
        }
    }

    /// Draws a gradient, and works out what the step makes of what is on the device now.
    pub fn expect(&mut self, case: &AdamW, step: u32, trial: &Trial) -> Result<Expected, Error> {
        let layout = Layout::contiguous(&[self.size.count]).shifted(self.size.shift);
        let gradient = self.draw.vec(self.size.count);
        let on_device = trial.input("gradient", case.gradient, &layout, &gradient)?;
        let before = Values {
            parameter: self.master.as_ref().unwrap_or(&self.parameter).download()?,
            m: self.m.values()?,
            v: self.v.values()?,
        };
        let (mut reference, mut plain) = (before.clone(), before.clone());
        if case.is_taken() {
            let scale = case.gradient_scale.unwrap_or(1.0);
            let options = case.options(self.size.weight_decay);
            let scaled: Vec<f64> = gradient.iter().map(|g| g * f64::from(scale)).collect();
            let Values { parameter, m, v } = &mut reference;
            reference::adamw(&options, step.into(), parameter, &scaled, m, v);
            let scaled: Vec<f64> = gradient.iter().map(|g| (*g as f32 * scale).into()).collect();
            let Values { parameter, m, v } = &mut plain;
            plain::adamw(F32, &options, step.into(), parameter, &scaled, m, v);
        }
        let slack = slack(&before, &plain, &reference, &gradient);
        Ok(Expected { gradient: on_device, step, reference, plain, slack })
    }

    pub fn judge(&self, case: &AdamW, expected: &Expected, trial: &mut Trial) -> Result<(), Error> {
        let Expected { step, reference, plain, slack, .. } = expected;
        if !case.is_taken() {
            let parameter = self.master.as_ref().unwrap_or(&self.parameter);
            trial.judge_exact(parameter, &reference.parameter)?;
            trial.judge_number("m is as it was", f64::from(u8::from(self.m.values()? == reference.m)), 1.0);
            trial.judge_number("v is as it was", f64::from(u8::from(self.v.values()? == reference.v)), 1.0);
            return Ok(());
        }
        if let Some(master) = &self.master {
            trial.judge(Forward, master, &plain.parameter, &reference.parameter)?;
        }
        let round = |x: f64, i: usize| -> f64 {
            let word = || case.word(*step, self.number, i);
            match case.rounding {
                Rounding::Stochastic => round_stochastically(x as f32, word()).into(),
                _ => case.parameter.round(x as f32).into(),
            }
        };
        let rounded: Vec<f64> = plain.parameter.iter().enumerate().map(|(i, x)| round(*x, i)).collect();
        trial.judge(Forward, &self.parameter, &rounded, &reference.parameter)?;
        if case.rounding == Rounding::Stochastic {
            // The random bits decide which of two neighbours it is, save for an f32 that is all but on the border.
            let found = self.parameter.download()?;
            let wrong = found.iter().enumerate().filter(|(i, found)| {
                let (x, slack) = (reference.parameter[*i], slack.parameter[*i]);
                !(round(x - slack, *i)..=round(x + slack, *i)).contains(*found)
            });
            trial.judge_number("parameters rounded by other bits", wrong.count() as f64, 0.0);
        }
        self.m.judge(&plain.m, &reference.m, &slack.m, trial)?;
        self.v.judge(&plain.v, &reference.v, &slack.v, trial)
    }
}

/// Some roundings of f32 at the size of each term, and what plain f32 is off by.
fn slack(before: &Values, plain: &Values, reference: &Values, gradient: &[f64]) -> Values {
    const ROUNDINGS: f64 = 16.0 * f32::EPSILON as f64;
    let of = |before: &[f64], plain: &[f64], reference: &[f64], term: fn(f64) -> f64| {
        let size = |i: usize| before[i].abs() + reference[i].abs() + term(gradient[i]);
        (0..plain.len()).map(|i| ROUNDINGS * size(i) + 3.0 * (plain[i] - reference[i]).abs()).collect()
    };
    Values {
        parameter: of(&before.parameter, &plain.parameter, &reference.parameter, |_| 0.0),
        m: of(&before.m, &plain.m, &reference.m, f64::abs),
        v: of(&before.v, &plain.v, &reference.v, |_| 0.0),
    }
}
