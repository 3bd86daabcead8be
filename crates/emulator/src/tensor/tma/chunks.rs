//! Which bytes of a tensor go where in shared memory: row after row, each the elements of a box along the first
//! dimension, in units of 16 bytes that the swizzle moves about.

use super::{Mode, TensorMap};

/// Neighbouring bytes of a box, at most 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where they lie in shared memory.
    pub shared: u32,
    /// Where they lie in global memory; None outside of the tensor.
    pub global: Option<u64>,
    /// How many they are.
    pub bytes: u32,
}

impl TensorMap {
    /// Elements of a row, and how many rows there are.
    fn rows(&self) -> (u32, u64) {
        match &self.mode {
            Mode::Tiled { box_dims } => (box_dims[0].into(), self.counts(box_dims)[1..].iter().product()),
            Mode::Im2col { channels, pixels, .. } => ((*channels).into(), (*pixels).into()),
        }
    }

    /// Elements of a box along each dimension.
    fn counts(&self, box_dims: &[u16]) -> Vec<u64> {
        let pairs = box_dims.iter().zip(&self.element_strides).enumerate();
        let count = |(axis, (reach, stride)): (usize, (&u16, &u8))| {
            u64::from(if axis == 0 { *reach } else { reach.div_ceil(u16::from(*stride)) })
        };
        pairs.map(count).collect()
    }

    /// Bytes that are copied at once.
    #[must_use]
    pub fn box_bytes(&self) -> u64 {
        let (row, rows) = self.rows();
        u64::from(row) * rows * self.element.bytes()
    }

    /// The bytes of the box whose first element has these coordinates, and which starts at an address of shared memory
    /// (a multiple of 128; of the swizzle's period, if there is one). Coordinates that are missing are 0. None in im2col
    /// mode.
    #[must_use]
    pub fn chunks(&self, coordinates: &[i32], shared: u32) -> Option<Vec<Chunk>> {
        let Mode::Tiled { box_dims } = &self.mode else { return None };
        let counts = self.counts(box_dims);
        let at = |axis: usize| i64::from(coordinates.get(axis).copied().unwrap_or(0));
        let mut chunks = Vec::new();
        for row in 0..self.rows().1 {
            let mut rest = row;
            let mut place: Vec<i64> = Vec::with_capacity(counts.len() - 1);
            for (axis, count) in counts.iter().enumerate().skip(1) {
                place.push(at(axis) + (rest % count) as i64 * i64::from(self.element_strides[axis]));
                rest /= count;
            }
            self.row(&mut chunks, (at(0), self.start_of(&place)), row as u32, shared);
        }
        Some(chunks)
    }

    /// The same of four rows of a tensor of two dimensions (`.tile::gather4`, `.tile::scatter4`). None if boxes are of
    /// more than one row.
    #[must_use]
    pub fn chunks_of_rows(&self, column: i32, rows: [i32; 4], shared: u32) -> Option<Vec<Chunk>> {
        if !matches!(&self.mode, Mode::Tiled { box_dims } if matches!(box_dims[..], [_, 1])) {
            return None;
        }
        let mut chunks = Vec::new();
        for (number, row) in (0..).zip(rows) {
            self.row(&mut chunks, (column.into(), self.start_of(&[row.into()])), number, shared);
        }
        Some(chunks)
    }

    /// The pixels from one on, by its coordinates, along width, then height, then depth, then images, each moved by the
    /// offsets that a place in a filter has (PTX ISA, "im2col mode"). None in tiled mode, and where the first pixel is
    /// no place for a filter.
    #[must_use]
    pub fn chunks_im2col(&self, coordinates: &[i32], offsets: &[u16], shared: u32) -> Option<Vec<Chunk>> {
        let Mode::Im2col { lower, upper, pixels, .. } = &self.mode else { return None };
        let at = |axis: usize| i64::from(coordinates.get(axis).copied().unwrap_or(0));
        let spatial = lower.len();
        let first: Vec<i64> = lower.iter().map(|it| i64::from(*it)).collect();
        let last: Vec<i64> =
            (0..spatial).map(|axis| self.dims[axis + 1] as i64 - 1 + i64::from(upper[axis])).collect();
        let mut pixel: Vec<i64> = (1..=spatial + 1).map(at).collect();
        if (0..spatial).any(|axis| !(first[axis]..=last[axis]).contains(&pixel[axis])) {
            return None;
        }
        let mut chunks = Vec::new();
        for number in 0..u32::from(*pixels) {
            let offset = |axis: usize| i64::from(offsets.get(axis).copied().unwrap_or(0));
            let place: Vec<i64> = pixel
                .iter()
                .enumerate()
                .map(|(axis, it)| it + if axis < spatial { offset(axis) } else { 0 })
                .collect();
            self.row(&mut chunks, (at(0), self.start_of(&place)), number, shared);
            for axis in 0..=spatial {
                if axis == spatial {
                    pixel[axis] += 1;
                    break;
                }
                pixel[axis] += i64::from(self.element_strides[axis + 1]);
                if pixel[axis] <= last[axis] {
                    break;
                }
                pixel[axis] = first[axis];
            }
        }
        Some(chunks)
    }

    /// Where the row starts that has these indices along all dimensions but the first, if it is in the tensor.
    fn start_of(&self, place: &[i64]) -> Option<u64> {
        place.iter().enumerate().try_fold(self.address, |start, (axis, index)| {
            let inside = (0..self.dims[axis + 1] as i64).contains(index);
            inside.then(|| start.wrapping_add((*index as u64).wrapping_mul(self.strides[axis])))
        })
    }

    /// Adds a row that starts with an element of this index, of this number in shared memory.
    fn row(&self, chunks: &mut Vec<Chunk>, (from, start): (i64, Option<u64>), number: u32, shared: u32) {
        let size = self.element.bytes();
        let (count, _) = self.rows();
        let bytes = count * size as u32;
        // Elements of a row that lie in the tensor.
        let inside = from.max(0)..(from + i64::from(count)).min(self.dims[0] as i64);
        for unit in (0..bytes).step_by(16) {
            let place =
                self.swizzle.apply(shared.wrapping_add(number.wrapping_mul(bytes)).wrapping_add(unit));
            // Outside, inside, outside again; mostly only one of them.
            let first = from + i64::from(unit) / size as i64;
            let last = first + 16 / size as i64;
            let begin = inside.start.clamp(first, last);
            let end = inside.end.clamp(begin, last);
            for (from, to, is_inside) in [(first, begin, false), (begin, end, true), (end, last, false)] {
                if from < to {
                    let global = start.filter(|_| is_inside).map(|it| it.wrapping_add(from as u64 * size));
                    let offset = (from - first) as u32 * size as u32;
                    chunks.push(Chunk {
                        shared: place + offset,
                        global,
                        bytes: (to - from) as u32 * size as u32,
                    });
                }
            }
        }
    }
}
