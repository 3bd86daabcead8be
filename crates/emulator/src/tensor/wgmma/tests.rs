use super::*;
use proptest::prelude::*;

/// The canonical layouts as CuTe writes them: a shape and a stride for each mode, innermost first, in units of
/// elements; an index runs through the shapes from the innermost on.
struct Layout {
    mn: Vec<(usize, usize)>,
    k: Vec<(usize, usize)>,
    /// Bits of the swizzle `Swizzle<bits, 4, 3>` of byte addresses.
    bits: u32,
}

impl Layout {
    fn bytes(&self, row: usize, k: usize, element: usize) -> usize {
        let dot = |mut index: usize, modes: &[(usize, usize)]| {
            modes.iter().fold(0, |sum, (shape, stride)| {
                let digit = index % shape;
                index /= shape;
                sum + digit * stride
            })
        };
        let address = element * (dot(row, &self.mn) + dot(k, &self.k));
        let mask = ((1 << self.bits) - 1) << 7;
        address ^ (address & mask) >> 3
    }
}

/// A layout of `rows` rows and 32 bytes along k, tightly packed; its descriptor's leading and stride offsets in bytes.
fn layout(
    swizzle: Swizzle,
    major: Major,
    rows: usize,
    element: usize,
    order: bool,
) -> (Layout, usize, usize) {
    let t = 16 / element;
    let (bits, w) = match swizzle {
        Swizzle::None => (0, 1),
        Swizzle::B32 => (1, 2),
        Swizzle::B64 => (2, 4),
        Swizzle::B128 => (3, 8),
    };
    const MANY: usize = usize::MAX;
    let blocks = rows / 8;
    match (swizzle, major) {
        // ((8,m),(T,2)):((1T,SBO),(1,LBO)), where blocks follow each other along the rows or along k first.
        (Swizzle::None, Major::K) => {
            let (sbo, lbo) = if order { (8 * t, 8 * t * blocks) } else { (16 * t, 8 * t) };
            let layout = Layout { mn: vec![(8, t), (MANY, sbo)], k: vec![(t, 1), (2, lbo)], bits };
            (layout, lbo * element, sbo * element)
        }
        // ((8,m),(T,2)):((wT,SBO),(1,T))
        (_, Major::K) => {
            let sbo = 8 * w * t;
            (Layout { mn: vec![(8, w * t), (MANY, sbo)], k: vec![(t, 1), (2, t)], bits }, 16, sbo * element)
        }
        // ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO))
        (Swizzle::None, Major::Mn) => {
            let (sbo, lbo) = if order { (8 * t, 8 * t * blocks) } else { (16 * t, 8 * t) };
            let layout = Layout { mn: vec![(t, 1), (MANY, sbo)], k: vec![(8, t), (MANY, lbo)], bits };
            (layout, lbo * element, sbo * element)
        }
        // ((T,w,m),(8,k)):((1,T,LBO),(wT,SBO))
        (_, Major::Mn) => {
            let (sbo, lbo) =
                if order { (8 * w * t, 16 * w * t) } else { (8 * w * t * blocks.div_ceil(w), 8 * w * t) };
            let layout =
                Layout { mn: vec![(t, 1), (w, t), (MANY, lbo)], k: vec![(8, w * t), (MANY, sbo)], bits };
            (layout, lbo * element, sbo * element)
        }
    }
}

/// An operand in shared memory, and the descriptor that finds it.
struct Operand {
    memory: Vec<u8>,
    descriptor: u64,
    major: Major,
}

impl Operand {
    /// Puts a matrix (rows, k) of elements of so many bytes where its layout wants it, at `address`.
    fn new(
        swizzle: Swizzle,
        major: Major,
        elements: &[Vec<u32>],
        bytes: usize,
        address: usize,
        order: bool,
    ) -> Self {
        let (layout, leading, stride) = layout(swizzle, major, elements.len(), bytes, order);
        let mut memory = vec![0xff; 200_000];
        for (row, elements) in elements.iter().enumerate() {
            for (k, element) in elements.iter().enumerate() {
                let at = address + layout.bytes(row, k, bytes);
                assert_eq!(memory[at], 0xff, "two elements at one place");
                memory[at..at + bytes].copy_from_slice(&element.to_le_bytes()[..bytes]);
            }
        }
        let code = match swizzle {
            Swizzle::None => 0,
            Swizzle::B32 => 3,
            Swizzle::B64 => 2,
            Swizzle::B128 => 1,
        };
        let field = |bytes: usize| bytes as u64 >> 4 & 0x3fff;
        let descriptor = field(address) | field(leading) << 16 | field(stride) << 32 | code << 62;
        Operand { memory, descriptor, major }
    }

    fn read(&self, address: u32) -> Row {
        let address = address as usize;
        std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|k| self.memory[address + 4 * i + k])))
    }

    fn decoded(&self) -> Descriptor {
        Descriptor::decode(self.descriptor)
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    use Element::{Bf16, E4m3, E5m2, F16, S8, Tf32, U8};
    let types = vec![
        (F16, F16, Accumulator::F32),
        (F16, F16, Accumulator::F16),
        (Bf16, Bf16, Accumulator::F32),
        (Tf32, Tf32, Accumulator::F32),
        (E4m3, E5m2, Accumulator::F32),
        (E5m2, E4m3, Accumulator::F16),
        (S8, U8, Accumulator::S32),
        (U8, S8, Accumulator::S32Satfinite),
    ];
    (1..=16usize, prop::sample::select(types)).prop_map(|(n, (a, b, d))| {
        Shape::new(16 * n, 256 / a.bits(), a, b, d).expect("a shape of the instruction set")
    })
}

fn swizzles() -> impl Strategy<Value = Swizzle> {
    prop::sample::select(vec![Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128])
}

/// Bits of small whole numbers, so that every sum is exact in every accumulator.
fn small(element: Element, value: u32) -> u32 {
    match element {
        Element::F16 => half::f16::from_f32(value as f32).to_bits().into(),
        Element::Bf16 => half::bf16::from_f32(value as f32).to_bits().into(),
        Element::Tf32 => (value as f32).to_bits(),
        Element::E4m3 => [0x00, 0x38, 0x40, 0x44][value as usize],
        Element::E5m2 => [0x00, 0x3c, 0x40, 0x42][value as usize],
        Element::S8 | Element::U8 | Element::S4 | Element::U4 => value,
    }
}

fn matrix(seed: u64, element: Element, rows: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let mut state = seed;
    let values: Vec<Vec<u32>> = (0..rows)
        .map(|_| {
            (0..256 / element.bits())
                .map(|_| {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    (state >> 62) as u32
                })
                .collect()
        })
        .collect();
    let bits = values.iter().map(|row| row.iter().map(|value| small(element, *value)).collect()).collect();
    (values, bits)
}

/// What a lane holds of d: register and shift of row `g` (or `g + 8`) and column `2 t + (i & 1)` of 8 columns.
fn d_value(d: &[[u32; 32]], accumulator: Accumulator, row: usize, column: usize) -> f64 {
    let lane = row % 8 * 4 + column % 8 / 2;
    let (half, odd) = (row / 8, column % 2);
    match accumulator {
        Accumulator::F16 => {
            let pair = d[column / 8 * 2 + half][lane];
            half::f16::from_bits((pair >> (16 * odd)) as u16).to_f64()
        }
        Accumulator::F32 => f32::from_bits(d[column / 8 * 4 + 2 * half + odd][lane]).into(),
        _ => (d[column / 8 * 4 + 2 * half + odd][lane] as i32).into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_swizzle_and_major_multiplies_the_matrices_that_lie_in_shared_memory(
        shape in shapes(), a_swizzle in swizzles(), b_swizzle in swizzles(),
        transposed: [bool; 2], order: [bool; 2], places in [0..8usize, 0..8usize], seed: u64, accumulate: bool,
    ) {
        // Only 16-bit elements may lie along m or n.
        let major = |transposed: bool| if transposed && shape.a.bits() == 16 { Major::Mn } else { Major::K };
        let (a_values, a_bits) = matrix(seed, shape.a, 64);
        let (b_values, b_bits) = matrix(!seed, shape.b, shape.n);
        let bytes = shape.a.bits() / 8;
        let a = Operand::new(a_swizzle, major(transposed[0]), &a_bits, bytes, 1024 * places[0], order[0]);
        let b = Operand::new(b_swizzle, major(transposed[1]), &b_bits, bytes, 1024 * places[1], order[1]);
        let b_registers = b_registers(&b.decoded(), b.major, shape.n, |address| b.read(address));
        let one = match shape.d {
            Accumulator::F16 => 0x3c00_3c00,
            Accumulator::F32 => 0x3f80_0000,
            _ => 1,
        };
        let c = vec![[one; 32]; if accumulate { shape.d_registers() } else { 0 }];
        for warp in 0..4 {
            let a_registers = a_registers(&a.decoded(), a.major, warp, |address| a.read(address));
            let mut d = vec![[0xdead_beef; 32]; shape.d_registers()];
            wgmma(&shape, &a_registers, &b_registers, &c, &mut d);
            for row in 0..16 {
                for (column, b) in b_values.iter().enumerate() {
                    let a = &a_values[16 * warp as usize + row];
                    let product: u32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    let expected = f64::from(product + u32::from(accumulate));
                    prop_assert_eq!(d_value(&d, shape.d, row, column), expected, "row {} column {}", row, column);
                }
            }
        }
    }

    /// A tile of 128 bytes along k is walked 32 bytes at a time by adding to the descriptor's address.
    #[test]
    fn a_step_along_k_within_a_swizzled_tile_adds_to_the_address(step in 0..4u32, block in 0..8u32, i in 0..8u32) {
        let tile = Descriptor { address: 2048, leading: 0, stride: 1024, base_offset: 0, swizzle: Swizzle::B128 };
        let stepped = Descriptor { address: 2048 + 32 * step, ..tile };
        for unit in 0..2 {
            let plain = 2048 + 1024 * block + 128 * i + 16 * ((2 * step + unit) ^ i);
            prop_assert_eq!(stepped.unit(Major::K, block, unit, i), plain);
        }
    }

    /// With the base offset of the instruction set's formula, a tile may start anywhere in the pattern's period.
    #[test]
    fn a_base_offset_moves_the_pattern(swizzle in swizzles(), start in 0..8u32, block in 0..8u32, unit in 0..2u32, i in 0..8u32) {
        let at = |address, base_offset| {
            Descriptor { address, leading: 0, stride: 1024, base_offset, swizzle }.unit(Major::K, block, unit, i)
        };
        prop_assert_eq!(at(4096 + 128 * start, start), at(4096, 0) + 128 * start);
    }

    #[test]
    fn a_swizzle_permutes_the_units_of_each_period(swizzle in swizzles(), period in 0..64u32) {
        let start = period * swizzle.period();
        let mut seen = vec![false; swizzle.period() as usize];
        for offset in 0..swizzle.period() {
            let to = swizzle.apply(start + offset) - start;
            prop_assert!(to / 128 == offset / 128 && to % 16 == offset % 16);
            prop_assert!(!std::mem::replace(&mut seen[to as usize], true));
        }
    }

    #[test]
    fn negation_is_of_the_product_alone(seed: u64) {
        let mut shape = Shape::new(8, 8, Element::Tf32, Element::Tf32, Accumulator::F32).unwrap();
        let registers = |seed: u64, count: usize| -> Vec<[u32; 32]> {
            (0..count).map(|r| std::array::from_fn(|lane| ((seed >> ((r * 7 + lane) % 32)) as i8 as f32).to_bits())).collect()
        };
        let (a, b, c) = (registers(seed, 4), registers(!seed, 2), registers(seed / 3, 4));
        let a = std::array::from_fn(|i| a[i]);
        let (mut plus, mut minus) = (vec![[0; 32]; 4], vec![[0; 32]; 4]);
        wgmma(&shape, &a, &b, &c, &mut plus);
        shape.negated = true;
        wgmma(&shape, &a, &b, &c, &mut minus);
        for ((plus, minus), c) in plus.as_flattened().iter().zip(minus.as_flattened()).zip(c.as_flattened()) {
            prop_assert_eq!(f32::from_bits(*plus) + f32::from_bits(*minus), 2.0 * f32::from_bits(*c));
        }
    }
}

#[test]
fn the_addresses_of_an_operand_are_all_that_its_registers_are_made_of() {
    let descriptor =
        Descriptor { address: 512, leading: 4096, stride: 1024, base_offset: 0, swizzle: Swizzle::B64 };
    for major in [Major::K, Major::Mn] {
        let read = std::cell::RefCell::new(Vec::new());
        b_registers(&descriptor, major, 96, |address| {
            read.borrow_mut().push(address);
            [0; 4]
        });
        let mut expected: Vec<u32> = addresses(descriptor, major, 0..12).collect();
        let mut read = read.into_inner();
        expected.sort_unstable();
        read.sort_unstable();
        assert_eq!(read, expected);
    }
}

#[test]
fn the_instruction_set_has_these_shapes() {
    let count = |a, b, d| {
        (0..300)
            .flat_map(|n| (0..64).map(move |k| (n, k)))
            .filter(|(n, k)| Shape::new(*n, *k, a, b, d).is_some())
            .count()
    };
    assert_eq!(count(Element::F16, Element::F16, Accumulator::F16), 32);
    assert_eq!(count(Element::S8, Element::U8, Accumulator::S32), 18);
    assert_eq!(count(Element::S8, Element::U8, Accumulator::F32), 0);
    assert_eq!(count(Element::Bf16, Element::Bf16, Accumulator::F16), 0);
    assert_eq!(count(Element::F16, Element::Bf16, Accumulator::F32), 0);
}
