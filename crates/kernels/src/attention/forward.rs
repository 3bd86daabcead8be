//! `kernels/attention/forward.cu`.

use longhand_gpu::{Arch, Device, DevicePtr, Stream, params};

use super::arguments::Arguments;
use super::operands::Inputs;
use super::tuning::{Step, Tile};
use super::{Attention, AttentionShape, Heads, Operands, Strides};
use crate::loaded::Loaded;
use crate::source::cuda_files;
use crate::{Result, Variant};

const OPERATION: &str = "attention forward";
const ENTRY: &str = "attention_forward";

params! {
    struct Params {
        inputs: Inputs,
        out: DevicePtr,
        lse: DevicePtr,
        out_strides: Strides,
        scale_log2: f32,
        _pad: u32,
    }
}

impl Attention {
    /// Compiles the forward pass for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a dtype, head dim or combination of masks that there is no kernel
    /// for, or a device older than sm_80; [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn forward(&self, device: &Device) -> Result<AttentionForwardPlan> {
        self.check(OPERATION, device.arch())?;
        let tile = self.tile(Step::Forward, device.arch());
        let kernel = Loaded::new(device, &variant(self, device.arch()))?;
        Ok(AttentionForwardPlan { attention: self.clone(), tile, kernel })
    }
}

pub(super) fn variant(attention: &Attention, arch: Arch) -> Variant {
    let tile = attention.tile(Step::Forward, arch);
    let [file] = cuda_files!["attention/forward.cu"];
    Variant {
        program: attention
            .program(*file, attention.tile_constants(tile))
            .params(Inputs::LAYOUT)
            .params(Params::LAYOUT),
        entry: ENTRY,
        threads: tile.threads(),
        shared_bytes: tile.shared_bytes(Step::Forward, attention.widths()),
    }
}

/// What [`AttentionForwardPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct AttentionForwardArgs<'a> {
    /// The sizes.
    pub shape: AttentionShape,
    /// What `q k^T` is multiplied by, positive: 1 / sqrt(`D`), usually.
    pub scale: f32,
    /// `(B, T, H, D)`.
    pub q: Heads,
    /// `(B, S, Hkv, D)`.
    pub k: Heads,
    /// `(B, S, Hkv, Dv)`.
    pub v: Heads,
    /// `(B, T, H, Dv)`, overwritten. A query that sees no key gets 0.
    pub out: Heads,
    /// `(B, H, T)` contiguous f32, overwritten: the natural logarithm of the sum over keys of `exp(scale * q k^T)`,
    /// which backward needs. A query that sees no key gets -inf. `(H, T)` of documents.
    pub lse: DevicePtr,
    /// What the attention was described with.
    pub operands: Operands<'a>,
}

/// The compiled forward pass of an [`Attention`].
#[derive(Clone, Debug)]
pub struct AttentionForwardPlan {
    attention: Attention,
    tile: Tile,
    kernel: Loaded,
}

impl AttentionForwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no queries.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point, and `out` and `lse` overlap no other tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &AttentionForwardArgs<'_>) -> Result<()> {
        let arguments = check(&self.attention, args)?;
        let AttentionShape { batch, heads, .. } = args.shape;
        let [longest_queries, _] = args.operands.longest(&self.attention, &arguments);
        if batch * heads == 0 || longest_queries == 0 {
            return Ok(());
        }
        let operands = &args.operands;
        let params = Params {
            inputs: operands.inputs(&self.attention, &arguments, [&args.q, &args.k, &args.v], args.scale)?,
            out: args.out.data,
            lse: args.lse,
            out_strides: args.out.strides,
            scale_log2: args.scale * std::f32::consts::LOG2_E,
            _pad: 0,
        };
        let grid = [longest_queries.div_ceil(self.tile.block_q), heads as u32, batch as u32];
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.kernel.launch(stream, grid, &params) }
    }
}

fn check(attention: &Attention, args: &AttentionForwardArgs<'_>) -> Result<Arguments> {
    let Attention { dtype, documents, head_dim, value_dim, .. } = *attention;
    let arguments = Arguments { operation: OPERATION, dtype, shape: args.shape, documents };
    arguments.check_shape(args.scale)?;
    args.operands.check(attention, &arguments)?;
    arguments.check_queries("q", &args.q)?;
    arguments.check_keys("k", &args.k)?;
    arguments.check_keys("v", &args.v)?;
    arguments.check_queries_written("out", &args.out, value_dim)?;
    arguments.check_per_query("lse", args.lse, 4)?;
    let tensors = [
        arguments.of_queries("q", &args.q, head_dim),
        arguments.of_keys("k", &args.k, head_dim),
        arguments.of_keys("v", &args.v, value_dim),
        arguments.of_queries("out", &args.out, value_dim).written(),
        arguments.per_query("lse", args.lse).written(),
    ];
    arguments.check_apart(tensors.iter().chain(&args.operands.extents(attention, &arguments)))?;
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::attention::{Named, NamedType};
    use crate::extent::assert_apart;

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let at = |i: u64| DevicePtr(i << 20);
        let heads = |i, heads| Heads { data: at(i), strides: Strides::token_major(5, heads, 64) };
        let args = AttentionForwardArgs {
            shape: AttentionShape { batch: 2, queries: 5, keys: 5, heads: 4, kv_heads: 2 },
            scale: 1.0,
            q: heads(1, 4),
            k: heads(2, 2),
            v: heads(3, 2),
            out: heads(4, 4),
            lse: at(5),
            operands: Operands { prefix: at(6), slopes: at(7), sinks: at(8), ..Operands::default() },
        };
        let attention = Attention::new(Dtype::Bf16, 64).causal(true).prefix(true).alibi(true).sinks(true);
        assert_apart(
            args,
            |args| check(&attention, args).map(drop),
            2,
            &[
                ("out", |args| &mut args.out.data),
                ("lse", |args| &mut args.lse),
                ("q", |args| &mut args.q.data),
                ("k", |args| &mut args.k.data),
                ("v", |args| &mut args.v.data),
                ("prefix", |args| &mut args.operands.prefix),
                ("slopes", |args| &mut args.operands.slopes),
                ("sinks", |args| &mut args.operands.sinks),
            ],
            &[],
        );
        // Of a tensor that expressions call by name, its first byte at least.
        let attention = attention.named("table", NamedType::Tensor(Dtype::F32)).score("score + table[h]");
        let with = |table| {
            let operands = Operands { named: &[("table", Named::Tensor(table))], ..args.operands };
            check(&attention, &AttentionForwardArgs { operands, ..args }).map(drop)
        };
        assert!(with(at(9)).is_ok());
        let error = with(at(4).offset(64)).unwrap_err().to_string();
        assert!(
            error.contains("out is at 0x400000") && error.contains("apart from named[0] at 0x400040"),
            "{error}"
        );
    }
}
