//! `wgmma`: products, and what may not happen while they are in flight.

use longhand_emulator::{Arch, Checks, Fault, Gpu, Module, Options, Problem, Report, Shape};

/// A kernel of one block. Thread `%t` puts its 16 bytes of `in` into shared memory: a of 64 rows by 16, then (the first
/// 16 threads, from byte 2048 of `in` on) b of 8 columns by 16, both bf16 in blocks of 8 by 16 bytes, the two along k
/// next to each other. `{d}` are the accumulators, all 1; in the end they are stored.
fn kernel(body: &str) -> String {
    let body = body
        .replace("{product}", "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a, %b, %yes, 1, 1, 0, 0;")
        .replace("{fence}", "wgmma.fence.sync.aligned;")
        .replace("{commit}", "wgmma.commit_group.sync.aligned;")
        .replace("{wait}", "wgmma.wait_group.sync.aligned 0;");
    format!(
        "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out)
{{
.shared .align 128 .b8 tile[2304];
.reg .pred %p<4>;
.reg .pred %yes, %no;
.reg .b32 %r<16>;
.reg .f32 %f<16>;
.reg .b32 %t, %tile, %row, %low, %high;
.reg .b64 %in, %out, %from, %mine, %a, %b;
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
mov.u32 %t, %tid.x;
mul.wide.u32 %mine, %t, 16;
add.s64 %from, %in, %mine;
add.s64 %mine, %out, %mine;
mov.u32 %tile, tile;
shl.b32 %row, %t, 4;
add.u32 %row, %tile, %row;
ld.global.v4.u32 {{%r8, %r9, %r10, %r11}}, [%from];
st.shared.v4.u32 [%row], {{%r8, %r9, %r10, %r11}};
setp.lt.u32 %p1, %t, 16;
@%p1 ld.global.v4.u32 {{%r8, %r9, %r10, %r11}}, [%from+2048];
@%p1 st.shared.v4.u32 [%row+2048], {{%r8, %r9, %r10, %r11}};
// Leading 128 bytes, stride 256 bytes.
shr.u32 %low, %tile, 4;
or.b32 %low, %low, 0x80000;
mov.u32 %high, 16;
mov.b64 %a, {{%low, %high}};
add.u32 %low, %low, 128;
mov.b64 %b, {{%low, %high}};
setp.eq.u32 %yes, %t, %t;
setp.ne.u32 %no, %t, %t;
mov.f32 %f0, 0f3F800000;
mov.f32 %f1, %f0;
mov.f32 %f2, %f0;
mov.f32 %f3, %f0;
fence.proxy.async.shared::cta;
bar.sync 0;
{body}
st.global.v4.f32 [%mine], {{%f0, %f1, %f2, %f3}};
ret;
}}
"
    )
}

fn value(i: usize) -> f32 {
    (i * 7 % 5) as f32 - 2.0
}

/// What each thread of 128 (or as many as there are) stored.
fn run_with(body: &str, threads: u32, checks: Checks) -> Result<(Vec<[f32; 4]>, Report), Fault> {
    let gpu = Gpu::with_options("sm_90a".parse::<Arch>().unwrap(), Options { checks, ..Options::default() });
    let module = Module::from_ptx(&gpu, &kernel(body)).unwrap_or_else(|error| panic!("{error}"));
    let input: Vec<u8> =
        (0..2048).flat_map(|i| (value(i).to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect();
    let (from, to) = (gpu.alloc(input.len() as u64).unwrap(), gpu.alloc(16 * 256).unwrap());
    gpu.upload(from, &input).unwrap();
    let shape = Shape { grid: [1; 3], block: [threads, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    let params: Vec<u8> = [from, to].iter().flat_map(|address| address.to_le_bytes()).collect();
    let report = module.launch("k", &shape, &params)?;
    let mut bytes = vec![0; 16 * threads as usize];
    gpu.download(to, &mut bytes).unwrap();
    let words: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect();
    Ok((words.as_chunks::<4>().0.to_vec(), report))
}

fn run(body: &str) -> Result<(Vec<[f32; 4]>, Report), Fault> {
    run_with(body, 128, Checks::ALL)
}

fn problem(body: &str) -> Problem {
    run(body).expect_err("a fault").problem
}

fn is_asynchronous(body: &str, part: &str) {
    let problem = problem(body);
    assert!(matches!(&problem, Problem::Asynchronous(what) if what.contains(part)), "{problem}");
}

/// Element (row, k) of a, or (column, k) of b, from where it starts in `in`.
fn element(start: usize, row: usize, k: usize) -> f32 {
    value(start + row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8)
}

/// `times` a b + 1, as thread `thread` holds it.
fn expected(thread: usize, times: f32) -> [f32; 4] {
    let (warp, lane) = (thread / 32, thread % 32);
    std::array::from_fn(|i| {
        let (row, column) = (16 * warp + lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
        1.0 + times * (0..16).map(|k| element(0, row, k) * element(1024, column, k)).sum::<f32>()
    })
}

#[test]
fn products_accumulate_and_arrive_at_the_wait() {
    for (times, body) in [
        (1.0, "{fence} {product} {commit} {wait}"),
        (2.0, "{fence} {product} {product} {commit} {wait}"),
        (3.0, "{fence} {product} {commit} {product} {commit} {product} {commit} {wait}"),
        (2.0, "{fence} {product} {commit} {wait} {fence} {product} {commit} {wait}"),
    ] {
        let (out, report) = run(body).unwrap();
        for (thread, out) in out.iter().enumerate() {
            assert_eq!(*out, expected(thread, times), "{body} thread {thread}");
        }
        assert_eq!(report.total.tensor_operations, times as u64 * 2 * 64 * 8 * 16);
    }
}

#[test]
fn scale_d_and_negation_do_what_they_say() {
    let negated = "{fence} {product} {commit} {wait}".replace(
        "{product}",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a, %b, %no, -1, 1, 0, 0;",
    );
    let (out, _) = run(&negated).unwrap();
    for (thread, out) in out.iter().enumerate() {
        assert_eq!(*out, expected(thread, -1.0).map(|it| it - 1.0));
    }
}

#[test]
fn a_may_come_from_registers() {
    let body = "
{product} {commit} {wait}
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%row];
{fence}
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, {%r0, %r2, %r1, %r3}, %b, %yes, 1, 1, 0;
{commit} {wait}";
    let (out, _) = run(&format!("{{fence}} {body}")).unwrap();
    // Row i of warp w lies 256 bytes for each 8 rows from the tile on: the 32 rows of 16 bytes that its lanes name.
    for (thread, out) in out.iter().enumerate() {
        assert_eq!(*out, expected(thread, 2.0), "thread {thread}");
    }
}

#[test]
fn a_missing_fence_is_a_fault() {
    is_asynchronous("{product} {commit} {wait}", "no wgmma.fence before the first");
    let written = "{fence} {product} {commit} {wait} add.f32 %f0, %f0, %f1; FENCE {product} {commit} {wait}";
    is_asynchronous(&written.replace("FENCE", ""), "since the last wgmma.fence");
    assert!(run(&written.replace("FENCE", "{fence}")).is_ok());
}

#[test]
fn touching_registers_in_flight_is_a_fault() {
    for touch in ["add.f32 %f8, %f1, %f1;", "mov.f32 %f2, %f9;", "st.global.f32 [%mine], %f3;"] {
        let early = format!("mov.f32 %f9, %f0; {{fence}} {{product}} {{commit}} {touch} {{wait}}");
        is_asynchronous(&early, "wgmma.wait_group is missing");
        let late = format!("mov.f32 %f9, %f0; {{fence}} {{product}} {{commit}} {{wait}} {touch}");
        assert!(run(&late).is_ok());
    }
    is_asynchronous("{fence} {product} {commit}", "wgmma.wait_group is missing");
    // A wait that leaves one group pending does not cover the last.
    is_asynchronous(
        "{fence} {product} {commit} wgmma.wait_group.sync.aligned 1;",
        "wgmma.wait_group is missing",
    );
    // Nor does any wait cover what was not committed.
    is_asynchronous("{fence} {product} {wait}", "wgmma.wait_group is missing");
}

#[test]
fn without_the_check_a_missing_wait_shows_as_nan() {
    let (out, _) = run_with("{fence} {product} {commit}", 128, Checks::NONE).unwrap();
    assert!(out.iter().flatten().all(|value| value.is_nan()));
}

#[test]
fn overlapping_accumulators_in_flight_are_a_fault() {
    let other =
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f2, %f3, %f4, %f5}, %a, %b, %no, 1, 1, 0, 0;";
    is_asynchronous(
        &format!("{{fence}} {{product}} {other} {{commit}} {{wait}}"),
        "whose registers are not the same",
    );
}

#[test]
fn writing_an_operand_before_the_wait_is_a_fault() {
    let write = "st.shared.u32 [%row], %t;";
    is_asynchronous(&format!("{{fence}} {{product}} {{commit}} {write} {{wait}}"), "a wait is missing");
    assert!(run(&format!("{{fence}} {{product}} {{commit}} {{wait}} bar.sync 0; {write}")).is_ok());
}

#[test]
fn what_ordinary_stores_wrote_needs_a_proxy_fence() {
    let write = "st.shared.u32 [%row], %t; FENCE bar.sync 0; {fence} {product} {commit} {wait}";
    is_asynchronous(&write.replace("FENCE", ""), "fence.proxy.async");
    assert!(run(&write.replace("FENCE", "fence.proxy.async;")).is_ok());
    // One warp may fence what another wrote, once the barrier has told it.
    let other = "st.shared.u32 [%row], %t; bar.sync 0; fence.proxy.async; {fence} {product} {commit} {wait}";
    assert!(run(other).is_ok());
}

#[test]
fn operands_outside_of_shared_memory_or_uninitialised_are_faults() {
    let far = "add.s64 %b, %b, 8; {fence} {product} {commit} {wait}";
    assert!(matches!(problem(far), Problem::OutOfBounds { .. }), "{}", problem(far));
}

#[test]
fn the_four_warps_issue_the_same_products() {
    let synchronisation = |body: &str, threads: u32| {
        let problem = run_with(body, threads, Checks::ALL).expect_err("a fault").problem;
        assert!(matches!(problem, Problem::Synchronisation(_)), "{problem}");
    };
    synchronisation("{fence} {product} {commit} {wait}", 96);
    synchronisation("setp.ge.u32 %p2, %t, 32; @%p2 mov.b64 %b, %a; {fence} {product} {commit} {wait}", 128);
    synchronisation("setp.eq.u32 %p2, %t, 5; @%p2 mov.b64 %b, %a; {fence} {product} {commit} {wait}", 128);
    let skipped = "setp.ge.u32 %p2, %t, 96; @%p2 bra skip; {fence} {product} {commit} {wait} skip:";
    assert!(matches!(problem(skipped), Problem::Deadlock(_)), "{}", problem(skipped));
}

#[test]
fn what_the_instruction_set_has_not_is_refused_when_loaded() {
    let gpu = Gpu::new("sm_90a".parse::<Arch>().unwrap());
    for product in [
        "wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a, %b, %yes, 1, 1, 0, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k8.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a, %b, %yes, 1, 1, 0, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1}, %a, %b, %yes, 1, 1, 0, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a, %b, %yes, 2, 1, 0, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a, %b, %yes, 1, 1;",
        "wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%f0, %f1, %f2, %f3}, %a, %b, %yes, 1, 1, 0, 0;",
        "wgmma.fence.aligned;",
    ] {
        assert!(Module::from_ptx(&gpu, &kernel(product)).is_err(), "{product}");
    }
}
