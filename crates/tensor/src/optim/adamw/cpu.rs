//! The step on the CPU.

use half::bf16;
use longhand_kernels::Random;
use longhand_kernels::adamw::{Moments, round_stochastically};
use rayon::prelude::*;

use super::dynamic_map::{SIGNED, UNSIGNED};
use super::state::Moment;
use super::{AdamWOptions, NAME, Parameter, Rounding};
use crate::cpu::Real;
use crate::cpu::parallel::CHUNK;
use crate::cpu::simd::vectorised;
use crate::dtype::{with_element, with_real};
use crate::{Dtype, Element, Result, Tensor};

/// The update with everything that is the same for all elements worked out.
pub(super) struct Coefficients {
    /// What gradients are multiplied by.
    gradient_scale: f64,
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
    pub(super) fn new(
        options: &AdamWOptions,
        weight_decay: f64,
        (lr, gradient_scale): (f64, f64),
        step: u64,
    ) -> Self {
        let (beta1, beta2) = options.betas;
        let t = step as f64;
        Coefficients {
            gradient_scale,
            beta1,
            beta2,
            keep: 1.0 - lr * weight_decay,
            rate: lr / (1.0 - beta1.powf(t)),
            inv_root: 1.0 / (1.0 - beta2.powf(t)).sqrt(),
            eps: options.eps,
        }
    }
}

/// Takes the `step`-th step, counted from 1, with parameter `number` of the optimiser's.
pub(super) fn step(
    options: &AdamWOptions,
    (number, parameter): (usize, &Parameter),
    gradient: &Tensor,
    coefficients: &Coefficients,
    step: u64,
) -> Result<()> {
    let target = &parameter.tensor;
    // What is optimised: a master, the parameter itself, or a wide copy of it that is then rounded.
    let optimised = match &parameter.state.master {
        Some(master) => master.clone(),
        None if matches!(target.dtype(), Dtype::F32 | Dtype::F64) => target.clone(),
        None => target.detach().to_dtype(Dtype::F32)?,
    };
    let wide = gradient.to_dtype(optimised.dtype())?;
    match [&parameter.state.mean, &parameter.state.mean_square] {
        [Moment::Full(mean), Moment::Full(mean_square)] => {
            step_full(&optimised, &wide, (mean, mean_square), coefficients)?;
        }
        [
            Moment::EightBit { codes, scales },
            Moment::EightBit { codes: square_codes, scales: square_scales },
        ] => {
            let moments = [(codes, scales), (square_codes, square_scales)];
            step_eight_bit(&optimised, &wide, moments, coefficients)?;
        }
        _ => debug_assert!(false, "both moments are made alike"),
    }
    match (options.rounding, target.dtype()) {
        (_, Dtype::F32 | Dtype::F64) => Ok(()),
        (Rounding::Master, _) => round_to_nearest(&optimised, target),
        (Rounding::Stochastic { seed }, _) => {
            round_by_bits(&optimised, target, Random { seed, offset: step }, number as u32)
        }
    }
}

fn step_full(
    optimised: &Tensor,
    gradient: &Tensor,
    (mean, mean_square): (&Tensor, &Tensor),
    coefficients: &Coefficients,
) -> Result<()> {
    let count = optimised.numel();
    with_real!(NAME, optimised.dtype(), T => {
        let gradient = gradient.read::<T>(NAME)?;
        let (mut m, mut v) = (mean.write::<T>(NAME)?, mean_square.write::<T>(NAME)?);
        let mut p = optimised.write::<T>(NAME)?;
        let moments = m[..count].par_chunks_mut(CHUNK).zip(v[..count].par_chunks_mut(CHUNK));
        let work = p[..count].par_chunks_mut(CHUNK).zip(moments).zip(gradient[..count].par_chunks(CHUNK));
        work.for_each(|((p, (m, v)), g)| update(p, m, v, g, coefficients));
        Ok(())
    })
}

/// `moments` are codes and scales of the mean, and of the mean square.
fn step_eight_bit(
    optimised: &Tensor,
    gradient: &Tensor,
    [mean, mean_square]: [(&Tensor, &Tensor); 2],
    coefficients: &Coefficients,
) -> Result<()> {
    const BLOCK: usize = Moments::BLOCK;
    let count = optimised.numel();
    let gradient = gradient.read::<f32>(NAME)?;
    let (mut m, mut m_scale) = (mean.0.write::<u32>(NAME)?, mean.1.write::<f32>(NAME)?);
    let (mut v, mut v_scale) = (mean_square.0.write::<u32>(NAME)?, mean_square.1.write::<f32>(NAME)?);
    let mut p = optimised.write::<f32>(NAME)?;
    let m = bytemuck::cast_slice_mut::<u32, u8>(&mut m)[..count].par_chunks_mut(BLOCK).zip(&mut m_scale[..]);
    let v = bytemuck::cast_slice_mut::<u32, u8>(&mut v)[..count].par_chunks_mut(BLOCK).zip(&mut v_scale[..]);
    let work = p[..count].par_chunks_mut(BLOCK).zip(gradient[..count].par_chunks(BLOCK)).zip(m.zip(v));
    work.for_each(|((p, g), ((m, m_scale), (v, v_scale)))| {
        let [mut wide_m, mut wide_v] = [[0.0f32; BLOCK]; 2];
        let (wide_m, wide_v) = (&mut wide_m[..p.len()], &mut wide_v[..p.len()]);
        SIGNED.decode(wide_m, m, *m_scale);
        UNSIGNED.decode(wide_v, v, *v_scale);
        update(p, wide_m, wide_v, g, coefficients);
        *m_scale = SIGNED.encode(m, wide_m);
        *v_scale = UNSIGNED.encode(v, wide_v);
    });
    Ok(())
}

vectorised! {
    fn update<T: Real>(p: &mut [T], m: &mut [T], v: &mut [T], g: &[T], coefficients: &Coefficients) {
        let Coefficients { gradient_scale, beta1, beta2, keep, rate, inv_root, eps } = *coefficients;
        let (beta1, rest1) = (T::from_f64(beta1), T::from_f64(1.0 - beta1));
        let (beta2, rest2) = (T::from_f64(beta2), T::from_f64(1.0 - beta2));
        let (keep, rate) = (T::from_f64(keep), T::from_f64(rate));
        let (inv_root, eps) = (T::from_f64(inv_root), T::from_f64(eps));
        let gradient_scale = T::from_f64(gradient_scale);
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let g = *g * gradient_scale;
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *p = *p * keep - rate * *m / (v.sqrt() * inv_root + eps);
        }
    }
}

/// `target`, of 16-bit elements, becomes `source`, of f32.
fn round_to_nearest(source: &Tensor, target: &Tensor) -> Result<()> {
    let count = target.numel();
    with_element!(target.dtype(), E => {
        let (source, mut target) = (source.read::<f32>(NAME)?, target.write::<E>(NAME)?);
        let pieces = target[..count].par_chunks_mut(CHUNK).zip(source[..count].par_chunks(CHUNK));
        pieces.for_each(|(target, source)| round(target, source));
    });
    Ok(())
}

vectorised! {
    fn round<E: Element>(target: &mut [E], source: &[f32]) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = E::from_f32(*source);
        }
    }
}

/// `target`, of bf16, becomes `source`, rounded by the random bits that the kernel has for parameter `number`.
fn round_by_bits(source: &Tensor, target: &Tensor, random: Random, number: u32) -> Result<()> {
    let count = target.numel();
    let (source, mut target) = (source.read::<f32>(NAME)?, target.write::<bf16>(NAME)?);
    let quads = target[..count].par_chunks_mut(4).zip(source[..count].par_chunks(4)).enumerate();
    quads.for_each(|(quad, (target, source))| {
        let words = random.words([quad as u32, (quad as u64 >> 32) as u32, number, 0]);
        for ((target, source), word) in target.iter_mut().zip(source).zip(words) {
            *target = bf16::from_f32(round_stochastically(*source, word));
        }
    });
    Ok(())
}
