//! Keys and values of the tokens that a model has seen, kept for those to come.

mod cpu;
mod gpu;
mod pages;

use std::ops::Range;

use longhand_kernels::kv_cache::Storage;

use crate::ops::{Rope, check_alike, check_device};
use crate::{Device, Dtype, Error, Result, Tensor, no_grad};
use pages::Pages;

const NAME: &str = "kv cache";
/// Of bytes, rows begin at multiples of these: kernels read so many at once.
const ROW_BYTES: usize = 16;

/// The keys and values of one layer of a model, of the tokens of some sequences, which each grow by themselves. New tokens
/// attend to them with [`attention_decode`](crate::ops::attention_decode).
///
/// Element type, heads and device are those of the first keys and values. Memory grows by doubling; in place where no
/// clone shares it. Nothing in here has a gradient.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Dtype, KvCache, Tensor, ops};
///
/// let heads = |tokens, heads| Tensor::full(&[2, tokens, heads, 64], 1.0, Dtype::F32, &Device::Cpu);
/// let mut cache = KvCache::new(2); // of two sequences
/// cache.append(&heads(5, 1)?, &heads(5, 1)?, None)?; // keys and values of five tokens each
/// cache.append(&heads(1, 1)?, &heads(1, 1)?, None)?;
/// let options = ops::AttentionOptions { causal: true, ..Default::default() };
/// let out = ops::attention_decode(&heads(1, 4)?, &cache, &options)?; // of the last token
/// assert_eq!((out.shape(), cache.lengths()), (&[2, 1, 4, 64][..], &[6, 6][..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct KvCache {
    storage: Storage,
    lengths: Vec<usize>,
    pages: Pages,
    memory: Option<Memory>,
}

/// Of keys and of values.
#[derive(Clone, Debug)]
struct Memory {
    sides: [Side; 2],
    heads: usize,
    /// Of what is appended.
    dtype: Dtype,
}

/// Elements `(pages, Hkv, tokens of a page, width)`, in which each sequence is a page where there are none else.
#[derive(Clone, Debug)]
struct Side {
    /// Of a head; what lies beyond it in the width is never read.
    dim: usize,
    /// Bytes are packed in words, the first one lowest.
    elements: Tensor,
    /// `(pages, Hkv, tokens of a page)`, where elements are bytes.
    scales: Option<Tensor>,
}

impl KvCache {
    /// A cache of so many sequences without tokens, each in one piece, in the element type of what is appended.
    #[must_use]
    pub fn new(sequences: usize) -> KvCache {
        let (storage, pages) = (Storage::Plain, Pages::contiguous());
        KvCache { storage, lengths: vec![0; sequences], pages, memory: None }
    }

    /// What an empty cache is to hold: elements of 8 bits, with a scale for each token of each head, take a half or a
    /// quarter of the memory. Heads then have a multiple of 8 elements.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Device, Dtype, KvCache, Storage, Tensor};
    ///
    /// let mut cache = KvCache::new(1).storage(Storage::Int8); // a quarter of f32's memory
    /// let heads = Tensor::ones(&[1, 5, 2, 64], Dtype::F32, &Device::Cpu)?;
    /// cache.append(&heads, &heads, None)?;
    /// assert_eq!(cache.lengths(), [5]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn storage(self, storage: Storage) -> KvCache {
        KvCache { storage, ..self }
    }

    /// An empty cache is to be in pages of so many tokens, at least 1: sequences of different lengths then take only what
    /// they need, and give back what they drop.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Device, Dtype, KvCache, Tensor};
    ///
    /// let mut cache = KvCache::new(2).paged(16);
    /// let heads = |tokens| Tensor::zeros(&[1, tokens, 2, 64], Dtype::F32, &Device::Cpu);
    /// cache.append_to(0, &heads(100)?, &heads(100)?, None)?; // seven pages
    /// cache.append_to(1, &heads(3)?, &heads(3)?, None)?; // one
    /// assert_eq!(cache.lengths(), [100, 3]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn paged(self, page_tokens: usize) -> KvCache {
        KvCache { pages: Pages::paged(self.lengths.len(), page_tokens), ..self }
    }

    /// How many tokens each sequence has.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Appends T tokens to each sequence: keys `(B, T, Hkv, D)`, values `(B, T, Hkv, Dv)`. With `rope`, keys turn by their
    /// token's place in the sequence on the way; queries have to be turned by [`rope`](crate::ops::rope()).
    ///
    /// After an error the sequences are as they were.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Device, Dtype, KvCache, Tensor, ops};
    ///
    /// let rope = ops::Rope::new(64, 10_000.0, &Device::Cpu)?;
    /// let mut cache = KvCache::new(2);
    /// let heads = |tokens| Tensor::zeros(&[2, tokens, 4, 64], Dtype::F32, &Device::Cpu);
    /// cache.append(&heads(7)?, &heads(7)?, Some(&rope))?; // at the places 0 to 6
    /// cache.append(&heads(1)?, &heads(1)?, Some(&rope))?; // at 7
    /// assert_eq!(cache.lengths(), [8, 8]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When shapes, element types or devices do not fit each other or what is in the cache, when a gradient is wanted, or
    /// when there is no memory.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, rope: Option<&Rope>) -> Result<()> {
        self.append_at(0..self.lengths.len(), k, v, rope)
    }

    /// Appends to one sequence alone: keys `(1, T, Hkv, D)`, values `(1, T, Hkv, Dv)`.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, KvCache, Tensor};
    /// let mut cache = KvCache::new(2);
    /// let heads = Tensor::zeros(&[1, 7, 4, 64], Dtype::F32, &Device::Cpu)?;
    /// cache.append_to(1, &heads, &heads, None)?;
    /// assert_eq!(cache.lengths(), [0, 7]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is no such sequence, and as [`append`](KvCache::append).
    pub fn append_to(&mut self, sequence: usize, k: &Tensor, v: &Tensor, rope: Option<&Rope>) -> Result<()> {
        self.check_sequence("append_to", sequence)?;
        self.append_at(sequence..sequence + 1, k, v, rope)
    }

    /// Drops the last tokens of a sequence, so that it has `tokens`.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, KvCache, Tensor};
    /// let mut cache = KvCache::new(1);
    /// let heads = Tensor::zeros(&[1, 7, 4, 64], Dtype::F32, &Device::Cpu)?;
    /// cache.append(&heads, &heads, None)?;
    /// cache.truncate(0, 5)?; // the last two were guesses
    /// assert_eq!(cache.lengths(), [5]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is no such sequence, or it has fewer tokens.
    pub fn truncate(&mut self, sequence: usize, tokens: usize) -> Result<()> {
        self.check_sequence("truncate", sequence)?;
        let length = self.lengths[sequence];
        if tokens > length {
            let expected = format!("at most {length}, the length of sequence {sequence}");
            return Err(Error::argument("kv cache truncate", "tokens", tokens.to_string(), expected));
        }
        self.lengths[sequence] = tokens;
        self.pages.trim(&self.lengths);
        Ok(())
    }

    fn check_sequence(&self, method: &str, sequence: usize) -> Result<()> {
        if sequence < self.lengths.len() {
            return Ok(());
        }
        let expected = format!("less than {}", self.lengths.len());
        Err(Error::argument(&format!("{NAME} {method}"), "sequence", sequence.to_string(), expected))
    }

    fn append_at(
        &mut self,
        sequences: Range<usize>,
        k: &Tensor,
        v: &Tensor,
        rope: Option<&Rope>,
    ) -> Result<()> {
        let new = New { sequences, k, v, rope };
        let tokens = self.check_new(&new)?;
        if tokens == 0 || new.sequences.is_empty() {
            return Ok(());
        }
        let mut lengths = self.lengths.clone();
        lengths[new.sequences.clone()].iter_mut().for_each(|length| *length += tokens);
        self.pages.reserve(&lengths);
        let written = no_grad(|| {
            self.make_room(k, v)?;
            let memory = self.memory.as_ref().ok_or_else(|| empty(NAME))?;
            memory.append(&Append { storage: self.storage, pages: &self.pages, lengths: &lengths, new })
        });
        match &written {
            Ok(()) => self.lengths = lengths,
            // What was written lies behind the tokens that there are.
            Err(_) => self.pages.trim(&self.lengths),
        }
        written
    }

    /// Returns how many tokens are new.
    fn check_new(&self, new: &New<'_>) -> Result<usize> {
        let New { k, v, rope, .. } = *new;
        check_alike(NAME, &[k, v])?;
        self.pages.check()?;
        for (name, tensor) in [("k", k), ("v", v)] {
            if !tensor.dtype().is_float() {
                return Err(Error::dtype(NAME, tensor.dtype(), "a floating-point type"));
            }
            if tensor.needs_gradient() {
                let expected = "detached, or computed within `no_grad`: a cache has no gradient";
                return Err(Error::argument(NAME, name, "one whose gradient is wanted", expected));
            }
        }
        let (&[batch, tokens, heads, dim], &[batch_v, tokens_v, heads_v, value_dim]) = (k.shape(), v.shape())
        else {
            let rule = "k must be (B, T, Hkv, D), and v (B, T, Hkv, Dv)";
            return Err(Error::shapes(NAME, k.shape(), v.shape(), rule));
        };
        if (batch, tokens, heads) != (batch_v, tokens_v, heads_v) || [heads, dim, value_dim].contains(&0) {
            let rule = "k and v must agree in B, T and Hkv, with heads of at least one element";
            return Err(Error::shapes(NAME, k.shape(), v.shape(), rule));
        }
        if batch != new.sequences.len() {
            let expected = format!("{}, the number of sequences to append to", new.sequences.len());
            return Err(Error::argument(NAME, "B", batch.to_string(), expected));
        }
        if let Some(misfit) = [dim, value_dim].iter().find(|dim| self.is_quantised() && *dim % 8 != 0) {
            let expected = "a multiple of 8 for elements of 8 bits";
            return Err(Error::argument(NAME, "head dim", misfit.to_string(), expected));
        }
        if let Some(rope) = rope {
            rope.check(k, dim)?;
        }
        self.check_like_memory(k, heads, [dim, value_dim])?;
        Ok(tokens)
    }

    fn check_like_memory(&self, k: &Tensor, heads: usize, dims: [usize; 2]) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        check_device(NAME, k, &memory.sides[0].elements)?;
        if k.dtype() != memory.dtype {
            return Err(Error::Dtypes { operation: NAME.into(), left: memory.dtype, right: k.dtype() });
        }
        let known = memory.sides.each_ref().map(|side| side.dim);
        if (heads, dims) != (memory.heads, known) {
            let shape = |heads, [dim, value_dim]: [usize; 2]| {
                format!("{heads} heads of {dim} and {value_dim} elements")
            };
            let (found, expected) = (shape(heads, dims), shape(memory.heads, known));
            return Err(Error::argument(NAME, "k and v", found, expected));
        }
        Ok(())
    }

    /// Queries have to be of the cache's type and on its device. Returns Hkv, D and Dv; `None` where nothing was appended
    /// yet.
    pub(crate) fn check_queries(&self, operation: &str, q: &Tensor) -> Result<Option<[usize; 3]>> {
        let Some(Memory { sides: [k, v], heads, dtype }) = &self.memory else { return Ok(None) };
        check_device(operation, q, &k.elements)?;
        if q.dtype() != *dtype {
            return Err(Error::Dtypes { operation: operation.into(), left: *dtype, right: q.dtype() });
        }
        Ok(Some([*heads, k.dim, v.dim]))
    }

    /// Views of keys and values, `(B, S, Hkv, D)` and `(B, S, Hkv, Dv)`, where all sequences are of one length and lie in one
    /// piece each, in their own type.
    pub(crate) fn in_one_piece(&self) -> Result<Option<[Tensor; 2]>> {
        let (Some(memory), Pages::Contiguous { .. }, Storage::Plain) =
            (&self.memory, &self.pages, self.storage)
        else {
            return Ok(None);
        };
        let length = self.lengths[0];
        if self.lengths.iter().any(|other| *other != length) {
            return Ok(None);
        }
        let [k, v] = &memory.sides;
        let view = |side: &Side| -> Result<Tensor> { side.elements.narrow(2, 0, length)?.transpose(1, 2) };
        Ok(Some([view(k)?, view(v)?]))
    }

    fn is_quantised(&self) -> bool {
        self.storage != Storage::Plain
    }

    /// As much memory as the pages take, and no clone's: a copy where it is not.
    fn make_room(&mut self, k: &Tensor, v: &Tensor) -> Result<()> {
        let shape = self.pages.shape(self.lengths.len());
        let fits = self.memory.as_mut().is_some_and(|memory| memory.is_own() && memory.shape() == shape);
        if !fits {
            let larger = Memory::new(self.storage, shape, k, v)?;
            if let Some(memory) = &self.memory {
                memory.copy_to(&larger)?;
            }
            self.memory = Some(larger);
        }
        Ok(())
    }
}

pub(crate) fn empty(operation: &str) -> Error {
    Error::argument(operation, "cache", "empty", "one to which keys and values were appended")
}

/// Tokens to be appended to these sequences.
struct New<'a> {
    sequences: Range<usize>,
    k: &'a Tensor,
    v: &'a Tensor,
    rope: Option<&'a Rope>,
}

/// Where and how they are written.
struct Append<'a> {
    storage: Storage,
    pages: &'a Pages,
    /// Of all sequences, with the new tokens.
    lengths: &'a [usize],
    new: New<'a>,
}

impl Memory {
    /// For heads like those of `k` and `v`; `shape` is pages and tokens of a page.
    fn new(storage: Storage, shape: [usize; 2], k: &Tensor, v: &Tensor) -> Result<Memory> {
        let heads = k.shape()[2];
        let side = |tensor: &Tensor| -> Result<Side> {
            let ([pages, tokens], dim, device) = (shape, tensor.shape()[3], tensor.device());
            let zeros = |width: usize, dtype| Tensor::zeros(&[pages, heads, tokens, width], dtype, device);
            if storage == Storage::Plain {
                return Ok(Side { dim, elements: zeros(dim, tensor.dtype())?, scales: None });
            }
            let elements = zeros(dim.next_multiple_of(ROW_BYTES) / 4, Dtype::U32)?;
            Ok(Side { dim, elements, scales: Some(zeros(1, Dtype::F32)?) })
        };
        Ok(Memory { sides: [side(k)?, side(v)?], heads, dtype: k.dtype() })
    }

    fn device(&self) -> &Device {
        self.sides[0].elements.device()
    }

    /// Pages and tokens of a page.
    fn shape(&self) -> [usize; 2] {
        let shape = self.sides[0].elements.shape();
        [shape[0], shape[2]]
    }

    /// Whether it may be changed in place.
    fn is_own(&mut self) -> bool {
        let tensors = self
            .sides
            .iter_mut()
            .flat_map(|side| std::iter::once(&mut side.elements).chain(&mut side.scales));
        tensors.into_iter().all(Tensor::is_only_handle)
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.sides.iter().flat_map(|side| std::iter::once(&side.elements).chain(&side.scales)).collect()
    }

    /// Copies all pages to the first of a larger memory, whose pages may be larger, too.
    fn copy_to(&self, larger: &Memory) -> Result<()> {
        for (from, to) in self.tensors().into_iter().zip(larger.tensors()) {
            let shape = from.shape();
            let target = to.narrow(0, 0, shape[0])?.narrow(2, 0, shape[2])?;
            match from.device() {
                Device::Cpu => cpu::copy(from, &target)?,
                Device::Gpu(gpu) => gpu.copy(NAME, from, &target)?,
            }
        }
        Ok(())
    }

    fn append(&self, append: &Append<'_>) -> Result<()> {
        match self.device() {
            Device::Cpu => cpu::append(self, append),
            Device::Gpu(gpu) => gpu::append(gpu, self, append),
        }
    }
}
