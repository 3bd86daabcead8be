//! What operations check of their arguments before they launch.

use std::fmt::Display;

use longhand_gpu::DevicePtr;

use crate::attention::Heads;
use crate::random::Dropout;
use crate::{Dtype, Error, Result};

/// The most blocks of a grid in x.
pub(crate) const MAX_BLOCKS: usize = i32::MAX as usize;
/// The most in y, and in z.
pub(crate) const MAX_BLOCKS_YZ: usize = 65_535;

/// The arguments of the operation of this name, to be checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check(pub &'static str);

impl Check {
    pub fn error(self, argument: &str, was: impl Display, expected: impl Into<String>) -> Error {
        Error::argument(self.0, argument, was, expected)
    }

    /// A tensor that has to be there.
    pub fn tensor(self, name: &str, data: DevicePtr, dtype: Dtype) -> Result<()> {
        self.memory(name, data, dtype.size() as u64)
    }

    /// A tensor that may be absent.
    pub fn optional(self, name: &str, data: DevicePtr, dtype: Dtype) -> Result<()> {
        if data.is_null() { Ok(()) } else { self.tensor(name, data, dtype) }
    }

    /// Memory that has to be there, for elements of `size` bytes (a power of two).
    pub fn memory(self, name: &str, data: DevicePtr, size: u64) -> Result<()> {
        if data.is_null() || !data.is_aligned(size) {
            let expected = format!("an address that is a multiple of {size}");
            return Err(self.error(name, format!("{data:?}"), expected));
        }
        Ok(())
    }

    /// A size within what the kernel can count.
    pub fn size(self, name: &str, was: usize, at_least: usize, at_most: usize) -> Result<()> {
        if was < at_least || was > at_most {
            return Err(self.error(name, was, format!("{at_least} to {at_most}")));
        }
        Ok(())
    }

    /// A probability that leaves something.
    pub fn dropout(self, dropout: Dropout) -> Result<()> {
        if !(0.0..1.0).contains(&dropout.probability) {
            return Err(self.error("dropout probability", dropout.probability, "0 to less than 1"));
        }
        Ok(())
    }

    /// The stride, in elements, of `rows` rows that are read: any that keeps addresses within 64 bits.
    pub fn stride(self, name: &str, stride: i64, rows: usize) -> Result<()> {
        if (rows as i128 * i128::from(stride)).abs() > i128::from(i64::MAX / 8) {
            let expected = format!("small enough for 64-bit addresses over {rows} rows");
            return Err(self.error(name, stride, expected));
        }
        Ok(())
    }

    /// The stride, in elements, of `rows` rows of `width` that are written: they may not overlap.
    pub fn written_stride(self, name: &str, stride: i64, rows: usize, width: usize) -> Result<()> {
        if rows > 1 && stride.unsigned_abs() < width as u64 {
            return Err(self.error(name, stride, format!("at least {width}: rows would overlap")));
        }
        self.stride(name, stride, rows)
    }

    /// A tensor `(batch, token, head, D)` that is read, not empty, with any strides and any alignment of its elements.
    pub fn heads(self, name: &str, tensor: &Heads, dtype: Dtype, shape: [usize; 4]) -> Result<()> {
        self.tensor(name, tensor.data, dtype)?;
        let extent = reach(&dims(tensor, shape));
        if extent > i128::from(i64::MAX / 8) {
            let argument = format!("strides of {name}");
            let was = format!("{:?}", tensor.strides);
            return Err(self.error(&argument, was, "small enough for 64-bit addresses"));
        }
        Ok(())
    }

    /// The same of one that is written: no two elements of it may be the same.
    pub fn heads_written(self, name: &str, tensor: &Heads, dtype: Dtype, shape: [usize; 4]) -> Result<()> {
        self.heads(name, tensor, dtype, shape)?;
        match overlap(dims(tensor, shape), shape[3]) {
            None => Ok(()),
            Some((stride, reach)) => {
                let argument = format!("stride of {name}");
                Err(self.error(&argument, stride, format!("at least {reach}: its elements overlap")))
            }
        }
    }
}

fn dims(tensor: &Heads, [batch, tokens, heads, _]: [usize; 4]) -> [(usize, i64); 3] {
    let strides = tensor.strides;
    [(batch, strides.batch), (tokens, strides.token), (heads, strides.head)]
}

/// Elements from the first to the farthest, along dimensions of these sizes and strides.
pub(crate) fn reach(dims: &[(usize, i64)]) -> i128 {
    dims.iter().map(|&(size, stride)| (size.max(1) as i128 - 1) * i128::from(stride).abs()).sum()
}

/// As the dimensions, of these sizes and strides, go from near to far, each has to stride over all that the nearer ones
/// reach, beginning with `inner` elements. The first that does not, and what it had to stride over. Dimensions of fewer than
/// two elements do not count.
pub(crate) fn overlap<const N: usize>(mut dims: [(usize, i64); N], inner: usize) -> Option<(i64, i128)> {
    dims.sort_unstable_by_key(|&(_, stride)| stride.unsigned_abs());
    let mut covered = inner as i128;
    for (size, stride) in dims.into_iter().filter(|&(size, _)| size > 1) {
        if i128::from(stride).abs() < covered {
            return Some((stride, covered));
        }
        covered += reach(&[(size, stride)]);
    }
    None
}

/// Whether 16-byte accesses are possible at all of these addresses.
pub(crate) fn aligned<const N: usize>(addresses: [DevicePtr; N]) -> bool {
    addresses.iter().all(|address| address.is_aligned(16))
}
