//! `mma` of double precision and of single bits, and `mma.sp`: fragments as the PTX ISA's sections on them write them,
//! products as plain loops.
#![allow(
    clippy::needless_range_loop,
    reason = "rows, columns and lanes are numbers, with which several things are found"
)]

use longhand_emulator::tensor::Element;
use longhand_emulator::{Arch, Gpu, Module, Problem, Shape};

/// Words of each lane, of operands and of results.
const WORDS: usize = 32;

type Words = [[u32; WORDS]; 32];

/// Runs an instruction on registers `r0` .. and, as pairs of these, `d0` ..; the results are `r0` .. or `d0` .. too.
fn run(instruction: &str, input: &Words) -> Result<Words, Problem> {
    let names =
        |prefix: &str, count: usize| (0..count).map(move |i| format!("{prefix}{i}")).collect::<Vec<_>>();
    let each = |f: &dyn Fn(usize) -> String, count: usize| (0..count).map(f).collect::<String>();
    let doubles = instruction.contains("f64");
    let text = format!(
        ".version 9.0
.target sm_90a
.address_size 64
.entry k(.param .u64 in, .param .u64 out)
{{
.reg .b32 t, {}; .reg .b64 from, to, {};
mov.u32 t, %tid.x;
ld.param.u64 from, [in];
ld.param.u64 to, [out];
mad.wide.u32 from, t, 128, from;
mad.wide.u32 to, t, 128, to;
{}{instruction};
{}ret;
}}
",
        names("r", WORDS).join(", "),
        names("d", WORDS / 2).join(", "),
        if doubles {
            each(&|i| format!("ld.global.b64 d{i}, [from+{}];\n", 8 * i), WORDS / 2)
        } else {
            each(&|i| format!("ld.global.b32 r{i}, [from+{}];\n", 4 * i), WORDS)
        },
        if doubles {
            each(&|i| format!("st.global.b64 [to+{}], d{i};\n", 8 * i), WORDS / 2)
        } else {
            each(&|i| format!("st.global.b32 [to+{}], r{i};\n", 4 * i), WORDS)
        },
    );
    let gpu = Gpu::new("sm_90a".parse::<Arch>().unwrap());
    let module = Module::from_ptx(&gpu, &text).unwrap_or_else(|error| panic!("{error}"));
    let (from, to) = (gpu.alloc(4096).unwrap(), gpu.alloc(4096).unwrap());
    let bytes: Vec<u8> = input.as_flattened().iter().flat_map(|it| it.to_le_bytes()).collect();
    gpu.upload(from, &bytes).unwrap();
    let shape = Shape { grid: [1; 3], block: [32, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    let params: Vec<u8> = [from, to].iter().flat_map(|it| it.to_le_bytes()).collect();
    module.launch("k", &shape, &params).map_err(|fault| fault.problem)?;
    let mut bytes = vec![0; 4096];
    gpu.download(to, &mut bytes).unwrap();
    let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|it| u32::from_le_bytes(*it)).collect();
    Ok(words.as_chunks::<WORDS>().0.try_into().unwrap())
}

/// `{x3, x4}` of registers `x3` and `x4`.
fn list(prefix: &str, first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count).map(|i| format!("{prefix}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// Random numbers (Marsaglia 2003, "Xorshift RNGs").
struct Draw(u64);

impl Draw {
    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, bound: u32) -> usize {
        (self.bits() % bound) as usize
    }
}

/// The row and column of a lane's element `i` of c and d; those of m8n8 have the first two.
fn c_place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1))
}

#[test]
fn double_precision_is_fused_and_in_order_of_k() {
    for (m, k) in [(8, 4), (16, 4), (16, 8), (16, 16)] {
        // "Matrix Fragments for mma.m8n8k4 / m16n8k4 / m16n8k8 / m16n8k16 with .f64": row and column of a_i.
        let a_place = |lane: usize, i: usize| {
            let (g, t) = (lane >> 2, lane % 4);
            match k {
                4 => (if i == 0 { g } else { g + 8 }, t),
                8 => (g + i % 2 * 8, if i < 2 { t } else { t + 4 }),
                _ => (g + i % 2 * 8, (i - i % 2) * 2 + t),
            }
        };
        let b_place = |lane: usize, i: usize| (lane % 4 + i * 4, lane >> 2);
        let (a_count, b_count, c_count) = (m * k / 32, k / 4, m / 4);
        let mut draw = Draw(m as u64 * 100 + k as u64);
        let mut number =
            |_: usize| (f64::from(draw.bits()) - 2e9) * f64::from(draw.bits() % 1000).exp2().min(1e9);
        let a: Vec<Vec<f64>> = (0..m).map(|_| (0..k).map(&mut number).collect()).collect();
        let b: Vec<Vec<f64>> = (0..k).map(|_| (0..8).map(&mut number).collect()).collect();
        let c: Vec<Vec<f64>> = (0..m).map(|_| (0..8).map(&mut number).collect()).collect();
        let mut input = [[0; WORDS]; 32];
        for (lane, words) in input.iter_mut().enumerate() {
            let mut put = |at: usize, value: f64| {
                words[2 * at] = value.to_bits() as u32;
                words[2 * at + 1] = (value.to_bits() >> 32) as u32;
            };
            (0..a_count).for_each(|i| put(i, a[a_place(lane, i).0][a_place(lane, i).1]));
            (0..b_count).for_each(|i| put(a_count + i, b[b_place(lane, i).0][b_place(lane, i).1]));
            (0..c_count).for_each(|i| put(12 + i, c[c_place(lane, i).0][c_place(lane, i).1]));
        }
        let text = format!(
            "mma.sync.aligned.m{m}n8k{k}.row.col.f64.f64.f64.f64 {}, {}, {}, {}",
            list("d", 12, c_count),
            list("d", 0, a_count),
            list("d", a_count, b_count),
            list("d", 12, c_count)
        );
        let out = run(&text, &input).unwrap();
        for lane in 0..32 {
            for i in 0..c_count {
                let (row, column) = c_place(lane, i);
                let expected = (0..k).fold(c[row][column], |sum, k| a[row][k].mul_add(b[k][column], sum));
                let [low, high] = [0, 1].map(|half| u64::from(out[lane][24 + 2 * i + half]));
                assert_eq!(f64::from_bits(high << 32 | low), expected, "m{m} k{k} lane {lane} d{i}");
            }
        }
    }
}

#[test]
fn bits_are_counted_where_both_or_one_is_set() {
    for (m, k) in [(8, 128), (16, 128), (16, 256)] {
        for operation in ["and", "xor"] {
            let mut draw = Draw((m * k) as u64);
            let bit = |draw: &mut Draw| draw.bits() & 1;
            let a: Vec<Vec<u32>> = (0..m).map(|_| (0..k).map(|_| bit(&mut draw)).collect()).collect();
            let b: Vec<Vec<u32>> = (0..k).map(|_| (0..8).map(|_| bit(&mut draw)).collect()).collect();
            let c: Vec<Vec<u32>> = (0..m).map(|_| (0..8).map(|_| draw.bits()).collect()).collect();
            // "Matrix Fragments for mma.m8n8k128 / m16n8k128 / m16n8k256".
            let a_place = |lane: usize, i: usize| {
                let g = lane >> 2;
                let upper = i < 32 || (k == 256 && (64..96).contains(&i));
                (if upper { g } else { g + 8 }, lane % 4 * 32 + (i & 31) + if i < 64 { 0 } else { 128 })
            };
            let b_place =
                |lane: usize, i: usize| (lane % 4 * 32 + (i & 31) + if i < 32 { 0 } else { 128 }, lane >> 2);
            let (a_count, b_count, c_count) = (m * k / 1024, k / 128, m / 4);
            let mut input = [[0; WORDS]; 32];
            for (lane, words) in input.iter_mut().enumerate() {
                for i in 0..32 * a_count {
                    words[i / 32] |= a[a_place(lane, i).0][a_place(lane, i).1] << (i % 32);
                }
                for i in 0..32 * b_count {
                    words[4 + i / 32] |= b[b_place(lane, i).0][b_place(lane, i).1] << (i % 32);
                }
                (0..c_count).for_each(|i| words[8 + i] = c[c_place(lane, i).0][c_place(lane, i).1]);
            }
            let text = format!(
                "mma.sync.aligned.m{m}n8k{k}.row.col.s32.b1.b1.s32.{operation}.popc {}, {}, {}, {}",
                list("r", 12, c_count),
                list("r", 0, a_count),
                list("r", 4, b_count),
                list("r", 8, c_count)
            );
            let out = run(&text, &input).unwrap();
            for lane in 0..32 {
                for i in 0..c_count {
                    let (row, column) = c_place(lane, i);
                    let term = |k: usize| match operation {
                        "and" => a[row][k] & b[k][column],
                        _ => a[row][k] ^ b[k][column],
                    };
                    let expected = (0..k).map(term).sum::<u32>().wrapping_add(c[row][column]);
                    assert_eq!(out[lane][12 + i], expected, "{operation} m{m} k{k} lane {lane} d{i}");
                }
            }
        }
    }
}

/// A sparse product: its types, and what the ISA's section on it says.
struct Sparse {
    element: Element,
    name: &'static str,
    k: usize,
    selectors: usize,
}

const SPARSE: [Sparse; 14] = {
    const fn of(element: Element, name: &'static str, k: usize, selectors: usize) -> Sparse {
        Sparse { element, name, k, selectors }
    }
    [
        of(Element::F16, "f16", 16, 4),
        of(Element::F16, "f16", 32, 2),
        of(Element::Bf16, "bf16", 16, 4),
        of(Element::Bf16, "bf16", 32, 2),
        of(Element::Tf32, "tf32", 8, 4),
        of(Element::Tf32, "tf32", 16, 2),
        of(Element::S8, "s8", 32, 2),
        of(Element::S8, "s8", 64, 1),
        of(Element::U8, "u8", 64, 1),
        of(Element::E4m3, "e4m3", 64, 1),
        of(Element::E5m2, "e5m2", 64, 1),
        of(Element::S4, "s4", 64, 2),
        of(Element::S4, "s4", 128, 1),
        of(Element::U4, "u4", 128, 1),
    ]
};

/// Places along k of the elements that are there, and the bits that say so, of one row.
fn pattern(draw: &mut Draw, sparse: &Sparse) -> (Vec<usize>, u64) {
    let (mut places, mut metadata) = (Vec::new(), 0);
    // "Sparse matrix storage": one of 2 of tf32, two of 4, or two pairs of 4 pairs of 4-bit types.
    let chunk = match sparse.element.bits() {
        32 => 2,
        4 => 8,
        _ => 4,
    };
    for index in 0..sparse.k / chunk {
        let start = index * chunk;
        let code = if chunk == 2 {
            let second = draw.below(2);
            places.push(start + second);
            [0b0100, 0b1110][second]
        } else {
            let (low, high) = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)][draw.below(6)];
            for i in [low, high] {
                let pairs = chunk / 4;
                places.extend((0..pairs).map(|it| start + i * pairs + it));
            }
            low | high << 2
        };
        metadata |= (code as u64) << (4 * index);
    }
    (places, metadata)
}

/// Which lane of four, beside the selector's first, has the metadata of a chunk, and where in its register.
fn metadata_place(sparse: &Sparse, row: usize, index: usize) -> (usize, usize) {
    let (lower, bit) = (usize::from(row >= 8), 4 * index);
    match (sparse.element.bits(), sparse.selectors) {
        // The metadata of rows g and g + 8 is 16 bits in one lane, or 16 in each of two.
        (16 | 32, _) => (bit / 16, 16 * lower + bit % 16),
        // Of 32 bits the first lane has row g, and the second row g + 8; the other two have the later columns.
        _ => (lower + 2 * (bit / 32), bit % 32),
    }
}

#[test]
fn sparse_products_are_those_of_the_whole_matrix() {
    for sparse in &SPARSE {
        for selector in 0..sparse.selectors {
            let Sparse { element, name, k, .. } = *sparse;
            let (bits, integer) = (element.bits(), element.is_integer());
            let mut draw = Draw((bits * 1000 + k * 10 + selector) as u64);
            // Numbers of few bits, whose sums are exact.
            let number = |draw: &mut Draw| match name {
                "f16" => [0x3c00, 0xbc00, 0x4000, 0x3800, 0x4200, 0][draw.below(6)],
                "bf16" => [0x3f80, 0xbf80, 0x4000, 0x3f00, 0x4040, 0][draw.below(6)],
                "tf32" => [0x3f80_0000, 0xbf80_0000, 0x4000_0000, 0x4040_0000, 0][draw.below(5)],
                "e4m3" => [0x38, 0xb8, 0x40, 0x30, 0x44, 0][draw.below(6)],
                "e5m2" => [0x3c, 0xbc, 0x40, 0x38, 0x42, 0][draw.below(6)],
                _ => draw.bits() & ((1 << bits) - 1),
            };
            let patterns: Vec<(Vec<usize>, u64)> = (0..16).map(|_| pattern(&mut draw, sparse)).collect();
            let mut a = vec![vec![0u32; k]; 16];
            for (row, (places, _)) in a.iter_mut().zip(&patterns) {
                places.iter().for_each(|k| row[*k] = number(&mut draw));
            }
            let b: Vec<Vec<u32>> = (0..k).map(|_| (0..8).map(|_| number(&mut draw)).collect()).collect();
            let c: Vec<Vec<i32>> =
                (0..16).map(|_| (0..8).map(|_| draw.bits() as i32 >> 16).collect()).collect();

            let per = 32 / bits;
            let mut input = [[0; WORDS]; 32];
            for (lane, words) in input.iter_mut().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                for i in 0..16 * k / 2 / 32 {
                    // The first half of the registers' elements is of the first half of the columns where there are
                    // four; of each two registers the first has row g.
                    let (register, place) = (i / per, i % per);
                    let row = if register % 2 == 0 { g } else { g + 8 };
                    let compressed = (register / 2 * 4 + t) * per + place;
                    words[register] |= a[row][patterns[row].0[compressed]] << (place * bits);
                }
                for i in 0..8 * k / 32 {
                    let (register, place) = (i / per, i % per);
                    words[4 + register] |= b[(register * 4 + t) * per + place][g] << (place * bits);
                }
                for i in 0..4 {
                    let (row, column) = c_place(lane, i);
                    let value = c[row][column];
                    words[8 + i] = if integer { value as u32 } else { (value as f32).to_bits() };
                }
                // What no selector reads is anything.
                words[12] = draw.bits();
            }
            let chunks = if bits == 32 {
                k / 2
            } else if bits == 4 {
                k / 8
            } else {
                k / 4
            };
            for row in 0..16 {
                for index in 0..chunks {
                    let (beside, bit) = metadata_place(sparse, row, index);
                    let lane = row % 8 * 4 + selector * (4 / sparse.selectors) + beside;
                    let code = (patterns[row].1 >> (4 * index) & 15) as u32;
                    input[lane][12] = input[lane][12] & !(15 << bit) | code << bit;
                }
            }
            let (registers, sum) = (k * bits / 128, if integer { "s32" } else { "f32" });
            let text = format!(
                "mma.sp::ordered_metadata.sync.aligned.m16n8k{k}.row.col.{sum}.{name}.{name}.{sum} {}, {}, {}, {}, r12, {selector}",
                list("r", 16, 4),
                list("r", 0, registers),
                list("r", 4, registers),
                list("r", 8, 4)
            );
            let out = run(&text, &input).unwrap();
            for lane in 0..32 {
                for i in 0..4 {
                    let (row, column) = c_place(lane, i);
                    let terms = (0..k).map(|k| element.value(a[row][k]) * element.value(b[k][column]));
                    let exact = terms.sum::<f64>() + f64::from(c[row][column]);
                    let found = out[lane][16 + i];
                    let found = if integer { f64::from(found as i32) } else { f32::from_bits(found).into() };
                    assert_eq!(found, exact, "{name} k{k} selector {selector} lane {lane} d{i}");
                }
            }
        }
    }
}

#[test]
fn metadata_that_tells_no_elements_is_a_fault() {
    let text = "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {r16, r17, r18, r19}, {r0, r1}, {r4, r5}, {r8, r9, r10, r11}, r12, 0";
    let with = |metadata: u32| {
        let mut input = [[0; WORDS]; 32];
        input.iter_mut().for_each(|words| words[12] = metadata);
        run(text, &input)
    };
    assert!(with(0x4444_4444).is_ok());
    // The element 1 twice, in row 8.
    let problem = with(0x4454_4444).expect_err("a fault");
    assert!(matches!(&problem, Problem::Illegal(what) if what.contains("row 8")), "{problem}");
}
