//! Tensor maps and the boxes that `cp.async.bulk.tensor` copies (PTX ISA, "Tensors", tiled mode).
//!
//! The map that a driver makes is opaque and undocumented. The one here is of its size, 128 bytes, all little-endian:
//! 8 bytes [`MAGIC`]; the address (u64); 5 dimensions (u64 each); 4 strides (u64 each), of the second dimension on;
//! 5 box sizes (u16 each); 5 element strides (u8 each); element type, rank, swizzle, fill (u8 each); zeros.

use super::wgmma::Swizzle;

/// What every tensor map starts with.
pub const MAGIC: [u8; 8] = *b"LHTMAP\0\x01";

/// The most dimensions a tensor has.
pub const DIMENSIONS: usize = 5;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum TensorElement {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    Bf16,
}

const ELEMENTS: [TensorElement; 10] = [
    TensorElement::U8,
    TensorElement::U16,
    TensorElement::U32,
    TensorElement::S32,
    TensorElement::U64,
    TensorElement::S64,
    TensorElement::F16,
    TensorElement::F32,
    TensorElement::F64,
    TensorElement::Bf16,
];

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

impl TensorElement {
    /// Bytes of an element.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            TensorElement::U8 => 1,
            TensorElement::U16 | TensorElement::F16 | TensorElement::Bf16 => 2,
            TensorElement::U32 | TensorElement::S32 | TensorElement::F32 => 4,
            TensorElement::U64 | TensorElement::S64 | TensorElement::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, TensorElement::F16 | TensorElement::Bf16 | TensorElement::F32 | TensorElement::F64)
    }
}

/// A tensor in global memory, and the shape of the boxes that are copied. Dimension 0 is the one whose elements are
/// neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Of the elements.
    pub element: TensorElement,
    /// Where the tensor starts.
    pub address: u64,
    /// Its dimensions, 1 to 5 of them.
    pub dims: Vec<u64>,
    /// Bytes from one to the next along each dimension but the first.
    pub strides: Vec<u64>,
    /// How far a box reaches along each dimension.
    pub box_dims: Vec<u16>,
    /// Of the elements within reach, each so-many-th is copied; along the first dimension all are.
    pub element_strides: Vec<u8>,
    /// How boxes lie in shared memory.
    pub swizzle: Swizzle,
    /// Whether what lies outside of the tensor reads as NaN, not as zero.
    pub fill_nan: bool,
}

/// A tensor map that cannot be: which part, what it was, what it had to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tensor map: {part} is {was}, and must be {must}")]
pub struct TensorMapError {
    /// The part.
    pub part: &'static str,
    /// What it was.
    pub was: String,
    /// What it had to be.
    pub must: &'static str,
}

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

#[allow(clippy::needless_pass_by_value)] // Numbers, mostly.
fn check(
    holds: bool,
    part: &'static str,
    was: impl ToString,
    must: &'static str,
) -> Result<(), TensorMapError> {
    if holds { Ok(()) } else { Err(TensorMapError { part, was: was.to_string(), must }) }
}

impl TensorMap {
    /// Whether the rules of `cuTensorMapEncodeTiled` are kept.
    ///
    /// # Errors
    ///
    /// The first rule that is not.
    pub fn check(&self) -> Result<(), TensorMapError> {
        let rank = self.dims.len();
        check((1..=DIMENSIONS).contains(&rank), "rank", rank, "1 to 5")?;
        check(
            self.strides.len() == rank - 1,
            "number of strides",
            self.strides.len(),
            "one less than the rank",
        )?;
        check(self.box_dims.len() == rank, "number of box dimensions", self.box_dims.len(), "the rank")?;
        let strides = &self.element_strides;
        check(strides.len() == rank, "number of element strides", strides.len(), "the rank")?;
        check(
            self.address.is_multiple_of(16),
            "address",
            format_args!("{:#x}", self.address),
            "a multiple of 16",
        )?;
        for dim in &self.dims {
            check((1..=1 << 32).contains(dim), "dimension", dim, "1 to 2^32")?;
        }
        for stride in &self.strides {
            check(
                stride.is_multiple_of(16) && *stride < 1 << 40,
                "stride",
                stride,
                "a multiple of 16 below 2^40",
            )?;
        }
        for box_dim in &self.box_dims {
            check((1..=256).contains(box_dim), "box dimension", box_dim, "1 to 256")?;
        }
        for stride in strides {
            check((1..=8).contains(stride), "element stride", stride, "1 to 8")?;
        }
        let row = u64::from(self.box_dims[0]) * self.element.bytes();
        check(row.is_multiple_of(16), "bytes of a box along the first dimension", row, "a multiple of 16")?;
        let most =
            if self.swizzle == Swizzle::None { u64::MAX } else { 16 * u64::from(self.swizzle.units()) };
        check(row <= most, "bytes of a box along the first dimension", row, "at most the swizzle's")?;
        let nan = !self.fill_nan || self.element.is_float();
        check(nan, "fill", "NaN", "zero, where elements are integers")
    }

    /// The 128 bytes that a kernel is given.
    ///
    /// # Errors
    ///
    /// As [`TensorMap::check`].
    pub fn encode(&self) -> Result<[u8; 128], TensorMapError> {
        self.check()?;
        let mut words = vec![u64::from_le_bytes(MAGIC), self.address];
        let padded =
            |values: &[u64], count: usize| (0..count).map(|i| values.get(i).copied().unwrap_or(0)).collect();
        let dims: Vec<u64> = padded(&self.dims, 5);
        let strides: Vec<u64> = padded(&self.strides, 4);
        words.extend(dims.into_iter().chain(strides));
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.extend((0..5).flat_map(|i| self.box_dims.get(i).copied().unwrap_or(0).to_le_bytes()));
        bytes.extend((0..5).map(|i| self.element_strides.get(i).copied().unwrap_or(0)));
        let code = |found: Option<usize>| found.unwrap_or(0) as u8;
        bytes.push(code(ELEMENTS.iter().position(|it| *it == self.element)));
        bytes.push(self.dims.len() as u8);
        bytes.push(code(SWIZZLES.iter().position(|it| *it == self.swizzle)));
        bytes.push(self.fill_nan.into());
        let mut out = [0; 128];
        out[..bytes.len()].copy_from_slice(&bytes);
        Ok(out)
    }

    /// What [`TensorMap::encode`] made.
    ///
    /// # Errors
    ///
    /// [`TensorMapError`] for bytes that it cannot have made.
    pub fn decode(bytes: &[u8; 128]) -> Result<Self, TensorMapError> {
        check(bytes[..8] == MAGIC, "magic", format_args!("{:?}", &bytes[..8]), "that of a tensor map")?;
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| bytes[8 * i + k]));
        let [element, rank, swizzle, fill] = [103, 104, 105, 106].map(|at| usize::from(bytes[at]));
        check((1..=DIMENSIONS).contains(&rank), "rank", rank, "1 to 5")?;
        check(element < ELEMENTS.len(), "element type", element, "a known one")?;
        check(swizzle < SWIZZLES.len(), "swizzle", swizzle, "a known one")?;
        let map = TensorMap {
            element: ELEMENTS[element],
            address: word(1),
            dims: (0..rank).map(|i| word(2 + i)).collect(),
            strides: (0..rank - 1).map(|i| word(7 + i)).collect(),
            box_dims: (0..rank).map(|i| u16::from_le_bytes([bytes[88 + 2 * i], bytes[89 + 2 * i]])).collect(),
            element_strides: bytes[98..98 + rank].to_vec(),
            swizzle: SWIZZLES[swizzle],
            fill_nan: fill != 0,
        };
        map.check()?;
        Ok(map)
    }

    /// Elements of a box along each dimension.
    fn counts(&self) -> Vec<u32> {
        let pairs = self.box_dims.iter().zip(&self.element_strides).enumerate();
        let count = |(axis, (reach, stride)): (usize, (&u16, &u8))| {
            u32::from(if axis == 0 { *reach } else { reach.div_ceil(u16::from(*stride)) })
        };
        pairs.map(count).collect()
    }

    /// Bytes of a box.
    #[must_use]
    pub fn box_bytes(&self) -> u32 {
        self.counts().iter().product::<u32>() * self.element.bytes() as u32
    }

    /// The bytes of the box whose first element has these coordinates, and which starts at an address of shared memory
    /// (a multiple of 128; of the swizzle's period, if there is one). Coordinates that are missing are 0.
    #[must_use]
    pub fn chunks(&self, coordinates: &[i32], shared: u32) -> Vec<Chunk> {
        let counts = self.counts();
        let size = self.element.bytes();
        let at = |axis: usize| i64::from(coordinates.get(axis).copied().unwrap_or(0));
        let row_bytes = counts[0] * size as u32;
        // Elements of a row that lie in the tensor.
        let inside = at(0).max(0)..(at(0) + i64::from(counts[0])).min(self.dims[0] as i64);
        let mut chunks = Vec::new();
        for row in 0..counts[1..].iter().product::<u32>() {
            let mut rest = row;
            let mut start = Some(self.address);
            for (axis, count) in counts.iter().enumerate().skip(1) {
                let index = at(axis) + i64::from(rest % count) * i64::from(self.element_strides[axis]);
                rest /= count;
                let inside = (0..self.dims[axis] as i64).contains(&index);
                start =
                    start.filter(|_| inside).map(|it| it.wrapping_add(index as u64 * self.strides[axis - 1]));
            }
            for unit in (0..row_bytes).step_by(16) {
                let place = self.swizzle.apply(shared.wrapping_add(row * row_bytes + unit));
                // Outside, inside, outside again; mostly only one of them.
                let first = at(0) + i64::from(unit) / size as i64;
                let last = first + 16 / size as i64;
                let begin = inside.start.clamp(first, last);
                let end = inside.end.clamp(begin, last);
                for (from, to, is_inside) in [(first, begin, false), (begin, end, true), (end, last, false)] {
                    if from < to {
                        let global =
                            start.filter(|_| is_inside).map(|it| it.wrapping_add(from as u64 * size));
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
        chunks
    }

    /// What an element outside of the tensor reads as: little-endian, as many bytes as it has.
    #[must_use]
    pub fn fill(&self) -> [u8; 8] {
        if self.fill_nan { [0xff; 8] } else { [0; 8] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn maps() -> impl Strategy<Value = TensorMap> {
        let axis = (1..20u64, 0..4u64, 1..5u16, 1..4u8);
        let swizzles = prop::sample::select(SWIZZLES.to_vec());
        let elements = prop::sample::select(ELEMENTS.to_vec());
        (elements, swizzles, 1..9u16, 1..64u64, proptest::collection::vec(axis, 0..5)).prop_map(
            |(element, swizzle, units, width, axes)| {
                let size = element.bytes();
                let units = if swizzle == Swizzle::None { units } else { units.min(swizzle.units() as u16) };
                let mut strides = Vec::new();
                let mut stride = (width * size).next_multiple_of(16);
                for (dim, gap, _, _) in &axes {
                    strides.push(stride);
                    stride *= dim;
                    stride += 16 * gap;
                }
                let with = |first, rest: Vec<_>| [vec![first], rest].concat();
                TensorMap {
                    element,
                    address: 0x1000,
                    dims: with(width, axes.iter().map(|it| it.0).collect()),
                    strides,
                    box_dims: [vec![units * 16 / size as u16], axes.iter().map(|it| it.2).collect()].concat(),
                    element_strides: [vec![1], axes.iter().map(|it| it.3).collect()].concat(),
                    swizzle,
                    fill_nan: false,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(map in maps()) {
            let bytes = map.encode().unwrap();
            prop_assert_eq!(TensorMap::decode(&bytes).unwrap(), map);
        }

        #[test]
        fn no_bytes_decode_to_a_map_that_breaks_the_rules(map in maps(), at in 8..128usize, value: u8) {
            let mut bytes = map.encode().unwrap();
            bytes[at] = value;
            if let Ok(map) = TensorMap::decode(&bytes) {
                prop_assert!(map.check().is_ok());
            }
        }

        /// Element by element: where it lies in the tensor, and where in shared memory.
        #[test]
        fn the_chunks_of_a_box_are_its_elements(map in maps(), start in proptest::array::uniform5(-6..24i32)) {
            let size = map.element.bytes() as u32;
            let shared = 2048;
            let mut found = std::collections::BTreeMap::new();
            for chunk in map.chunks(&start, shared) {
                for byte in 0..chunk.bytes {
                    let global = chunk.global.map(|it| it + u64::from(byte));
                    prop_assert!(found.insert(chunk.shared + byte, global).is_none(), "a byte twice");
                }
            }
            let counts: Vec<u32> = (0..map.dims.len())
                .map(|axis| u32::from(map.box_dims[axis]).div_ceil(u32::from(map.element_strides[axis])))
                .collect();
            let total: u32 = counts.iter().product();
            prop_assert_eq!(total * size, map.box_bytes());
            prop_assert_eq!(found.len() as u32, map.box_bytes());
            for number in 0..total {
                let mut rest = number;
                let mut global = Some(map.address);
                for (axis, count) in counts.iter().enumerate() {
                    let index = start[axis] + (rest % count) as i32 * i32::from(map.element_strides[axis]);
                    rest /= count;
                    let stride = if axis == 0 { u64::from(size) } else { map.strides[axis - 1] };
                    global = match global {
                        Some(global) if index >= 0 && (index as u64) < map.dims[axis] => Some(global + index as u64 * stride),
                        _ => None,
                    };
                }
                for byte in 0..size {
                    let plain = shared + number * size + byte;
                    // The published patterns: units of 16 bytes, numbered by bits 4 to 6, change with bits 7 to 9.
                    let rows = plain >> 7 & (map.swizzle.units() - 1);
                    let swizzled = plain ^ rows << 4;
                    prop_assert_eq!(found.get(&swizzled), Some(&global.map(|it| it + u64::from(byte))));
                }
            }
        }
    }

    #[test]
    fn broken_rules_are_told_by_name() {
        let good = TensorMap {
            element: TensorElement::Bf16,
            address: 512,
            dims: vec![100, 7],
            strides: vec![208],
            box_dims: vec![64, 4],
            element_strides: vec![1, 1],
            swizzle: Swizzle::B128,
            fill_nan: true,
        };
        assert_eq!(good.check(), Ok(()));
        let part = |change: fn(&mut TensorMap)| {
            let mut map = good.clone();
            change(&mut map);
            map.encode().expect_err("a broken rule").part
        };
        assert_eq!(part(|map| map.address = 8), "address");
        assert_eq!(part(|map| map.strides[0] = 200), "stride");
        assert_eq!(part(|map| map.box_dims[1] = 257), "box dimension");
        assert_eq!(part(|map| map.element_strides[1] = 9), "element stride");
        assert_eq!(part(|map| map.box_dims[0] = 72), "bytes of a box along the first dimension");
        assert_eq!(part(|map| map.dims.clear()), "rank");
        assert_eq!(part(|map| map.element = TensorElement::U16), "fill");
        assert_eq!(TensorMap::decode(&[0; 128]).expect_err("no map").part, "magic");
    }
}
