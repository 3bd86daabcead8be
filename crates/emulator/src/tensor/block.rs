//! One register of a warp is one block of a matrix.
//!
//! The fragments of `mma` and `wgmma` (PTX ISA, "Matrix Fragments for mma.m16n8k16 ..." and "Register Fragments for
//! wgmma.mma_async.m64nNk16 ...") all follow one rule. Lane `l` is thread `t = l % 4` of group `g = l / 4`, and a
//! register of 32 bits holds `P` elements that are neighbours along k. Then a register is a block of 8 rows of a (or
//! columns of b) and `4 P` elements along k, where lane `l` holds row `g` at k = `t P ..`. The blocks of a follow each
//! other down the rows first, those of b along k. Of c and d, each pair of f32 or s32 registers (or one register of
//! f16 pairs) is a block of 8 rows and 8 columns, where lane `l` holds row `g`, columns `2 t` and `2 t + 1`.

use super::element::Decode;

/// 8 rows of a and 4 P elements along k: for each of a register's elements, what the lanes hold there.
pub(super) type ABlock<const P: usize> = [[f64; 32]; P];
/// 8 columns of b and 4 P elements along k: for each thread of a group, for each of a register's elements, what the
/// groups hold, those of the even columns first.
pub(super) type BBlock<const P: usize> = [[[f64; 8]; P]; 4];
/// 8 rows and 8 columns of sums, the even columns first.
pub(super) type Sums = [[f64; 8]; 8];

/// The columns in the order of [`Sums`] and [`BBlock`]: each half is what four lanes hold in one register.
pub(super) const COLUMNS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// A register of a.
#[inline(always)]
pub(super) fn unpack_a<E: Decode, const P: usize>(element: E, register: &[u32; 32]) -> ABlock<P> {
    let mut block = [[0.0; 32]; P];
    for (i, values) in block.iter_mut().enumerate() {
        for (value, bits) in values.iter_mut().zip(register) {
            *value = element.value(bits >> (i * 32 / P));
        }
    }
    block
}

/// A register of b.
#[inline(always)]
pub(super) fn unpack_b<E: Decode, const P: usize>(element: E, register: &[u32; 32]) -> BBlock<P> {
    let mut block = [[[0.0; 8]; P]; 4];
    for (t, elements) in block.iter_mut().enumerate() {
        let mut columns = [0; 8];
        for (bits, column) in columns.iter_mut().zip(COLUMNS) {
            *bits = register[4 * column + t];
        }
        for (i, values) in elements.iter_mut().enumerate() {
            for (value, bits) in values.iter_mut().zip(columns) {
                *value = element.value(bits >> (i * 32 / P));
            }
        }
    }
    block
}

/// Adds the product of a block of a and a block of b, one term after the other in order of k.
#[inline(always)]
pub(super) fn add_product<const P: usize>(a: &ABlock<P>, b: &BBlock<P>, sums: &mut Sums) {
    // Four rows of sums at a time: what the processor's registers hold.
    for (quarter, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let mut held = *sums;
        for (t, b) in b.iter().enumerate() {
            for (a, b) in a.iter().zip(b) {
                for (row, held) in held.iter_mut().enumerate() {
                    let a = a[16 * quarter + 4 * row + t];
                    for (sum, b) in held.iter_mut().zip(b) {
                        *sum += a * b;
                    }
                }
            }
        }
        *sums = held;
    }
}
