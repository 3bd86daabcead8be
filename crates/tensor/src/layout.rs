//! Shape and strides: which element of the storage stands where in the tensor.

/// How a tensor's elements lie in its storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) shape: Vec<usize>,
    /// In elements; 0 where one element is repeated.
    pub(crate) strides: Vec<usize>,
    /// Of the first element, in elements.
    pub(crate) offset: usize,
}

impl Layout {
    /// Row-major, from the start of the storage.
    pub(crate) fn contiguous(shape: &[usize]) -> Self {
        Layout { shape: shape.to_vec(), strides: row_major(shape), offset: 0 }
    }

    pub(crate) fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements follow one another in row-major order.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.numel() == 0
            || self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
                let fits = size == 1 || stride == expected;
                expected *= size;
                fits
            })
    }

    /// The same elements under `shape` with no copy, when their order in memory allows it.
    pub(crate) fn reshape(&self, shape: &[usize]) -> Option<Layout> {
        let mut strides = vec![0; shape.len()];
        if self.numel() == 0 {
            return Some(Layout { shape: shape.to_vec(), strides: row_major(shape), offset: self.offset });
        }
        let old: Vec<(usize, usize)> = self
            .shape
            .iter()
            .copied()
            .zip(self.strides.iter().copied())
            .filter(|&(size, _)| size != 1)
            .collect();
        let mut taken = 0; // old dimensions that have their place in the new shape
        let mut dim = 0;
        while taken < old.len() {
            // The smallest runs of old and new dimensions that hold equally many elements.
            let (first, start) = (taken, dim);
            let mut old_count = old[taken].0;
            let mut new_count = 1;
            taken += 1;
            while old_count != new_count {
                if new_count < old_count {
                    new_count *= shape[dim];
                    dim += 1;
                } else {
                    old_count *= old[taken].0;
                    taken += 1;
                }
            }
            let mergeable = old[first..taken].windows(2).all(|pair| pair[0].1 == pair[1].0 * pair[1].1);
            if !mergeable {
                return None;
            }
            let mut stride = old[taken - 1].1;
            for i in (start..dim).rev() {
                strides[i] = stride;
                stride *= shape[i];
            }
        }
        Some(Layout { shape: shape.to_vec(), strides, offset: self.offset })
    }

    pub(crate) fn narrow(&self, dim: usize, start: usize, len: usize) -> Layout {
        let mut layout = self.clone();
        layout.shape[dim] = len;
        if layout.numel() > 0 {
            layout.offset += start * self.strides[dim];
        }
        layout
    }

    /// NumPy broadcasting; `None` where the shapes do not fit.
    pub(crate) fn broadcast_to(&self, shape: &[usize]) -> Option<Layout> {
        let added = shape.len().checked_sub(self.shape.len())?;
        let mut strides = vec![0; added];
        for ((&old, &stride), &new) in self.shape.iter().zip(&self.strides).zip(&shape[added..]) {
            if old != new && old != 1 {
                return None;
            }
            strides.push(if old == new { stride } else { 0 });
        }
        Some(Layout { shape: shape.to_vec(), strides, offset: self.offset })
    }
}

/// The number of elements of a tensor of `shape`, where memory could hold as many, eight bytes each.
pub(crate) fn count(shape: &[usize]) -> Option<usize> {
    // As if there were no 0, so that strides and parts of the product do not overflow either.
    let all = shape.iter().filter(|&&size| size > 0).try_fold(1usize, |all, &size| all.checked_mul(size));
    let all = all.filter(|&all| all <= isize::MAX as usize / 8)?;
    Some(if shape.contains(&0) { 0 } else { all })
}

/// Strides of a row-major tensor.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// The shape that two shapes broadcast to, as in NumPy.
pub(crate) fn broadcast_shapes(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|i| match (size(a, i), size(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}
