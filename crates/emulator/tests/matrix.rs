//! `mma`, `ldmatrix`, `stmatrix` and `movmatrix` as instructions.
#![allow(
    clippy::needless_range_loop,
    reason = "a lane or a matrix is a number, with which several things are found"
)]

use longhand_emulator::tensor::mma::{Shape as MmaShape, mma};
use longhand_emulator::tensor::{Accumulator, Element};
use longhand_emulator::{Arch, Fault, Gpu, Module, Problem, Report, Shape};

/// A kernel of one block: `%in` and `%out` are addresses, `%t` is the thread's number and `%mine` its 256 bytes of `out`.
/// Bytes 16 `%t` .. of the shared variable `tile` are what `in` holds there.
fn kernel(body: &str) -> String {
    format!(
        "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out)
{{
.shared .align 128 .b8 tile[1024];
.reg .pred %p<4>;
.reg .b32 %r<32>;
.reg .b32 %t, %tile, %row;
.reg .b64 %in, %out, %from, %mine;
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
mov.u32 %t, %tid.x;
mul.wide.u32 %mine, %t, 256;
add.s64 %mine, %out, %mine;
mul.wide.u32 %from, %t, 16;
add.s64 %from, %in, %from;
mov.u32 %tile, tile;
shl.b32 %row, %t, 4;
add.u32 %row, %tile, %row;
ld.global.v4.u32 {{%r28, %r29, %r30, %r31}}, [%from];
st.shared.v4.u32 [%row], {{%r28, %r29, %r30, %r31}};
bar.sync 0;
{body}
ret;
}}
"
    )
}

/// What each thread of a block stored at `%mine`, as 64 words.
fn run(body: &str, threads: u32, input: &[u32]) -> Result<(Vec<[u32; 64]>, Report), Fault> {
    let gpu = Gpu::new("sm_90a".parse::<Arch>().unwrap());
    let module = Module::from_ptx(&gpu, &kernel(body)).unwrap_or_else(|error| panic!("{error}"));
    let input: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    let (from, to) = (gpu.alloc(input.len() as u64).unwrap(), gpu.alloc(256 * 1024).unwrap());
    gpu.upload(from, &input).unwrap();
    let shape = Shape { grid: [1; 3], block: [threads, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    let params: Vec<u8> = [from, to].iter().flat_map(|address| address.to_le_bytes()).collect();
    let report = module.launch("k", &shape, &params)?;
    let mut bytes = vec![0; 256 * threads as usize];
    gpu.download(to, &mut bytes).unwrap();
    let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|it| u32::from_le_bytes(*it)).collect();
    Ok((words.as_chunks::<64>().0.to_vec(), report))
}

fn fault(body: &str, threads: u32) -> Problem {
    run(body, threads, &numbers()).expect_err("a fault").problem
}

/// 1024 bytes, all 16-bit numbers different.
fn numbers() -> Vec<u32> {
    (0..256).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect()
}

#[test]
fn mma_multiplies_what_its_registers_hold() {
    let body = "
ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%from];
ld.global.v2.u32 {%r4, %r5}, [%from+512];
mov.f32 %r6, 0f3F800000;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
  {%r10, %r11, %r12, %r13}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%r6, %r6, %r6, %r6};
st.global.v4.u32 [%mine], {%r10, %r11, %r12, %r13};";
    let input: Vec<u32> =
        (0..1024u32).map(|i| 0x3f80_3f80 ^ i.wrapping_mul(0x9e37_79b9) & 0x8070_8070).collect();
    let (out, report) = run(body, 32, &input).unwrap();
    let shape =
        MmaShape::new(16, 16, Element::Bf16, Element::Bf16, Accumulator::F32, Accumulator::F32).unwrap();
    let word = |lane: usize, start: usize, i: usize| input[4 * lane + start + i];
    let a: [[u32; 32]; 4] = std::array::from_fn(|i| std::array::from_fn(|lane| word(lane, 0, i)));
    let b: [[u32; 32]; 2] = std::array::from_fn(|i| std::array::from_fn(|lane| word(lane, 128, i)));
    let mut d = [[0; 32]; 4];
    mma(&shape, &a, &b, &[[1f32.to_bits(); 32]; 4], &mut d);
    for lane in 0..32 {
        assert_eq!(out[lane][..4], d.map(|register| register[lane]), "lane {lane}");
    }
    assert_eq!(report.total.tensor_operations, 2 * 16 * 8 * 16);
}

/// The number at an element of an 8 by 8 matrix of `numbers()`.
fn element(matrix: usize, row: usize, column: usize) -> u32 {
    (64 * matrix + 8 * row + column) as u32
}

#[test]
fn ldmatrix_gives_each_lane_its_elements_and_transposes_if_asked() {
    for trans in ["", ".trans"] {
        let body = format!(
            "ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r0, %r1, %r2, %r3}}, [%row];
             st.global.v4.u32 [%mine], {{%r0, %r1, %r2, %r3}};"
        );
        let (out, report) = run(&body, 32, &numbers()).unwrap();
        for (lane, out) in out.iter().enumerate() {
            for matrix in 0..4 {
                let (g, t) = (lane / 4, lane % 4);
                let pair = [0, 1].map(|i| match trans {
                    "" => element(matrix, g, 2 * t + i),
                    _ => element(matrix, 2 * t + i, g),
                });
                assert_eq!(out[matrix], pair[0] | pair[1] << 16, "{trans} lane {lane} matrix {matrix}");
            }
        }
        // 512 bytes written and 512 read, at 128 to a pass.
        assert_eq!((report.total.shared_wavefronts, report.total.ideal_shared_wavefronts), (8, 8));
    }
}

#[test]
fn rows_of_one_bank_cost_eight_passes() {
    // Rows 128 bytes apart.
    let body = "
mov.u32 %r9, 0;
mul.lo.u32 %r8, %t, 128;
add.u32 %r8, %tile, %r8;
setp.lt.u32 %p1, %t, 8;
@%p1 st.shared.v4.u32 [%r8], {%r9, %r9, %r9, %r9};
bar.warp.sync -1;
ldmatrix.sync.aligned.m8n8.x1.shared::cta.b16 {%r0}, [%r8];
st.global.u32 [%mine], %r0;";
    let (out, report) = run(body, 32, &numbers()).unwrap();
    assert!(out.iter().all(|out| out[0] == 0));
    let stored = 4 + 8;
    assert_eq!(
        (report.total.shared_wavefronts, report.total.ideal_shared_wavefronts),
        (stored + 8, 4 + 1 + 1)
    );
}

#[test]
fn what_stmatrix_stores_ldmatrix_loads() {
    for trans in ["", ".trans"] {
        let body = format!(
            "ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r0, %r1, %r2, %r3}}, [%row];
             stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%row+512], {{%r0, %r1, %r2, %r3}};
             bar.warp.sync -1;
             ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%row+512];
             st.global.v4.u32 [%mine], {{%r4, %r5, %r6, %r7}};"
        );
        let (out, _) = run(&body, 32, &numbers()).unwrap();
        for (lane, out) in out.iter().enumerate() {
            assert_eq!(out[..4], numbers()[4 * lane..][..4], "{trans} row {lane}");
        }
    }
}

#[test]
fn movmatrix_is_ldmatrix_transposed() {
    let body = "
ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%row];
ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r1}, [%row];
movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r0;
st.global.v2.u32 [%mine], {%r1, %r2};";
    let (out, _) = run(body, 32, &numbers()).unwrap();
    assert!(out.iter().all(|out| out[0] == out[1]));
    assert_eq!(out[1][0], element(0, 2, 0) | element(0, 3, 0) << 16);
}

/// The byte forms: a byte of `numbers()` is known by its row of 16 and its place there.
#[test]
fn matrices_of_bytes_come_transposed_and_go_transposed() {
    let bytes: Vec<u32> =
        (0..128).map(|i| u32::from_le_bytes([0, 1, 2, 3].map(|k| (4 * i + k) as u8))).collect();
    let body = "
ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r0, %r1}, [%row];
st.global.v2.u32 [%mine], {%r0, %r1};
stmatrix.sync.aligned.m16n8.x1.trans.shared.b8 [%row+512], {%t};
setp.lt.u32 %p1, %t, 8;
@%p1 ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%row+512];
@%p1 st.global.v4.u32 [%mine+16], {%r4, %r5, %r6, %r7};";
    let (out, _) = run(body, 32, &bytes).unwrap();
    for (lane, out) in out.iter().enumerate() {
        let (g, t) = (lane / 4, lane % 4);
        for half in 0..2 {
            let column: [u8; 4] = std::array::from_fn(|i| (16 * (4 * t + i) + g + 8 * half) as u8);
            assert_eq!(out[half].to_le_bytes(), column, "lane {lane}");
        }
    }
    // The lowest byte of a lane goes to row 2 t, column g; the others are 0.
    for (row, out) in out[..8].iter().enumerate() {
        let stored: Vec<u8> = out[4..8].iter().flat_map(|word| word.to_le_bytes()).collect();
        let expected: Vec<u8> =
            (0..16).map(|g| if row % 2 == 0 && g < 8 { 4 * g + row as u8 / 2 } else { 0 }).collect();
        assert_eq!(stored, expected, "row {row}");
    }
}

#[test]
fn generic_addresses_of_shared_memory_are_as_good_and_others_are_not() {
    let body = |address: &str| {
        format!(
            "mov.u32 %r8, 0;
             mov.b64 %from, {{%row, %r8}};
             cvta.shared.u64 %from, %from;
             {address}
             ldmatrix.sync.aligned.m8n8.x4.b16 {{%r0, %r1, %r2, %r3}}, [%from];
             st.global.u32 [%mine], %r0;"
        )
    };
    let (out, _) = run(&body(""), 32, &numbers()).unwrap();
    assert_eq!(out[5][0], element(0, 1, 2) | element(0, 1, 3) << 16);
    let problem = fault(&body("mov.u64 %from, %in;"), 32);
    assert!(matches!(problem, Problem::WrongSpace { .. }), "{problem}");
}

#[test]
fn rows_that_are_misaligned_outside_or_uninitialised_are_faults() {
    let load = |offset: u32| {
        format!(
            "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r0}}, [%row+{offset}]; st.global.u32 [%mine], %r0;"
        )
    };
    assert!(run(&load(0), 32, &numbers()).is_ok());
    assert!(matches!(fault(&load(8), 32), Problem::Misaligned { .. }));
    assert!(matches!(fault(&load(512), 32), Problem::Uninitialised { .. }));
    assert!(matches!(fault(&load(1024), 32), Problem::OutOfBounds { .. }));
}

#[test]
fn the_addresses_of_lanes_beyond_the_matrices_are_not_looked_at() {
    let body = "
setp.ge.u32 %p1, %t, 8;
@%p1 mov.u32 %row, 77777;
ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%row];
st.global.u32 [%mine], %r0;";
    assert!(run(body, 32, &numbers()).is_ok());
}

#[test]
fn a_product_needs_all_lanes_of_its_warp() {
    let product = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r0, %r1, %r2, %r3}, {%r4, %r4, %r4, %r4}, {%r4, %r4}, {%r4, %r4, %r4, %r4};";
    assert!(run(product, 32, &numbers()).is_ok());
    assert!(matches!(fault(product, 16), Problem::Synchronisation(_)));
    let divergent = format!(
        "setp.lt.u32 %p1, %t, 16;
         @!%p1 bra other;
         {product}
         bra.uni end;
         other:
         {product}
         end:"
    );
    let problem = fault(&divergent, 32);
    assert!(matches!(problem, Problem::Deadlock(_)), "{problem}");
}

#[test]
fn what_the_instruction_set_has_not_is_refused_when_loaded() {
    let gpu = Gpu::new("sm_90a".parse::<Arch>().unwrap());
    let refused = |body: &str| {
        let error = Module::from_ptx(&gpu, &kernel(body)).err().expect("an error");
        assert!(error.to_string().contains(body.split(' ').next().unwrap()), "{error}");
    };
    refused(
        "mma.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1, %r2, %r3};",
    );
    refused(
        "mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1, %r2, %r3};",
    );
    refused(
        "mma.sync.aligned.m16n8k16.row.col.satfinite.f32.bf16.bf16.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1, %r2, %r3};",
    );
    refused(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1}, {%r0, %r1, %r2, %r3};",
    );
    refused("ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r0, %r1, %r2}, [%row];");
    refused("ldmatrix.sync.aligned.m8n8.x1.shared.b8 {%r0}, [%row];");
    refused("ldmatrix.sync.aligned.m16n16.x4.trans.shared.b8 {%r0, %r1, %r2, %r3}, [%row];");
    refused("stmatrix.sync.aligned.m8n8.x1.global.b16 [%from], {%r0};");
    refused("movmatrix.sync.aligned.m8n8.b16 %r0, %r1;");
}
