//! `ldmatrix`, `stmatrix` and `movmatrix` (PTX ISA, "Warp-level Matrix Instructions").
//!
//! All move rows of 16 bytes. Lane `i` gives the address of row `i` ([`Matrices::rows`] of them are used); lane `l` is
//! thread `t = l % 4` of group `g = l / 4`.

/// 16 bytes, the first in the lowest bits of the first word.
pub type Row = [u32; 4];

/// What matrices an instruction moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `.m8n8 .b16`: 8 rows, one register. A lane holds elements `2 t` and `2 t + 1` of row `g`.
    M8n8,
    /// `.m8n8.trans .b16`: 8 rows, one register. A lane holds element `g` of the rows `2 t` and `2 t + 1`.
    M8n8Trans,
    /// `.m16n16.trans .b8` of `ldmatrix`: 16 rows, two registers. A lane holds element `g` of the rows `4 t` to
    /// `4 t + 3` in the first, and element `g + 8` of the same rows in the second.
    M16n16Trans,
    /// `.m16n8.trans .b8` of `stmatrix`: 8 rows, one register. A lane holds element `g` of the rows `2 t` and
    /// `2 t + 1`, then element `g + 8` of the same rows.
    M16n8Trans,
}

/// The matrices of one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrices {
    /// What each one is.
    pub form: Form,
    /// `.x1`, `.x2`, `.x4`
    pub count: usize,
}

impl Matrices {
    /// Rows of all matrices: so many lanes, from the first on, give an address.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.count * if self.form == Form::M16n16Trans { 16 } else { 8 }
    }

    /// Registers of all matrices.
    #[must_use]
    pub fn registers(&self) -> usize {
        self.count * if self.form == Form::M16n16Trans { 2 } else { 1 }
    }

    /// `ldmatrix`: the registers that the rows make. Of slices shorter than the matrices, what both have is moved.
    pub fn load(&self, rows: &[Row], registers: &mut [[u32; 32]]) {
        match self.form {
            Form::M8n8 => {
                for (register, rows) in registers.iter_mut().zip(rows.as_chunks::<8>().0) {
                    register.copy_from_slice(rows.as_flattened());
                }
            }
            Form::M8n8Trans => {
                for (register, rows) in registers.iter_mut().zip(rows.as_chunks::<8>().0) {
                    *register = transpose(rows);
                }
            }
            Form::M16n16Trans | Form::M16n8Trans => {
                for (index, register) in registers.iter_mut().enumerate() {
                    for (lane, register) in register.iter_mut().enumerate() {
                        for byte in 0..4 {
                            let (row, column) = self.place(index, lane, byte);
                            let word = rows.get(row).map_or(0, |row| row[column / 4]);
                            *register = with_byte(*register, byte, word >> (column % 4 * 8));
                        }
                    }
                }
            }
        }
    }

    /// `stmatrix`: the rows that the registers make. Of slices shorter than the matrices, what both have is moved.
    pub fn store(&self, registers: &[[u32; 32]], rows: &mut [Row]) {
        match self.form {
            Form::M8n8 => {
                for (register, rows) in registers.iter().zip(rows.as_chunks_mut::<8>().0) {
                    rows.as_flattened_mut().copy_from_slice(register);
                }
            }
            Form::M8n8Trans => {
                for (register, rows) in registers.iter().zip(rows.as_chunks_mut::<8>().0) {
                    rows.as_flattened_mut().copy_from_slice(&movmatrix(register));
                }
            }
            Form::M16n16Trans | Form::M16n8Trans => {
                for (index, register) in registers.iter().enumerate() {
                    for (lane, register) in register.iter().enumerate() {
                        for byte in 0..4 {
                            let (row, column) = self.place(index, lane, byte);
                            if let Some(row) = rows.get_mut(row) {
                                row[column / 4] =
                                    with_byte(row[column / 4], column % 4, register >> (byte * 8));
                            }
                        }
                    }
                }
            }
        }
    }

    /// The row, and the byte in it, that a byte of a lane's register is.
    fn place(&self, register: usize, lane: usize, byte: usize) -> (usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        match self.form {
            Form::M8n8 => (8 * register + g, 4 * t + byte),
            Form::M8n8Trans => (8 * register + 2 * t + byte / 2, 2 * g + byte % 2),
            Form::M16n16Trans => (register / 2 * 16 + 4 * t + byte, register % 2 * 8 + g),
            Form::M16n8Trans => (8 * register + 2 * t + byte % 2, byte / 2 * 8 + g),
        }
    }
}

/// `movmatrix.sync.aligned.m8n8.trans.b16`
#[must_use]
pub fn movmatrix(a: &[u32; 32]) -> [u32; 32] {
    let mut rows = [[0; 4]; 8];
    rows.as_flattened_mut().copy_from_slice(a);
    transpose(&rows)
}

/// The register whose lanes hold the columns of 8 rows of 16-bit elements.
fn transpose(rows: &[Row; 8]) -> [u32; 32] {
    let mut register = [0; 32];
    for t in 0..4 {
        for (pair, (&upper, &lower)) in rows[2 * t].iter().zip(&rows[2 * t + 1]).enumerate() {
            register[8 * pair + t] = upper & 0xffff | lower << 16;
            register[8 * pair + 4 + t] = upper >> 16 | lower & 0xffff_0000;
        }
    }
    register
}

fn with_byte(word: u32, byte: usize, bits: u32) -> u32 {
    word & !(0xff << (byte * 8)) | (bits & 0xff) << (byte * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrices() -> impl Strategy<Value = Matrices> {
        let forms = [Form::M8n8, Form::M8n8Trans, Form::M16n16Trans, Form::M16n8Trans];
        (prop::sample::select(forms.to_vec()), prop::sample::select(vec![1, 2, 4]))
            .prop_map(|(form, count)| Matrices { form, count })
    }

    fn byte_of_row(rows: &[Row], row: usize, column: usize) -> u8 {
        rows[row][column / 4].to_le_bytes()[column % 4]
    }

    /// A byte of a lane as the figures of the instruction set show it, by the element it belongs to.
    fn by_the_figures(form: Form, rows: &[Row], register: usize, lane: usize, byte: usize) -> u8 {
        let (matrix, half) =
            if form == Form::M16n16Trans { (register / 2, register % 2) } else { (register, 0) };
        let rows = &rows[matrix * if form == Form::M16n16Trans { 16 } else { 8 }..];
        let element16 =
            |row: usize, column: usize| [2 * column, 2 * column + 1].map(|c| byte_of_row(rows, row, c));
        match form {
            Form::M8n8 => element16(lane >> 2, 2 * (lane & 3) + byte / 2)[byte % 2],
            Form::M8n8Trans => element16(2 * (lane & 3) + byte / 2, lane >> 2)[byte % 2],
            Form::M16n16Trans => byte_of_row(rows, 4 * (lane & 3) + byte, (lane >> 2) + 8 * half),
            // As the accumulators c0..c3 of m16n8, whose rows are the columns here.
            Form::M16n8Trans => {
                let (c_row, c_column) = ((lane >> 2) + 8 * (byte / 2), 2 * (lane & 3) + (byte & 1));
                byte_of_row(rows, c_column, c_row)
            }
        }
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        proptest::collection::vec(any::<Row>(), 64)
    }

    proptest! {
        #[test]
        fn every_byte_of_every_lane_is_the_one_the_figures_show(matrices in matrices(), rows in rows()) {
            let rows = &rows[..matrices.rows()];
            let mut registers = vec![[0xdead_beef; 32]; matrices.registers()];
            matrices.load(rows, &mut registers);
            for (index, register) in registers.iter().enumerate() {
                for (lane, word) in register.iter().enumerate() {
                    for byte in 0..4 {
                        let expected = by_the_figures(matrices.form, rows, index, lane, byte);
                        prop_assert_eq!(word.to_le_bytes()[byte], expected, "{:?} {} {} {}", matrices, index, lane, byte);
                    }
                }
            }
        }

        #[test]
        fn what_is_loaded_and_stored_again_is_the_same(matrices in matrices(), rows in rows()) {
            let rows = &rows[..matrices.rows()];
            let mut registers = vec![[0; 32]; matrices.registers()];
            matrices.load(rows, &mut registers);
            let mut again = vec![[0xdead_beef; 4]; rows.len()];
            matrices.store(&registers, &mut again);
            prop_assert_eq!(rows, &again[..]);
        }

        #[test]
        fn moving_a_matrix_transposes_it(rows in rows()) {
            let load = |form| {
                let mut register = [[0; 32]];
                Matrices { form, count: 1 }.load(&rows[..8], &mut register);
                register[0]
            };
            prop_assert_eq!(movmatrix(&load(Form::M8n8)), load(Form::M8n8Trans));
            prop_assert_eq!(movmatrix(&load(Form::M8n8Trans)), load(Form::M8n8));
        }
    }
}
