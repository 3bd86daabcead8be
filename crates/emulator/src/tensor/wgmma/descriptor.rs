//! Where a matrix operand lies in shared memory (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout").

/// How 16-byte units are permuted within rows of 128 bytes, to spread them over the banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    /// Units of 16 bytes in a row of the pattern.
    #[must_use]
    pub fn units(self) -> u32 {
        match self {
            Swizzle::None => 1,
            Swizzle::B32 => 2,
            Swizzle::B64 => 4,
            Swizzle::B128 => 8,
        }
    }

    /// Bytes after which the pattern repeats.
    #[must_use]
    pub fn period(self) -> u32 {
        if self == Swizzle::None { 16 } else { 128 * self.units() }
    }

    /// Where the byte lies that would lie at `address` without the swizzle: the unit's number in its row of the pattern
    /// is combined by exclusive or with the number of the 128 bytes it lies in. `address` counts from a place that the
    /// pattern starts at.
    #[must_use]
    pub fn apply(self, address: u32) -> u32 {
        address ^ (address >> 3 & (self.units() - 1) << 4)
    }
}

/// Which index neighbours in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// Along k: `imm-trans` is 0.
    K,
    /// Along the rows of a or the columns of b: `imm-trans` is 1.
    Mn,
}

/// A matrix descriptor, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Bytes, a multiple of 16.
    pub address: u32,
    /// Leading dimension byte offset.
    pub leading: u32,
    /// Stride dimension byte offset.
    pub stride: u32,
    /// Where the pattern starts that the matrix lies in, in units of 128 bytes, if at no multiple of its period.
    pub base_offset: u32,
    /// The pattern.
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// From the 64 bits that an instruction is given.
    #[must_use]
    pub fn decode(bits: u64) -> Self {
        let bytes = |shift: u32| (bits >> shift & 0x3fff) as u32 * 16;
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        let base_offset = (bits >> 49 & 7) as u32;
        Descriptor { address: bytes(0), leading: bytes(16), stride: bytes(32), base_offset, swizzle }
    }

    /// The address of a unit of 16 bytes. Of a matrix along k: of row `8 * block + i`, the unit's elements along k. Of one
    /// along m or n: at k = `8 * unit + i`, the block's 8 rows.
    #[must_use]
    pub fn unit(&self, major: Major, block: u32, unit: u32, i: u32) -> u32 {
        let units = self.swizzle.units();
        let offset = match (self.swizzle, major) {
            (Swizzle::None, _) => 16 * i + block * self.stride + unit * self.leading,
            (_, Major::K) => 16 * units * i + block * self.stride + unit * 16,
            (_, Major::Mn) => {
                16 * units * i + block % units * 16 + block / units * self.leading + unit * self.stride
            }
        };
        let address = self.address.wrapping_add(offset);
        let phase = 128 * self.base_offset;
        self.swizzle.apply(address.wrapping_sub(phase)).wrapping_add(phase)
    }
}
