//! Attention as the formula has it, with the T x T matrix of probabilities in memory: what flash attention is
//! measured against. The matrix products and the differentiation are the same crate's.

use longhand_tensor::{Backward, Device, Forward, Operation, Result, Tensor, apply};

/// `softmax(scale q kᵀ) v` with q, k, v: (B, H, T, D) in f32; causal where asked for.
///
/// # Errors
/// Shapes that do not fit, or no memory for (B, H, T, T).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<Tensor> {
    let scale = 1.0 / (q.shape()[3] as f64).sqrt();
    let scores = q.matmul(&k.transpose(2, 3)?)?.scale(scale)?;
    apply(Softmax { causal }, &[&scores])?.remove(0).matmul(v)
}

/// Softmax over the last dimension of square matrices.
struct Softmax {
    causal: bool,
}

impl Operation for Softmax {
    fn name(&self) -> &str {
        "naive softmax"
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let scores = &inputs[0];
        let tokens = *scores.shape().last().unwrap_or(&1);
        let mut values = scores.to_vec::<f32>()?;
        for (i, row) in values.chunks_exact_mut(tokens).enumerate() {
            let (seen, hidden) = row.split_at_mut(if self.causal { i % tokens + 1 } else { tokens });
            hidden.fill(0.0);
            let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            seen.iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum: f32 = seen.iter().sum();
            seen.iter_mut().for_each(|x| *x /= sum);
        }
        let probabilities = Tensor::from_vec(values, scores.shape(), &Device::Cpu)?;
        let saved = [needs[0].then(|| probabilities.clone())];
        Ok(Forward::new([probabilities]).save(saved))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let probabilities = ctx.saved(0)?;
        let tokens = *probabilities.shape().last().unwrap_or(&1);
        let (p, mut grad) = (probabilities.to_vec::<f32>()?, ctx.grad(0)?.to_vec::<f32>()?);
        for (p, grad) in p.chunks_exact(tokens).zip(grad.chunks_exact_mut(tokens)) {
            let dot: f32 = p.iter().zip(&*grad).map(|(p, g)| p * g).sum();
            grad.iter_mut().zip(p).for_each(|(g, p)| *g = p * (*g - dot));
        }
        Ok(vec![Some(Tensor::from_vec(grad, probabilities.shape(), &Device::Cpu)?)])
    }
}

#[cfg(test)]
mod tests {
    use longhand_tensor::{Gradients, Result, Tensor, ops};

    use crate::normal;

    #[test]
    fn the_naive_algorithm_computes_what_the_blocked_one_does() -> Result<()> {
        for causal in [false, true] {
            let x = normal(&[1, 2, 3 * 33, 8])?;
            let leaf =
                |i: usize| -> Result<Tensor> { Ok(x.narrow(2, 33 * i, 33)?.contiguous()?.requires_grad()) };
            let leaves = [leaf(0)?, leaf(1)?, leaf(2)?];
            let [q, k, v] = &leaves;
            let naive = super::attention(q, k, v, causal)?;
            let tokens_first: Vec<_> = leaves.iter().map(|t| t.transpose(1, 2)).collect::<Result<_>>()?;
            let options = ops::AttentionOptions { causal, ..Default::default() };
            let [q2, k2, v2] = &tokens_first[..] else { unreachable!() };
            let blocked = ops::attention(q2, k2, v2, &options)?.transpose(1, 2)?;

            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(close(&naive.to_vec::<f32>()?, &blocked.to_vec::<f32>()?));
            let weights = normal(&[1, 2, 33, 8])?;
            let grads = |out: &Tensor| out.mul(&weights)?.sum_all()?.backward();
            let (a, b) = (grads(&naive)?, grads(&blocked)?);
            for leaf in &leaves {
                let of = |g: &Gradients| g.get(leaf).unwrap().to_vec::<f32>();
                assert!(close(&of(&a)?, &of(&b)?));
            }
        }
        Ok(())
    }
}
