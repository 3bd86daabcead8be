//! Caches of keys and values in device memory, for the cases that read and write them.

use crate::{Error, Precision, Trial};
use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::kv_cache::{CacheStrides, Cached, KvCache, Pages, Storage};
use longhand_reference as reference;

/// How a cache lies.
#[derive(Clone, Debug)]
pub(super) struct CacheLayout {
    pub storage: Storage,
    pub precision: Precision,
    pub batch: usize,
    /// Tokens that each sequence has to have room for.
    pub room: usize,
    pub kv_heads: usize,
    /// Elements of a key and of a value.
    pub dims: [usize; 2],
    /// Tokens of a page; None for a contiguous cache.
    pub page_tokens: Option<usize>,
    /// Whether the tokens of a head are neighbours, rather than the heads of a token.
    pub heads_first: bool,
    /// The bytes of which each head begins at a multiple.
    pub align: usize,
    /// Elements left out after each head.
    pub gap: usize,
    /// Whether the first page of the first sequence is one that the cache has not.
    pub lost: bool,
}

/// A cache in device memory, and what keeps it there.
pub(super) struct DeviceCache {
    pub kernel: KvCache,
    /// Of keys and values: elements, and scales.
    pub sides: [[Buffer; 2]; 2],
    _table: Buffer,
}

impl CacheLayout {
    fn page_tokens(&self) -> usize {
        self.page_tokens.unwrap_or(self.room)
    }

    fn pages_of_sequence(&self) -> usize {
        self.room.div_ceil(self.page_tokens().max(1))
    }

    fn pages(&self) -> usize {
        match self.page_tokens {
            None => self.batch,
            // One more than there are tokens for, and no multiple of the step from each page to the next.
            Some(_) => {
                (self.batch * self.pages_of_sequence() + 1..).find(|pages| pages % 7 != 0).unwrap_or(1)
            }
        }
    }

    /// The page of a sequence's `index`-th tokens: anywhere, but no two are the same.
    fn page(&self, b: usize, index: usize) -> usize {
        match self.page_tokens {
            None => b,
            Some(_) => ((b * self.pages_of_sequence() + index) * 7 + 3) % self.pages(),
        }
    }

    pub fn is_lost(&self, b: usize, token: usize) -> bool {
        self.lost && b == 0 && token < self.page_tokens()
    }

    /// From one head to the next, in elements.
    fn width(&self, side: usize) -> usize {
        (self.dims[side] + self.gap).next_multiple_of(self.align.div_ceil(self.element_bytes()))
    }

    fn strides(&self, side: usize) -> CacheStrides {
        let width = self.width(side);
        let strides = if self.heads_first { CacheStrides::head_major } else { CacheStrides::token_major };
        strides(self.page_tokens(), self.kv_heads, width)
    }

    fn scale_strides(&self) -> CacheStrides {
        CacheStrides::head_major(self.page_tokens(), self.kv_heads, 1)
    }

    fn place(&self, strides: CacheStrides, b: usize, token: usize, head: usize) -> usize {
        let (index, token) = (token / self.page_tokens(), token % self.page_tokens());
        let [page, token, head] = [self.page(b, index), token, head].map(|i| i as i64);
        (page * strides.page + token * strides.token + head * strides.head) as usize
    }

    fn element_bytes(&self) -> usize {
        self.storage.size(self.precision.dtype())
    }

    /// The bytes of a side that nobody wrote.
    pub fn blank(&self, side: usize) -> Vec<u8> {
        let elements = self.pages() * self.page_tokens() * self.kv_heads * self.width(side);
        vec![0xff; elements * self.element_bytes()]
    }

    /// The scales of a side that nobody wrote: NaN.
    pub fn blank_scales(&self) -> Vec<f32> {
        let scales = if self.storage == Storage::Plain {
            0
        } else {
            self.pages() * self.page_tokens() * self.kv_heads
        };
        vec![f32::from_bits(u32::MAX); scales]
    }

    /// The bytes of a head of a token.
    pub fn row(&self, side: usize, b: usize, token: usize, head: usize) -> std::ops::Range<usize> {
        let start = self.place(self.strides(side), b, token, head) * self.element_bytes();
        start..start + self.dims[side] * self.element_bytes()
    }

    /// Where its scale is.
    pub fn scale(&self, b: usize, token: usize, head: usize) -> usize {
        self.place(self.scale_strides(), b, token, head)
    }

    /// The values of a head of a token, whose bytes and scale these are.
    pub fn values(&self, bytes: &[u8], scale: f32) -> Vec<f64> {
        let scale = f64::from(scale);
        match self.storage {
            Storage::Plain => {
                bytes.chunks_exact(self.element_bytes()).map(|x| self.precision.decode(x)).collect()
            }
            Storage::Int8 => bytes.iter().map(|&x| f64::from(x as i8) * scale).collect(),
            Storage::E4m3 => bytes.iter().map(|&x| reference::e4m3(x) * scale).collect(),
        }
    }

    /// Uploads keys and values, and their scales.
    pub fn upload(
        &self,
        trial: &Trial,
        bytes: [&[u8]; 2],
        scales: [&[f32]; 2],
    ) -> Result<DeviceCache, Error> {
        let buffer = |bytes: &[u8]| -> Result<Buffer, Error> {
            let buffer = trial.stream().alloc(bytes.len())?;
            buffer.upload(0, bytes)?;
            Ok(buffer)
        };
        let side = |i: usize| Ok::<_, Error>([buffer(bytes[i])?, buffer(bytemuck::cast_slice(scales[i]))?]);
        let sides = [side(0)?, side(1)?];
        let cached = |i: usize| Cached {
            data: sides[i][0].ptr(),
            strides: self.strides(i),
            scales: if self.storage == Storage::Plain { DevicePtr::NULL } else { sides[i][1].ptr() },
            scale_strides: self.scale_strides(),
        };
        // What follows a sequence's pages in its list is nobody's.
        let list = self.pages_of_sequence();
        let mut table = vec![i32::MAX as u32; self.batch * (list + 1)];
        for (b, table) in table.chunks_exact_mut(list + 1).enumerate() {
            for (index, page) in table[..list].iter_mut().enumerate() {
                *page = if self.is_lost(b, index * self.page_tokens()) {
                    self.pages()
                } else {
                    self.page(b, index)
                } as u32;
            }
        }
        let table = trial.integers(&table)?;
        let pages = match self.page_tokens {
            None => Pages::Contiguous { tokens: self.room },
            Some(page_tokens) => Pages::Paged {
                table: table.ptr(),
                table_stride: list as i64 + 1,
                pages_of_sequence: list,
                pages: self.pages(),
                page_tokens,
            },
        };
        let kernel = KvCache { k: cached(0), v: cached(1), pages };
        Ok(DeviceCache { kernel, sides, _table: table })
    }
}
