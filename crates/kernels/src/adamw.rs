//! `kernels/adamw/step.cu`: AdamW for any number of tensors in one launch.

use bytemuck::Zeroable;
use longhand_gpu::{Buffer, Constants, Device, DevicePtr, Stream, params};

use crate::check::Check;
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::tensor_list::{CHUNK, TensorList};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("AdamW");
const THREADS: u32 = 256;

params! {
    struct AdvanceParams {
        state: DevicePtr,
        norm: DevicePtr,
        beta1: f64,
        beta2: f64,
        seed: u64,
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
        m_scale: DevicePtr,
        v_scale: DevicePtr,
        count: i64,
        weight_decay: f32,
        number: u32,
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
        /// Steps not taken so far, since a gradient was not finite.
        pub skipped: i64,
        /// The learning rate of the next step.
        pub learning_rate: f32,
        correction1: f32,
        correction2: f32,
        taken: i32,
        key: u64,
    }
}

impl State {
    /// Bytes from the start of a state to its learning rate.
    pub const LEARNING_RATE_OFFSET: i64 = 16;

    /// After `step` steps taken and `skipped` ones not taken; 0 for a new optimizer.
    #[must_use]
    pub fn new(step: i64, skipped: i64, learning_rate: f32) -> State {
        State { step, skipped, learning_rate, ..State::zeroed() }
    }
}

/// How a parameter of 16 bits keeps updates that are smaller than half its rounding step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// It loses them: for parameters of f32.
    Nearest,
    /// An f32 copy of each parameter is what is optimised, and the parameter is that, rounded.
    Master,
    /// Up with the probability of how far the f32 is on the way, else down (Gupta et al. 2015, arXiv 1502.02551,
    /// section 3): right in the mean, and without a copy. For bf16. The random bits are Philox's, by seed, step and
    /// position: the same on every device ([`round_stochastically`]).
    Stochastic,
}

/// What the moments of a parameter are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moments {
    /// 4 bytes each.
    F32,
    /// 8 bits each, with an f32 scale for every [`BLOCK`](Moments::BLOCK) neighbours: the dynamic map of Dettmers et al.
    /// 2022 (arXiv 2110.02861), signed for the first moment and not for the second, with the values of bitsandbytes.
    EightBit,
}

impl Moments {
    /// Elements that share a scale.
    pub const BLOCK: usize = 256;
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
/// The arithmetic is f32. Deterministic: the same inputs give the same bits.
///
/// Bytes moved for each parameter: 28 of f32; 28 of bf16 with bf16 gradients and masters; 22 of bf16 rounded
/// stochastically; and 12 less with [`Moments::EightBit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdamW {
    dtype: Dtype,
    gradient: Dtype,
    rounding: Rounding,
    moments: Moments,
}

impl AdamW {
    /// For parameters of `dtype` and gradients of `gradient`, rounded to nearest, with moments of f32.
    #[must_use]
    pub fn new(dtype: Dtype, gradient: Dtype) -> AdamW {
        AdamW { dtype, gradient, rounding: Rounding::Nearest, moments: Moments::F32 }
    }

    /// How parameters are rounded.
    #[must_use]
    pub fn rounding(self, rounding: Rounding) -> AdamW {
        AdamW { rounding, ..self }
    }

    /// What moments are stored in.
    #[must_use]
    pub fn moments(self, moments: Moments) -> AdamW {
        AdamW { moments, ..self }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for stochastic rounding of anything but bf16;
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<AdamWPlan> {
        if self.rounding == Rounding::Stochastic && self.dtype != Dtype::Bf16 {
            return Err(CHECK.error("dtype", self.dtype, "bf16 for stochastic rounding"));
        }
        let [advance, step] = self.variants();
        let (advance, step) = (Loaded::new(device, &advance)?, Loaded::new(device, &step)?);
        Ok(AdamWPlan { kind: *self, advance, step })
    }

    fn variants(self) -> [Variant; 2] {
        let [file] = cuda_files!["adamw/step.cu"];
        let constants = Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .alias("Gradient", self.gradient.cuda_name())
            .int("ROUNDING", self.rounding as i64)
            .bool("EIGHT_BIT", self.moments == Moments::EightBit)
            .int("CHUNK", CHUNK as i64)
            .int("THREADS", THREADS);
        let program = program(*file, cuda_files!["adamw/dynamic_map.cuh"], constants)
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
    use Moments::EightBit;
    use Rounding::{Master, Nearest, Stochastic};
    let f32_moments = [
        (F32, F32, Nearest),
        (Bf16, Bf16, Master),
        (Bf16, F32, Master),
        (F16, F16, Master),
        (Bf16, Bf16, Stochastic),
    ];
    let f32_moments =
        f32_moments.map(|(dtype, gradient, rounding)| AdamW::new(dtype, gradient).rounding(rounding));
    let eight_bit = [(F32, Nearest), (Bf16, Stochastic)];
    let eight_bit =
        eight_bit.map(|(dtype, rounding)| AdamW::new(dtype, dtype).rounding(rounding).moments(EightBit));
    f32_moments.into_iter().chain(eight_bit).flat_map(AdamW::variants).collect()
}

/// `x` as bf16 (widened again), as [`Rounding::Stochastic`] rounds it with this word of random bits: up where the upper
/// half of the word is at least as large as what is missing, so with the probability of how far `x` is on the way.
///
/// For element `i` of tensor `t` at step `s` (counted from 1), the word is number `i % 4` of
/// `Random { seed, offset: s }.words([i / 4, (i / 4) >> 32, t, 0])`.
///
/// ```
/// use longhand_kernels::adamw::round_stochastically;
///
/// let x = 1.0 + 0.25 / 128.0; // a quarter of the way from 1 to the next bf16
/// let up = (0..=u16::MAX).filter(|&bits| round_stochastically(x, u32::from(bits) << 16) > 1.0).count();
/// assert_eq!(up, 1 << 14);
/// ```
#[must_use]
pub fn round_stochastically(x: f32, word: u32) -> f32 {
    if x.is_nan() { x } else { f32::from_bits(x.to_bits().wrapping_add(word >> 16) & 0xffff_0000) }
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
    /// First moment, f32 or one byte each, updated. Before the first step, f32 is 0; bytes may be anything.
    pub m: DevicePtr,
    /// Second moment, the same.
    pub v: DevicePtr,
    /// With [`Moments::EightBit`], `(count / 256, rounded up)` f32: the scales of `m`, updated, 0 before the first step.
    /// [`DevicePtr::NULL`] without.
    pub m_scale: DevicePtr,
    /// The scales of `v`.
    pub v_scale: DevicePtr,
    /// Which of the optimizer's tensors it is: its random bits are its own.
    pub number: u32,
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
    /// A [`State`] in device memory.
    pub state: DevicePtr,
    /// One f32 in device memory, such as the norm that [`GradientNorm`](crate::reduction::GradientNorm) leaves: where it
    /// is not finite, the step is not taken. Or [`DevicePtr::NULL`]: every step is.
    pub norm: DevicePtr,
    /// One f32 in device memory that every gradient is multiplied by, such as
    /// [`GradientNorm`](crate::reduction::GradientNorm) leaves for clipping; or [`DevicePtr::NULL`] for 1.
    pub gradient_scale: DevicePtr,
    /// β₁, the decay of the first moment, from 0 to below 1.
    pub beta1: f64,
    /// β₂, the decay of the second moment, from 0 to below 1.
    pub beta2: f64,
    /// ε, added to the root of the second moment.
    pub eps: f32,
    /// Of the bits that parameters are rounded with.
    pub seed: u64,
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
        let updated = CHECK.all_apart(
            tensors.iter().enumerate().flat_map(|(i, tensor)| extents(self.kind, i, tensor)).collect(),
        )?;
        let counts: Vec<usize> = tensors.iter().map(|tensor| tensor.count).collect();
        let size = self.kind.gradient.size();
        let gradients = TensorList::new(stream, &counts)?.apart_from(CHECK, size, updated);
        let tensors = stream.alloc(size_of_val(&*table))?;
        tensors.upload(0, bytemuck::cast_slice(&table))?;
        Ok(AdamWTensors { tensors, gradients })
    }

    /// Begins a step, enqueued on `stream`: counts it in the state, as taken or as skipped, and leaves there what the
    /// step depends on. Once for all the plans and tensors that share the state. No allocation, no synchronisation.
    ///
    /// # Safety
    ///
    /// State and norm of `args` lie in memory of the stream's device that stays allocated until the stream has come to
    /// this point.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for numbers or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn advance(&self, stream: &Stream, args: &AdamWArgs) -> Result<()> {
        let AdamWArgs { state, norm, beta1, beta2, seed, .. } = *args;
        args.numbers().check()?;
        let params = AdvanceParams { state, norm, beta1, beta2, seed };
        // SAFETY: the caller answers for the memory.
        unsafe { self.advance.launch(stream, [1, 1], &params) }
    }

    /// Updates the tensors, enqueued on `stream` after [`AdamWPlan::advance`]: no allocation, no synchronisation. Does
    /// nothing where that skipped the step.
    ///
    /// # Safety
    ///
    /// The tensors of `args.tensors`, its gradients (which have been set), state and scale lie in memory of the
    /// stream's device that stays allocated until the stream has come to this point, and do not overlap. The tables
    /// were made, and the gradients last set, on this stream, or on one that this stream has waited for.
    ///
    /// # Errors
    ///
    /// As [`AdamWPlan::advance`].
    pub unsafe fn launch(&self, stream: &Stream, args: &AdamWArgs) -> Result<()> {
        let numbers = args.numbers();
        numbers.check()?;
        let [state, norm, gradient_scale] = numbers.extents();
        let gradients = &args.tensors.gradients;
        [state, norm, gradient_scale].iter().try_for_each(|number| gradients.check_number(number))?;
        gradients.check_apart(CHECK, self.kind.gradient.size(), &[state])?;
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
        if blocks == 0 {
            return Ok(());
        }
        // SAFETY: the caller answers for the memory; the tables fit it, as they were made with it.
        unsafe { self.step.launch(stream, [blocks as u32, 1], &params) }
    }
}

fn table(kind: AdamW, tensors: &[AdamWTensor]) -> Result<Vec<Tensor>> {
    tensors.iter().enumerate().map(|(i, tensor)| entry(kind, i, tensor)).collect()
}

fn entry(kind: AdamW, i: usize, tensor: &AdamWTensor) -> Result<Tensor> {
    let AdamWTensor { count, parameter, master, m, v, m_scale, v_scale, weight_decay, number } = *tensor;
    let named = |what| format!("{what} of tensor {i}");
    // What a plan has no use for has to be absent: whoever gives it took it for another plan.
    let only = |what, data: DevicePtr, wanted: bool, plan: &str| match wanted {
        true => CHECK.tensor(&named(what), data, Dtype::F32),
        false if data.is_null() => Ok(()),
        false => Err(CHECK.error(&named(what), "given", format!("null in a plan without {plan}"))),
    };
    let eight_bit = kind.moments == Moments::EightBit;
    if count > 0 {
        CHECK.tensor(&named("parameter"), parameter, kind.dtype)?;
        let moment_bytes = if eight_bit { 1 } else { 4 };
        CHECK.memory(&named("m"), m, moment_bytes)?;
        CHECK.memory(&named("v"), v, moment_bytes)?;
        only("master", master, kind.rounding == Rounding::Master, "masters")?;
        only("m_scale", m_scale, eight_bit, "8-bit moments")?;
        only("v_scale", v_scale, eight_bit, "8-bit moments")?;
    }
    if !weight_decay.is_finite() {
        return Err(CHECK.error(&named("weight_decay"), weight_decay, "finite"));
    }
    Ok(Tensor { parameter, master, m, v, m_scale, v_scale, count: count as i64, weight_decay, number })
}

/// All that is updated of a tensor.
fn extents(kind: AdamW, i: usize, tensor: &AdamWTensor) -> [Extent; 6] {
    let AdamWTensor { count, parameter, master, m, v, m_scale, v_scale, .. } = *tensor;
    let moment_bytes = if kind.moments == Moments::EightBit { 1 } else { 4 };
    let scales = count.div_ceil(Moments::BLOCK);
    [
        ("parameter of tensor {}", parameter, count, kind.dtype.size()),
        ("master of tensor {}", master, count, 4),
        ("m of tensor {}", m, count, moment_bytes),
        ("v of tensor {}", v, count, moment_bytes),
        ("m_scale of tensor {}", m_scale, scales, 4),
        ("v_scale of tensor {}", v_scale, scales, 4),
    ]
    .map(|(name, data, count, size)| Extent::contiguous(name, data, count, size).written().number(i))
}

/// The arguments that both launches check.
#[derive(Clone, Copy)]
struct Numbers {
    state: DevicePtr,
    norm: DevicePtr,
    gradient_scale: DevicePtr,
    beta1: f64,
    beta2: f64,
    eps: f32,
}

impl AdamWArgs<'_> {
    fn numbers(&self) -> Numbers {
        let AdamWArgs { state, norm, gradient_scale, beta1, beta2, eps, .. } = *self;
        Numbers { state, norm, gradient_scale, beta1, beta2, eps }
    }
}

impl Numbers {
    fn check(self) -> Result<()> {
        CHECK.memory("state", self.state, align_of::<State>() as u64)?;
        CHECK.optional("norm", self.norm, Dtype::F32)?;
        CHECK.optional("gradient_scale", self.gradient_scale, Dtype::F32)?;
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(CHECK.error(name, beta, "at least 0 and below 1"));
            }
        }
        if !(self.eps >= 0.0 && self.eps.is_finite()) {
            return Err(CHECK.error("eps", self.eps, "finite and not negative"));
        }
        CHECK.apart(&self.extents())
    }

    fn extents(self) -> [Extent; 3] {
        [
            Extent::contiguous("state", self.state, 1, size_of::<State>()).written(),
            Extent::contiguous("norm", self.norm, 1, 4),
            Extent::contiguous("gradient_scale", self.gradient_scale, 1, 4),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhand_gpu::Error as GpuError;

    #[test]
    fn a_number_out_of_range_is_named() {
        let [null, at] = [DevicePtr::NULL, DevicePtr(64)];
        let fine =
            Numbers { state: at, norm: null, gradient_scale: null, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
        let message =
            |numbers: Numbers| numbers.check().map_or_else(|error| error.to_string(), |()| "fine".into());
        assert_eq!(message(fine), "fine");
        assert_eq!(message(Numbers { beta1: 0.0, beta2: 0.0, eps: 0.0, ..fine }), "fine");
        assert_eq!(
            message(Numbers { beta1: 1.0, ..fine }),
            "AdamW: beta1 is 1, it has to be at least 0 and below 1"
        );
        assert_eq!(
            message(Numbers { beta2: f64::NAN, ..fine }),
            "AdamW: beta2 is NaN, it has to be at least 0 and below 1"
        );
        assert_eq!(
            message(Numbers { eps: -1.0, ..fine }),
            "AdamW: eps is -1, it has to be finite and not negative"
        );
        assert_eq!(
            message(Numbers { state: DevicePtr(68), ..fine }),
            "AdamW: state is DevicePtr(0x44), it has to be an address that is a multiple of 8"
        );
        assert_eq!(
            message(Numbers { norm: DevicePtr(66), ..fine }),
            "AdamW: norm is DevicePtr(0x42), it has to be an address that is a multiple of 4"
        );
    }

    fn tensor(count: usize, at: DevicePtr) -> AdamWTensor {
        let [master, m_scale, v_scale] = [DevicePtr::NULL; 3];
        AdamWTensor {
            count,
            parameter: at,
            master,
            m: at,
            v: at,
            m_scale,
            v_scale,
            weight_decay: 0.1,
            number: 0,
        }
    }

    #[test]
    fn masters_and_scales_are_needed_exactly_where_the_plan_has_them() {
        let at = DevicePtr(64);
        let tensor = tensor(3, at);
        let apart =
            |tensor| CHECK.all_apart(extents(AdamW::new(Dtype::Bf16, Dtype::Bf16), 0, &tensor).into());
        assert!(apart(AdamWTensor { m: DevicePtr(128), v: DevicePtr(256), ..tensor }).is_ok());
        assert_eq!(
            apart(tensor).unwrap_err().to_string(),
            "AdamW: parameter of tensor 0 is at 0x40..0x46, it has to be apart from m of tensor 0 at 0x40..0x4c"
        );
        let plain = AdamW::new(Dtype::Bf16, Dtype::Bf16);
        assert_eq!(table(plain, &[tensor]).unwrap()[0].count, 3);
        let message = |kind, tensor| table(kind, &[tensor]).unwrap_err().to_string();
        assert_eq!(
            message(plain.rounding(Rounding::Master), tensor),
            "AdamW: master of tensor 0 is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(plain, AdamWTensor { master: at, ..tensor }),
            "AdamW: master of tensor 0 is given, it has to be null in a plan without masters"
        );
        assert_eq!(
            message(plain.moments(Moments::EightBit), AdamWTensor { m_scale: at, ..tensor }),
            "AdamW: v_scale of tensor 0 is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(plain, AdamWTensor { v_scale: at, ..tensor }),
            "AdamW: v_scale of tensor 0 is given, it has to be null in a plan without 8-bit moments"
        );
    }

    #[test]
    fn the_learning_rate_lies_where_it_is_said_to() {
        assert_eq!(std::mem::offset_of!(State, learning_rate) as i64, State::LEARNING_RATE_OFFSET);
    }

    /// None, and a line that says so, where there is no NVRTC.
    fn emulated() -> Option<Device> {
        let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
        match device.compiler() {
            Err(error @ GpuError::LibraryNotFound { .. }) => {
                println!("skipped: {error}");
                None
            }
            _ => Some(device),
        }
    }

    #[test]
    fn stochastic_rounding_is_for_bf16() {
        let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
        let plan = AdamW::new(Dtype::F16, Dtype::F16).rounding(Rounding::Stochastic).plan(&device);
        assert_eq!(
            plan.unwrap_err().to_string(),
            "AdamW: dtype is f16, it has to be bf16 for stochastic rounding"
        );
    }

    /// The last chunk of a tensor of more than 2^32 elements, alone: the memory before it, 64 GB, is never touched.
    #[test]
    fn offsets_of_more_than_32_bits_are_stepped() {
        let Some(device) = emulated() else { return };
        let stream = device.new_stream().unwrap();
        let before = (1usize << 32) / CHUNK * CHUNK;
        let count = before + 5;
        let memory: Vec<Buffer> = (0..4).map(|_| stream.alloc(count * 4).unwrap()).collect();
        for (buffer, value) in memory.iter().zip([1.0f32, 2.0, 0.0, 0.0]) {
            buffer.upload(before * 4, bytemuck::cast_slice(&[value; 5])).unwrap();
        }
        let [parameter, gradient, m, v] = [0, 1, 2, 3].map(|i| memory[i].ptr());
        let plan = AdamW::new(Dtype::F32, Dtype::F32).plan(&device).unwrap();
        let entry = AdamWTensor { m, v, weight_decay: 0.0, ..tensor(count, parameter) };
        let table = table(plan.kind, &[entry]).unwrap();
        let tables = stream.alloc(size_of_val(&*table)).unwrap();
        tables.upload(0, bytemuck::cast_slice(&table)).unwrap();
        let gradients = TensorList::of_chunk(&stream, count, before / CHUNK).unwrap();
        gradients.set(&[gradient]).unwrap();
        let tensors = AdamWTensors { tensors: tables, gradients };
        let state = stream.alloc(size_of::<State>()).unwrap();
        state.upload(0, bytemuck::bytes_of(&State::new(0, 0, 0.25))).unwrap();
        let [norm, gradient_scale] = [DevicePtr::NULL; 2];
        let (beta1, beta2) = (0.9, 0.999);
        let args = AdamWArgs {
            tensors: &tensors,
            state: state.ptr(),
            norm,
            gradient_scale,
            beta1,
            beta2,
            eps: 0.0,
            seed: 0,
        };
        // SAFETY: the tables are of these allocations, of which the one chunk that the list has was written.
        unsafe {
            plan.advance(&stream, &args).unwrap();
            plan.launch(&stream, &args).unwrap();
        }
        let mut last = [0f32; 5];
        memory[0].download(before * 4, bytemuck::cast_slice_mut(&mut last)).unwrap();
        assert!(last.iter().all(|p| (p - 0.75).abs() < 1e-6), "{last:?}");
    }
}
