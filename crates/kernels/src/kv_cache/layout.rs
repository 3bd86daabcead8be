//! How a cache lies in memory, and what is wrong with it.

use bytemuck::{Pod, Zeroable};
use longhand_gpu::{Constants, DevicePtr};

use crate::attention::Strides;
use crate::check::{Check, overlap, reach};
use crate::extent::Extent;
use crate::{Dtype, Result};

/// The most tokens of a sequence, and of a page.
pub const MAX_TOKENS: usize = i32::MAX as usize - 64;

/// What the elements of a cache are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Those of the keys and values themselves.
    Plain,
    /// -127 to 127, times a scale for each token of each head.
    Int8,
    /// The 8-bit float of 4 exponent and 3 mantissa bits, up to 448, times a scale for each token of each head.
    E4m3,
}

impl Storage {
    /// Bytes of an element, where those of keys and values are `dtype`.
    #[must_use]
    pub fn size(self, dtype: Dtype) -> usize {
        if self == Storage::Plain { dtype.size() } else { 1 }
    }

    pub(crate) fn is_quantised(self) -> bool {
        self != Storage::Plain
    }

    /// `Cached` and `QUANTISED` of the kernels, where keys and values are `dtype`.
    pub(crate) fn constants(self, constants: Constants, dtype: Dtype) -> Constants {
        let cached = match self {
            Storage::Plain => dtype.cuda_name(),
            Storage::Int8 => "int8",
            Storage::E4m3 => "e4m3",
        };
        constants.alias("Cached", cached).bool("QUANTISED", self.is_quantised())
    }
}

/// Elements from one page, token and head to the next; none of them negative.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CacheStrides {
    /// From one page to the next; in a contiguous cache, from one sequence to the next.
    pub page: i64,
    /// From one token of a page to the next.
    pub token: i64,
    /// From one head to the next.
    pub head: i64,
}

impl CacheStrides {
    /// Of what is not there.
    pub const NONE: CacheStrides = CacheStrides { page: 0, token: 0, head: 0 };

    /// Of a contiguous `(page, token, head, D)`, with `tokens` in a page. For scales, `D` is 1.
    #[must_use]
    pub fn token_major(tokens: usize, heads: usize, head_dim: usize) -> CacheStrides {
        Strides::token_major(tokens, heads, head_dim).into()
    }

    /// Of a contiguous `(page, head, token, D)`, with `tokens` in a page: for scales, the layout in which the fewest
    /// bytes are read that nobody needs.
    #[must_use]
    pub fn head_major(tokens: usize, heads: usize, head_dim: usize) -> CacheStrides {
        Strides::head_major(tokens, heads, head_dim).into()
    }
}

/// Those of a tensor whose batches are pages.
impl From<Strides> for CacheStrides {
    fn from(Strides { batch: page, token, head }: Strides) -> CacheStrides {
        CacheStrides { page, token, head }
    }
}

/// The keys, or the values, of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// `(page, token, Hkv, D)`, the elements of a head next to each other.
    pub data: DevicePtr,
    /// How it lies.
    pub strides: CacheStrides,
    /// `(page, token, Hkv)` f32: what the elements are to be multiplied by. Null where they are not quantised.
    pub scales: DevicePtr,
    /// How they lie.
    pub scale_strides: CacheStrides,
}

/// Where the tokens of a sequence are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Sequence `b` is page `b`, of so many tokens.
    Contiguous {
        /// Room for each sequence.
        tokens: usize,
    },
    /// Each sequence has a list of pages.
    Paged {
        /// `(B, pages_of_sequence)` i32: page numbers. The kernels read and write nothing on a page whose number is
        /// negative or `pages` or more.
        table: DevicePtr,
        /// From one sequence's list to the next, in elements.
        table_stride: i64,
        /// Numbers in a list: room for so many times `page_tokens`.
        pages_of_sequence: usize,
        /// In the cache.
        pages: usize,
        /// In a page.
        page_tokens: usize,
    },
}

impl Pages {
    /// Checks the pages of sequences with so many tokens, of which `table` is a copy: `(B, pages_of_sequence)`. The kernels
    /// cannot say what is wrong with them, and leave out what is on a page that the cache has not.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a sequence that there is no room for, or a page that the cache has
    /// not.
    pub fn check_table(&self, table: &[i32], lengths: &[usize]) -> Result<()> {
        let check = Check("kv cache");
        for (b, &length) in lengths.iter().enumerate() {
            check.size(&format!("length of sequence {b}"), length, 0, self.capacity())?;
            let Pages::Paged { pages_of_sequence, pages, page_tokens, .. } = *self else { continue };
            let list = table.iter().skip(b * pages_of_sequence).take(length.div_ceil(page_tokens));
            let list: Vec<i32> = list.copied().collect();
            if list.len() < length.div_ceil(page_tokens) {
                let expected =
                    format!("{} numbers for {} sequences", lengths.len() * pages_of_sequence, lengths.len());
                return Err(check.error("table", format!("of {} numbers", table.len()), expected));
            }
            if let Some(i) =
                list.iter().position(|&page| usize::try_from(page).map_or(true, |page| page >= pages))
            {
                let name = format!("page {i} of sequence {b}");
                return Err(check.error(
                    &name,
                    list[i],
                    format!("0 to {}: the cache has {pages} pages", pages - 1),
                ));
            }
        }
        Ok(())
    }

    /// Tokens that there is room for in a sequence.
    fn capacity(&self) -> usize {
        match *self {
            Pages::Contiguous { tokens } => tokens,
            Pages::Paged { pages_of_sequence, page_tokens, .. } => {
                pages_of_sequence.saturating_mul(page_tokens)
            }
        }
    }
}

/// A cache in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCache {
    /// The keys.
    pub k: Cached,
    /// The values, of which the head dim may be another.
    pub v: Cached,
    /// Where the tokens are.
    pub pages: Pages,
}

impl KvCache {
    /// Tokens that there is room for in a sequence.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pages.capacity()
    }
}

/// `Pages` of `kv_cache/cache.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct KernelPages {
    table: DevicePtr,
    stride: i64,
    count: i32,
    tokens: i32,
    size: u32,
    magic: u32,
    shift: i32,
    _pad: u32,
}

impl KernelPages {
    /// With at most `tokens` of a sequence; all sizes have been checked.
    pub fn new(pages: &Pages, tokens: usize) -> KernelPages {
        let tokens = tokens as i32;
        match *pages {
            Pages::Contiguous { .. } => KernelPages { tokens, ..KernelPages::zeroed() },
            Pages::Paged { table, table_stride, pages, page_tokens, .. } => {
                let (magic, shift) = reciprocal(page_tokens as u32);
                let (count, size) = (pages as i32, page_tokens as u32);
                KernelPages { table, stride: table_stride, count, tokens, size, magic, shift, _pad: 0 }
            }
        }
    }
}

/// `(magic, shift)` with `n / size == n * magic >> shift` for every `n` below 2³¹ (Warren, Hacker's Delight, 2nd edition,
/// section 10-9).
fn reciprocal(size: u32) -> (u32, i32) {
    let bits = 32 - (size - 1).leading_zeros(); // size <= 2^bits
    let magic = (1u128 << (31 + bits)).div_ceil(size.into());
    (magic as u32, 31 + bits as i32)
}

/// What a cache is checked against.
pub(crate) struct CacheSizes {
    pub check: Check,
    pub dtype: Dtype,
    pub storage: Storage,
    pub paged: bool,
    pub batch: usize,
    pub kv_heads: usize,
    /// Of keys and values.
    pub head_dims: [usize; 2],
}

impl CacheSizes {
    /// Of a cache that is read (written), and is not empty.
    pub fn check(&self, cache: &KvCache, written: bool) -> Result<()> {
        let check = self.check;
        let (pages, tokens) = self.check_pages(&cache.pages)?;
        let [key_dim, value_dim] = self.head_dims;
        for (name, scales, side, head_dim) in [
            ("cache.k", "cache.k.scales", &cache.k, key_dim),
            ("cache.v", "cache.v.scales", &cache.v, value_dim),
        ] {
            let dims = |strides: CacheStrides| {
                [
                    ("page", pages, strides.page),
                    ("token", tokens, strides.token),
                    ("head", self.kv_heads, strides.head),
                ]
            };
            check.memory(name, side.data, self.storage.size(self.dtype) as u64)?;
            self.check_strides(name, dims(side.strides), head_dim, written)?;
            if self.storage.is_quantised() {
                check.memory(scales, side.scales, 4)?;
                self.check_strides(scales, dims(side.scale_strides), 1, written)?;
            } else if !side.scales.is_null() {
                let was = format!("{:?}", side.scales);
                return Err(check.error(scales, was, "null: the elements are not quantised"));
            }
        }
        Ok(())
    }

    /// Keys, values, the scales of each, and the table of pages.
    pub fn extents(&self, cache: &KvCache) -> [Extent; 5] {
        let (pages, tokens) = self.counts(&cache.pages);
        let of = |name, data, CacheStrides { page, token, head }, dim, size| {
            Extent::strided(name, data, [(pages, page), (tokens, token), (self.kv_heads, head)], dim, size)
        };
        let KvCache { k, v, .. } = cache;
        let ([key_dim, value_dim], size) = (self.head_dims, self.storage.size(self.dtype));
        let (table, stride, entries) = match cache.pages {
            Pages::Contiguous { .. } => (DevicePtr::NULL, 0, 0),
            Pages::Paged { table, table_stride, pages_of_sequence, .. } => {
                (table, table_stride, pages_of_sequence)
            }
        };
        [
            of("cache.k", k.data, k.strides, key_dim, size),
            of("cache.v", v.data, v.strides, value_dim, size),
            of("cache.k.scales", k.scales, k.scale_strides, 1, 4),
            of("cache.v.scales", v.scales, v.scale_strides, 1, 4),
            Extent::rows("table", table, [self.batch, entries], stride, 4),
        ]
    }

    /// Whether every head of keys and values begins at a multiple of 16 bytes.
    pub fn is_aligned(&self, cache: &KvCache) -> bool {
        self.check_alignment(cache).is_ok()
    }

    /// Every head of keys and values has to begin at a multiple of 16 bytes.
    pub fn check_alignment(&self, cache: &KvCache) -> Result<()> {
        let (pages, tokens) = self.counts(&cache.pages);
        let elements = 16 / self.storage.size(self.dtype) as i64;
        for (name, side) in [("cache.k", &cache.k), ("cache.v", &cache.v)] {
            self.check.memory(name, side.data, 16)?;
            let CacheStrides { page, token, head } = side.strides;
            for (dim, count, stride) in
                [("page", pages, page), ("token", tokens, token), ("head", self.kv_heads, head)]
            {
                if count > 1 && stride % elements != 0 {
                    let expected = format!("a multiple of 16 bytes ({elements} elements)");
                    return Err(self.check.error(&format!("{dim} stride of {name}"), stride, expected));
                }
            }
        }
        Ok(())
    }

    /// Pages, and tokens of a page.
    fn counts(&self, pages: &Pages) -> (usize, usize) {
        match *pages {
            Pages::Contiguous { tokens } => (self.batch, tokens),
            Pages::Paged { pages, page_tokens, .. } => (pages, page_tokens),
        }
    }

    fn check_pages(&self, pages: &Pages) -> Result<(usize, usize)> {
        let check = self.check;
        match *pages {
            Pages::Contiguous { .. } if self.paged => {
                return Err(check.error("cache", "contiguous", "paged, as planned"));
            }
            Pages::Contiguous { tokens } => check.size("tokens of the cache", tokens, 0, MAX_TOKENS)?,
            Pages::Paged { .. } if !self.paged => {
                return Err(check.error("cache", "paged", "contiguous, as planned"));
            }
            Pages::Paged { table, table_stride, pages_of_sequence, pages, page_tokens } => {
                check.size("page_tokens", page_tokens, 1, MAX_TOKENS)?;
                check.size("pages", pages, 1, i32::MAX as usize)?;
                let room = pages_of_sequence.saturating_mul(page_tokens);
                check.size("pages_of_sequence * page_tokens", room, 0, MAX_TOKENS)?;
                check.memory("table", table, 4)?;
                check.stride("table_stride", table_stride, self.batch)?;
            }
        }
        Ok(self.counts(pages))
    }

    fn check_strides(
        &self,
        name: &str,
        dims: [(&str, usize, i64); 3],
        inner: usize,
        written: bool,
    ) -> Result<()> {
        let check = self.check;
        if let Some((dim, _, stride)) = dims.iter().find(|&&(_, count, stride)| count > 1 && stride < 0) {
            return Err(check.error(&format!("{dim} stride of {name}"), stride, "0 or more"));
        }
        let strided = dims.map(|(_, count, stride)| (count, stride));
        if reach(&strided) > i128::from(i64::MAX / 8) {
            let was = format!("{:?}", dims.map(|(_, _, stride)| stride));
            return Err(check.error(&format!("strides of {name}"), was, "small enough for 64-bit addresses"));
        }
        match overlap(strided, inner) {
            Some((stride, reach)) if written => {
                let expected = format!("at least {reach}: its elements overlap");
                Err(check.error(&format!("stride of {name}"), stride, expected))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reciprocal_divides_every_token_below_two_to_the_31_exactly() {
        let sizes = (1..70).chain([
            127,
            256,
            1000,
            4097,
            65_537,
            (1 << 30) - 1,
            1 << 30,
            (1 << 30) + 1,
            i32::MAX as u32,
        ]);
        for size in sizes {
            let (magic, shift) = reciprocal(size);
            let most = i32::MAX as u32;
            let near = (0..50).map(|i| (most / 50 * i / size).saturating_mul(size));
            for n in near.flat_map(|n| [n.saturating_sub(1), n, n + 1]).chain([
                0,
                1,
                size - 1,
                size,
                most - 1,
                most,
            ]) {
                let n = n.min(most);
                assert_eq!((u64::from(n) * u64::from(magic)) >> shift, u64::from(n / size), "{n} / {size}");
            }
        }
    }

    fn sizes(storage: Storage, paged: bool) -> CacheSizes {
        let check = Check("kv cache");
        CacheSizes { check, dtype: Dtype::Bf16, storage, paged, batch: 2, kv_heads: 3, head_dims: [64, 32] }
    }

    fn cached(head_dim: usize, scales: u64) -> Cached {
        Cached {
            data: DevicePtr(4096),
            strides: CacheStrides::token_major(5, 3, head_dim),
            scales: DevicePtr(scales),
            scale_strides: CacheStrides::head_major(5, 3, 1),
        }
    }

    fn paged() -> Pages {
        Pages::Paged { table: DevicePtr(64), table_stride: 4, pages_of_sequence: 4, pages: 7, page_tokens: 5 }
    }

    fn message(storage: Storage, change: impl Fn(&mut KvCache)) -> String {
        let scales = if storage.is_quantised() { 256 } else { 0 };
        let mut cache = KvCache { k: cached(64, scales), v: cached(32, scales), pages: paged() };
        cache.v.data = DevicePtr(1 << 20);
        change(&mut cache);
        sizes(storage, true).check(&cache, true).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        let is = |change: &dyn Fn(&mut KvCache), expected: &str| {
            assert_eq!(message(Storage::Int8, change), expected);
        };
        is(&|_| (), "fine");
        is(
            &|cache| cache.v.scales = DevicePtr::NULL,
            "kv cache: cache.v.scales is DevicePtr(0x0), it has to be an address that is a multiple of 4",
        );
        is(
            &|cache| cache.k.strides.token = 64,
            "kv cache: stride of cache.k is 64, it has to be at least 320: its elements overlap",
        );
        is(
            &|cache| cache.v.strides.page = -480,
            "kv cache: page stride of cache.v is -480, it has to be 0 or more",
        );
        is(
            &|cache| cache.k.scale_strides.head = 0,
            "kv cache: stride of cache.k.scales is 0, it has to be at least 1: its elements overlap",
        );
        is(
            &|cache| cache.pages = Pages::Contiguous { tokens: 5 },
            "kv cache: cache is contiguous, it has to be paged, as planned",
        );
        is(
            &|cache| {
                cache.pages = Pages::Paged {
                    table: DevicePtr(64),
                    table_stride: 4,
                    pages_of_sequence: 4,
                    pages: 7,
                    page_tokens: 0,
                }
            },
            "kv cache: page_tokens is 0, it has to be 1 to 2147483583",
        );
        is(
            &|cache| {
                cache.pages = Pages::Paged {
                    table: DevicePtr(2),
                    table_stride: 4,
                    pages_of_sequence: 4,
                    pages: 7,
                    page_tokens: 5,
                }
            },
            "kv cache: table is DevicePtr(0x2), it has to be an address that is a multiple of 4",
        );
        is(
            &|cache| cache.k.strides.page = i64::MAX / 2,
            "kv cache: strides of cache.k is [4611686018427387903, 192, 64], it has to be small enough for 64-bit addresses",
        );
    }

    #[test]
    fn scales_of_elements_that_are_not_quantised_are_an_error() {
        assert_eq!(message(Storage::Plain, |_| ()), "fine");
        assert_eq!(
            message(Storage::Plain, |cache| cache.k.scales = DevicePtr(256)),
            "kv cache: cache.k.scales is DevicePtr(0x100), it has to be null: the elements are not quantised"
        );
    }

    #[test]
    fn what_is_no_multiple_of_16_bytes_is_named() {
        let aligned = |change: &dyn Fn(&mut Cached)| {
            let mut cache = KvCache { k: cached(64, 256), v: cached(32, 256), pages: paged() };
            change(&mut cache.v);
            sizes(Storage::Int8, true)
                .check_alignment(&cache)
                .map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(aligned(&|_| ()), "fine");
        assert_eq!(
            aligned(&|side| side.strides.token = 200),
            "kv cache: token stride of cache.v is 200, it has to be a multiple of 16 bytes (16 elements)"
        );
        assert_eq!(
            aligned(&|side| side.data = DevicePtr(8)),
            "kv cache: cache.v is DevicePtr(0x8), it has to be an address that is a multiple of 16"
        );
    }

    #[test]
    fn a_table_that_points_outside_the_cache_is_an_error_that_names_the_page() {
        let check = |table: &[i32], lengths: &[usize]| {
            paged().check_table(table, lengths).map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        // What is behind a sequence's last page is not looked at.
        assert_eq!(check(&[0, 6, -1, -1, 2, 99, 0, 0], &[10, 5]), "fine");
        assert_eq!(
            check(&[0, 6, -1, -1, 2, 99, 0, 0], &[10, 6]),
            "kv cache: page 1 of sequence 1 is 99, it has to be 0 to 6: the cache has 7 pages"
        );
        assert_eq!(
            check(&[0, 6, -1, -1], &[11]),
            "kv cache: page 2 of sequence 0 is -1, it has to be 0 to 6: the cache has 7 pages"
        );
        assert_eq!(check(&[0; 4], &[21]), "kv cache: length of sequence 0 is 21, it has to be 0 to 20");
        assert_eq!(
            check(&[0; 4], &[1, 1]),
            "kv cache: table is of 4 numbers, it has to be 8 numbers for 2 sequences"
        );
        assert_eq!(Pages::Contiguous { tokens: 3 }.check_table(&[], &[3, 0]).map_err(|_| ()), Ok(()));
    }
}
