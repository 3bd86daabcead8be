//! Tensor maps, and what `cp.async.bulk.tensor` copies with them (PTX ISA, "Tensors").
//!
//! The map that a driver makes is opaque and undocumented. [`TensorMap::encode`] makes one of its size, 128 bytes, which
//! a kernel is given in its stead: as a parameter (`const __grid_constant__ CUtensorMap`), or in global or constant
//! memory. Interleaved layouts and the `.im2col::w` modes are not there.

mod chunks;
mod code;
#[cfg(test)]
mod tests;

pub use chunks::Chunk;
pub(crate) use code::Field;

use super::wgmma::Swizzle;

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

/// A tensor in global memory, and what is copied of it at once. Dimension 0 is the one whose elements are neighbours.
///
/// ```
/// use longhand_emulator::tensor::tma::{Mode, TensorElement, TensorMap};
/// use longhand_emulator::tensor::wgmma::Swizzle;
/// use longhand_emulator::{Gpu, Module, Shape};
///
/// let text = "
/// .version 8.0
/// .target sm_90
/// .address_size 64
/// .visible .entry copy_tile(.param .align 64 .b8 map[128], .param .u64 out)
/// {
///     .reg .pred %p; .reg .b32 %r<3>; .reg .b64 %rd<4>;
///     .shared .align 128 .b8 tile[128];
///     .shared .align 8 .b64 bar;
///     mov.b64 %rd0, map;
///     cvta.param.u64 %rd0, %rd0;
///     mbarrier.init.shared.b64 [bar], 1;
///     mbarrier.arrive.expect_tx.shared.b64 _, [bar], 128;
///     cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd0, {4, 1}], [bar];
/// WAIT:
///     mbarrier.try_wait.parity.shared.b64 %p, [bar], 0;
///     @!%p bra WAIT;
///     ld.shared.u32 %r0, [tile+32]; // Element (0, 1) of the tile: its rows have 8 elements of 4 bytes.
///     ld.param.u64 %rd1, [out];
///     st.global.u32 [%rd1], %r0;
///     ret;
/// }";
/// let gpu = Gpu::new("sm_90".parse()?);
/// let module = Module::from_ptx(&gpu, text)?;
/// let (x, out) = (gpu.alloc(4 * 16 * 10)?, gpu.alloc(4)?);
/// let values: Vec<u8> = (0..160u32).flat_map(u32::to_le_bytes).collect();
/// gpu.upload(x, &values)?;
///
/// // 10 rows of 16 elements, of which tiles of 4 rows of 8 are copied.
/// let map = TensorMap {
///     element: TensorElement::U32,
///     address: x,
///     dims: vec![16, 10],
///     strides: vec![64],
///     mode: Mode::Tiled { box_dims: vec![8, 4] },
///     element_strides: vec![1, 1],
///     swizzle: Swizzle::None,
///     fill_nan: false,
/// };
/// let params = [&map.encode()?[..], &out.to_le_bytes()].concat();
/// let shape = Shape { grid: [1; 3], block: [1; 3], cluster: [1; 3], dynamic_shared: 0 };
/// module.launch("copy_tile", &shape, &params)?;
/// let mut element = [0; 4];
/// gpu.download(out, &mut element)?;
/// assert_eq!(u32::from_le_bytes(element), 16 * (1 + 1) + 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// What is copied at once.
    pub mode: Mode,
    /// Along each dimension, each so-many-th element is visited; along the first, all are.
    pub element_strides: Vec<u8>,
    /// How what is copied lies in shared memory.
    pub swizzle: Swizzle,
    /// Whether what lies outside of the tensor reads as NaN, not as zero.
    pub fill_nan: bool,
}

/// What is copied of a tensor at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A box.
    Tiled {
        /// How far it reaches along each dimension, in elements of the tensor.
        box_dims: Vec<u16>,
    },
    /// Pixels of images, which are tensors of channels, width, (height, (depth,)) and number of the image.
    Im2col {
        /// The first place of a filter along width, height and depth: minus what it is padded by.
        lower: Vec<i16>,
        /// The last one, counted from the last pixel.
        upper: Vec<i16>,
        /// Channels of each pixel.
        channels: u16,
        /// How many pixels.
        pixels: u16,
    },
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

#[allow(clippy::needless_pass_by_value)] // Numbers, mostly.
fn check(
    holds: bool,
    part: &'static str,
    was: impl ToString,
    must: &'static str,
) -> Result<(), TensorMapError> {
    if holds { Ok(()) } else { Err(TensorMapError { part, was: was.to_string(), must }) }
}

/// Returns how far the box reaches along the first dimension.
fn check_box(rank: usize, box_dims: &[u16]) -> Result<u16, TensorMapError> {
    check(box_dims.len() == rank, "number of box dimensions", box_dims.len(), "the rank")?;
    for box_dim in box_dims {
        check((1..=256).contains(box_dim), "box dimension", box_dim, "1 to 256")?;
    }
    Ok(box_dims[0])
}

fn check_corners(rank: usize, corners: &[i16]) -> Result<(), TensorMapError> {
    check(rank >= 3, "rank", rank, "3 to 5, of images")?;
    check(corners.len() == rank - 2, "number of corners", corners.len(), "two less than the rank")?;
    let (range, must) = match rank {
        3 => (-32768..=32767, "-32768 to 32767"),
        4 => (-128..=127, "-128 to 127"),
        _ => (-16..=15, "-16 to 15"),
    };
    for corner in corners {
        check(range.contains(corner), "corner", corner, must)?;
    }
    Ok(())
}

impl TensorMap {
    /// Whether the rules of `cuTensorMapEncodeTiled` or `cuTensorMapEncodeIm2col` are kept.
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
        for stride in strides {
            check((1..=8).contains(stride), "element stride", stride, "1 to 8")?;
        }
        let row = match &self.mode {
            Mode::Tiled { box_dims } => check_box(rank, box_dims)?,
            Mode::Im2col { lower, upper, channels, pixels } => {
                check_corners(rank, lower)?;
                check_corners(rank, upper)?;
                check((1..=256).contains(channels), "number of channels", channels, "1 to 256")?;
                check((1..=1024).contains(pixels), "number of pixels", pixels, "1 to 1024")?;
                *channels
            }
        };
        let row = u64::from(row) * self.element.bytes();
        check(row.is_multiple_of(16), "bytes along the first dimension", row, "a multiple of 16")?;
        let most =
            if self.swizzle == Swizzle::None { u64::MAX } else { 16 * u64::from(self.swizzle.units()) };
        check(row <= most, "bytes along the first dimension", row, "at most the swizzle's")?;
        let nan = !self.fill_nan || self.element.is_float();
        check(nan, "fill", "NaN", "zero, where elements are integers")
    }

    /// What an element outside of the tensor reads as: little-endian, as many bytes as it has.
    #[must_use]
    pub fn fill(&self) -> [u8; 8] {
        if self.fill_nan { [0xff; 8] } else { [0; 8] }
    }
}
