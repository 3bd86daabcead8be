//! `kernels/attention/backward_rows.cu`, `backward_query.cu`, `backward_key.cu`, `backward_convert.cu`.

use longhand_gpu::{Arch, Constants, Device, DevicePtr, Program, Stream, params};

use super::arguments::Arguments;
use super::operands::{DocumentsParams, Inputs};
use super::path::{self, Kernel};
use super::tuning::Step;
use super::{Attention, AttentionShape, Bias, HEADERS, Heads, Operands, Strides, bias, dq};
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Result, Variant};

const OPERATION: &str = "attention backward";
const ROWS_ENTRY: &str = "attention_backward_rows";
const QUERY_ENTRY: &str = "attention_backward_query";
const KEY_ENTRY: &str = "attention_backward_key";
const SINKS_ENTRY: &str = "attention_backward_sinks";

/// `RowStatistics` of `rows.cuh`.
const ROW_STATISTICS_BYTES: usize = 8;
/// Of the kernel that only streams.
const ROWS_THREADS: u32 = 128;
/// Of a block that sums over a head.
const SINKS_THREADS: u32 = 512;

mod rows {
    use super::{DevicePtr, DocumentsParams, Strides, params};

    params! {
        #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
        pub struct Params {
            pub out: DevicePtr,
            pub dout: DevicePtr,
            pub lse: DevicePtr,
            pub dlse: DevicePtr,
            pub rows: DevicePtr,
            pub out_strides: Strides,
            pub dout_strides: Strides,
            pub documents: DocumentsParams,
            pub T: i32,
            pub S: i32,
        }
    }
}

mod query {
    use super::{DevicePtr, Inputs, Strides, params};

    params! {
        pub struct Params {
            pub inputs: Inputs,
            pub dout: DevicePtr,
            pub rows: DevicePtr,
            pub dq: DevicePtr,
            pub dout_strides: Strides,
            pub dq_strides: Strides,
        }
    }
}

mod key {
    use super::{DevicePtr, Inputs, Strides, params};

    params! {
        pub struct Params {
            pub inputs: Inputs,
            pub dout: DevicePtr,
            pub rows: DevicePtr,
            pub dk: DevicePtr,
            pub dv: DevicePtr,
            pub dq_sums: DevicePtr,
            pub dout_strides: Strides,
            pub dk_strides: Strides,
            pub dv_strides: Strides,
        }
    }
}

mod sinks {
    use super::{DevicePtr, params};

    params! {
        #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
        pub struct Params {
            pub rows: DevicePtr,
            pub sinks: DevicePtr,
            pub dsinks: DevicePtr,
            pub T: i64,
            pub batches: i32,
            pub _pad: i32,
        }
    }
}

impl Attention {
    /// Compiles the backward pass (FlashAttention-2, arXiv 2307.08691, algorithm 2) for `device`: slow the first time,
    /// then from the cache.
    ///
    /// # Errors
    ///
    /// As [`Attention::forward`].
    pub fn backward(&self, device: &Device) -> Result<AttentionBackwardPlan> {
        self.check(OPERATION, device.arch())?;
        let arch = device.arch();
        let load = |kernel| {
            let (variant, tokens) = variant(self, kernel, arch);
            Ok((kernel, Tiled::load(device, &variant, tokens)?))
        };
        Ok(AttentionBackwardPlan {
            attention: self.clone(),
            rows: Tiled::load(device, &rows_variant(self), ROWS_THREADS / lanes(self))?,
            kernels: path::backward(self, arch).into_iter().map(load).collect::<Result<_>>()?,
            bias: if self.bias { Some(Loaded::new(device, &bias::variant(self))?) } else { None },
            sinks: if self.sinks { Some(Loaded::new(device, &sinks_variant())?) } else { None },
        })
    }
}

/// Every kernel of the gradients of q, k and v.
pub(super) fn variants(attention: &Attention, arch: Arch) -> Vec<Variant> {
    let kernels = path::backward(attention, arch).into_iter();
    std::iter::once(rows_variant(attention))
        .chain(kernels.map(|kernel| variant(attention, kernel, arch).0))
        .collect()
}

/// And how many queries or keys a block of it takes.
fn variant(attention: &Attention, kernel: Kernel, arch: Arch) -> (Variant, u32) {
    let [query, key] = *cuda_files!["attention/backward_query.cu", "attention/backward_key.cu"];
    let tiled = |step, program: Program, entry| {
        let tile = attention.tile(step, arch);
        let shared_bytes = tile.shared_bytes(step, attention.widths());
        Variant { program, entry, threads: tile.threads(), shared_bytes }
    };
    match kernel {
        Kernel::Query => {
            let tile = attention.tile(Step::BackwardQuery, arch);
            let program = attention
                .program(query, attention.tile_constants(tile))
                .params(Inputs::LAYOUT)
                .params(query::Params::LAYOUT);
            (tiled(Step::BackwardQuery, program, QUERY_ENTRY), tile.block_q)
        }
        Kernel::Key(of) => {
            let step = if of.q.is_some() { Step::BackwardKeyAndQuery } else { Step::BackwardKey };
            let tile = attention.tile(step, arch);
            let constants = attention
                .tile_constants(tile)
                .bool("HAS_DK", of.k)
                .bool("HAS_DV", of.v)
                .bool("HAS_DQ", of.q.is_some())
                .int("ADDED", of.q.unwrap_or(1));
            let program =
                attention.program(key, constants).params(Inputs::LAYOUT).params(key::Params::LAYOUT);
            (tiled(step, program, KEY_ENTRY), tile.block_k)
        }
        Kernel::Convert { added } => (dq::variant(attention, added), 16 * dq::WARPS),
    }
}

fn rows_variant(attention: &Attention) -> Variant {
    let [file] = cuda_files!["attention/backward_rows.cu"];
    let constants = attention.constants().int("THREADS", ROWS_THREADS).int("LANES", lanes(attention));
    Variant {
        program: program(*file, HEADERS, constants).params(rows::Params::LAYOUT),
        entry: ROWS_ENTRY,
        threads: ROWS_THREADS,
        shared_bytes: 0,
    }
}

/// Threads that read a row of `out` and of its gradient, 16 bytes at a time.
fn lanes(attention: &Attention) -> u32 {
    let pieces = attention.value_dim * attention.dtype.size() / 16;
    pieces.next_power_of_two().min(32) as u32
}

pub(super) fn sinks_variant() -> Variant {
    let [file] = cuda_files!["attention/backward_sinks.cu"];
    let constants = Constants::new().int("THREADS", SINKS_THREADS);
    Variant {
        program: program(*file, HEADERS, constants).params(sinks::Params::LAYOUT),
        entry: SINKS_ENTRY,
        threads: SINKS_THREADS,
        shared_bytes: 0,
    }
}

/// What [`AttentionBackwardPlan::launch`] computes with. Gradients are overwritten.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackwardArgs<'a> {
    /// The sizes.
    pub shape: AttentionShape,
    /// As given to forward.
    pub scale: f32,
    /// `(B, T, H, D)`.
    pub q: Heads,
    /// `(B, S, Hkv, D)`.
    pub k: Heads,
    /// `(B, S, Hkv, Dv)`.
    pub v: Heads,
    /// `(B, T, H, Dv)`, as forward returned it.
    pub out: Heads,
    /// `(B, T, H, Dv)`, the gradient of `out`.
    pub dout: Heads,
    /// `(B, H, T)` contiguous f32, as forward returned it.
    pub lse: DevicePtr,
    /// `(B, H, T)` contiguous f32, the gradient of `lse`; null where nothing depends on it.
    pub dlse: DevicePtr,
    /// [`AttentionBackwardPlan::workspace_bytes`] that the launch may use; a multiple of 16 bytes.
    pub workspace: DevicePtr,
    /// `(B, T, H, D)`; [`Heads::NONE`] where it is not wanted, without [`Attention::atomic`].
    pub dq: Heads,
    /// `(B, S, Hkv, D)`; [`Heads::NONE`] where neither this nor `dv` is wanted, without [`Attention::atomic`].
    pub dk: Heads,
    /// `(B, S, Hkv, Dv)`; as `dk`.
    pub dv: Heads,
    /// The gradient of [`Operands::bias`], of the same shape, with strides of its own; null where it is not wanted.
    pub dbias: Bias,
    /// `(H)` f32, the gradient of [`Operands::sinks`]; null without, or where it is not wanted.
    pub dsinks: DevicePtr,
    /// As given to forward.
    pub operands: Operands<'a>,
}

/// The compiled backward pass of an [`Attention`].
#[derive(Clone, Debug)]
pub struct AttentionBackwardPlan {
    attention: Attention,
    rows: Tiled,
    kernels: Vec<(Kernel, Tiled)>,
    sinks: Option<Loaded>,
    bias: Option<Loaded>,
}

/// A kernel of which each block takes so many queries or keys.
#[derive(Clone, Debug)]
struct Tiled {
    kernel: Loaded,
    tokens: u32,
}

/// What one launch computes with.
struct Call<'a> {
    args: &'a AttentionBackwardArgs<'a>,
    arguments: Arguments,
    /// Of the workspace.
    dq_sums: DevicePtr,
    rows: DevicePtr,
}

impl AttentionBackwardPlan {
    /// Bytes of workspace that [`launch`](AttentionBackwardPlan::launch) needs for this shape: 8 for each query and head
    /// and, with [`Attention::atomic`], `4 D` for each head and each query of all tiles of 16.
    #[must_use]
    pub fn workspace_bytes(&self, shape: &AttentionShape) -> usize {
        let batch = if self.attention.documents { 1 } else { shape.batch };
        let rows =
            [shape.heads, shape.queries, ROW_STATISTICS_BYTES].into_iter().fold(batch, usize::saturating_mul);
        self.sums_bytes(shape).saturating_add(rows)
    }

    /// Of the gradient of q, which lie first in the workspace.
    fn sums_bytes(&self, shape: &AttentionShape) -> usize {
        if self.attention.atomic { dq::sums_bytes(&self.attention, shape) } else { 0 }
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing for what has no elements.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; the workspace is as large as said; what is written overlaps nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernels cannot take; [`Error::Gpu`](crate::Error::Gpu) where the
    /// device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &AttentionBackwardArgs<'_>) -> Result<()> {
        let arguments = check(&self.attention, args, self.workspace_bytes(&args.shape))?;
        let [queries, keys] = args.operands.longest(&self.attention, &arguments);
        if args.shape.batch * args.shape.heads == 0 {
            return Ok(());
        }
        let sums_bytes = self.sums_bytes(&args.shape);
        let rows = args.workspace.offset(sums_bytes as i64);
        let call = Call { args, arguments, dq_sums: args.workspace, rows };
        if queries > 0 {
            // SAFETY: the caller answers for the memory, here and below; the checks above for what kernels assume beside.
            unsafe { stream.fill_zero(args.workspace, sums_bytes) }?;
            // SAFETY: as above.
            unsafe { self.launch_rows(stream, &call, queries) }?;
        }
        for (kernel, tiled) in &self.kernels {
            let (tokens, grad) = match kernel {
                Kernel::Key(_) => (keys, args.dk),
                Kernel::Query | Kernel::Convert { .. } => (queries, args.dq),
            };
            if tokens > 0 && !grad.data.is_null() {
                // SAFETY: as above; the rows are computed before on the same stream.
                unsafe { self.launch_kernel(stream, &call, *kernel, tiled, tokens) }?;
            }
        }
        if let Some(bias) = &self.bias
            && !args.dbias.data.is_null()
            && queries > 0
            && keys > 0
        {
            // SAFETY: as above.
            unsafe { bias::launch(bias, &self.attention, stream, &call.arguments, args, rows) }?;
        }
        if let Some(sinks) = &self.sinks
            && !args.dsinks.is_null()
        {
            // SAFETY: as above.
            unsafe { launch_sinks(sinks, stream, &call) }?;
        }
        Ok(())
    }

    unsafe fn launch_rows(&self, stream: &Stream, call: &Call<'_>, queries: u32) -> Result<()> {
        let args = call.args;
        let params = rows::Params {
            out: args.out.data,
            dout: args.dout.data,
            lse: args.lse,
            dlse: args.dlse,
            rows: call.rows,
            out_strides: args.out.strides,
            dout_strides: args.dout.strides,
            documents: args.operands.documents_params(),
            T: args.shape.queries as i32,
            S: args.shape.keys as i32,
        };
        // SAFETY: the caller answers for it.
        unsafe { self.rows.launch(stream, queries, args.shape.heads, args.shape.batch, &params) }
    }

    unsafe fn launch_kernel(
        &self,
        stream: &Stream,
        call: &Call<'_>,
        kernel: Kernel,
        tiled: &Tiled,
        tokens: u32,
    ) -> Result<()> {
        let AttentionShape { batch, heads, kv_heads, .. } = call.args.shape;
        match kernel {
            Kernel::Query => {
                let params = self.query_params(call)?;
                // SAFETY: the caller answers for it.
                unsafe { tiled.launch(stream, tokens, heads, batch, &params) }
            }
            Kernel::Key(_) => {
                let params = self.key_params(call)?;
                // SAFETY: as above.
                unsafe { tiled.launch(stream, tokens, kv_heads, batch, &params) }
            }
            Kernel::Convert { .. } => {
                // SAFETY: as above.
                unsafe { tiled.launch(stream, tokens, heads, batch, &convert_params(call)) }
            }
        }
    }

    fn inputs(&self, call: &Call<'_>) -> Result<Inputs> {
        let args = call.args;
        args.operands.inputs(&self.attention, &call.arguments, [&args.q, &args.k, &args.v], args.scale)
    }

    fn query_params(&self, call: &Call<'_>) -> Result<query::Params> {
        let args = call.args;
        Ok(query::Params {
            inputs: self.inputs(call)?,
            dout: args.dout.data,
            rows: call.rows,
            dq: args.dq.data,
            dout_strides: args.dout.strides,
            dq_strides: args.dq.strides,
        })
    }

    fn key_params(&self, call: &Call<'_>) -> Result<key::Params> {
        let args = call.args;
        Ok(key::Params {
            inputs: self.inputs(call)?,
            dout: args.dout.data,
            rows: call.rows,
            dk: args.dk.data,
            dv: args.dv.data,
            dq_sums: call.dq_sums,
            dout_strides: args.dout.strides,
            dk_strides: args.dk.strides,
            dv_strides: args.dv.strides,
        })
    }
}

fn convert_params(call: &Call<'_>) -> dq::Params {
    let args = call.args;
    dq::Params {
        sums: call.dq_sums,
        dq: args.dq.data,
        dq_strides: args.dq.strides,
        documents: args.operands.documents_params(),
        T: args.shape.queries as i32,
        S: args.shape.keys as i32,
        scale: args.scale,
        _pad: 0,
    }
}

unsafe fn launch_sinks(kernel: &Loaded, stream: &Stream, call: &Call<'_>) -> Result<()> {
    let args = call.args;
    let params = sinks::Params {
        rows: call.rows,
        sinks: args.operands.sinks,
        dsinks: args.dsinks,
        T: args.shape.queries as i64,
        batches: call.arguments.batch() as i32,
        _pad: 0,
    };
    // SAFETY: the caller answers for it.
    unsafe { kernel.launch(stream, [args.shape.heads as u32, 1], &params) }
}

impl Tiled {
    /// Compiles and loads.
    fn load(device: &Device, variant: &Variant, tokens: u32) -> Result<Tiled> {
        Ok(Tiled { kernel: Loaded::new(device, variant)?, tokens })
    }

    unsafe fn launch(
        &self,
        stream: &Stream,
        tokens: u32,
        heads: usize,
        batch: usize,
        params: &impl bytemuck::Pod,
    ) -> Result<()> {
        let grid = [tokens.div_ceil(self.tokens), heads as u32, batch as u32];
        // SAFETY: the caller answers for it.
        unsafe { self.kernel.launch(stream, grid, params) }
    }
}

fn check(
    attention: &Attention,
    args: &AttentionBackwardArgs<'_>,
    workspace_bytes: usize,
) -> Result<Arguments> {
    let Attention { dtype, head_dim, value_dim, documents, .. } = *attention;
    let arguments = Arguments { operation: OPERATION, dtype, shape: args.shape, documents };
    arguments.check_shape(args.scale)?;
    args.operands.check(attention, &arguments)?;
    for (name, tensor) in [("q", &args.q), ("out", &args.out), ("dout", &args.dout)] {
        arguments.check_queries(name, tensor)?;
    }
    for (name, tensor) in [("k", &args.k), ("v", &args.v)] {
        arguments.check_keys(name, tensor)?;
    }
    arguments.check_per_query("lse", args.lse, 4)?;
    if !args.dlse.is_null() {
        arguments.check_per_query("dlse", args.dlse, 4)?;
    }
    args.operands.check_dbias(attention, &arguments, &args.dbias)?;
    if !args.dsinks.is_null() {
        if !attention.sinks {
            let expected = "null: the attention was described without sinks";
            return Err(arguments.error("dsinks", format!("{:?}", args.dsinks), expected));
        }
        arguments.check_pointer("dsinks", args.dsinks, 4)?;
    }
    arguments.check_per_query("workspace", args.workspace, 16)?;
    let [without_q, without_k, without_v] =
        [args.dq, args.dk, args.dv].map(|grad| !attention.atomic && grad == Heads::NONE);
    if !without_q {
        arguments.check_queries_written("dq", &args.dq, head_dim)?;
    }
    if !(without_k && without_v) {
        // One kernel makes both.
        arguments.check_keys_written("dk", &args.dk, head_dim)?;
        arguments.check_keys_written("dv", &args.dv, value_dim)?;
    }
    let tensors = [
        arguments.of_queries("q", &args.q, head_dim),
        arguments.of_keys("k", &args.k, head_dim),
        arguments.of_keys("v", &args.v, value_dim),
        arguments.of_queries("out", &args.out, value_dim),
        arguments.of_queries("dout", &args.dout, value_dim),
        arguments.per_query("lse", args.lse),
        arguments.per_query("dlse", args.dlse),
        Extent::contiguous("workspace", args.workspace, workspace_bytes, 1).written(),
        arguments.of_queries("dq", &args.dq, head_dim).written(),
        arguments.of_keys("dk", &args.dk, head_dim).written(),
        arguments.of_keys("dv", &args.dv, value_dim).written(),
        args.operands.bias_extent(attention, &arguments, "dbias", &args.dbias).written(),
        Extent::contiguous("dsinks", args.dsinks, args.shape.heads, 4).written(),
    ];
    arguments.check_apart(tensors.iter().chain(&args.operands.extents(attention, &arguments)))?;
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::extent::assert_apart;

    const WORKSPACE: usize = 2 * 4 * 5 * 8;

    fn args() -> AttentionBackwardArgs<'static> {
        let at = |i: u64| DevicePtr(i << 20);
        let heads = |i, heads| Heads { data: at(i), strides: Strides::token_major(5, heads, 64) };
        AttentionBackwardArgs {
            shape: AttentionShape { batch: 2, queries: 5, keys: 5, heads: 4, kv_heads: 2 },
            scale: 1.0,
            q: heads(1, 4),
            k: heads(2, 2),
            v: heads(3, 2),
            out: heads(4, 4),
            dout: heads(5, 4),
            lse: at(6),
            dlse: at(7),
            workspace: at(8),
            dq: heads(9, 4),
            dk: heads(10, 2),
            dv: heads(11, 2),
            dbias: Bias::default(),
            dsinks: DevicePtr::NULL,
            operands: Operands::default(),
        }
    }

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let attention = Attention::new(Dtype::Bf16, 64).sinks(true).bias(true);
        let at = |i: u64| DevicePtr(i << 20);
        let bias = |i| Bias { data: at(i), strides: [100, 25, 5, 1] };
        let operands = Operands { sinks: at(12), bias: bias(13), ..Operands::default() };
        let args = AttentionBackwardArgs { dbias: bias(14), dsinks: at(15), operands, ..args() };
        assert_apart(
            args,
            |args| check(&attention, args, WORKSPACE).map(drop),
            6,
            &[
                ("dq", |args| &mut args.dq.data),
                ("dk", |args| &mut args.dk.data),
                ("dv", |args| &mut args.dv.data),
                ("dbias", |args| &mut args.dbias.data),
                ("dsinks", |args| &mut args.dsinks),
                ("workspace", |args| &mut args.workspace),
                ("q", |args| &mut args.q.data),
                ("k", |args| &mut args.k.data),
                ("v", |args| &mut args.v.data),
                ("out", |args| &mut args.out.data),
                ("dout", |args| &mut args.dout.data),
                ("lse", |args| &mut args.lse),
                ("dlse", |args| &mut args.dlse),
                ("sinks", |args| &mut args.operands.sinks),
                ("bias", |args| &mut args.operands.bias.data),
            ],
            &[],
        );
    }

    #[test]
    fn slices_of_packed_gradients_are_apart() {
        // (B, T, 4 + 2 + 2 heads, 64)
        let strides = Strides::token_major(5, 8, 64);
        let slice = |head: i64| Heads { data: DevicePtr(1 << 30).offset(head * 128), strides };
        let packed = AttentionBackwardArgs { dq: slice(0), dk: slice(4), dv: slice(6), ..args() };
        assert!(check(&Attention::new(Dtype::Bf16, 64), &packed, WORKSPACE).is_ok());
    }

    #[test]
    fn gradients_that_are_not_wanted_may_be_left_out_as_far_as_kernels_are_apart() {
        let args = args();
        let message = |atomic: bool, args| {
            let attention = Attention::new(Dtype::Bf16, 64).atomic(atomic);
            check(&attention, &args, WORKSPACE).map_or_else(|error| error.to_string(), |_| "fine".into())
        };
        let none = Heads::NONE;
        assert_eq!(message(false, args), "fine");
        assert_eq!(message(false, AttentionBackwardArgs { dq: none, ..args }), "fine");
        assert_eq!(message(false, AttentionBackwardArgs { dk: none, dv: none, ..args }), "fine");
        let error = message(false, AttentionBackwardArgs { dv: none, ..args });
        assert!(error.starts_with("attention backward: dv is DevicePtr(0x0)"), "{error}");
        let error = message(true, AttentionBackwardArgs { dq: none, ..args });
        assert!(error.starts_with("attention backward: dq is DevicePtr(0x0)"), "{error}");
        assert_eq!(
            message(false, AttentionBackwardArgs { dsinks: DevicePtr(4096), ..args }),
            "attention backward: dsinks is DevicePtr(0x1000), it has to be null: the attention was described without sinks"
        );
    }
}
