//! Parts of a tensor along several dimensions.

use std::ops::{Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use crate::{Error, Result, Tensor};

impl Tensor {
    /// A part of the tensor: a view. For each dimension, from the first on, a range or one index, whose dimension goes
    /// away; dimensions that are not named stay whole. As `x[1:3, :, 0]` in NumPy.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Device, Tensor};
    ///
    /// let x = Tensor::arange(0..24, &Device::Cpu)?.reshape(&[2, 3, 4])?;
    /// assert_eq!(x.slice(1)?.shape(), [3, 4]);
    /// assert_eq!(x.slice((.., 1..))?.shape(), [2, 2, 4]);
    /// assert_eq!(x.slice((1, 1..3, 0))?.to_vec::<u32>()?, [16, 20]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a range reaches beyond its dimension, or there are more of them than dimensions.
    pub fn slice(&self, ranges: impl Ranges) -> Result<Tensor> {
        let ranges = ranges.into_ranges();
        if ranges.len() > self.shape().len() {
            let expected = format!("at most {}, the rank of shape {:?}", self.shape().len(), self.shape());
            return Err(Error::argument("slice", "number of ranges", ranges.len().to_string(), expected));
        }
        let mut part = self.clone();
        let mut shape = Vec::new();
        for (dim, &size) in self.shape().iter().enumerate() {
            let Some(range) = ranges.get(dim) else {
                shape.push(size);
                continue;
            };
            let Range { start, end } = range.within(size, dim, self.shape())?;
            if end - start != size {
                part = part.narrow(dim, start, end - start)?;
            }
            if !range.drops {
                shape.push(end - start);
            }
        }
        part.reshape(&shape)
    }
}

/// What [`Tensor::slice`] takes of one dimension: any range of `usize`, or one index.
#[derive(Clone, Copy, Debug)]
pub struct DimRange {
    start: Bound<usize>,
    end: Bound<usize>,
    /// Whether the dimension goes away.
    drops: bool,
}

impl DimRange {
    fn within(&self, size: usize, dim: usize, shape: &[usize]) -> Result<Range<usize>> {
        let start = match self.start {
            Bound::Included(start) => Some(start),
            Bound::Excluded(before) => before.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let end = match self.end {
            Bound::Included(last) => last.checked_add(1),
            Bound::Excluded(end) => Some(end),
            Bound::Unbounded => Some(size),
        };
        match (start, end) {
            (Some(start), Some(end)) if start <= end && end <= size => Ok(start..end),
            _ => {
                let expected = format!("within 0..{size}, dimension {dim} of {shape:?}");
                Err(Error::argument("slice", "a range", self.described(), expected))
            }
        }
    }

    fn described(&self) -> String {
        match (self.start, self.end) {
            (Bound::Included(index), _) if self.drops => format!("index {index}"),
            (start, end) => {
                let start = match start {
                    Bound::Included(start) | Bound::Excluded(start) => start.to_string(),
                    Bound::Unbounded => String::new(),
                };
                match end {
                    Bound::Included(last) => format!("{start}..={last}"),
                    Bound::Excluded(end) => format!("{start}..{end}"),
                    Bound::Unbounded => format!("{start}.."),
                }
            }
        }
    }
}

impl From<usize> for DimRange {
    fn from(index: usize) -> Self {
        DimRange { start: Bound::Included(index), end: Bound::Included(index), drops: true }
    }
}

macro_rules! dim_range {
    ($($range:ty),*) => {$(
        impl From<$range> for DimRange {
            fn from(range: $range) -> Self {
                DimRange { start: range.start_bound().cloned(), end: range.end_bound().cloned(), drops: false }
            }
        }
    )*};
}

dim_range!(
    Range<usize>,
    RangeFrom<usize>,
    RangeFull,
    RangeInclusive<usize>,
    RangeTo<usize>,
    RangeToInclusive<usize>
);

/// One range or index, or a tuple of up to five.
pub trait Ranges {
    #[doc(hidden)]
    fn into_ranges(self) -> Vec<DimRange>;
}

impl<R: Into<DimRange>> Ranges for R {
    fn into_ranges(self) -> Vec<DimRange> {
        vec![self.into()]
    }
}

macro_rules! ranges {
    ($($name:ident)*) => {
        impl<$($name: Into<DimRange>),*> Ranges for ($($name,)*) {
            fn into_ranges(self) -> Vec<DimRange> {
                #[allow(non_snake_case, reason = "each value is called as its type")]
                let ($($name,)*) = self;
                vec![$($name.into()),*]
            }
        }
    };
}

ranges!(A);
ranges!(A B);
ranges!(A B C);
ranges!(A B C D);
ranges!(A B C D E);
