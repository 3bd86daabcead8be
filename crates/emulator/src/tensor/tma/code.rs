//! Tensor maps as the 128 bytes that a kernel is given, all little-endian: 8 bytes [`MAGIC`]; the address (u64);
//! 5 dimensions (u64 each); 4 strides (u64 each), of the second dimension on; 5 box sizes (u16 each), or channels and
//! pixels; 5 element strides (u8 each); element type, rank, swizzle, fill, mode (u8 each); 3 lower and 3 upper corners
//! (i16 each); zeros.

use super::{DIMENSIONS, ELEMENTS, Mode, SWIZZLES, TensorMap, TensorMapError, check};

/// What every tensor map starts with.
pub(super) const MAGIC: [u8; 8] = *b"LHTMAP\0\x02";

/// A part of a map: where it starts, how many bytes one of it has, and how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub at: usize,
    pub bytes: usize,
    pub count: usize,
}

impl Field {
    pub const MAGIC: Field = Field { at: 0, bytes: 8, count: 1 };
    pub const MAGIC_VALUE: u64 = u64::from_le_bytes(MAGIC);
    pub const ADDRESS: Field = Field { at: 8, bytes: 8, count: 1 };
    pub const DIMS: Field = Field { at: 16, bytes: 8, count: 5 };
    pub const STRIDES: Field = Field { at: 56, bytes: 8, count: 4 };
    pub const BOX_DIMS: Field = Field { at: 88, bytes: 2, count: 5 };
    pub const ELEMENT_STRIDES: Field = Field { at: 98, bytes: 1, count: 5 };
    pub const ELEMENT: Field = Field { at: 103, bytes: 1, count: 1 };
    pub const RANK: Field = Field { at: 104, bytes: 1, count: 1 };
    pub const SWIZZLE: Field = Field { at: 105, bytes: 1, count: 1 };
    pub const FILL: Field = Field { at: 106, bytes: 1, count: 1 };
    pub const MODE: Field = Field { at: 107, bytes: 1, count: 1 };
    const LOWER: Field = Field { at: 108, bytes: 2, count: 3 };
    const UPPER: Field = Field { at: 114, bytes: 2, count: 3 };

    /// Writes one of its values: the nearest that it has room for, which is none that a map may have.
    pub fn set(self, map: &mut [u8; 128], index: usize, value: u64) {
        let value = value.min(u64::MAX >> (64 - 8 * self.bytes));
        let at = self.at + index * self.bytes;
        map[at..at + self.bytes].copy_from_slice(&value.to_le_bytes()[..self.bytes]);
    }

    fn get(self, map: &[u8; 128], index: usize) -> u64 {
        let mut value = [0; 8];
        let at = self.at + index * self.bytes;
        value[..self.bytes].copy_from_slice(&map[at..at + self.bytes]);
        u64::from_le_bytes(value)
    }

    fn set_all(self, map: &mut [u8; 128], values: impl IntoIterator<Item = u64>) {
        for (index, value) in values.into_iter().enumerate() {
            self.set(map, index, value);
        }
    }

    /// The first few of its values.
    fn all(self, map: &[u8; 128], count: usize) -> impl Iterator<Item = u64> {
        (0..count).map(move |index| self.get(map, index))
    }
}

fn number<T: PartialEq>(all: &[T], one: &T) -> u64 {
    all.iter().position(|it| it == one).unwrap_or(0) as u64
}

impl TensorMap {
    /// The 128 bytes that a kernel is given.
    ///
    /// # Errors
    ///
    /// As [`TensorMap::check`].
    pub fn encode(&self) -> Result<[u8; 128], TensorMapError> {
        self.check()?;
        let mut map = [0; 128];
        Field::MAGIC.set(&mut map, 0, Field::MAGIC_VALUE);
        Field::ADDRESS.set(&mut map, 0, self.address);
        Field::DIMS.set_all(&mut map, self.dims.iter().copied());
        Field::STRIDES.set_all(&mut map, self.strides.iter().copied());
        Field::ELEMENT_STRIDES.set_all(&mut map, self.element_strides.iter().map(|it| u64::from(*it)));
        Field::ELEMENT.set(&mut map, 0, number(&ELEMENTS, &self.element));
        Field::RANK.set(&mut map, 0, self.dims.len() as u64);
        Field::SWIZZLE.set(&mut map, 0, number(&SWIZZLES, &self.swizzle));
        Field::FILL.set(&mut map, 0, self.fill_nan.into());
        match &self.mode {
            Mode::Tiled { box_dims } => {
                Field::BOX_DIMS.set_all(&mut map, box_dims.iter().map(|it| u64::from(*it)));
            }
            Mode::Im2col { lower, upper, channels, pixels } => {
                Field::MODE.set(&mut map, 0, 1);
                Field::BOX_DIMS.set_all(&mut map, [u64::from(*channels), u64::from(*pixels)]);
                Field::LOWER.set_all(&mut map, lower.iter().map(|it| u64::from(*it as u16)));
                Field::UPPER.set_all(&mut map, upper.iter().map(|it| u64::from(*it as u16)));
            }
        }
        Ok(map)
    }

    /// What [`TensorMap::encode`] made.
    ///
    /// # Errors
    ///
    /// [`TensorMapError`] for bytes that it cannot have made.
    pub fn decode(bytes: &[u8; 128]) -> Result<Self, TensorMapError> {
        let magic = &bytes[..MAGIC.len()];
        check(magic == MAGIC, "magic", format_args!("{magic:?}"), "that of a tensor map")?;
        let code = |field: Field| field.get(bytes, 0) as usize;
        let [element, rank, swizzle, mode] =
            [Field::ELEMENT, Field::RANK, Field::SWIZZLE, Field::MODE].map(code);
        check((1..=DIMENSIONS).contains(&rank), "rank", rank, "1 to 5")?;
        check(element < ELEMENTS.len(), "element type", element, "a known one")?;
        check(swizzle < SWIZZLES.len(), "swizzle", swizzle, "a known one")?;
        check(mode < 2, "mode", mode, "0 (tiled) or 1 (im2col)")?;
        let mode = if mode == 0 {
            Mode::Tiled { box_dims: Field::BOX_DIMS.all(bytes, rank).map(|it| it as u16).collect() }
        } else {
            let corners =
                |field: Field| field.all(bytes, rank.saturating_sub(2)).map(|it| it as i16).collect();
            Mode::Im2col {
                lower: corners(Field::LOWER),
                upper: corners(Field::UPPER),
                channels: Field::BOX_DIMS.get(bytes, 0) as u16,
                pixels: Field::BOX_DIMS.get(bytes, 1) as u16,
            }
        };
        let map = TensorMap {
            element: ELEMENTS[element],
            address: Field::ADDRESS.get(bytes, 0),
            dims: Field::DIMS.all(bytes, rank).collect(),
            strides: Field::STRIDES.all(bytes, rank - 1).collect(),
            mode,
            element_strides: Field::ELEMENT_STRIDES.all(bytes, rank).map(|it| it as u8).collect(),
            swizzle: SWIZZLES[swizzle],
            fill_nan: code(Field::FILL) != 0,
        };
        map.check()?;
        Ok(map)
    }
}
