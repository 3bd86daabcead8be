//! Inputs and outputs of the operations in a safetensors file, for another library to compute the same from the same:
//! `LONGHAND_EXCHANGE` names the file.
//!
//! A tensor is called `operation/variant/name`: inputs by their names, then `out`; where it is differentiated, also
//! `grad_<input>` of the sum of `out * weights`, and `weights`.

use std::borrow::Cow;

use anyhow::{Context, Result};
use longhand_benches::Place;
use longhand_tensor::ops::LossOptions;
use longhand_tensor::{AdamW, AdamWOptions, Device, Dtype, KvCache, Tensor, ops};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use safetensors::tensor::{Dtype as FileDtype, View};

struct Exchange {
    device: Device,
    dtype: Dtype,
    rng: StdRng,
    tensors: Vec<(String, Stored)>,
}

pub fn main() -> Result<()> {
    const VARIABLE: &str = "LONGHAND_EXCHANGE";
    let path = std::env::var_os(VARIABLE).with_context(|| format!("{VARIABLE} is not set"))?;
    let device = Place::from_environment()?.device();
    let dtype = if device.is_cpu() { Dtype::F32 } else { Dtype::Bf16 };
    let mut exchange = Exchange { device, dtype, rng: StdRng::seed_from_u64(1), tensors: Vec::new() };
    exchange.attention()?;
    exchange.attention_with_features()?;
    exchange.attention_decode()?;
    exchange.layer_norm()?;
    exchange.rms_norm()?;
    exchange.cross_entropy()?;
    exchange.linear_cross_entropy()?;
    exchange.softmax()?;
    exchange.linear()?;
    exchange.gelu()?;
    exchange.swiglu()?;
    exchange.embedding()?;
    exchange.rope()?;
    exchange.adamw()?;
    let metadata = [("dtype".to_owned(), dtype.to_string())].into();
    safetensors::serialize_to_file(exchange.tensors, Some(metadata), path.as_ref())?;
    Ok(())
}

impl Exchange {
    fn draw(&mut self, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::randn(shape, 1.0, self.dtype, &self.device, &mut self.rng)?.requires_grad())
    }

    fn keep(&mut self, name: String, tensor: &Tensor) -> Result<()> {
        let tensor = tensor.detach().to_dtype(Dtype::F32)?.to_device(&Device::Cpu)?;
        let bytes = tensor.to_vec::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.push((name, Stored { dtype: FileDtype::F32, shape: tensor.shape().to_vec(), bytes }));
        Ok(())
    }

    fn keep_ids(&mut self, name: String, ids: &[u32]) {
        let bytes = ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
        self.tensors.push((name, Stored { dtype: FileDtype::I64, shape: vec![ids.len()], bytes }));
    }

    /// Runs `forward` and backward, and keeps everything.
    fn differentiate(
        &mut self,
        name: &str,
        inputs: &[(&str, Tensor)],
        forward: impl FnOnce() -> longhand_tensor::Result<Tensor>,
    ) -> Result<()> {
        let out = forward()?;
        let weights = self.draw(out.shape())?.detach().to_dtype(out.dtype())?;
        let gradients = out.mul(&weights)?.sum_all()?.backward()?;
        for (input, tensor) in inputs {
            self.keep(format!("{name}/{input}"), tensor)?;
            if let Some(gradient) = gradients.get(tensor) {
                self.keep(format!("{name}/grad_{input}"), gradient)?;
            }
        }
        self.keep(format!("{name}/out"), &out)?;
        self.keep(format!("{name}/weights"), &weights)
    }

    fn attention(&mut self) -> Result<()> {
        for (causal, tokens, kv_heads) in [(true, 300, 4), (false, 300, 4), (true, 129, 2)] {
            let q = self.draw(&[2, tokens, 4, 64])?;
            let (k, v) = (self.draw(&[2, tokens, kv_heads, 64])?, self.draw(&[2, tokens, kv_heads, 64])?);
            let mask = if causal { "causal" } else { "full" };
            let name = format!("attention/{mask} T{tokens} Hkv{kv_heads}");
            let inputs = [("q", q.clone()), ("k", k.clone()), ("v", v.clone())];
            let options = ops::AttentionOptions { causal, ..Default::default() };
            self.differentiate(&name, &inputs, || ops::attention(&q, &k, &v, &options))?;
        }
        Ok(())
    }

    /// All at once: a window, softcap, ALiBi and sinks.
    fn attention_with_features(&mut self) -> Result<()> {
        let (q, sinks) = (self.draw(&[2, 200, 4, 64])?, self.draw(&[4])?);
        let (k, v) = (self.draw(&[2, 200, 2, 64])?, self.draw(&[2, 200, 2, 64])?);
        let slopes = Tensor::from_slice(&[0.5f32, 0.25, 0.125, 0.0625], &[4], &self.device)?;
        let name = "attention/causal window 70 softcap 5";
        self.keep(format!("{name}/slopes"), &slopes)?;
        let inputs = [("q", q.clone()), ("k", k.clone()), ("v", v.clone()), ("sinks", sinks.clone())];
        let options = ops::AttentionOptions {
            causal: true,
            window_left: Some(70),
            softcap: Some(5.0),
            alibi: Some(slopes.to_dtype(self.dtype)?),
            sinks: Some(sinks),
            ..Default::default()
        };
        self.differentiate(name, &inputs, || ops::attention(&q, &k, &v, &options))
    }

    /// The last tokens over a cache that was filled in two pieces, whose keys turned by their places on the way.
    fn attention_decode(&mut self) -> Result<()> {
        const KEYS: usize = 300;
        const QUERIES: usize = 3;
        let rope = ops::Rope::new(64, 1e4, &self.device)?;
        let places: Vec<u32> = (KEYS - QUERIES..KEYS).map(|place| place as u32).collect();
        let places = Tensor::from_slice(&places, &[QUERIES], &self.device)?;
        let options = ops::AttentionOptions { causal: true, ..Default::default() };
        for (place, cache) in [("contiguous", KvCache::new(2)), ("paged", KvCache::new(2).paged(16))] {
            let mut cache = cache;
            let mut draw =
                |tokens, heads| -> Result<Tensor> { Ok(self.draw(&[2, tokens, heads, 64])?.detach()) };
            let (q, k, v) = (draw(QUERIES, 4)?, draw(KEYS, 2)?, draw(KEYS, 2)?);
            for (start, tokens) in [(0, KEYS - QUERIES), (KEYS - QUERIES, QUERIES)] {
                let [k, v] = [&k, &v].map(|side| side.narrow(1, start, tokens));
                cache.append(&k?, &v?, Some(&rope))?;
            }
            let (turned, _) = ops::rope(&q, &q, &places, &rope)?;
            let out = ops::attention_decode(&turned, &cache, &options)?;
            let name = format!("attention_decode/causal {place}");
            for (tensor, values) in
                [("q", &q), ("k", &k), ("v", &v), ("frequencies", &rope.frequencies), ("out", &out)]
            {
                self.keep(format!("{name}/{tensor}"), values)?;
            }
        }
        Ok(())
    }

    fn layer_norm(&mut self) -> Result<()> {
        for width in [768, 1025] {
            let (x, residual) = (self.draw(&[37, width])?, self.draw(&[37, width])?);
            let (weight, bias) = (self.draw(&[width])?, self.draw(&[width])?);
            let inputs = [
                ("x", x.clone()),
                ("residual", residual.clone()),
                ("weight", weight.clone()),
                ("bias", bias.clone()),
            ];
            let norm = || {
                Ok(ops::layer_norm(
                    &x,
                    Some(&residual),
                    Some(&weight),
                    Some(&bias),
                    &ops::NormOptions::new(1e-5),
                )?
                .0)
            };
            self.differentiate(&format!("layer_norm/W{width}"), &inputs, norm)?;
        }
        Ok(())
    }

    fn rms_norm(&mut self) -> Result<()> {
        let (x, residual, weight) = (self.draw(&[37, 1025])?, self.draw(&[37, 1025])?, self.draw(&[1025])?);
        let inputs = [("x", x.clone()), ("residual", residual.clone()), ("weight", weight.clone())];
        let options = ops::NormOptions::new(1e-5);
        let norm = || Ok(ops::rms_norm(&x, Some(&residual), Some(&weight), &options)?.0);
        self.differentiate("rms_norm/W1025", &inputs, norm)
    }

    fn cross_entropy(&mut self) -> Result<()> {
        const VOCABULARY: usize = 5003;
        let logits = self.draw(&[19, VOCABULARY])?;
        let ids: Vec<u32> = (0..19).map(|_| self.rng.next_u32() % VOCABULARY as u32).collect();
        let targets = Tensor::from_slice(&ids, &[19], &self.device)?;
        let inputs = [("logits", logits.clone())];
        let name = format!("cross_entropy/V{VOCABULARY}");
        self.keep_ids(format!("{name}/targets"), &ids);
        self.differentiate(&name, &inputs, || ops::cross_entropy(&logits, &targets, &LossOptions::default()))
    }

    fn linear_cross_entropy(&mut self) -> Result<()> {
        const VOCABULARY: usize = 501;
        let (hidden, weight) = (self.draw(&[300, 32])?, self.draw(&[VOCABULARY, 32])?);
        let ids: Vec<u32> = (0..300).map(|_| self.rng.next_u32() % VOCABULARY as u32).collect();
        let targets = Tensor::from_slice(&ids, &[300], &self.device)?;
        let name = "linear_cross_entropy/V501 W32";
        self.keep_ids(format!("{name}/targets"), &ids);
        self.differentiate(name, &[("hidden", hidden.clone()), ("weight", weight.clone())], || {
            ops::linear_cross_entropy(&hidden, &weight, &targets, &LossOptions::default())
        })
    }

    fn softmax(&mut self) -> Result<()> {
        let x = self.draw(&[23, 1025])?;
        self.differentiate("softmax/W1025", &[("x", x.clone())], || ops::softmax(&x))
    }

    fn linear(&mut self) -> Result<()> {
        let (x, weight, bias) = (self.draw(&[65, 200])?, self.draw(&[200, 96])?, self.draw(&[96])?);
        let inputs = [("x", x.clone()), ("weight", weight.clone()), ("bias", bias.clone())];
        self.differentiate("linear/K200 N96", &inputs, || ops::linear(&x, &weight, Some(&bias)))
    }

    fn gelu(&mut self) -> Result<()> {
        for (name, form) in [("gelu/tanh", ops::Gelu::Tanh), ("gelu/none", ops::Gelu::Erf)] {
            let x = self.draw(&[29, 131])?;
            self.differentiate(name, &[("x", x.clone())], || ops::gelu(&x, form))?;
        }
        Ok(())
    }

    fn swiglu(&mut self) -> Result<()> {
        let (x, bias) = (self.draw(&[29, 2 * 131])?, self.draw(&[2 * 131])?);
        let inputs = [("x", x.clone()), ("bias", bias.clone())];
        self.differentiate("swiglu/W131", &inputs, || {
            ops::gated_halves(&x, Some(&bias), ops::Activation::Silu)
        })
    }

    fn embedding(&mut self) -> Result<()> {
        const VOCABULARY: usize = 97;
        let weight = self.draw(&[VOCABULARY, 48])?;
        let ids: Vec<u32> = (0..211).map(|_| self.rng.next_u32() % VOCABULARY as u32).collect();
        let tensor = Tensor::from_slice(&ids, &[ids.len()], &self.device)?;
        let name = "embedding/V97 W48";
        self.keep_ids(format!("{name}/ids"), &ids);
        self.differentiate(name, &[("weight", weight.clone())], || ops::embedding(&weight, &tensor))
    }

    /// The positions are far apart, where angles are large.
    fn rope(&mut self) -> Result<()> {
        let (q, k) = (self.draw(&[2, 33, 4, 64])?, self.draw(&[2, 33, 2, 64])?);
        let positions: Vec<u32> = (0..33).map(|i| i * 3001).collect();
        let tensor = Tensor::from_slice(&positions, &[33], &self.device)?;
        let rope = ops::Rope::new(64, 1e4, &self.device)?;
        let name = "rope/D64";
        self.keep_ids(format!("{name}/positions"), &positions);
        self.keep(format!("{name}/frequencies"), &rope.frequencies)?;
        self.differentiate(name, &[("q", q.clone()), ("k", k.clone())], || {
            let (q, k) = ops::rope(&q, &k, &tensor, &rope)?;
            Tensor::cat(&[&q, &k], 2)
        })
    }

    /// Three steps with the same gradient.
    fn adamw(&mut self) -> Result<()> {
        let (parameter, gradient) = (self.draw(&[1009])?, self.draw(&[1009])?.detach());
        self.keep("adamw/three steps/parameter".to_owned(), &parameter)?;
        self.keep("adamw/three steps/gradient".to_owned(), &gradient)?;
        let gradients = parameter.mul(&gradient)?.sum_all()?.backward()?;
        let mut optimiser =
            AdamW::new(vec![("parameter".to_owned(), parameter.clone())], AdamWOptions::default())?;
        for _ in 0..3 {
            optimiser.step(&gradients, 0.1)?;
        }
        self.keep("adamw/three steps/out".to_owned(), &parameter)
    }
}

/// A tensor as it goes to the file.
struct Stored {
    dtype: FileDtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Stored {
    fn dtype(&self) -> FileDtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
