//! The cache of keys and values that decoding reads: how it lies in memory, and how new tokens get into it.
//!
//! A cache is a tensor `(page, token, Hkv, D)` of keys and one of values. In a contiguous cache, a sequence is a page. In
//! a paged one, pages of any number of tokens lie anywhere, and each sequence has a list of the numbers of its pages.
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::attention::{Heads, Strides};
//! use longhand_kernels::kv_cache::{CacheStrides, Cached, KvAppend, KvAppendArgs, KvCache, Pages};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::cuda(0)?;
//! let stream = device.new_stream()?;
//! let plan = KvAppend::new(Dtype::Bf16, 128).rotary(128).paged(true).plan(&device)?;
//!
//! let (batch, kv_heads, pages, page_tokens) = (16, 8, 4096, 16); // 65,536 tokens, shared by 16 sequences
//! let bytes = pages * page_tokens * kv_heads * 128 * 2;
//! let (k_cache, v_cache) = (stream.alloc(bytes)?, stream.alloc(bytes)?);
//! let table = stream.alloc(batch * 1024 * 4)?; // up to 1024 pages each
//! let lengths = stream.alloc(batch * 4)?;
//! let frequencies = stream.alloc(64 * 4)?;
//! let new = stream.alloc(2 * batch * kv_heads * 128 * 2)?;
//! let heads = |i: i64| Heads {
//!     data: new.ptr().offset(i * (batch * kv_heads * 128 * 2) as i64),
//!     strides: Strides::token_major(1, kv_heads, 128),
//! };
//! let cached = |data: DevicePtr| Cached {
//!     data,
//!     strides: CacheStrides::token_major(page_tokens, kv_heads, 128),
//!     scales: DevicePtr::NULL,
//!     scale_strides: CacheStrides::NONE,
//! };
//! let args = KvAppendArgs {
//!     batch,
//!     tokens: 1,
//!     kv_heads,
//!     keys: 16_384,
//!     k: heads(0),
//!     v: heads(1),
//!     cache: KvCache {
//!         k: cached(k_cache.ptr()),
//!         v: cached(v_cache.ptr()),
//!         pages: Pages::Paged { table: table.ptr(), table_stride: 1024, pages_of_sequence: 1024, pages, page_tokens },
//!     },
//!     lengths: lengths.ptr(),
//!     counts: DevicePtr::NULL,
//!     frequencies: frequencies.ptr(),
//!     factor: 1.0,
//! };
//! // SAFETY: all tensors lie within the allocations above, which outlive the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

mod append;
mod layout;

pub(crate) use append::variants;
pub use append::{KvAppend, KvAppendArgs, KvAppendPlan};
pub(crate) use layout::{CacheSizes, KernelPages};
pub use layout::{CacheStrides, Cached, KvCache, MAX_TOKENS, Pages, Storage};
