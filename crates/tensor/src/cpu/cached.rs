//! Rows of keys or values as a cache holds them: the elements of a tensor, or of 8 bits with a scale for each row.

use longhand_kernels::kv_cache::Storage;

use super::simd::vectorised;
use super::{Real, Stored};

/// Rows of `width` elements in memory, of which `dim` are of the head.
#[derive(Clone, Copy)]
pub(crate) struct CachedRows<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) storage: Storage,
    /// Of each row, where they are.
    pub(crate) scales: &'a [f32],
    pub(crate) width: usize,
}

/// Some rows, one after another.
pub(crate) enum Rows<'a, E: Stored> {
    Stored(&'a [E]),
    Widened(&'a [E::Real]),
}

impl CachedRows<'_> {
    /// Where these rows lie.
    pub(crate) fn bytes_of<E: Stored>(&self, first: usize, count: usize) -> &[u8] {
        let row = self.width * if self.storage == Storage::Plain { size_of::<E>() } else { 1 };
        &self.bytes[first * row..][..count * row]
    }

    /// `count` rows from `first` on: where they lie, or of 8 bits, copied to `buffer`.
    pub(crate) fn read<'b, E: Stored>(
        &'b self,
        first: usize,
        count: usize,
        buffer: &'b mut Vec<E::Real>,
    ) -> Rows<'b, E> {
        let (start, elements) = (first * self.width, count * self.width);
        if self.storage == Storage::Plain {
            return Rows::Stored(&bytemuck::cast_slice(self.bytes)[start..][..elements]);
        }
        buffer.resize(elements, E::Real::ZERO);
        let rows = self.bytes[start..][..elements].chunks_exact(self.width);
        let scales = &self.scales[first..][..count];
        for ((row, scale), to) in rows.zip(scales).zip(buffer.chunks_exact_mut(self.width)) {
            match self.storage {
                Storage::E4m3 => widen_e4m3(row, *scale, to),
                _ => widen_int8(row, *scale, to),
            }
        }
        Rows::Widened(buffer)
    }
}

vectorised! {
    fn widen_int8<T: Real>(from: &[u8], scale: f32, to: &mut [T]) {
        for (to, x) in to.iter_mut().zip(from) {
            *to = T::from_f32(f32::from(*x as i8) * scale);
        }
    }
}

fn widen_e4m3<T: Real>(from: &[u8], scale: f32, to: &mut [T]) {
    for (to, x) in to.iter_mut().zip(from) {
        *to = T::from_f32(E4M3[usize::from(*x)] * scale);
    }
}

/// Rounds a head to elements of 8 bits, and returns their scale: as `kv_cache/append.cu` does.
pub(crate) fn quantise(storage: Storage, head: &[f32], to: &mut [u8]) -> f32 {
    // As bits, a NaN is larger than any number.
    let largest = head.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().map_or(0.0, f32::from_bits);
    let most = if storage == Storage::E4m3 { 448.0 } else { 127.0 };
    let inverse = if largest > 1e-30 && largest < f32::INFINITY { most / largest } else { 0.0 };
    for (to, x) in to.iter_mut().zip(head) {
        let x = x * inverse;
        *to = if storage == Storage::E4m3 { e4m3(x) } else { x.round_ties_even() as i8 as u8 };
    }
    largest / most
}

/// The nearest e4m3, ties to even; beyond 448, 448.
fn e4m3(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24 & 0x80) as u8;
    if x.is_nan() {
        return sign | 0x7f;
    }
    let size = x.abs().min(448.0);
    // Below 2^-6 steps are of 2^-9. From there on the code counts steps of 1/8 of a power of two, as the bits of f32 do.
    if size < 0.015_625 {
        return sign | (size * 512.0).round_ties_even() as u8;
    }
    let bits = size.to_bits();
    let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

/// The value of each code of e4m3 (OCP 8-bit Floating Point Specification, table 1).
static E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = (code as u32 >> 3 & 15, code as u32 & 7);
        let size = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa as f32 / 512.0,
            _ => f32::from_bits((exponent + 120) << 23 | mantissa << 20),
        };
        values[code] = if code < 128 { size } else { -size };
        code += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;
    use longhand_reference as reference;

    #[test]
    fn codes_of_e4m3_and_the_nearest_to_a_number_are_those_of_the_reference() {
        for code in 0..=255u8 {
            let (value, expected) = (E4M3[usize::from(code)], reference::e4m3(code));
            assert!(f64::from(value) == expected || value.is_nan() && expected.is_nan(), "{code}: {value}");
        }
        for i in 0..20_000 {
            let x = (i as f32 - 10_000.0) * 0.05 + 0.013 / (1.0 + i as f32);
            assert_eq!(e4m3(x), reference::to_e4m3(x.into()), "{x}");
            assert_eq!(e4m3(x / 4096.0), reference::to_e4m3((x / 4096.0).into()), "{x} / 4096");
        }
        assert_eq!(e4m3(f32::NAN), 0x7f);
    }

    #[test]
    fn a_head_without_size_has_scale_zero_and_one_without_numbers_none() {
        let mut to = [9; 3];
        assert_eq!((quantise(Storage::Int8, &[0.0, -0.0, 0.0], &mut to), to), (0.0, [0; 3]));
        assert!(quantise(Storage::Int8, &[1.0, f32::NAN, 2.0], &mut to).is_nan());
        assert_eq!(quantise(Storage::Int8, &[1.0, f32::INFINITY, 2.0], &mut to), f32::INFINITY);
        assert_eq!((quantise(Storage::Int8, &[2.0, -4.0, 1.0], &mut to), to), (4.0 / 127.0, [64, 129, 32]));
    }
}
