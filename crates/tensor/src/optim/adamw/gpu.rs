//! The step on a GPU: all parameters of one element type in one launch, and nothing that is waited for.

use std::sync::Arc;

use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::TensorList;
use longhand_kernels::adamw::{self, AdamWArgs, AdamWPlan, AdamWTensor, AdamWTensors};

use super::state::Moment;
use super::{AdamWOptions, Counters, Moments, NAME, Parameter, Rounding};
use crate::gpu::{kernel_dtype, pointer_or_null};
use crate::optim::norm;
use crate::{Dtype, Gpu, Result, Tensor};

/// What the optimiser has on the GPU beside its tensors.
pub(super) struct OnGpu {
    gpu: Gpu,
    /// An [`adamw::State`]: how many steps were taken is known there alone, for the GPU decides whether one is.
    state: Buffer,
    groups: Vec<Group>,
}

/// Parameters that one launch updates.
struct Group {
    dtype: Dtype,
    /// Which of all parameters they are.
    members: Vec<usize>,
    plan: Arc<AdamWPlan>,
    tensors: AdamWTensors,
}

impl OnGpu {
    pub(super) fn new(
        gpu: &Gpu,
        options: &AdamWOptions,
        parameters: &[Parameter],
        Counters { step, skipped }: Counters,
    ) -> Result<OnGpu> {
        let mut kinds: Vec<(Dtype, Vec<usize>)> = Vec::new();
        for (i, parameter) in parameters.iter().enumerate() {
            let dtype = parameter.tensor.dtype();
            match kinds.iter_mut().find(|(other, _)| *other == dtype) {
                Some((_, members)) => members.push(i),
                None => kinds.push((dtype, vec![i])),
            }
        }
        let groups =
            kinds.into_iter().map(|(dtype, members)| Group::new(gpu, dtype, members, options, parameters));
        let state = gpu.workspace(size_of::<adamw::State>())?;
        state.upload(0, bytemuck::bytes_of(&adamw::State::new(step as i64, skipped as i64, 0.0)))?;
        Ok(OnGpu { gpu: gpu.clone(), state, groups: groups.collect::<Result<_>>()? })
    }

    /// Waits for the GPU.
    pub(super) fn counters(&self) -> Result<Counters> {
        let mut bytes = [0; size_of::<adamw::State>()];
        self.state.download(0, &mut bytes)?;
        let state: adamw::State = bytemuck::pod_read_unaligned(&bytes);
        Ok(Counters { step: state.step as u64, skipped: state.skipped as u64 })
    }

    /// `gradients` are those of all parameters, contiguous and checked. Returns their norm.
    pub(super) fn step(&self, options: &AdamWOptions, gradients: &[Tensor], lr: f64) -> Result<Tensor> {
        self.groups.iter().try_for_each(|group| group.set_gradients(gradients))?;
        let lists = self.groups.iter().map(|group| Ok((kernel_dtype(NAME, group.dtype)?, group.list())));
        let lists = lists.collect::<Result<Vec<_>>>()?;
        let max_norm = options.max_grad_norm.unwrap_or(f64::INFINITY);
        let [norm, factor] = norm::on_gpu(NAME, &self.gpu, &lists, max_norm)?;
        self.state.upload(adamw::State::LEARNING_RATE_OFFSET as usize, &(lr as f32).to_le_bytes())?;
        for (i, group) in self.groups.iter().enumerate() {
            let args = AdamWArgs {
                tensors: &group.tensors,
                state: self.state.ptr(),
                norm: norm.pointer(NAME)?,
                gradient_scale: factor.pointer(NAME)?,
                beta1: options.betas.0,
                beta2: options.betas.1,
                eps: options.eps as f32,
                seed: options.rounding.seed(),
            };
            let stream = self.gpu.stream();
            // SAFETY: parameters, masters and moments are contiguous tensors of one size that the optimiser holds, and
            // none shares memory with another; so are the gradients, which the caller holds; all are on this GPU and
            // used and freed on its one stream, on which the tables were uploaded too.
            unsafe {
                if i == 0 {
                    group.plan.advance(stream, &args)?;
                }
                group.plan.launch(stream, &args)?;
            }
        }
        Ok(norm)
    }
}

impl Group {
    fn new(
        gpu: &Gpu,
        dtype: Dtype,
        members: Vec<usize>,
        options: &AdamWOptions,
        parameters: &[Parameter],
    ) -> Result<Group> {
        let kernel = kernel_dtype(NAME, dtype)?;
        let rounding = match options.rounding {
            _ if dtype == Dtype::F32 => adamw::Rounding::Nearest,
            Rounding::Master => adamw::Rounding::Master,
            Rounding::Stochastic { .. } => adamw::Rounding::Stochastic,
        };
        let moments = match options.moments {
            Moments::Full => adamw::Moments::F32,
            Moments::EightBit => adamw::Moments::EightBit,
        };
        let kind = adamw::AdamW::new(kernel, kernel).rounding(rounding).moments(moments);
        let plan = gpu.plans().adamw.get(kind, |kind| kind.plan(gpu.device()))?;
        let entries =
            members.iter().map(|&i| entry(options, i, &parameters[i])).collect::<Result<Vec<_>>>()?;
        let tensors = plan.tensors(gpu.stream(), &entries)?;
        Ok(Group { dtype, members, plan, tensors })
    }

    fn set_gradients(&self, gradients: &[Tensor]) -> Result<()> {
        debug_assert!(self.members.iter().all(|&i| gradients[i].dtype() == self.dtype));
        let pointers = self.members.iter().map(|&i| gradients[i].pointer(NAME));
        Ok(self.list().set(&pointers.collect::<Result<Vec<_>>>()?)?)
    }

    fn list(&self) -> &TensorList {
        self.tensors.gradients()
    }
}

fn entry(options: &AdamWOptions, number: usize, parameter: &Parameter) -> Result<AdamWTensor> {
    let Parameter { tensor, state, .. } = parameter;
    let ([m, m_scale], [v, v_scale]) = (pointers(&state.mean)?, pointers(&state.mean_square)?);
    Ok(AdamWTensor {
        count: tensor.numel(),
        parameter: tensor.pointer(NAME)?,
        master: pointer_or_null(NAME, state.master.as_ref())?,
        m,
        v,
        m_scale,
        v_scale,
        weight_decay: options.decay_of(parameter) as f32,
        number: number as u32,
    })
}

/// Of the values, and of the scales where there are some.
fn pointers(moment: &Moment) -> Result<[DevicePtr; 2]> {
    match moment {
        Moment::Full(tensor) => Ok([tensor.pointer(NAME)?, DevicePtr::NULL]),
        Moment::EightBit { codes, scales } => Ok([codes.pointer(NAME)?, scales.pointer(NAME)?]),
    }
}
