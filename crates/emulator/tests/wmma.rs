//! `wmma`: matrices in memory times matrices in memory, as plain loops have them.
#![allow(
    clippy::needless_range_loop,
    reason = "rows and columns are numbers, with which several things are found"
)]

use longhand_emulator::tensor::Element;
use longhand_emulator::{Arch, Gpu, LoadError, Module, Shape};

/// A product: its shape, its types, and how many registers the PTX ISA gives a, b, c and d.
struct Product {
    shape: [usize; 3],
    d: &'static str,
    a: &'static str,
    c: &'static str,
    registers: [usize; 4],
}

const fn product(
    shape: [usize; 3],
    d: &'static str,
    a: &'static str,
    c: &'static str,
    registers: [usize; 4],
) -> Product {
    Product { shape, d, a, c, registers }
}

const PRODUCTS: [Product; 15] = [
    product([16, 16, 16], "f32", "f16", "f32", [8, 8, 8, 8]),
    product([8, 32, 16], "f32", "f16", "f32", [8, 8, 8, 8]),
    product([32, 8, 16], "f32", "f16", "f32", [8, 8, 8, 8]),
    product([16, 16, 16], "f16", "f16", "f16", [8, 8, 4, 4]),
    product([16, 16, 16], "f32", "f16", "f16", [8, 8, 4, 8]),
    product([16, 16, 16], "f16", "f16", "f32", [8, 8, 8, 4]),
    product([16, 16, 16], "f32", "bf16", "f32", [4, 4, 8, 8]),
    product([8, 32, 16], "f32", "bf16", "f32", [2, 8, 8, 8]),
    product([32, 8, 16], "f32", "bf16", "f32", [8, 2, 8, 8]),
    product([16, 16, 16], "s32", "s8", "s32", [2, 2, 8, 8]),
    product([8, 32, 16], "s32", "u8", "s32", [1, 4, 8, 8]),
    product([32, 8, 16], "s32", "s8", "s32", [4, 1, 8, 8]),
    product([16, 16, 16], "s32", "u8", "s32", [2, 2, 8, 8]),
    product([16, 16, 8], "f32", "tf32", "f32", [4, 4, 8, 8]),
    product([8, 8, 4], "f64", "f64", "f64", [1, 1, 2, 2]),
];

fn bytes(ty: &str) -> usize {
    match ty {
        "f64" => 8,
        "f32" | "s32" | "tf32" => 4,
        "f16" | "bf16" => 2,
        _ => 1,
    }
}

/// Small integers, which every type has.
fn bits(ty: &str, value: f64) -> u64 {
    match ty {
        "f64" => value.to_bits(),
        "f32" | "tf32" => (value as f32).to_bits().into(),
        "bf16" => ((value as f32).to_bits() >> 16).into(),
        "f16" => half::f16::from_f64(value).to_bits().into(),
        _ => value as i64 as u64 & (u64::MAX >> (64 - 8 * bytes(ty))),
    }
}

fn value(ty: &str, bits: u64) -> f64 {
    match ty {
        "f64" => f64::from_bits(bits),
        "f32" | "tf32" => f32::from_bits(bits as u32).into(),
        "bf16" => Element::Bf16.value(bits as u32),
        "f16" => Element::F16.value(bits as u32),
        _ => (bits as i32).into(),
    }
}

type Matrix = Vec<Vec<f64>>;

/// A matrix in memory, row after row or column after column, `gap` elements longer than they are.
fn lay(matrix: &Matrix, ty: &str, by_rows: bool, gap: usize) -> (Vec<u8>, usize) {
    let (rows, columns) = (matrix.len(), matrix[0].len());
    let stride = if by_rows { columns } else { rows } + gap;
    let mut out = vec![0; (if by_rows { rows } else { columns }) * stride * bytes(ty)];
    for row in 0..rows {
        for column in 0..columns {
            let index = if by_rows { row * stride + column } else { column * stride + row };
            let element = bits(ty, matrix[row][column]).to_le_bytes();
            out[index * bytes(ty)..][..bytes(ty)].copy_from_slice(&element[..bytes(ty)]);
        }
    }
    (out, stride)
}

fn list(prefix: &str, count: usize) -> String {
    let names: Vec<String> = (0..count).map(|i| format!("{prefix}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

#[test]
fn products_are_those_of_the_matrices_in_memory() {
    for (index, product) in PRODUCTS.iter().enumerate() {
        for (a_rows, b_rows, c_rows) in [(true, false, true), (false, true, false), (true, true, true)] {
            let Product { shape: [m, n, k], d, a, c, registers } = *product;
            let mut state = index as u64 + 1;
            let mut number = |least: i64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (least + (state >> 40) as i64 % 7) as f64
            };
            let least = if a == "u8" { 0 } else { -3 };
            let mut matrix = |rows: usize, columns: usize, least: i64| -> Matrix {
                (0..rows).map(|_| (0..columns).map(|_| number(least)).collect()).collect()
            };
            let (left, right, sum) = (matrix(m, k, least), matrix(k, n, least), matrix(m, n, -3));
            // The strides are multiples of 16 bytes.
            let gap = 16;
            let (a_bytes, a_stride) = lay(&left, a, a_rows, gap);
            let (b_bytes, b_stride) = lay(&right, a, b_rows, gap);
            let (c_bytes, c_stride) = lay(&sum, c, c_rows, gap);
            let (mut out, d_stride) = lay(&sum, d, c_rows, 0);

            let [al, bl, cl] = [a_rows, b_rows, c_rows].map(|by_rows| if by_rows { "row" } else { "col" });
            let shape = format!("m{m}n{n}k{k}");
            let types = if a == "f16" { format!("{d}.{c}") } else { format!("{d}.{a}.{a}.{c}") };
            let size = if a == "f64" { 64 } else { 32 };
            let names = ["a", "b", "c", "d"].iter().zip(registers);
            let declared: String =
                names.map(|(it, count)| format!(".reg .b{size} {it}<{count}>;\n")).collect();
            let [ar, br, cr, dr] =
                [("a", 0), ("b", 1), ("c", 2), ("d", 3)].map(|(it, i)| list(it, registers[i]));
            let text = format!(
                ".version 9.0
.target sm_90a
.address_size 64
.entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd)
{{
{declared}.reg .b64 p<4>; .reg .b32 stride;
ld.param.u64 p0, [pa]; ld.param.u64 p1, [pb]; ld.param.u64 p2, [pc]; ld.param.u64 p3, [pd];
mov.u32 stride, {a_stride};
wmma.load.a.sync.aligned.{al}.{shape}.global.{a} {ar}, [p0], stride;
wmma.load.b.sync.aligned.{bl}.{shape}.{a} {br}, [p1], {b_stride};
wmma.load.c.sync.aligned.{cl}.{shape}.global.{c} {cr}, [p2], {c_stride};
wmma.mma.sync.aligned.{al}.{bl}.{shape}.{types} {dr}, {ar}, {br}, {cr};
wmma.store.d.sync.aligned.{cl}.{shape}.global.{d} [p3], {dr};
ret;
}}
"
            );
            let gpu = Gpu::new("sm_90a".parse::<Arch>().unwrap());
            let module = Module::from_ptx(&gpu, &text).unwrap_or_else(|error| panic!("{error}"));
            let inputs = [&a_bytes, &b_bytes, &c_bytes, &out].map(|bytes| {
                let address = gpu.alloc(bytes.len() as u64).unwrap();
                gpu.upload(address, bytes).unwrap();
                address
            });
            let params: Vec<u8> = inputs.iter().flat_map(|it| it.to_le_bytes()).collect();
            let one = Shape { grid: [1; 3], block: [32, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
            let report = module.launch("k", &one, &params).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(report.total.tensor_operations, 2 * (m * n * k) as u64);
            gpu.download(inputs[3], &mut out).unwrap();
            for row in 0..m {
                for column in 0..n {
                    let terms = (0..k).map(|i| left[row][i] * right[i][column]);
                    let expected = terms.sum::<f64>() + sum[row][column];
                    let at = if c_rows { row * d_stride + column } else { column * d_stride + row };
                    let mut element = [0; 8];
                    element[..bytes(d)].copy_from_slice(&out[at * bytes(d)..][..bytes(d)]);
                    let found = value(d, u64::from_le_bytes(element));
                    assert_eq!(found, expected, "{shape}.{types} {al} {bl} {cl}, row {row} column {column}");
                }
            }
        }
    }
}

#[test]
fn types_and_registers_that_a_shape_has_not_are_refused() {
    let refused = |instruction: &str| {
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.entry k() {{ .reg .b32 r<8>; .reg .b64 p;\n{instruction}; ret; }}"
        );
        let gpu = Gpu::new("sm_90a".parse::<Arch>().unwrap());
        assert!(matches!(Module::from_ptx(&gpu, &text), Err(LoadError::Unsupported(_))), "{instruction}");
    };
    let eight = list("r", 8);
    refused(&format!("wmma.load.a.sync.aligned.row.m16n16k8.f16 {eight}, [p]"));
    refused("wmma.load.a.sync.aligned.row.m16n16k16.f16 {r0, r1, r2, r3}, [p]");
    refused(&format!("wmma.load.d.sync.aligned.row.m16n16k16.f32 {eight}, [p]"));
    refused(&format!("wmma.store.d.sync.aligned.row.m16n16k16.bf16 [p], {eight}"));
    refused(&format!(
        "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f16.f16.f32 {eight}, {eight}, {eight}, {eight}"
    ));
    refused(&format!(
        "wmma.mma.sync.aligned.row.col.m16n16k16.rn.f32.f32 {eight}, {eight}, {eight}, {eight}"
    ));
    refused(&format!(
        "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32.satfinite {eight}, {eight}, {eight}, {eight}"
    ));
    refused("wmma.mma.sync.aligned.row.col.m16n16k16.f32.bf16.bf16.f32.satfinite r0, r1, r2, r3");
}
