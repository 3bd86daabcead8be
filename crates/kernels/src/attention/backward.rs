//! `kernels/attention/backward_rows.cu`, `backward_query.cu`, `backward_key.cu`.

use longhand_gpu::{Arch, Constants, Device, DevicePtr, Kernel, Launch, Program, Stream, params};

use super::arguments::Arguments;
use super::operands::{DocumentsParams, DropoutParams, MaskParams, ScoringParams};
use super::tuning::{Step, Tile};
use super::{Attention, AttentionShape, Bias, HEADERS, Heads, Operands, Strides, bias};
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
            pub grad_out: DevicePtr,
            pub lse: DevicePtr,
            pub rows: DevicePtr,
            pub out_strides: Strides,
            pub grad_out_strides: Strides,
            pub documents: DocumentsParams,
            pub T: i32,
            pub S: i32,
        }
    }
}

mod query {
    use super::{DevicePtr, DocumentsParams, DropoutParams, MaskParams, ScoringParams, Strides, params};

    params! {
        #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
        pub struct Params {
            pub q: DevicePtr,
            pub k: DevicePtr,
            pub v: DevicePtr,
            pub grad_out: DevicePtr,
            pub rows: DevicePtr,
            pub grad_q: DevicePtr,
            pub q_strides: Strides,
            pub k_strides: Strides,
            pub v_strides: Strides,
            pub grad_out_strides: Strides,
            pub grad_q_strides: Strides,
            pub mask: MaskParams,
            pub documents: DocumentsParams,
            pub scoring: ScoringParams,
            pub dropout: DropoutParams,
            pub T: i32,
            pub S: i32,
            pub heads_per_kv: i32,
            pub scale: f32,
        }
    }
}

mod key {
    use super::{DevicePtr, DocumentsParams, DropoutParams, MaskParams, ScoringParams, Strides, params};

    params! {
        #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
        pub struct Params {
            pub q: DevicePtr,
            pub k: DevicePtr,
            pub v: DevicePtr,
            pub grad_out: DevicePtr,
            pub rows: DevicePtr,
            pub grad_k: DevicePtr,
            pub grad_v: DevicePtr,
            pub q_strides: Strides,
            pub k_strides: Strides,
            pub v_strides: Strides,
            pub grad_out_strides: Strides,
            pub grad_k_strides: Strides,
            pub grad_v_strides: Strides,
            pub mask: MaskParams,
            pub documents: DocumentsParams,
            pub scoring: ScoringParams,
            pub dropout: DropoutParams,
            pub T: i32,
            pub S: i32,
            pub heads_per_kv: i32,
            pub scale: f32,
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
            pub grad_sinks: DevicePtr,
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
        let load = |variant: Variant| -> Result<Kernel> {
            let kernel = device.compile_and_load(&variant.program)?.kernel(variant.entry)?;
            Ok(kernel.with_dynamic_shared(variant.shared_bytes)?)
        };
        let tiled = |step, variant: Variant| -> Result<Tiled> {
            let tile = self.tile(step, arch);
            Ok(Tiled { tile, shared_bytes: variant.shared_bytes, kernel: load(variant)? })
        };
        let Variants { rows, query, keys } = variants(self, arch);
        Ok(AttentionBackwardPlan {
            attention: self.clone(),
            rows: load(rows)?,
            query: tiled(Step::BackwardQuery, query)?,
            keys: keys.into_iter().map(|key| tiled(Step::BackwardKey, key)).collect::<Result<_>>()?,
            bias: if self.bias { Some(Loaded::new(device, &bias::variant(self))?) } else { None },
            sinks: if self.sinks { Some(Loaded::new(device, &sinks_variant())?) } else { None },
        })
    }
}

pub(super) struct Variants {
    pub rows: Variant,
    pub query: Variant,
    /// One kernel, or one for each gradient.
    pub keys: Vec<Variant>,
}

pub(super) fn variants(attention: &Attention, arch: Arch) -> Variants {
    let [rows, query, key] = *cuda_files![
        "attention/backward_rows.cu",
        "attention/backward_query.cu",
        "attention/backward_key.cu",
    ];
    let tiled = |step, program: Program, entry| {
        let tile = attention.tile(step, arch);
        let shared_bytes = tile.shared_bytes(step, attention.widths());
        Variant { program, entry, threads: tile.threads(), shared_bytes }
    };
    let keys = |grad_k, grad_v| {
        let constants = attention.tile_constants(attention.tile(Step::BackwardKey, arch));
        let program = attention.program(key, constants.bool("GRAD_K", grad_k).bool("GRAD_V", grad_v));
        tiled(Step::BackwardKey, program.params(key::Params::LAYOUT), KEY_ENTRY)
    };
    let rows_constants = attention.constants().int("THREADS", ROWS_THREADS).int("LANES", lanes(attention));
    let query_constants = attention.tile_constants(attention.tile(Step::BackwardQuery, arch));
    let query_program = attention.program(query, query_constants).params(query::Params::LAYOUT);
    Variants {
        rows: Variant {
            program: program(rows, HEADERS, rows_constants).params(rows::Params::LAYOUT),
            entry: ROWS_ENTRY,
            threads: ROWS_THREADS,
            shared_bytes: 0,
        },
        query: tiled(Step::BackwardQuery, query_program, QUERY_ENTRY),
        keys: if attention.widths().keys_at_once() {
            vec![keys(true, true)]
        } else {
            vec![keys(true, false), keys(false, true)]
        },
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
    pub grad_out: Heads,
    /// `(B, H, T)` contiguous f32, as forward returned it.
    pub lse: DevicePtr,
    /// [`AttentionBackwardPlan::workspace_bytes`] that the launch may use; a multiple of 8 bytes.
    pub workspace: DevicePtr,
    /// `(B, T, H, D)`.
    pub grad_q: Heads,
    /// `(B, S, Hkv, D)`.
    pub grad_k: Heads,
    /// `(B, S, Hkv, Dv)`.
    pub grad_v: Heads,
    /// The gradient of [`Operands::bias`], of the same shape, with strides of its own; null where it is not wanted.
    pub grad_bias: Bias,
    /// `(H)` f32, the gradient of [`Operands::sinks`]; null without.
    pub grad_sinks: DevicePtr,
    /// As given to forward.
    pub operands: Operands<'a>,
}

/// The compiled backward pass of an [`Attention`].
#[derive(Clone, Debug)]
pub struct AttentionBackwardPlan {
    attention: Attention,
    rows: Kernel,
    query: Tiled,
    /// One kernel, or one for each gradient.
    keys: Vec<Tiled>,
    sinks: Option<Loaded>,
    bias: Option<Loaded>,
}

#[derive(Clone, Debug)]
struct Tiled {
    tile: Tile,
    shared_bytes: u32,
    kernel: Kernel,
}

impl AttentionBackwardPlan {
    /// Bytes of workspace that [`launch`](AttentionBackwardPlan::launch) needs for this shape: 8 for each query and head.
    #[must_use]
    pub fn workspace_bytes(&self, shape: &AttentionShape) -> usize {
        let batch = if self.attention.documents { 1 } else { shape.batch };
        [shape.heads, shape.queries, ROW_STATISTICS_BYTES].into_iter().fold(batch, usize::saturating_mul)
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
        let arguments = check(&self.attention, args)?;
        let AttentionShape { batch, heads, .. } = args.shape;
        let [queries, keys] = args.operands.longest(&self.attention, &arguments);
        if batch * heads == 0 {
            return Ok(());
        }
        if queries > 0 {
            // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
            unsafe { self.launch_rows(stream, args, queries) }?;
            // SAFETY: as above; the rows are computed before on the same stream.
            unsafe { self.launch_query(stream, &arguments, args, queries) }?;
        }
        if keys > 0 {
            // SAFETY: as above.
            unsafe { self.launch_key(stream, &arguments, args, keys) }?;
        }
        if let Some(bias) = &self.bias
            && !args.grad_bias.data.is_null()
            && queries > 0
            && keys > 0
        {
            // SAFETY: as above.
            unsafe { bias::launch(bias, &self.attention, stream, &arguments, args) }?;
        }
        if let Some(sinks) = &self.sinks {
            // SAFETY: as above.
            unsafe { self.launch_sinks(sinks, stream, args, arguments.batch()) }?;
        }
        Ok(())
    }

    unsafe fn launch_rows(
        &self,
        stream: &Stream,
        args: &AttentionBackwardArgs<'_>,
        longest: u32,
    ) -> Result<()> {
        let params = rows::Params {
            out: args.out.data,
            grad_out: args.grad_out.data,
            lse: args.lse,
            rows: args.workspace,
            out_strides: args.out.strides,
            grad_out_strides: args.grad_out.strides,
            documents: args.operands.documents_params(),
            T: args.shape.queries as i32,
            S: args.shape.keys as i32,
        };
        let rows_per_block = ROWS_THREADS / lanes(&self.attention);
        let shape = Launch {
            grid: [longest.div_ceil(rows_per_block), args.shape.heads as u32, args.shape.batch as u32],
            block: [ROWS_THREADS, 1, 1],
            shared_bytes: 0,
        };
        // SAFETY: the caller answers for it.
        Ok(unsafe { self.rows.launch(stream, shape, &params) }?)
    }

    unsafe fn launch_query(
        &self,
        stream: &Stream,
        arguments: &Arguments,
        args: &AttentionBackwardArgs<'_>,
        longest: u32,
    ) -> Result<()> {
        let AttentionShape { batch, queries, keys, heads, kv_heads } = args.shape;
        let params = query::Params {
            q: args.q.data,
            k: args.k.data,
            v: args.v.data,
            grad_out: args.grad_out.data,
            rows: args.workspace,
            grad_q: args.grad_q.data,
            q_strides: args.q.strides,
            k_strides: args.k.strides,
            v_strides: args.v.strides,
            grad_out_strides: args.grad_out.strides,
            grad_q_strides: args.grad_q.strides,
            mask: args.operands.mask_params(&self.attention, arguments),
            documents: args.operands.documents_params(),
            scoring: args.operands.scoring_params(&self.attention, arguments, args.scale)?,
            dropout: args.operands.dropout_params(&self.attention),
            T: queries as i32,
            S: keys as i32,
            heads_per_kv: (heads / kv_heads) as i32,
            scale: args.scale,
        };
        let blocks = longest.div_ceil(self.query.tile.block_q);
        // SAFETY: the caller answers for it.
        unsafe { self.query.launch(stream, [blocks, heads as u32, batch as u32], &params) }
    }

    unsafe fn launch_key(
        &self,
        stream: &Stream,
        arguments: &Arguments,
        args: &AttentionBackwardArgs<'_>,
        longest: u32,
    ) -> Result<()> {
        let AttentionShape { batch, queries, keys, heads, kv_heads } = args.shape;
        let params = key::Params {
            q: args.q.data,
            k: args.k.data,
            v: args.v.data,
            grad_out: args.grad_out.data,
            rows: args.workspace,
            grad_k: args.grad_k.data,
            grad_v: args.grad_v.data,
            q_strides: args.q.strides,
            k_strides: args.k.strides,
            v_strides: args.v.strides,
            grad_out_strides: args.grad_out.strides,
            grad_k_strides: args.grad_k.strides,
            grad_v_strides: args.grad_v.strides,
            mask: args.operands.mask_params(&self.attention, arguments),
            documents: args.operands.documents_params(),
            scoring: args.operands.scoring_params(&self.attention, arguments, args.scale)?,
            dropout: args.operands.dropout_params(&self.attention),
            T: queries as i32,
            S: keys as i32,
            heads_per_kv: (heads / kv_heads) as i32,
            scale: args.scale,
        };
        for kernel in &self.keys {
            let blocks = longest.div_ceil(kernel.tile.block_k);
            // SAFETY: the caller answers for it.
            unsafe { kernel.launch(stream, [blocks, kv_heads as u32, batch as u32], &params) }?;
        }
        Ok(())
    }

    unsafe fn launch_sinks(
        &self,
        kernel: &Loaded,
        stream: &Stream,
        args: &AttentionBackwardArgs<'_>,
        batches: usize,
    ) -> Result<()> {
        let params = sinks::Params {
            rows: args.workspace,
            sinks: args.operands.sinks,
            grad_sinks: args.grad_sinks,
            T: args.shape.queries as i64,
            batches: batches as i32,
            _pad: 0,
        };
        // SAFETY: the caller answers for it.
        unsafe { kernel.launch(stream, [args.shape.heads as u32, 1], &params) }
    }
}

impl Tiled {
    unsafe fn launch<P: bytemuck::Pod>(&self, stream: &Stream, grid: [u32; 3], params: &P) -> Result<()> {
        let shape = Launch { grid, block: [self.tile.threads(), 1, 1], shared_bytes: self.shared_bytes };
        // SAFETY: the caller answers for it.
        Ok(unsafe { self.kernel.launch(stream, shape, params) }?)
    }
}

fn check(attention: &Attention, args: &AttentionBackwardArgs<'_>) -> Result<Arguments> {
    let Attention { dtype, head_dim, value_dim, documents, .. } = *attention;
    let arguments = Arguments { operation: OPERATION, dtype, shape: args.shape, documents };
    arguments.check_shape(args.scale)?;
    args.operands.check(attention, &arguments)?;
    for (name, tensor) in [("q", &args.q), ("out", &args.out), ("grad_out", &args.grad_out)] {
        arguments.check_queries(name, tensor)?;
    }
    for (name, tensor) in [("k", &args.k), ("v", &args.v)] {
        arguments.check_keys(name, tensor)?;
    }
    arguments.check_per_query("lse", args.lse, 4)?;
    args.operands.check_grad_bias(attention, &arguments, &args.grad_bias)?;
    if attention.sinks {
        if args.shape.heads > 0 {
            arguments.check_pointer("grad_sinks", args.grad_sinks, 4)?;
        }
    } else if !args.grad_sinks.is_null() {
        let expected = "null: the attention was described without sinks";
        return Err(arguments.error("grad_sinks", format!("{:?}", args.grad_sinks), expected));
    }
    arguments.check_per_query("workspace", args.workspace, 8)?;
    arguments.check_queries_written("grad_q", &args.grad_q, head_dim)?;
    arguments.check_keys_written("grad_k", &args.grad_k, head_dim)?;
    arguments.check_keys_written("grad_v", &args.grad_v, value_dim)?;
    Ok(arguments)
}
