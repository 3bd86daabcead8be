//! The step on a GPU: all parameters of one element type in one launch.

use std::sync::Arc;

use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::adamw::{self, AdamWArgs, AdamWPlan, AdamWTensor, AdamWTensors};

use super::{AdamWOptions, NAME, Parameter};
use crate::gpu::kernel_dtype;
use crate::{Device, Dtype, Gpu, Result, Tensor};

/// Parameters that one launch updates.
pub(super) struct Group {
    gpu: Gpu,
    dtype: Dtype,
    /// Which of all parameters they are.
    members: Vec<usize>,
    plan: Arc<AdamWPlan>,
    tensors: AdamWTensors,
    /// An [`adamw::State`].
    state: Buffer,
}

/// The parameters that are on GPUs, by GPU and element type.
pub(super) fn groups(options: &AdamWOptions, parameters: &[Parameter]) -> Result<Vec<Group>> {
    let mut kinds: Vec<(Gpu, Dtype, Vec<usize>)> = Vec::new();
    for (i, parameter) in parameters.iter().enumerate() {
        if let Device::Gpu(gpu) = parameter.tensor.device() {
            let dtype = parameter.tensor.dtype();
            match kinds.iter_mut().find(|(other, other_dtype, _)| other == gpu && *other_dtype == dtype) {
                Some((_, _, members)) => members.push(i),
                None => kinds.push((gpu.clone(), dtype, vec![i])),
            }
        }
    }
    kinds
        .into_iter()
        .map(|(gpu, dtype, members)| Group::new(gpu, dtype, members, options, parameters))
        .collect()
}

impl Group {
    fn new(
        gpu: Gpu,
        dtype: Dtype,
        members: Vec<usize>,
        options: &AdamWOptions,
        parameters: &[Parameter],
    ) -> Result<Group> {
        let key = (kernel_dtype(NAME, dtype)?, dtype != Dtype::F32);
        let plan = gpu
            .plans()
            .adamw
            .get(key, |(dtype, master)| adamw::AdamW::new(dtype, dtype).master(master).plan(gpu.device()))?;
        let entry = |&i: &usize| {
            let Parameter { tensor, state, .. } = &parameters[i];
            Ok(AdamWTensor {
                count: tensor.numel(),
                parameter: tensor.pointer(NAME)?,
                master: state.master.as_ref().map_or(Ok(DevicePtr::NULL), |master| master.pointer(NAME))?,
                m: state.mean.pointer(NAME)?,
                v: state.mean_square.pointer(NAME)?,
                weight_decay: options.decay_of(&parameters[i]) as f32,
            })
        };
        let entries = members.iter().map(entry).collect::<Result<Vec<_>>>()?;
        let tensors = plan.tensors(gpu.stream(), &entries)?;
        let state = gpu.workspace(size_of::<adamw::State>())?;
        Ok(Group { gpu, dtype, members, plan, tensors, state })
    }

    /// Takes the `step`-th step, counted from 1; `gradients` are those of all parameters, contiguous and checked.
    pub(super) fn step(
        &self,
        options: &AdamWOptions,
        gradients: &[Tensor],
        step: u32,
        lr: f64,
    ) -> Result<()> {
        debug_assert!(self.members.iter().all(|&i| gradients[i].dtype() == self.dtype));
        let pointers =
            self.members.iter().map(|&i| gradients[i].pointer(NAME)).collect::<Result<Vec<_>>>()?;
        self.tensors.gradients().set(&pointers)?;
        // The kernel counts the step up before it takes it.
        let state = adamw::State::new(i64::from(step) - 1, lr as f32);
        self.state.upload(0, bytemuck::bytes_of(&state))?;
        let args = AdamWArgs {
            tensors: &self.tensors,
            state: self.state.ptr(),
            gradient_scale: DevicePtr::NULL,
            beta1: options.betas.0,
            beta2: options.betas.1,
            eps: options.eps as f32,
        };
        // SAFETY: parameters, masters and moments are contiguous tensors of one size that the optimiser holds, and none
        // shares memory with another; so are the gradients, which the caller holds; all are on this GPU and used and
        // freed on its one stream, on which the tables were uploaded too.
        unsafe { self.plan.launch(self.gpu.stream(), &args)? };
        Ok(())
    }
}
