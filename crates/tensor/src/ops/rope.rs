//! Rotary position embedding.

use longhand_kernels::rope::{Direction, Rope as Kernel, RopeArgs};

use super::attention::{heads_or_none, with_contiguous_heads};
use super::{check_alike, check_device, widened};
use crate::autograd::apply;
use crate::cpu::math::{self, MOST_TURNED};
use crate::cpu::parallel::{for_chunks, rows_per_chunk};
use crate::cpu::simd::vectorised;
use crate::cpu::{Real, pool};
use crate::dtype::with_real;
use crate::gpu::kernel_dtype;
use crate::tensor::check_new;
use crate::{Backward, Device, Dtype, Error, Forward, Gpu, Operation, Result, Tensor};

/// How fast the pairs of a head's elements turn, and which elements make a pair.
#[derive(Clone, Debug)]
pub struct Rope {
    /// `(n)` f32, on the device of the heads: radians per position of each of n pairs. The first 2n elements of a head turn,
    /// the others stay. Every scaling of the context (linear, NTK, YaRN, LongRoPE, llama3) is another table.
    pub frequencies: Tensor,
    /// What the turned elements are multiplied by: 1, or YaRN's attention factor (Peng et al. 2023, arXiv 2309.00071,
    /// section 3.4).
    pub factor: f64,
    /// Pair `i` is elements `2i` and `2i + 1`, as in the paper; else `i` and `i + n`, as in Llama.
    pub interleaved: bool,
}

impl Rope {
    /// `theta^(-2i / dim)` for the pairs of `dim` elements (Su et al. 2021, section 3.2.2), in halves, with factor 1.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, ops::Rope};
    /// let rope = Rope::new(128, 500_000.0, &Device::Cpu)?; // Llama 3's
    /// assert_eq!((rope.frequencies.shape(), rope.frequencies.slice(0)?.item()?), (&[64][..], 1.0));
    /// // Twice the context, by linear scaling.
    /// let scaled = Rope { frequencies: rope.frequencies.scale(0.5)?, ..rope };
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When `theta` is not positive, or there is no memory for the table on the device.
    pub fn new(dim: usize, theta: f64, device: &Device) -> Result<Rope> {
        if !(theta.is_finite() && theta > 0.0) {
            return Err(Error::argument(NAME, "theta", theta.to_string(), "positive and finite"));
        }
        check_new(NAME, &[dim / 2], Dtype::F32, &Device::Cpu)?;
        let frequency = |i: usize| theta.powf(-2.0 * i as f64 / dim as f64) as f32;
        let frequencies: Vec<f32> = (0..dim / 2).map(frequency).collect();
        let frequencies = Tensor::from_slice(&frequencies, &[frequencies.len()], device)?;
        Ok(Rope { frequencies, factor: 1.0, interleaved: false })
    }

    /// Whether it turns heads like those of `x`, of `dim` elements.
    pub(crate) fn check(&self, x: &Tensor, dim: usize) -> Result<()> {
        let frequencies = &self.frequencies;
        check_device(NAME, x, frequencies)?;
        if frequencies.dtype() != Dtype::F32 {
            return Err(Error::dtype(NAME, frequencies.dtype(), "f32 for the frequencies"));
        }
        if !matches!(frequencies.shape(), &[pairs] if pairs > 0 && 2 * pairs <= dim) {
            let rule = format!("frequencies must be (n), with n at least 1 and 2 n at most D, {dim}");
            return Err(Error::shapes(NAME, frequencies.shape(), x.shape(), rule));
        }
        Ok(())
    }

    /// Turns keys on the CPU, `(B, T, Hkv, D)`, whose tokens have these positions, `(B, T)`.
    pub(crate) fn turn_keys(&self, k: &Tensor, positions: Vec<u32>) -> Result<Tensor> {
        let positions = Tensor::from_vec(positions, &k.shape()[..2], &Device::Cpu)?;
        Rotation(self.clone()).cpu(k, &positions, Direction::Forward)
    }
}

/// Turns each pair of elements of each head by its token's position times the pair's frequency (Su et al. 2021, RoFormer,
/// arXiv 2104.09864, eq. 34), so that products of queries and keys depend on the distance of their positions.
///
/// `q` is `(B, T, H, D)`, `k` is `(B, T, Hkv, D)`, `positions` u32, `(T)` or `(B, T)`; the results have the shapes of `q` and
/// `k`. Angles are exact at every position.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Dtype, Tensor, ops};
///
/// let rope = ops::Rope::new(64, 10_000.0, &Device::Cpu)?;
/// let (q, k) = (Tensor::full(&[1, 3, 4, 64], 1.0, Dtype::F32, &Device::Cpu)?, Tensor::zeros(&[1, 3, 2, 64], Dtype::F32, &Device::Cpu)?);
/// let positions = Tensor::from_slice(&[0u32, 1, 2], &[3], &Device::Cpu)?;
/// let (q, k) = ops::rope(&q, &k, &positions, &rope)?;
/// assert_eq!((q.shape(), k.shape()), (&[1, 3, 4, 64][..], &[1, 3, 2, 64][..]));
/// assert_eq!(q.narrow(1, 0, 1)?.to_vec::<f32>()?, [1.0; 256]); // position 0 does not turn
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types or devices do not fit.
pub fn rope(q: &Tensor, k: &Tensor, positions: &Tensor, rope: &Rope) -> Result<(Tensor, Tensor)> {
    let mut outputs = apply(Rotation(rope.clone()), &[q, k, positions])?;
    let k = outputs.swap_remove(1);
    Ok((outputs.swap_remove(0), k))
}

struct Rotation(Rope);

const NAME: &str = "rope";

impl Operation for Rotation {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (q, k, positions) = (&inputs[0], &inputs[1], &inputs[2].contiguous()?);
        self.check(q, k, positions)?;
        let outputs = self.turn([Some(q), Some(k)], positions, Direction::Forward)?;
        let saved = needs.contains(&true).then(|| positions.clone());
        Ok(Forward::new(outputs.into_iter().flatten().collect::<Vec<_>>()).save([saved]))
    }

    /// The transpose of a rotation is the rotation back.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let wanted = |i: usize| ctx.needs(i).then(|| ctx.grad(i)).transpose();
        let (q, k) = (wanted(0)?, wanted(1)?);
        let [q, k] = self.turn([q.as_ref(), k.as_ref()], ctx.saved(0)?, Direction::Backward)?;
        Ok(vec![q, k, None])
    }
}

impl Rotation {
    fn check(&self, q: &Tensor, k: &Tensor, positions: &Tensor) -> Result<()> {
        check_alike(NAME, &[q, k])?;
        check_device(NAME, q, positions)?;
        let (&[batch, tokens, _, dim], &[batch_k, tokens_k, _, dim_k]) = (q.shape(), k.shape()) else {
            let rule = "q must be (B, T, H, D), and k (B, T, Hkv, D)";
            return Err(Error::shapes(NAME, q.shape(), k.shape(), rule));
        };
        if (batch, tokens, dim) != (batch_k, tokens_k, dim_k) {
            return Err(Error::shapes(NAME, q.shape(), k.shape(), "q and k must agree in B, T and D"));
        }
        if positions.dtype() != Dtype::U32 {
            return Err(Error::dtype(NAME, positions.dtype(), "u32 for the positions"));
        }
        if positions.shape() != [tokens] && positions.shape() != [batch, tokens] {
            let rule = "positions must be (T) or (B, T)";
            return Err(Error::shapes(NAME, positions.shape(), q.shape(), rule));
        }
        self.0.check(q, dim)
    }

    /// Turns `q` and `k`, or the one that is given.
    fn turn(
        &self,
        heads: [Option<&Tensor>; 2],
        positions: &Tensor,
        direction: Direction,
    ) -> Result<[Option<Tensor>; 2]> {
        match positions.device() {
            Device::Cpu => {
                let [q, k] = heads.map(|x| x.map(|x| self.cpu(x, positions, direction)).transpose());
                Ok([q?, k?])
            }
            Device::Gpu(gpu) => self.on_gpu(gpu, heads, positions, direction),
        }
    }

    fn cpu(&self, x: &Tensor, positions: &Tensor, direction: Direction) -> Result<Tensor> {
        let wide = widened(NAME, x)?.contiguous()?;
        let &[_, tokens, heads, dim] = x.shape() else { return Ok(x.clone()) };
        let frequencies = self.0.frequencies.contiguous()?;
        let frequencies = &frequencies.read::<f32>(NAME)?[..frequencies.numel()];
        let positions = &positions.read::<u32>(NAME)?[..positions.numel()];
        let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
        with_real!(NAME, wide.dtype(), T => {
            let source = wide.read::<T>(NAME)?;
            let mut out = pool::buffer::<T>(wide.numel());
            let token = heads * dim;
            for_chunks(&mut out, (rows_per_chunk(token) * token).max(1), |start, out| {
                let mut turn = vec![T::ZERO; 2 * frequencies.len()];
                for (i, out) in out.chunks_exact_mut(token.max(1)).enumerate() {
                    // Without positions of its own, a batch has those of the first.
                    let row = start / token + i;
                    let position = positions[if positions.len() == tokens { row % tokens } else { row }];
                    cos_sin(&mut turn, sign * f64::from(position), frequencies, self.0.factor);
                    let source = &source[start + i * token..][..token];
                    match self.0.interleaved {
                        true => turn_heads::<T, true>(out, source, dim, &turn),
                        false => turn_heads::<T, false>(out, source, dim, &turn),
                    }
                }
            });
            Tensor::from_elements(out, x.shape()).to_dtype(x.dtype())
        })
    }

    fn on_gpu(
        &self,
        gpu: &Gpu,
        heads: [Option<&Tensor>; 2],
        positions: &Tensor,
        direction: Direction,
    ) -> Result<[Option<Tensor>; 2]> {
        let Rope { frequencies, factor, interleaved } = &self.0;
        let frequencies = frequencies.contiguous()?;
        let [q, k] = heads.map(|x| x.map(with_contiguous_heads).transpose());
        let (q, k) = (q?, k?);
        let Some(any) = q.as_ref().or(k.as_ref()) else { return Ok([None, None]) };
        let &[batch, tokens, _, dim] = any.shape() else { return Ok([q, k]) };
        let rotation = Kernel::new(kernel_dtype(NAME, any.dtype())?, dim)
            .rotary(2 * frequencies.numel())
            .interleaved(*interleaved);
        let plan = gpu.plans().rope.get(rotation, |rotation| rotation.plan(gpu.device()))?;
        let new = |x: &Option<Tensor>| x.as_ref().map(|x| gpu.empty(x.shape(), x.dtype())).transpose();
        let out = [new(&q)?, new(&k)?];
        let count = |x: &Option<Tensor>| x.as_ref().map_or(0, |x| x.shape()[2]);
        let args = RopeArgs {
            direction,
            batch,
            tokens,
            heads: count(&q),
            kv_heads: count(&k),
            q: heads_or_none(q.as_ref())?,
            k: heads_or_none(k.as_ref())?,
            q_out: heads_or_none(out[0].as_ref())?,
            k_out: heads_or_none(out[1].as_ref())?,
            positions: positions.pointer(NAME)?,
            positions_stride: if positions.shape().len() == 2 { tokens as i64 } else { 0 },
            frequencies: frequencies.pointer(NAME)?,
            factor: *factor as f32,
        };
        // SAFETY: the inputs lie in memory as their strides say, the outputs are new, all on this device and freed on
        // this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(out)
    }
}

vectorised! {
    /// The cosine of each pair's turn at a position, times the factor, and then the sines.
    fn cos_sin<T: Real>(turn: &mut [T], position: f64, frequencies: &[f32], factor: f64) {
        let (cos, sin) = turn.split_at_mut(frequencies.len());
        let angle = |frequency: f32| position * f64::from(frequency);
        let near = frequencies.iter().all(|&frequency| angle(frequency).abs() <= MOST_TURNED);
        for ((cos, sin), &frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
            let (s, c) = if near { math::sin_cos(angle(frequency)) } else { angle(frequency).sin_cos() };
            (*cos, *sin) = (T::from_f64(c * factor), T::from_f64(s * factor));
        }
    }
}

vectorised! {
    /// Turns the heads of a token, of `dim` elements each.
    fn turn_heads<T: Real; const INTERLEAVED: bool>(out: &mut [T], source: &[T], dim: usize, turn: &[T]) {
        let pairs = turn.len() / 2;
        let (cos, sin) = turn.split_at(pairs);
        for (out, source) in out.chunks_exact_mut(dim).zip(source.chunks_exact(dim)) {
            let ((out, rest), (source, stay)) = (out.split_at_mut(2 * pairs), source.split_at(2 * pairs));
            rest.copy_from_slice(stay);
            if INTERLEAVED {
                let both = out.chunks_exact_mut(2).zip(source.chunks_exact(2));
                for ((out, source), (&cos, &sin)) in both.zip(cos.iter().zip(sin)) {
                    (out[0], out[1]) = turned(source[0], source[1], cos, sin);
                }
            } else {
                let ((out_x, out_y), (x, y)) = (out.split_at_mut(pairs), source.split_at(pairs));
                let both = out_x.iter_mut().zip(out_y).zip(x.iter().zip(y));
                for (((out_x, out_y), (&x, &y)), (&cos, &sin)) in both.zip(cos.iter().zip(sin)) {
                    (*out_x, *out_y) = turned(x, y, cos, sin);
                }
            }
        }
    }
}

#[inline(always)]
fn turned<T: Real>(x: T, y: T, cos: T, sin: T) -> (T, T) {
    (x * cos - y * sin, x * sin + y * cos)
}
