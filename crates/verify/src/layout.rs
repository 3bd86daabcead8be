//! How a tensor lies in its allocation.

use std::fmt;

/// A shape, the elements from one index to the next along each dimension, and the elements left out before the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Vec<usize>,
    strides: Vec<i64>,
    shift: usize,
}

impl Layout {
    /// Row-major, without gaps.
    #[must_use]
    pub fn contiguous(shape: &[usize]) -> Layout {
        let strides = (1..=shape.len()).map(|d| shape[d..].iter().product::<usize>() as i64).collect();
        Layout { shape: shape.to_vec(), strides, shift: 0 }
    }

    /// With these strides, which are not negative.
    ///
    /// # Panics
    /// When there are not as many strides as dimensions.
    #[must_use]
    pub fn strided(shape: &[usize], strides: &[i64]) -> Layout {
        assert_eq!(shape.len(), strides.len(), "dimensions of the shape and of the strides");
        Layout { shape: shape.to_vec(), strides: strides.to_vec(), shift: 0 }
    }

    /// As many elements after an aligned address.
    #[must_use]
    pub fn shifted(self, shift: usize) -> Layout {
        Layout { shift, ..self }
    }

    /// Elements along each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// In elements, as kernels take them.
    #[must_use]
    pub fn strides(&self) -> &[i64] {
        &self.strides
    }

    /// Elements left out before the first.
    #[must_use]
    pub fn shift(&self) -> usize {
        self.shift
    }

    /// Number of elements.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements from the start of the allocation to the end of the last.
    #[must_use]
    pub fn extent(&self) -> usize {
        let last: usize =
            self.shape.iter().zip(&self.strides).map(|(n, s)| n.saturating_sub(1) * *s as usize).sum();
        self.shift + if self.shape.contains(&0) { 0 } else { last + 1 }
    }

    /// Where each element lies, in row-major order of the shape.
    #[must_use]
    pub fn places(&self) -> Vec<usize> {
        let mut places = vec![self.shift];
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            places =
                places.iter().flat_map(|place| (0..size).map(move |i| place + i * stride as usize)).collect();
        }
        places
    }
}

/// The shape, such as `(3, 768)`.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        write!(f, "({})", sizes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;

    #[test]
    fn a_contiguous_layout_leaves_nothing_out() {
        let layout = Layout::contiguous(&[2, 3, 4]);
        assert_eq!(layout.strides(), [12, 4, 1]);
        assert_eq!(layout.places(), (0..24).collect::<Vec<_>>());
        assert_eq!(layout.extent(), 24);
    }

    #[test]
    fn places_follow_the_strides_and_start_at_the_shift() {
        let layout = Layout::strided(&[2, 2], &[1, 5]).shifted(3);
        assert_eq!((layout.places(), layout.extent()), (vec![3, 8, 4, 9], 10));
        assert_eq!(Layout::contiguous(&[]).places(), [0]);
        assert_eq!(Layout::contiguous(&[3, 0]).shifted(2).extent(), 2);
    }
}
