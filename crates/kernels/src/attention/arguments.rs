//! What attention is given: shapes, strides, tensors, and what is wrong with them.

use bytemuck::{Pod, Zeroable};
use longhand_gpu::DevicePtr;

use crate::check::{Check, MAX_BLOCKS_YZ, overlap, reach};
use crate::extent::Extent;
use crate::{Dtype, Error, Result};

/// Sizes of one call. Any of them may be 0.
///
/// Of documents ([`Attention::documents`](super::Attention::documents)), which are packed behind each other, `batch` is
/// how many there are, and `queries` and `keys` how many tokens they have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// `B`, at most 65,535.
    pub batch: usize,
    /// `T`, query tokens, at most 2³¹ - 1.
    pub queries: usize,
    /// `S`, key tokens, at most 2³¹ - 1.
    pub keys: usize,
    /// `H`, query heads, at most 65,535; a multiple of `kv_heads`.
    pub heads: usize,
    /// `Hkv`, key and value heads.
    pub kv_heads: usize,
}

/// Elements from one batch, token and head to the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Strides {
    /// From one batch to the next.
    pub batch: i64,
    /// From one token to the next.
    pub token: i64,
    /// From one head to the next.
    pub head: i64,
}

impl Strides {
    /// Of a contiguous `(batch, token, head, D)`.
    #[must_use]
    pub fn token_major(tokens: usize, heads: usize, head_dim: usize) -> Strides {
        let [tokens, heads, head_dim] = [tokens, heads, head_dim].map(|n| n as i64);
        Strides { batch: tokens * heads * head_dim, token: heads * head_dim, head: head_dim }
    }

    /// Of a contiguous `(batch, head, token, D)`.
    #[must_use]
    pub fn head_major(tokens: usize, heads: usize, head_dim: usize) -> Strides {
        let [tokens, heads, head_dim] = [tokens, heads, head_dim].map(|n| n as i64);
        Strides { batch: tokens * heads * head_dim, token: head_dim, head: tokens * head_dim }
    }
}

/// A tensor `(batch, token, head, D)` in device memory; D is the head dim or, of values, the value dim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Its first element; a multiple of 16 bytes.
    pub data: DevicePtr,
    /// How it lies; multiples of 16 bytes, where there is more than one of batch, token or head.
    pub strides: Strides,
}

impl Heads {
    /// No tensor, where one may be left out.
    pub const NONE: Heads = Heads { data: DevicePtr::NULL, strides: Strides { batch: 0, token: 0, head: 0 } };
}

/// The arguments of one call of one operation, to be checked.
pub(super) struct Arguments {
    pub operation: &'static str,
    pub dtype: Dtype,
    pub shape: AttentionShape,
    /// Whether tensors have one batch, whatever the shape's.
    pub documents: bool,
}

impl Arguments {
    /// Of tensors.
    pub fn batch(&self) -> usize {
        if self.documents { self.shape.batch.min(1) } else { self.shape.batch }
    }

    pub fn check_shape(&self, scale: f32) -> Result<()> {
        let AttentionShape { batch, queries, keys, heads, kv_heads } = self.shape;
        for (name, size, limit) in [
            ("batch", batch, MAX_BLOCKS_YZ),
            ("heads", heads, MAX_BLOCKS_YZ),
            ("queries", queries, i32::MAX as usize),
            ("keys", keys, i32::MAX as usize),
        ] {
            if size > limit {
                return Err(self.error(name, size, format!("at most {limit}")));
            }
        }
        if kv_heads == 0 && heads > 0 || kv_heads > 0 && !heads.is_multiple_of(kv_heads) {
            return Err(self.error("heads", heads, format!("a multiple of kv_heads ({kv_heads})")));
        }
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(self.error("scale", scale, "positive and finite"));
        }
        Ok(())
    }

    /// `q`, `out` and their gradients.
    pub fn check_queries(&self, name: &str, tensor: &Heads) -> Result<()> {
        self.check_heads(name, tensor, self.shape.queries, self.shape.heads).map(drop)
    }

    /// `k`, `v` and their gradients.
    pub fn check_keys(&self, name: &str, tensor: &Heads) -> Result<()> {
        self.check_heads(name, tensor, self.shape.keys, self.shape.kv_heads).map(drop)
    }

    /// As [`Arguments::check_queries`], for a tensor that is written, with heads of `dim` elements.
    pub fn check_queries_written(&self, name: &str, tensor: &Heads, dim: usize) -> Result<()> {
        let dims = self.check_heads(name, tensor, self.shape.queries, self.shape.heads)?;
        self.check_distinct(name, dims, dim)
    }

    /// As [`Arguments::check_keys`], for a tensor that is written, with heads of `dim` elements.
    pub fn check_keys_written(&self, name: &str, tensor: &Heads, dim: usize) -> Result<()> {
        let dims = self.check_heads(name, tensor, self.shape.keys, self.shape.kv_heads)?;
        self.check_distinct(name, dims, dim)
    }

    /// A contiguous buffer with something for each query of each head.
    pub fn check_per_query(&self, name: &str, data: DevicePtr, alignment: u64) -> Result<()> {
        let AttentionShape { queries, heads, .. } = self.shape;
        if self.batch() * heads * queries > 0 { self.check_pointer(name, data, alignment) } else { Ok(()) }
    }

    /// Returns sizes and strides; of a tensor without elements, none that counts.
    fn check_heads(
        &self,
        name: &str,
        tensor: &Heads,
        tokens: usize,
        heads: usize,
    ) -> Result<[(usize, i64); 3]> {
        let Strides { batch, token, head } = tensor.strides;
        let dims = [("batch", self.batch(), batch), ("token", tokens, token), ("head", heads, head)];
        if dims.iter().any(|&(_, size, _)| size == 0) {
            return Ok([(0, 0); 3]);
        }
        self.check_pointer(name, tensor.data, 16)?;
        let aligned = 16 / self.dtype.size() as i64;
        if let Some((dim, _, stride)) =
            dims.into_iter().find(|&(_, size, stride)| size > 1 && stride % aligned != 0)
        {
            let argument = format!("{dim} stride of {name}");
            let expected = format!("a multiple of {aligned} elements (16 bytes)");
            return Err(self.error(argument, stride, expected));
        }
        let dims = dims.map(|(_, size, stride)| (size, stride));
        if reach(&dims) > i128::from(i64::MAX / 4) {
            let argument = format!("strides of {name}");
            return Err(self.error(
                argument,
                format!("{:?}", tensor.strides),
                "small enough for 64-bit addresses",
            ));
        }
        Ok(dims)
    }

    /// No two elements of a tensor that is written may be the same.
    fn check_distinct(&self, name: &str, dims: [(usize, i64); 3], dim: usize) -> Result<()> {
        match overlap(dims, dim) {
            None => Ok(()),
            Some((stride, reach)) => {
                let argument = format!("stride of {name}");
                Err(self.error(argument, stride, format!("at least {reach}: its elements overlap")))
            }
        }
    }

    /// `q`, `out` and their gradients, of heads of `dim` elements.
    pub fn of_queries(&self, name: &'static str, tensor: &Heads, dim: usize) -> Extent {
        let AttentionShape { queries, heads, .. } = self.shape;
        Extent::heads(name, tensor, [self.batch(), queries, heads, dim], self.dtype.size())
    }

    /// `k`, `v` and their gradients, of heads of `dim` elements.
    pub fn of_keys(&self, name: &'static str, tensor: &Heads, dim: usize) -> Extent {
        let AttentionShape { keys, kv_heads, .. } = self.shape;
        Extent::heads(name, tensor, [self.batch(), keys, kv_heads, dim], self.dtype.size())
    }

    /// An f32 for each query of each head.
    pub fn per_query(&self, name: &'static str, data: DevicePtr) -> Extent {
        let AttentionShape { queries, heads, .. } = self.shape;
        Extent::contiguous(name, data, self.batch() * heads * queries, Dtype::F32.size())
    }

    /// Nothing that is written overlaps anything else.
    pub fn check_apart<'a>(
        &self,
        extents: impl IntoIterator<Item = &'a Extent, IntoIter: Clone>,
    ) -> Result<()> {
        Check(self.operation).apart(extents)
    }

    pub fn check_pointer(&self, name: &str, data: DevicePtr, alignment: u64) -> Result<()> {
        Check(self.operation).memory(name, data, alignment)
    }

    pub fn error(
        &self,
        argument: impl Into<String>,
        was: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Error {
        Error::argument(self.operation, argument, was, expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: AttentionShape = AttentionShape { batch: 2, queries: 5, keys: 7, heads: 6, kv_heads: 3 };

    fn arguments(shape: AttentionShape) -> Arguments {
        Arguments { operation: "attention forward", dtype: Dtype::Bf16, shape, documents: false }
    }

    fn heads(data: u64, batch: i64, token: i64, head: i64) -> Heads {
        Heads { data: DevicePtr(data), strides: Strides { batch, token, head } }
    }

    fn message(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn contiguous_and_packed_and_broadcast_layouts_are_taken() {
        let arguments = arguments(SHAPE);
        arguments.check_shape(0.125).unwrap();
        for strides in [Strides::token_major(5, 6, 64), Strides::head_major(5, 6, 64)] {
            arguments.check_queries_written("out", &Heads { data: DevicePtr(16), strides }, 64).unwrap();
        }
        arguments.check_queries_written("out", &heads(256, 5 * 18 * 64, 18 * 64, 64), 64).unwrap();
        arguments.check_queries_written("out", &heads(256, -5 * 6 * 64, -6 * 64, 64), 64).unwrap();
        arguments.check_keys("k", &heads(256, 0, 64, 0)).unwrap();
    }

    #[test]
    fn heads_that_kv_heads_do_not_divide_are_an_error() {
        for (kv_heads, heads) in [(4, 6), (0, 6), (12, 6)] {
            let error = message(arguments(AttentionShape { heads, kv_heads, ..SHAPE }).check_shape(1.0));
            let expected = format!(
                "attention forward: heads is {heads}, it has to be a multiple of kv_heads ({kv_heads})"
            );
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn sizes_that_the_grid_or_the_kernel_cannot_count_are_errors_that_name_the_limit() {
        let big = 1 << 31;
        for (shape, argument, limit) in [
            (AttentionShape { batch: 65_536, ..SHAPE }, "batch is 65536", "65535"),
            (AttentionShape { heads: 65_538, ..SHAPE }, "heads is 65538", "65535"),
            (AttentionShape { queries: big, ..SHAPE }, "queries is 2147483648", "2147483647"),
            (AttentionShape { keys: big, ..SHAPE }, "keys is 2147483648", "2147483647"),
        ] {
            let error = message(arguments(shape).check_shape(1.0));
            assert!(error.contains(argument) && error.ends_with(&format!("at most {limit}")), "{error}");
        }
    }

    #[test]
    fn a_scale_that_is_not_positive_and_finite_is_an_error() {
        for scale in [0.0, -1.0, f32::INFINITY, f32::NAN] {
            assert!(message(arguments(SHAPE).check_shape(scale)).contains("scale is"));
        }
    }

    #[test]
    fn what_16_byte_accesses_cannot_reach_is_an_error() {
        let arguments = arguments(SHAPE);
        let error = message(arguments.check_queries("q", &heads(24, 64 * 30, 64 * 6, 64)));
        assert!(error.contains("q is DevicePtr(0x18)") && error.contains("multiple of 16"), "{error}");
        let error = message(arguments.check_keys("v", &heads(0, 64 * 21, 64 * 3, 64)));
        assert!(error.contains("v is DevicePtr(0x0)"), "{error}");
        let error = message(arguments.check_keys("k", &heads(32, 64 * 21, 64 * 3 + 4, 64)));
        assert_eq!(
            error,
            "attention forward: token stride of k is 196, it has to be a multiple of 8 elements (16 bytes)"
        );
    }

    #[test]
    fn strides_of_f32_are_multiples_of_four_elements() {
        let arguments = Arguments { dtype: Dtype::F32, ..arguments(SHAPE) };
        arguments.check_keys("k", &heads(32, 64 * 21, 64 * 3 + 4, 64)).unwrap();
        let error = message(arguments.check_keys("k", &heads(32, 64 * 21, 64 * 3 + 2, 64)));
        assert!(error.ends_with("a multiple of 4 elements (16 bytes)"), "{error}");
    }

    #[test]
    fn the_stride_of_a_dimension_of_one_does_not_matter() {
        let one = AttentionShape { batch: 1, queries: 1, heads: 1, ..SHAPE };
        arguments(one).check_queries_written("out", &heads(16, 3, 5, 7), 64).unwrap();
    }

    #[test]
    fn a_tensor_without_elements_may_be_null() {
        let none = arguments(AttentionShape { keys: 0, ..SHAPE });
        none.check_keys("k", &heads(0, 1, 1, 1)).unwrap();
        let none = arguments(AttentionShape { queries: 0, ..SHAPE });
        none.check_queries_written("out", &heads(0, 1, 1, 1), 64).unwrap();
        none.check_per_query("lse", DevicePtr::NULL, 4).unwrap();
    }

    #[test]
    fn elements_that_overlap_are_an_error_in_what_is_written() {
        let arguments = arguments(SHAPE);
        for (batch, token, head) in
            [(64 * 30, 64 * 6, 0), (64 * 30, 64 * 5, 64), (64 * 30, 64 * 6, 56), (64, 64, 64)]
        {
            let error = message(arguments.check_queries_written("out", &heads(16, batch, token, head), 64));
            assert!(error.contains("stride of out") && error.ends_with("its elements overlap"), "{error}");
        }
    }

    #[test]
    fn strides_beyond_64_bit_addresses_are_an_error() {
        let error = message(arguments(SHAPE).check_queries("q", &heads(16, i64::MAX / 8 * 8, 64, 64)));
        assert!(error.contains("strides of q") && error.contains("64-bit"), "{error}");
    }
}
