use super::super::ldmatrix::{Form, Matrices};
use super::*;
use proptest::prelude::*;

/// The row of element `i` of a and its k, as the fragment sections of the PTX ISA write them, shape by shape.
fn a_place(m: usize, k: usize, bits: usize, g: usize, t: usize, i: usize) -> (usize, usize) {
    let lower = |upper: bool| if upper { g } else { g + 8 };
    match (m, k, bits) {
        (16, 4, 32) => (lower(i == 0), t),
        (16, 8, 32) => (lower(i == 0 || i == 2), if i < 2 { t } else { t + 4 }),
        (16, 8, 16) => (lower(i < 2), t * 2 + (i & 1)),
        (16, 16, 16) => (lower(i < 2 || (4..6).contains(&i)), t * 2 + (i & 1) + if i < 4 { 0 } else { 8 }),
        (16, 16, 8) => (lower(i < 4), t * 4 + (i & 3)),
        (16, 32, 8) => (lower(i < 4 || (8..12).contains(&i)), t * 4 + (i & 3) + if i < 8 { 0 } else { 16 }),
        (16, 32, 4) => (lower(i < 8), t * 8 + (i & 7)),
        (16, 64, 4) => (lower(i < 8 || (16..24).contains(&i)), t * 8 + (i & 7) + if i < 16 { 0 } else { 32 }),
        (8, 16, 8) => (g, t * 4 + i),
        (8, 32, 4) => (g, t * 8 + i),
        _ => panic!("no such shape"),
    }
}

/// The k of element `i` of b; its column is `g`.
fn b_place(k: usize, bits: usize, t: usize, i: usize) -> usize {
    match (k, bits) {
        (4, 32) => t,
        (8, 32) => [t, t + 4][i],
        (8, 16) => t * 2 + i,
        (16, 16) => t * 2 + (i & 1) + if i < 2 { 0 } else { 8 },
        (16, 8) => t * 4 + i,
        (32, 8) => t * 4 + (i & 3) + if i < 4 { 0 } else { 16 },
        (32, 4) => t * 8 + i,
        (64, 4) => t * 8 + (i & 7) + if i < 8 { 0 } else { 32 },
        _ => panic!("no such shape"),
    }
}

fn element(registers: &[[u32; 32]], lane: usize, bits: usize, i: usize) -> u32 {
    let mask = if bits == 32 { u32::MAX } else { (1 << bits) - 1 };
    registers[i * bits / 32][lane] >> (i * bits % 32) & mask
}

/// The rows and columns of a lane's accumulators: `c0, c1` in row `g`, `c2, c3` in row `g + 8`.
fn c_place(g: usize, t: usize, i: usize) -> (usize, usize) {
    (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))
}

fn all_shapes() -> Vec<Shape> {
    use Accumulator::{F16 as C16, F32 as C32, S32, S32Satfinite};
    use Element::{Bf16, E4m3, E5m2, F16, S4, S8, Tf32, U4, U8};
    let elements = [F16, Bf16, Tf32, E4m3, E5m2, S8, U8, S4, U4];
    let accumulators = [C16, C32, S32, S32Satfinite];
    let mut shapes = vec![];
    for m in [8, 16] {
        for k in [4, 8, 16, 32, 64] {
            for a in elements {
                for b in elements {
                    for c in accumulators {
                        shapes
                            .extend(accumulators.map(|d| Shape::new(m, k, a, b, c, d)).into_iter().flatten());
                    }
                }
            }
        }
    }
    shapes
}

/// Matrices a and b as they stand in the fragments.
fn matrices(shape: &Shape, a: &[[u32; 32]], b: &[[u32; 32]]) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let bits = shape.a.bits();
    let mut rows = vec![vec![0; shape.k]; shape.m];
    let mut columns = vec![vec![0; shape.k]; 8];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for i in 0..shape.m * shape.k / 32 {
            let (row, k) = a_place(shape.m, shape.k, bits, g, t, i);
            rows[row][k] = element(a, lane, bits, i);
        }
        for i in 0..8 * shape.k / 32 {
            columns[g][b_place(shape.k, bits, t, i)] = element(b, lane, bits, i);
        }
    }
    (rows, columns)
}

fn f32_of(sum: f64) -> u32 {
    if sum.is_nan() { 0x7fff_ffff } else { (sum as f32).to_bits() }
}

/// What lane `lane` has to find in its accumulator `i`.
fn expected(shape: &Shape, row: &[u32], column: &[u32], c: u32) -> u32 {
    let values = row.iter().zip(column).map(|(&a, &b)| (shape.a.value(a), shape.b.value(b)));
    if shape.a.is_integer() {
        let sum = values.map(|(a, b)| a as i128 * b as i128).sum::<i128>() + i128::from(c as i32);
        return match shape.d {
            Accumulator::S32 => sum as u32,
            _ => sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32,
        };
    }
    let c = match shape.c {
        Accumulator::F16 => half::f16::from_bits(c as u16).to_f64(),
        _ => f64::from(f32::from_bits(c)),
    };
    let sum = values.fold(c, |sum, (a, b)| sum + a * b);
    match shape.d {
        Accumulator::F32 => f32_of(sum),
        _ if sum.is_nan() => 0x7fff,
        _ => nearest_f16(sum),
    }
}

/// The nearest f16, found among all of them.
fn nearest_f16(sum: f64) -> u32 {
    let sign = if sum.is_sign_negative() { 0x8000 } else { 0 };
    let value = |bits: u32| if bits == 0x7c00 { 65536.0 } else { half::f16::from_bits(bits as u16).to_f64() };
    let (mut low, mut high) = (0, 0x7c00);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if value(middle) <= sum.abs() { low = middle } else { high = middle }
    }
    let (down, up) = (sum.abs() - value(low), value(high) - sum.abs());
    sign | if down < up || (down == up && low % 2 == 0) { low } else { high }
}

/// `count` registers, drawn; with `mask`, the upper exponent bit of every float is clear, so that none is infinite.
fn draw(seed: u64, count: usize, mask: u32) -> Vec<[u32; 32]> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 32) as u32 & mask
    };
    (0..count).map(|_| std::array::from_fn(|_| next())).collect()
}

#[test]
fn the_instruction_set_has_these_shapes() {
    // (4 + 4 + 4 + 4) combinations of 8-bit types at two k each with two c and two d, and so on.
    let floats = 2 * 4 + 2 + 2 + 4 * 2 * 4;
    let integers = (2 + 2 + 1 + 1) * 4 * 4;
    assert_eq!(all_shapes().len(), floats + integers);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_shape_multiplies_the_matrices_in_its_fragments(seed: u64, finite: bool) {
        let mask = if finite { 0xbfbf_bfbf } else { u32::MAX };
        for shape in all_shapes() {
            let a = draw(seed, shape.a_registers(), mask);
            let b = draw(seed ^ 1, shape.b_registers(), mask);
            let c = draw(seed ^ 2, shape.c_registers(), mask);
            let mut d = vec![[0xdead_beef; 32]; shape.d_registers()];
            mma(&shape, &a, &b, &c, &mut d);
            let (rows, columns) = matrices(&shape, &a, &b);
            let c_bits = if shape.c == Accumulator::F16 { 16 } else { 32 };
            let d_bits = if shape.d == Accumulator::F16 { 16 } else { 32 };
            for lane in 0..32 {
                for i in 0..shape.m / 4 {
                    let (row, column) = c_place(lane / 4, lane % 4, i);
                    let expected = expected(&shape, &rows[row], &columns[column], element(&c, lane, c_bits, i));
                    prop_assert_eq!(element(&d, lane, d_bits, i), expected, "{:?} lane {} c{}", shape, lane, i);
                }
            }
        }
    }

    /// The sum as the module's documentation describes the hardware's stays within the distance it states.
    #[test]
    fn the_sum_of_the_hardware_is_within_the_stated_bound(
        terms in proptest::collection::vec((-2.0..2.0f32, -40..40i32), 33),
        sm_80: bool,
    ) {
        let (fraction, step) = if sm_80 { (24, 8) } else { (25, 16) };
        let terms: Vec<f64> = terms.into_iter().map(|(x, e)| f64::from(x) * 2f64.powi(e / 4)).collect();
        let cut = |x: f64, bits: i32, exponent: i32| {
            let unit = 2f64.powi(exponent - bits);
            (x / unit).trunc() * unit
        };
        let exponent = |x: f64| x.abs().log2().floor() as i32;
        // bf16 products: round the drawn terms to 16 bits, as a product of two 8-bit significands is.
        let products: Vec<f64> = terms[1..17].iter().map(|&x| cut(x, 15, exponent(x))).collect();
        let c = f64::from(terms[0] as f32);
        let mut hardware = c;
        for products in products.chunks(step) {
            let largest = products.iter().chain([&hardware]).map(|&x| exponent(x)).max().unwrap();
            let sum: f64 = products.iter().chain([&hardware]).map(|&x| cut(x, fraction, largest)).sum();
            hardware = cut(sum, 23, exponent(sum).max(-126));
        }
        let ours = f64::from(products.iter().fold(c, |sum, x| sum + x) as f32);
        let magnitude = c.abs() + products.iter().map(|x| x.abs()).sum::<f64>();
        let bound = if sm_80 { 12.0 } else { 6.25 } * 2f64.powi(-23) * magnitude;
        prop_assert!((hardware - ours).abs() <= bound, "{hardware} {ours} {bound}");
    }
}

/// Eight elements of 16 bits as a row in shared memory.
fn row_of(elements: &[u16]) -> [u32; 4] {
    std::array::from_fn(|i| u32::from(elements[2 * i]) | u32::from(elements[2 * i + 1]) << 16)
}

proptest! {
    /// The way every kernel goes: a and b lie in shared memory, `ldmatrix.x4` fetches a, `.x2` or `.x2.trans` b.
    #[test]
    fn ldmatrix_and_then_mma_is_a_matrix_product(
        a in proptest::collection::vec(-8i8..8, 256),
        b in proptest::collection::vec(-8i8..8, 128),
        trans: bool,
    ) {
        let bf16 = |x: i8| half::bf16::from_f32(f32::from(x)).to_bits();
        // a[row][k], and b[k][column], or its transpose b[column][k].
        let tile = |row: usize, k: usize| -> Vec<u16> { (0..8).map(|i| bf16(a[16 * row + k + i])).collect() };
        let a_rows: Vec<_> = (0..32).map(|i| row_of(&tile(i % 16, i / 16 * 8))).collect();
        let b_rows: Vec<_> = (0..16)
            .map(|i| {
                let elements: Vec<u16> = if trans {
                    (0..8).map(|column| bf16(b[8 * i + column])).collect()
                } else {
                    (0..8).map(|k| bf16(b[8 * (i / 8 * 8 + k) + i % 8])).collect()
                };
                row_of(&elements)
            })
            .collect();
        let mut a_registers = [[0; 32]; 4];
        Matrices { form: Form::M8n8, count: 4 }.load(&a_rows, &mut a_registers);
        let mut b_registers = [[0; 32]; 2];
        let form = if trans { Form::M8n8Trans } else { Form::M8n8 };
        Matrices { form, count: 2 }.load(&b_rows, &mut b_registers);

        let shape = Shape::new(16, 16, Element::Bf16, Element::Bf16, Accumulator::F32, Accumulator::F32).unwrap();
        let mut d = [[0; 32]; 4];
        mma(&shape, &a_registers, &b_registers, &[[0; 32]; 4], &mut d);
        for lane in 0..32 {
            for (i, d) in d.iter().enumerate() {
                let (row, column) = c_place(lane / 4, lane % 4, i);
                let product: i32 =
                    (0..16).map(|k| i32::from(a[16 * row + k]) * i32::from(b[8 * k + column])).sum();
                prop_assert_eq!(f32::from_bits(d[lane]), product as f32);
            }
        }
    }
}
