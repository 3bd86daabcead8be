//! `kernels/adamw/step.cu`: AdamW for any number of tensors in one launch.

use bytemuck::Zeroable;
use longhand_gpu::{Buffer, Constants, Device, DevicePtr, Stream, params};

use crate::check::Check;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::tensor_list::{CHUNK, TensorList};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("AdamW");
const THREADS: u32 = 256;

params! {
    struct AdvanceParams {
        state: DevicePtr,
        beta1: f64,
        beta2: f64,
    }
}

params! {
    struct Params {
        state: DevicePtr,
        tensors: DevicePtr,
        gradients: DevicePtr,
        chunks: DevicePtr,
        gradient_scale: DevicePtr,
        rest1: f32,
        rest2: f32,
        eps: f32,
        _pad: u32,
    }
}

params! {
    /// One parameter tensor, as the kernel has it.
    struct Tensor {
        parameter: DevicePtr,
        master: DevicePtr,
        m: DevicePtr,
        v: DevicePtr,
        count: i64,
        weight_decay: f32,
        _pad: u32,
    }
}

params! {
    /// What an optimizer remembers in device memory beside its tensors. Upload it once, at a multiple of 8 bytes;
    /// change the learning rate there ([`State::LEARNING_RATE_OFFSET`]), read the step there for a checkpoint.
    ///
    /// Being read on the device, the learning rate may change from step to step under one and the same launch, such as
    /// a captured graph repeats.
    #[derive(PartialEq)]
    pub struct State {
        /// Steps taken so far.
        pub step: i64,
        /// The learning rate of the next step.
        pub learning_rate: f32,
        correction1: f32,
        correction2: f32,
        _pad: u32,
    }
}

impl State {
    /// Bytes from the start of a state to its learning rate.
    pub const LEARNING_RATE_OFFSET: i64 = 8;

    /// After `step` steps; 0 for a new optimizer.
    #[must_use]
    pub fn new(step: i64, learning_rate: f32) -> State {
        State { step, learning_rate, ..State::zeroed() }
    }
}

/// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), with the weight decay of each tensor its own:
///
/// ```text
/// p = p - lr * weight_decay * p
/// m = beta1 * m + (1 - beta1) * g
/// v = beta2 * v + (1 - beta2) * g²
/// p = p - lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
/// ```
///
/// Moments and arithmetic are f32. Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    dtype: Dtype,
    gradient: Dtype,
    master: bool,
}

impl AdamW {
    /// For parameters of `dtype` and gradients of `gradient`.
    #[must_use]
    pub fn new(dtype: Dtype, gradient: Dtype) -> AdamW {
        AdamW { dtype, gradient, master: false }
    }

    /// Whether an f32 copy of each parameter is what is optimised, and the parameter is that, rounded. Without one, an
    /// update that is smaller than half a rounding step of a 16-bit parameter is lost.
    #[must_use]
    pub fn master(self, master: bool) -> AdamW {
        AdamW { master, ..self }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<AdamWPlan> {
        let [advance, step] = self.variants();
        let (advance, step) = (Loaded::new(device, &advance)?, Loaded::new(device, &step)?);
        Ok(AdamWPlan { kind: *self, advance, step })
    }

    fn variants(self) -> [Variant; 2] {
        let [file] = cuda_files!["adamw/step.cu"];
        let constants = Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .alias("Gradient", self.gradient.cuda_name())
            .bool("MASTER", self.master)
            .int("CHUNK", CHUNK as i64)
            .int("THREADS", THREADS);
        let program = program(*file, &[], constants)
            .params(AdvanceParams::LAYOUT)
            .params(Params::LAYOUT)
            .params(Tensor::LAYOUT)
            .params(State::LAYOUT);
        [("adamw_advance", 1), ("adamw_step", THREADS)].map(|(entry, threads)| Variant {
            program: program.clone(),
            entry,
            threads,
            shared_bytes: 0,
        })
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    use Dtype::{Bf16, F16, F32};
    [(F32, F32, false), (Bf16, Bf16, false), (Bf16, Bf16, true), (Bf16, F32, true), (F16, F16, true)]
        .into_iter()
        .flat_map(|(dtype, gradient, master)| AdamW::new(dtype, gradient).master(master).variants())
        .collect()
}

/// One parameter tensor: contiguous, of any size and alignment. With all its addresses at multiples of 16 bytes, memory
/// is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWTensor {
    /// Elements.
    pub count: usize,
    /// The parameter, in the plan's dtype; updated.
    pub parameter: DevicePtr,
    /// Its f32 master copy, updated; [`DevicePtr::NULL`] in a plan without.
    pub master: DevicePtr,
    /// First moment, f32, updated; 0 before the first step.
    pub m: DevicePtr,
    /// Second moment, f32, updated; 0 before the first step.
    pub v: DevicePtr,
    /// λ: each step takes away `learning_rate * weight_decay` of the parameter.
    pub weight_decay: f32,
}

/// What [`AdamWPlan::launch`] updates: a table in device memory of where everything lies. Made once; the launch uploads
/// nothing.
#[derive(Debug)]
pub struct AdamWTensors {
    tensors: Buffer,
    gradients: TensorList,
}

impl AdamWTensors {
    /// Where the gradients lie: to be set ([`TensorList::set`]) before the first launch, and whenever they move.
    #[must_use]
    pub fn gradients(&self) -> &TensorList {
        &self.gradients
    }
}

/// What [`AdamWPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct AdamWArgs<'a> {
    /// Parameters and gradients.
    pub tensors: &'a AdamWTensors,
    /// A [`State`] in device memory. The launch counts its step up.
    pub state: DevicePtr,
    /// One f32 in device memory that every gradient is multiplied by, such as
    /// [`GradientNorm`](crate::reduction::GradientNorm) leaves for clipping; or [`DevicePtr::NULL`] for 1.
    pub gradient_scale: DevicePtr,
    /// β₁, the decay of the first moment, from 0 to below 1.
    pub beta1: f64,
    /// β₂, the decay of the second moment, from 0 to below 1.
    pub beta2: f64,
    /// ε, added to the root of the second moment.
    pub eps: f32,
}

/// A compiled [`AdamW`].
#[derive(Clone, Debug)]
pub struct AdamWPlan {
    kind: AdamW,
    advance: Loaded,
    step: Loaded,
}

impl AdamWPlan {
    /// Allocates and uploads, on `stream`, the table of what is to be updated.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub fn tensors(&self, stream: &Stream, tensors: &[AdamWTensor]) -> Result<AdamWTensors> {
        let table = table(self.kind, tensors)?;
        let counts: Vec<usize> = tensors.iter().map(|tensor| tensor.count).collect();
        let gradients = TensorList::new(stream, &counts)?;
        let tensors = stream.alloc(size_of_val(&*table))?;
        tensors.upload(0, bytemuck::cast_slice(&table))?;
        Ok(AdamWTensors { tensors, gradients })
    }

    /// Takes one step, enqueued on `stream`: no allocation, no synchronisation.
    ///
    /// # Safety
    ///
    /// The tensors of `args.tensors`, its gradients (which have been set), state and scale lie in memory of the
    /// stream's device that stays allocated until the stream has come to this point, and do not overlap. The tables
    /// were made, and the gradients last set, on this stream, or on one that this stream has waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for numbers or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &AdamWArgs) -> Result<()> {
        check(args.state, args.gradient_scale, args.beta1, args.beta2, args.eps)?;
        let advance = AdvanceParams { state: args.state, beta1: args.beta1, beta2: args.beta2 };
        let params = Params {
            state: args.state,
            tensors: args.tensors.tensors.ptr(),
            gradients: args.tensors.gradients.pointers_ptr(),
            chunks: args.tensors.gradients.chunks_ptr(),
            gradient_scale: args.gradient_scale,
            rest1: (1.0 - args.beta1) as f32,
            rest2: (1.0 - args.beta2) as f32,
            eps: args.eps,
            _pad: 0,
        };
        let blocks = args.tensors.gradients.blocks();
        // SAFETY: the caller answers for the memory; the tables fit it, as they were made with it.
        unsafe {
            self.advance.launch(stream, [1, 1], &advance)?;
            if blocks > 0 { self.step.launch(stream, [blocks as u32, 1], &params) } else { Ok(()) }
        }
    }
}

fn table(kind: AdamW, tensors: &[AdamWTensor]) -> Result<Vec<Tensor>> {
    let entry = |(i, tensor): (usize, &AdamWTensor)| {
        let AdamWTensor { count, parameter, master, m, v, weight_decay } = *tensor;
        let named = |what| format!("{what} of tensor {i}");
        if count > 0 {
            CHECK.tensor(&named("parameter"), parameter, kind.dtype)?;
            CHECK.tensor(&named("m"), m, Dtype::F32)?;
            CHECK.tensor(&named("v"), v, Dtype::F32)?;
            match kind.master {
                true => CHECK.tensor(&named("master"), master, Dtype::F32)?,
                false if master.is_null() => (),
                false => {
                    return Err(CHECK.error(&named("master"), "given", "null in a plan without masters"));
                }
            }
        }
        if !weight_decay.is_finite() {
            return Err(CHECK.error(&named("weight_decay"), weight_decay, "finite"));
        }
        Ok(Tensor { parameter, master, m, v, count: count as i64, weight_decay, _pad: 0 })
    };
    tensors.iter().enumerate().map(entry).collect()
}

fn check(state: DevicePtr, gradient_scale: DevicePtr, beta1: f64, beta2: f64, eps: f32) -> Result<()> {
    CHECK.memory("state", state, align_of::<State>() as u64)?;
    CHECK.optional("gradient_scale", gradient_scale, Dtype::F32)?;
    for (name, beta) in [("beta1", beta1), ("beta2", beta2)] {
        if !(0.0..1.0).contains(&beta) {
            return Err(CHECK.error(name, beta, "at least 0 and below 1"));
        }
    }
    if !(eps >= 0.0 && eps.is_finite()) {
        return Err(CHECK.error("eps", eps, "finite and not negative"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_named() {
        let at = DevicePtr(64);
        let message = |state, beta1, beta2, eps| {
            check(state, DevicePtr::NULL, beta1, beta2, eps)
                .map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(message(at, 0.9, 0.999, 1e-8), "fine");
        assert_eq!(message(at, 0.0, 0.0, 0.0), "fine");
        assert_eq!(message(at, 1.0, 0.9, 0.0), "AdamW: beta1 is 1, it has to be at least 0 and below 1");
        assert_eq!(
            message(at, 0.9, f64::NAN, 0.0),
            "AdamW: beta2 is NaN, it has to be at least 0 and below 1"
        );
        assert_eq!(message(at, 0.9, 0.9, -1.0), "AdamW: eps is -1, it has to be finite and not negative");
        assert_eq!(
            message(DevicePtr(68), 0.9, 0.9, 0.0),
            "AdamW: state is DevicePtr(0x44), it has to be an address that is a multiple of 8"
        );
    }

    #[test]
    fn a_master_copy_is_needed_exactly_where_the_plan_has_one() {
        let [null, at] = [DevicePtr::NULL, DevicePtr(64)];
        let tensor = AdamWTensor { count: 3, parameter: at, master: null, m: at, v: at, weight_decay: 0.1 };
        let plain = AdamW::new(Dtype::Bf16, Dtype::Bf16);
        assert_eq!(table(plain, &[tensor]).unwrap()[0].count, 3);
        let error = table(plain.master(true), &[tensor]).unwrap_err().to_string();
        assert_eq!(
            error,
            "AdamW: master of tensor 0 is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
        let error = table(plain, &[AdamWTensor { master: at, ..tensor }]).unwrap_err().to_string();
        assert_eq!(error, "AdamW: master of tensor 0 is given, it has to be null in a plan without masters");
    }

    #[test]
    fn the_learning_rate_lies_where_it_is_said_to() {
        assert_eq!(std::mem::offset_of!(State, learning_rate) as i64, State::LEARNING_RATE_OFFSET);
    }
}
