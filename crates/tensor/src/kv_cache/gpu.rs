//! In GPU memory.

use std::sync::Arc;

use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::attention::AttentionDecode;
use longhand_kernels::kv_cache::{self as kernel, CacheStrides, Cached, KvAppend, KvAppendArgs};

use super::pages::{Paged, Pages};
use super::{Append, KvCache, Memory, NAME, Side};
use crate::gpu::{kernel_dtype, pointer_or_null};
use crate::ops::attention::{kernel_heads, with_contiguous_heads};
use crate::{Gpu, Result, Tensor};

/// A cache as kernels take it, and what has to stay there until they are enqueued.
pub(crate) struct OnDevice {
    pub(crate) cache: kernel::KvCache,
    /// Where sequences are of different lengths.
    lengths: Option<Arc<Buffer>>,
    _table: Option<Arc<Buffer>>,
}

impl OnDevice {
    /// Null where all are of one length.
    pub(crate) fn lengths(&self) -> DevicePtr {
        self.lengths.as_ref().map_or(DevicePtr::NULL, |lengths| lengths.ptr())
    }
}

impl KvCache {
    /// As the kernel is told.
    pub(crate) fn describe(&self, decode: AttentionDecode) -> AttentionDecode {
        decode.storage(self.storage).paged(matches!(self.pages, Pages::Paged(_)))
    }

    /// All sequences, to be of these lengths.
    pub(crate) fn on_device(&self, gpu: &Gpu, lengths: &[usize]) -> Result<OnDevice> {
        match &self.memory {
            Some(memory) => memory.on_device(gpu, &self.pages, lengths, 0),
            None => Err(super::empty(NAME)),
        }
    }
}

pub(super) fn append(gpu: &Gpu, memory: &Memory, append: &Append<'_>) -> Result<()> {
    let &Append { storage, pages, lengths, ref new } = append;
    let (k, v) = (with_contiguous_heads(new.k)?, with_contiguous_heads(new.v)?);
    let [k_dim, v_dim] = memory.sides.each_ref().map(|side| side.dim);
    let frequencies = new.rope.map(|rope| rope.frequencies.contiguous()).transpose()?;
    let described = KvAppend::new(kernel_dtype(NAME, k.dtype())?, k_dim)
        .value_dim(v_dim)
        .storage(storage)
        .paged(matches!(pages, Pages::Paged(_)))
        .rotary(frequencies.as_ref().map_or(0, |frequencies| 2 * frequencies.numel()))
        .interleaved(new.rope.is_some_and(|rope| rope.interleaved));
    let plan = gpu.plans().kv_append.get(described, |described| described.plan(gpu.device()))?;
    let lengths = &lengths[new.sequences.clone()];
    let on_device = memory.on_device(gpu, pages, lengths, new.sequences.start)?;
    let args = KvAppendArgs {
        batch: lengths.len(),
        tokens: k.shape()[1],
        kv_heads: memory.heads,
        keys: lengths.iter().copied().max().unwrap_or(0),
        k: kernel_heads(&k)?,
        v: kernel_heads(&v)?,
        cache: on_device.cache,
        lengths: on_device.lengths(),
        counts: DevicePtr::NULL,
        frequencies: pointer_or_null(NAME, frequencies.as_ref())?,
        factor: new.rope.map_or(1.0, |rope| rope.factor as f32),
    };
    // SAFETY: the new keys and values lie in memory as their strides say; the cache is as large as its pages take, no other
    // tensor's, and no page is of two sequences; all of it is on this device and freed on this stream.
    unsafe { plan.launch(gpu.stream(), &args)? };
    memory.tensors().into_iter().for_each(|tensor| tensor.storage().bump_version());
    Ok(())
}

impl Memory {
    /// The sequences from `first` on, as many as there are lengths.
    fn on_device(&self, gpu: &Gpu, pages: &Pages, lengths: &[usize], first: usize) -> Result<OnDevice> {
        let [_, page_tokens] = self.shape();
        let ragged = lengths.iter().any(|length| *length != lengths[0]);
        let all = || lengths.iter().map(|&length| length as u32).collect();
        let (first_page, table, pages) = match pages {
            Pages::Contiguous { tokens } => (first, None, kernel::Pages::Contiguous { tokens: *tokens }),
            Pages::Paged(paged) => {
                let (table, pages) = paged.on_device(gpu, first, lengths.len())?;
                (0, Some(table), pages)
            }
        };
        let cached = |side: &Side| side.kernel(self.heads, page_tokens, first_page);
        let [k, v] = &self.sides;
        Ok(OnDevice {
            cache: kernel::KvCache { k: cached(k)?, v: cached(v)?, pages },
            lengths: ragged.then(|| gpu.index_list(all())).transpose()?,
            _table: table,
        })
    }
}

impl Paged {
    /// The lists of these sequences, as long as the longest.
    fn on_device(&self, gpu: &Gpu, first: usize, sequences: usize) -> Result<(Arc<Buffer>, kernel::Pages)> {
        let lists = &self.lists[first..first + sequences];
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        let missing = |list: &Vec<u32>| std::iter::repeat_n(u32::MAX, longest - list.len());
        let table = lists.iter().flat_map(|list| list.iter().copied().chain(missing(list))).collect();
        let table = gpu.index_list(table)?;
        let pages = kernel::Pages::Paged {
            table: table.ptr(),
            table_stride: longest as i64,
            pages_of_sequence: longest,
            pages: self.count,
            page_tokens: self.tokens,
        };
        Ok((table, pages))
    }
}

impl Side {
    /// From this page on.
    fn kernel(&self, heads: usize, page_tokens: usize, first_page: usize) -> Result<Cached> {
        let bytes_of_element = if self.scales.is_some() { 1 } else { self.elements.dtype().size() };
        let width = self.elements.shape()[3] * self.elements.dtype().size() / bytes_of_element;
        let strides = CacheStrides::head_major(page_tokens, heads, width);
        let scale_strides = CacheStrides::head_major(page_tokens, heads, 1);
        let from = |tensor: &Tensor, stride: i64, bytes: usize| -> Result<DevicePtr> {
            Ok(tensor.pointer(NAME)?.offset(first_page as i64 * stride * bytes as i64))
        };
        Ok(Cached {
            data: from(&self.elements, strides.page, bytes_of_element)?,
            strides,
            scales: match &self.scales {
                Some(scales) => from(scales, scale_strides.page, 4)?,
                None => DevicePtr::NULL,
            },
            scale_strides,
        })
    }
}
