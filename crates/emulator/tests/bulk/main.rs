//! Bulk copies: each form against its formula; each fault planted, and mended.

mod clusters;
mod gemm;
mod loads;
mod operands;
mod reductions;
mod stores;
mod tensor_faults;
mod tensor_kernel;
mod tensors;

use longhand_emulator::{Arch, Checks, Fault, Gpu, Module, Options, Problem, Report, Shape};

/// An entry `k` whose threads have: `%t`, the thread's number in the block; `%rank`, the block's in the cluster; `%q`,
/// whether the thread is the block's first; `%in` and `%out`, the addresses of 16 KiB each; `buffer`, 16 KiB of shared
/// memory, and `%to`, the address of the thread's word there; `bar`, shared memory for 8 barriers.
fn kernel(body: &str) -> String {
    format!(
        "
.version 9.2
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out)
{{
.reg .pred %p<8>, %q;
.reg .b16 %h<4>;
.reg .b32 %r<16>, %t, %rank, %to, %buffer, %bar;
.reg .b64 %rd<16>, %in, %out, %mine, %policy;
.shared .align 1024 .b8 buffer[16384];
.shared .align 8 .b64 bar[8];
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
mov.u32 %t, %tid.x;
mov.u32 %rank, %cluster_ctarank;
setp.eq.u32 %q, %t, 0;
mov.u32 %buffer, buffer;
mov.u32 %bar, bar;
mad.lo.u32 %to, %t, 4, %buffer;
mad.lo.u32 %r0, %rank, 256, %t;
mul.wide.u32 %mine, %r0, 4;
add.s64 %mine, %out, %mine;
mov.u64 %policy, 0;
{body}
}}
"
    )
}

#[derive(Clone, Copy)]
struct Setup {
    cluster: u32,
    checks: Checks,
}

const ONE: Setup = Setup { cluster: 1, checks: Checks::ALL };
const UNCHECKED: Setup = Setup { cluster: 1, checks: Checks::NONE };

const BYTES: usize = 16384;

/// Byte `i` of the input.
fn input(i: usize) -> u8 {
    (i * 31 + i / 256 * 7) as u8
}

/// What the output holds before, in every byte.
const BEFORE: u8 = 0x11;

fn gpu(checks: Checks) -> Gpu {
    Gpu::with_options("sm_100a".parse::<Arch>().unwrap(), Options { checks, ..Options::default() })
}

/// Launches 64 threads a block; the output is all `BEFORE` first.
fn launch_with(body: &str, setup: Setup, input: &[u8], before: &[u8]) -> Result<(Vec<u8>, Report), Fault> {
    let gpu = gpu(setup.checks);
    let module = Module::from_ptx(&gpu, &kernel(body)).unwrap_or_else(|error| panic!("{error}"));
    let [from, to] = [input, before].map(|data| {
        let address = gpu.alloc(BYTES as u64).unwrap();
        gpu.upload(address, data).unwrap();
        address
    });
    let cluster = [setup.cluster, 1, 1];
    let shape = Shape { grid: cluster, block: [64, 1, 1], cluster, dynamic_shared: 0 };
    let params: Vec<u8> = [from, to].iter().flat_map(|it| it.to_le_bytes()).collect();
    let report = module.launch("k", &shape, &params)?;
    let mut out = vec![0; BYTES];
    gpu.download(to, &mut out).unwrap();
    Ok((out, report))
}

fn launch(body: &str, setup: Setup) -> Result<(Vec<u8>, Report), Fault> {
    let data: Vec<u8> = (0..BYTES).map(input).collect();
    launch_with(body, setup, &data, &[BEFORE; BYTES])
}

#[track_caller]
fn run(body: &str) -> Vec<u8> {
    launch(body, ONE).unwrap_or_else(|fault| panic!("{fault}\n{body}")).0
}

#[track_caller]
fn problem(body: &str, setup: Setup) -> Problem {
    match launch(body, setup) {
        Err(fault) => fault.problem,
        Ok(_) => panic!("no fault: {body}"),
    }
}

/// The text of the asynchronous fault that a launch meets.
#[track_caller]
fn fault(body: &str) -> String {
    match problem(body, ONE) {
        Problem::Asynchronous(what) => what,
        other => panic!("another fault: {other}"),
    }
}

#[track_caller]
fn refusal(body: &str) -> String {
    match Module::from_ptx(&gpu(Checks::ALL), &kernel(body)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("loaded: {body}"),
    }
}

/// The first thread initialises the first barrier for one arrival, which expects so many bytes.
fn expect(bytes: u32) -> String {
    format!(
        "@%q mbarrier.init.shared::cta.b64 [bar], 1; bar.sync 0;
        @%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {bytes};"
    )
}

const WAIT: &str = "WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0; @!%p1 bra WAIT;";

/// Each thread writes its word of the buffer to its own of the output.
const SHOW: &str = "ld.shared.u32 %r1, [%to]; st.global.u32 [%mine], %r1;";

/// Each thread fills its words of the buffer, so that byte `i` of the first 4096 is that of the input.
const FILL: &str = "mov.u32 %r2, %to; mul.wide.u32 %rd1, %t, 4; add.s64 %rd1, %in, %rd1; mov.u32 %r3, 0;
    FILL: ld.global.u32 %r1, [%rd1]; st.shared.u32 [%r2], %r1; add.u32 %r2, %r2, 256; add.s64 %rd1, %rd1, 256;
    add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 16; @%p2 bra FILL;";
const FENCE: &str = "fence.proxy.async.shared::cta; bar.sync 0;";
const COMMIT: &str = "@%q cp.async.bulk.commit_group;";
const DONE: &str = "@%q cp.async.bulk.wait_group 0; bar.sync 0;";

/// The first thread copies so many bytes of the buffer to the output.
fn store(bytes: u32) -> String {
    format!("@%q cp.async.bulk.global.shared::cta.bulk_group [%out], [buffer], {bytes};")
}

#[test]
fn a_prefetch_does_nothing_but_must_be_in_bounds() {
    let prefetch = |operands: &str| format!("@%q cp.async.bulk.prefetch.L2.global {operands};");
    assert_eq!(run(&prefetch("[%in], 256")), [BEFORE; BYTES]);
    run("@%q cp.async.bulk.prefetch.L2.global.L2::cache_hint [%in], 256, %policy;");
    assert!(matches!(problem(&prefetch("[%in+16224], 256"), ONE), Problem::OutOfBounds { .. }));
    assert!(matches!(problem(&prefetch("[%in+8], 256"), ONE), Problem::Misaligned { .. }));
    assert!(matches!(problem(&prefetch("[%in], 40"), ONE), Problem::Illegal(_)));
}

#[test]
fn forms_that_the_isa_has_not_are_refused() {
    for (body, expected) in [
        (
            "cp.async.bulk.shared::cluster.global.bulk_group [buffer], [%in], 16, [bar];",
            "completion mechanism",
        ),
        (
            "cp.async.bulk.global.shared::cta.mbarrier::complete_tx::bytes [%out], [buffer], 16;",
            "completion mechanism",
        ),
        ("cp.async.bulk.global.shared::cta [%out], [buffer], 16;", "completion mechanism"),
        ("cp.async.bulk.global.shared::cluster.bulk_group [%out], [buffer], 16;", "direction"),
        (
            "cp.async.bulk.shared::cta.shared::cta.mbarrier::complete_tx::bytes [buffer], [buffer], 16, [bar];",
            "direction",
        ),
        ("cp.async.bulk.global.bulk_group [%out], [buffer], 16;", "1 state spaces"),
        (
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.multicast::cluster [buffer], [%in], 16, [bar], %h1;",
            "multicast::cluster",
        ),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.ignore_oob [buffer], [%in], 16, 0, 0, [bar];",
            "ignore_oob",
        ),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.cp_mask [buffer], [%in], 16, [bar], %h1;",
            "cp_mask",
        ),
        (
            "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.L2::cache_hint [buffer], [buffer], 16, [bar], %policy;",
            "L2::cache_hint",
        ),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer], [%in], 16, [bar], %policy;",
            "operands",
        ),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::128B [buffer], [%in], 16, [bar];",
            "L2::128B",
        ),
        ("cp.async.bulk.global.shared::cta.bulk_group.add [%out], [buffer], 16;", "modifier .add"),
        ("cp.async.bulk.global.shared::cta.bulk_group.u32 [%out], [buffer], 16;", "modifier .type"),
        ("cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%out], [buffer], 16;", "operands"),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.u32 [%out], [buffer], 16;", "no operation"),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.add [%out], [buffer], 16;", "no type"),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.s64 [%out], [buffer], 16;",
            "operation .add",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.min.f32 [%out], [buffer], 16;",
            "operation .min",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.and.u32 [%out], [buffer], 16;",
            "operation .and",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.inc.u64 [%out], [buffer], 16;",
            "operation .inc",
        ),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f16 [%out], [buffer], 16;", ".noftz"),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.f32 [%out], [buffer], 16;", ".noftz"),
        (
            "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.f32 [buffer], [buffer], 16, [bar];",
            "operation .add",
        ),
        (
            "cp.reduce.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.add.u32 [buffer], [%in], 16, [bar];",
            "source of a reduction",
        ),
        ("cp.async.bulk.prefetch.L1.global [%in], 16;", "L1"),
        ("cp.async.bulk.wait_group.write 0;", ".write"),
        ("cp.async.bulk.wait_group %r1;", "operands"),
        ("cp.async.bulk.commit_group 1;", "operands"),
    ] {
        let what = refusal(body);
        assert!(what.contains(expected), "{what}, and not: {expected}");
    }
}
