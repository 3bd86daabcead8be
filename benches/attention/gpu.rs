//! The kernels. Batch and heads are such that a launch has 16,384 tokens of width 2048, or one batch of more.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row};
use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::Dtype;
use longhand_kernels::attention::{
    Attention, AttentionBackwardArgs, AttentionForwardArgs, AttentionShape, Bias, Heads, Operands, Strides,
};

use super::Case;

const TOKENS: [usize; 10] = [1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, 524_288];
/// Without a mask, beyond this an iteration takes seconds.
const FULL_TOKENS: usize = 65_536;
const WIDTH: usize = 2048;
const BATCH_TOKENS: usize = 16_384;

pub fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    let usual = Case { head_dim: 128, ..Case::CAUSAL };
    let mut cases = Vec::new();
    for head_dim in [128, 64] {
        for causal in [true, false] {
            cases.push((Dtype::Bf16, Case { head_dim, causal, ..usual }));
        }
    }
    cases.extend([
        (Dtype::Bf16, Case { group: 4, ..usual }),
        (Dtype::F16, usual),
        (Dtype::Bf16, Case { window: Some(1024), ..usual }),
        (Dtype::Bf16, Case { softcap: Some(50.0), ..usual }),
    ]);
    for (dtype, case) in cases {
        for tokens in gpu.lengths(&TOKENS, 64) {
            if case.causal || tokens <= FULL_TOKENS {
                let kernel = Kernel { dtype, case, atomic: false };
                kernel.forward(bench, gpu, tokens)?;
                kernel.backward(bench, gpu, tokens)?;
                if dtype == Dtype::Bf16 && case.group == 1 && case.window.is_none() && case.softcap.is_none()
                {
                    Kernel { atomic: true, ..kernel }.backward(bench, gpu, tokens)?;
                }
            }
        }
    }
    Ok(())
}

/// A case as the kernels compute it.
#[derive(Clone, Copy)]
struct Kernel {
    dtype: Dtype,
    case: Case,
    /// Whether backward adds up the gradient of q by atomics.
    atomic: bool,
}

/// The tensors of a forward pass.
struct Forward {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    out: Buffer,
    lse: Buffer,
}

/// Those of a backward pass.
struct Backward {
    forward: Forward,
    dout: Buffer,
    dq: Buffer,
    dk: Buffer,
    dv: Buffer,
}

impl Kernel {
    fn attention(self) -> Attention {
        let Case { head_dim, causal, window, softcap, .. } = self.case;
        Attention::new(self.dtype, head_dim)
            .causal(causal)
            .window(window, None::<usize>)
            .softcap(softcap)
            .atomic(self.atomic)
    }

    fn shape(self, gpu: &Gpu, tokens: usize) -> AttentionShape {
        let (width, batch_tokens) = if gpu.device.is_emulated() { (512, 128) } else { (WIDTH, BATCH_TOKENS) };
        let heads = width / self.case.head_dim;
        AttentionShape {
            batch: (batch_tokens / tokens).max(1),
            queries: tokens,
            keys: tokens,
            heads,
            kv_heads: heads / self.case.group,
        }
    }

    /// `bytes` of tensors, as many sets of them as take turns.
    fn row(self, gpu: &Gpu, pass: &str, shape: &AttentionShape, bytes: usize) -> Row {
        let sizes = [shape.batch, shape.queries, shape.heads];
        self.case.row(pass, &self.dtype.to_string(), sizes).needs(gpu.sets(bytes) * bytes)
    }

    /// Elements of `q`, and of `k`.
    fn elements(self, shape: &AttentionShape) -> [usize; 2] {
        let tokens = shape.batch * shape.queries * self.case.head_dim;
        [tokens * shape.heads, tokens * shape.kv_heads]
    }

    fn heads(self, buffer: &Buffer, tokens: usize, heads: usize) -> Heads {
        Heads { data: buffer.ptr(), strides: Strides::token_major(tokens, heads, self.case.head_dim) }
    }

    fn tensors(self, gpu: &Gpu, shape: &AttentionShape) -> Result<Forward> {
        let [queries, keys] = self.elements(shape);
        Ok(Forward {
            q: gpu.random(self.dtype, queries)?,
            k: gpu.random(self.dtype, keys)?,
            v: gpu.random(self.dtype, keys)?,
            out: gpu.random(self.dtype, queries)?,
            lse: gpu.random(Dtype::F32, shape.batch * shape.heads * shape.queries)?,
        })
    }

    fn forward_args(self, shape: AttentionShape, tensors: &Forward) -> AttentionForwardArgs<'static> {
        AttentionForwardArgs {
            shape,
            scale: 1.0 / (self.case.head_dim as f32).sqrt(),
            q: self.heads(&tensors.q, shape.queries, shape.heads),
            k: self.heads(&tensors.k, shape.keys, shape.kv_heads),
            v: self.heads(&tensors.v, shape.keys, shape.kv_heads),
            out: self.heads(&tensors.out, shape.queries, shape.heads),
            lse: tensors.lse.ptr(),
            operands: Operands::default(),
        }
    }

    fn forward(self, bench: &mut Bench, gpu: &Gpu, tokens: usize) -> Result<()> {
        let shape = self.shape(gpu, tokens);
        let [queries, keys] = self.elements(&shape);
        let bytes = 2 * (queries + keys) * self.dtype.size();
        bench.measure(self.row(gpu, "forward", &shape, bytes), || {
            let plan = self.attention().forward(&gpu.device)?;
            let mut sets = gpu.cycle(bytes, || self.tensors(gpu, &shape))?;
            Ok(move || {
                let args = self.forward_args(shape, sets.take());
                // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
                Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
            })
        })
    }

    fn backward(self, bench: &mut Bench, gpu: &Gpu, tokens: usize) -> Result<()> {
        let shape = self.shape(gpu, tokens);
        let [queries, keys] = self.elements(&shape);
        let bytes = 4 * (queries + keys) * self.dtype.size();
        let row = self.row(gpu, "backward", &shape, bytes);
        let row = if self.atomic { row.by("longhand atomic") } else { row };
        bench.measure(row, || {
            let forward = self.attention().forward(&gpu.device)?;
            let plan = self.attention().backward(&gpu.device)?;
            let workspace = gpu.stream.alloc(plan.workspace_bytes(&shape))?;
            let mut sets = gpu.cycle(bytes, || {
                let tensors = self.tensors(gpu, &shape)?;
                // SAFETY: as above. `out` and `lse` have to be those of the inputs.
                unsafe { forward.launch(&gpu.stream, &self.forward_args(shape, &tensors)) }?;
                Ok(Backward {
                    forward: tensors,
                    dout: gpu.random(self.dtype, queries)?,
                    dq: gpu.random(self.dtype, queries)?,
                    dk: gpu.random(self.dtype, keys)?,
                    dv: gpu.random(self.dtype, keys)?,
                })
            })?;
            Ok(move || {
                let set = sets.take();
                let AttentionForwardArgs { shape, scale, q, k, v, out, lse, operands } =
                    self.forward_args(shape, &set.forward);
                let args = AttentionBackwardArgs {
                    shape,
                    scale,
                    q,
                    k,
                    v,
                    out,
                    dout: self.heads(&set.dout, shape.queries, shape.heads),
                    lse,
                    dlse: DevicePtr::NULL,
                    workspace: workspace.ptr(),
                    dq: self.heads(&set.dq, shape.queries, shape.heads),
                    dk: self.heads(&set.dk, shape.keys, shape.kv_heads),
                    dv: self.heads(&set.dv, shape.keys, shape.kv_heads),
                    dsinks: DevicePtr::NULL,
                    dbias: Bias::default(),
                    operands,
                };
                // SAFETY: as above.
                Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
            })
        })
    }
}
