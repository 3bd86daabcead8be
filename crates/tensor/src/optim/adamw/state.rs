//! What is remembered of a parameter between steps.

use super::{AdamWOptions, Moments, NAME, Rounding};
use crate::{Dtype, Error, Result, Tensor};
use longhand_kernels::adamw::Moments as Kernel;

/// Of one parameter.
pub(super) struct State {
    pub(super) mean: Moment,
    pub(super) mean_square: Moment,
    /// Of a 16-bit parameter that is not rounded stochastically.
    pub(super) master: Option<Tensor>,
}

/// A running mean, of the parameter's shape.
pub(super) enum Moment {
    /// f32, or f64 for an f64 parameter.
    Full(Tensor),
    EightBit {
        /// u32, each four codes, the first in the lowest byte.
        codes: Tensor,
        /// f32, one for each 256 codes.
        scales: Tensor,
    },
}

impl State {
    pub(super) fn new(options: &AdamWOptions, parameter: &Tensor) -> Result<State> {
        let dtype = if parameter.dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
        if options.moments == Moments::EightBit && dtype == Dtype::F64 {
            return Err(Error::dtype(NAME, dtype, "f32, bf16 or f16 for 8-bit moments"));
        }
        let has_master = match options.rounding {
            Rounding::Master => parameter.dtype() != dtype,
            Rounding::Stochastic { .. } if parameter.dtype() == Dtype::F16 => {
                return Err(Error::dtype(NAME, Dtype::F16, "bf16, or f32, for stochastic rounding"));
            }
            Rounding::Stochastic { .. } => false,
        };
        Ok(State {
            mean: Moment::new(options.moments, parameter, dtype)?,
            mean_square: Moment::new(options.moments, parameter, dtype)?,
            master: has_master.then(|| parameter.detach().to_dtype(dtype)).transpose()?,
        })
    }

    /// The tensors, under the names that PyTorch gives the moments.
    pub(super) fn named(&self) -> Vec<(&'static str, &Tensor)> {
        let mut named = self.mean.named(["exp_avg", "exp_avg_scale"]);
        named.extend(self.mean_square.named(["exp_avg_sq", "exp_avg_sq_scale"]));
        named.extend(self.master.iter().map(|master| ("master", master)));
        named
    }

    /// The same, of the tensors that `load` returns for each name and each tensor of this one.
    pub(super) fn with(&self, load: impl Fn(&str, &Tensor) -> Result<Tensor>) -> Result<State> {
        Ok(State {
            mean: self.mean.with(["exp_avg", "exp_avg_scale"], &load)?,
            mean_square: self.mean_square.with(["exp_avg_sq", "exp_avg_sq_scale"], &load)?,
            master: self.master.as_ref().map(|master| load("master", master)).transpose()?,
        })
    }
}

impl Moment {
    fn new(moments: Moments, parameter: &Tensor, dtype: Dtype) -> Result<Moment> {
        let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, parameter.device());
        Ok(match moments {
            Moments::Full => Moment::Full(zeros(parameter.shape(), dtype)?),
            Moments::EightBit => Moment::EightBit {
                codes: zeros(&[parameter.numel().div_ceil(4)], Dtype::U32)?,
                scales: zeros(&[parameter.numel().div_ceil(Kernel::BLOCK)], Dtype::F32)?,
            },
        })
    }

    fn named(&self, [whole, scale]: [&'static str; 2]) -> Vec<(&'static str, &Tensor)> {
        match self {
            Moment::Full(tensor) => vec![(whole, tensor)],
            Moment::EightBit { codes, scales } => vec![(whole, codes), (scale, scales)],
        }
    }

    fn with(
        &self,
        [whole, scale]: [&str; 2],
        load: &impl Fn(&str, &Tensor) -> Result<Tensor>,
    ) -> Result<Moment> {
        Ok(match self {
            Moment::Full(tensor) => Moment::Full(load(whole, tensor)?),
            Moment::EightBit { codes, scales } => {
                Moment::EightBit { codes: load(whole, codes)?, scales: load(scale, scales)? }
            }
        })
    }
}
