//! The step on the CPU.

use rayon::prelude::*;

use super::{AdamWOptions, NAME, Parameter};
use crate::cpu::Real;
use crate::cpu::parallel::CHUNK;
use crate::cpu::simd::vectorised;
use crate::dtype::{with_element, with_real};
use crate::{Element, Result, Tensor};

/// The update with everything that is the same for all elements worked out.
pub(super) struct Coefficients {
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
    pub(super) fn new(options: &AdamWOptions, weight_decay: f64, lr: f64, step: u32) -> Self {
        let (beta1, beta2) = options.betas;
        let t = f64::from(step);
        Coefficients {
            beta1,
            beta2,
            keep: 1.0 - lr * weight_decay,
            rate: lr / (1.0 - beta1.powf(t)),
            inv_root: 1.0 / (1.0 - beta2.powf(t)).sqrt(),
            eps: options.eps,
        }
    }
}

pub(super) fn step(parameter: &Parameter, gradient: &Tensor, coefficients: &Coefficients) -> Result<()> {
    let state = &parameter.state;
    let optimised = state.master.as_ref().unwrap_or(&parameter.tensor);
    let count = optimised.numel();
    let wide = gradient.to_dtype(optimised.dtype())?;
    with_real!(NAME, optimised.dtype(), T => {
        let gradient = wide.read::<T>(NAME)?;
        let (mut m, mut v) = (state.mean.write::<T>(NAME)?, state.mean_square.write::<T>(NAME)?);
        let mut p = optimised.write::<T>(NAME)?;
        let moments = m[..count].par_chunks_mut(CHUNK).zip(v[..count].par_chunks_mut(CHUNK));
        let work = p[..count].par_chunks_mut(CHUNK).zip(moments).zip(gradient[..count].par_chunks(CHUNK));
        work.for_each(|((p, (m, v)), g)| update(p, m, v, g, coefficients));
        Ok(())
    })?;
    if let Some(master) = &state.master {
        with_element!(parameter.tensor.dtype(), E => {
            let (source, mut target) = (master.read::<f32>(NAME)?, parameter.tensor.write::<E>(NAME)?);
            let pieces = target[..count].par_chunks_mut(CHUNK).zip(source[..count].par_chunks(CHUNK));
            pieces.for_each(|(target, source)| round(target, source));
        });
    }
    Ok(())
}

vectorised! {
    fn update<T: Real>(p: &mut [T], m: &mut [T], v: &mut [T], g: &[T], coefficients: &Coefficients) {
        let Coefficients { beta1, beta2, keep, rate, inv_root, eps } = *coefficients;
        let (beta1, rest1) = (T::from_f64(beta1), T::from_f64(1.0 - beta1));
        let (beta2, rest2) = (T::from_f64(beta2), T::from_f64(1.0 - beta2));
        let (keep, rate) = (T::from_f64(keep), T::from_f64(rate));
        let (inv_root, eps) = (T::from_f64(inv_root), T::from_f64(eps));
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            *m = beta1 * *m + rest1 * *g;
            *v = beta2 * *v + rest2 * *g * *g;
            *p = *p * keep - rate * *m / (v.sqrt() * inv_root + eps);
        }
    }
}

vectorised! {
    fn round<E: Element>(target: &mut [E], source: &[f32]) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = E::from_f32(*source);
        }
    }
}
