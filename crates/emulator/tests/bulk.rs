//! Bulk copies: each form against its formula; each fault planted, and mended.

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

mod loads {
    use super::*;

    const LOAD: &str = "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer], [%in+64], 256, [bar];";

    #[test]
    fn what_is_copied_is_there_after_the_wait() {
        for form in [
            LOAD,
            "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%buffer], [%in+64], 256, [%bar];",
            "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [buffer], [%in+64], 256, [bar], %policy;",
        ] {
            let out = run(&format!("{} {form} {WAIT} {SHOW}", expect(256)));
            assert!((0..256).all(|i| out[i] == input(64 + i)), "{form}");
        }
    }

    #[test]
    fn several_copies_of_any_size_land_in_one_phase() {
        let copy = |to: u32, from: u32, bytes: u32| {
            format!(
                "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer+{to}], [%in+{from}], {bytes}, [bar];"
            )
        };
        let body = [copy(0, 160, 16), copy(16, 0, 0), copy(16, 4096, 128), copy(144, 16, 112)].concat();
        let out = run(&format!("{} {body} {WAIT} {SHOW}", expect(256)));
        let expected = |i| match i {
            0..16 => input(160 + i),
            16..144 => input(4096 + i - 16),
            _ => input(16 + i - 144),
        };
        assert!((0..256).all(|i| out[i] == expected(i)));
    }

    #[test]
    fn reading_before_the_wait_is_found() {
        let what = fault(&format!("{} {LOAD} bar.sync 0; {SHOW} {WAIT}", expect(256)));
        assert!(what.contains("has not finished writing"), "{what}");
    }

    #[test]
    fn unchecked_memory_holds_poison_until_the_wait() {
        let body = format!("{} {LOAD} bar.sync 0; {SHOW} bar.sync 0; {WAIT}", expect(256));
        assert_eq!(launch(&body, UNCHECKED).unwrap().0[..256], [0xFF; 256]);
    }

    #[test]
    fn a_copy_to_what_another_writes_reads_or_signals_is_found() {
        let other = "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer+240], [%in], 16, [bar];";
        let what = fault(&format!("{} {LOAD} {other}", expect(272)));
        assert!(what.contains("has not finished writing"), "{what}");
        let what = fault(&format!("{FILL} {FENCE} {} {COMMIT} {} {LOAD}", store(64), expect(256)));
        assert!(what.contains("may still read"), "{what}");
        let read = "@%q cp.async.bulk.wait_group.read 0;";
        run(&format!("{FILL} {FENCE} {} {COMMIT} {read} {} {LOAD} {WAIT}", store(64), expect(256)));
        let onto =
            "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [bar], [%in], 16, [bar];";
        assert!(fault(&format!("{} {onto}", expect(16))).contains("belong to an mbarrier"));
    }

    #[test]
    fn bytes_that_the_phase_does_not_expect_are_found() {
        let what = fault(&format!("{} {LOAD} {WAIT}", expect(240)));
        assert!(what.contains("16 bytes more were copied than phase 0 expects"), "{what}");
        let problem = problem(&format!("{} {LOAD} {WAIT}", expect(272)), ONE);
        assert!(matches!(problem, Problem::Deadlock(_)), "{problem}");
    }

    #[test]
    fn a_barrier_that_is_not_initialised_is_found() {
        assert!(fault(LOAD).contains("is not initialised"));
    }

    #[test]
    fn a_block_that_ends_before_its_data_came_is_found() {
        let what = fault(&format!("{} {LOAD}", expect(256)));
        assert!(what.contains("256 bytes are in flight"), "{what}");
        run(&format!("{} {LOAD} {WAIT}", expect(256)));
    }

    #[test]
    fn addresses_and_sizes_are_checked() {
        let load = |to: &str, from: &str, bytes: &str, bar: &str| {
            let copy = format!(
                "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}], [{from}], {bytes}, [{bar}];"
            );
            problem(&format!("{} {copy}", expect(256)), ONE)
        };
        let misaligned = |problem| matches!(problem, Problem::Misaligned { align: 16, .. });
        assert!(misaligned(load("buffer+8", "%in", "256", "bar")));
        assert!(misaligned(load("buffer", "%in+8", "256", "bar")));
        assert!(matches!(load("buffer", "%in", "256", "bar+4"), Problem::Misaligned { align: 8, .. }));
        assert!(matches!(load("buffer", "%in", "250", "bar"), Problem::Illegal(_)));
        assert!(matches!(load("buffer", "%in+16224", "256", "bar"), Problem::OutOfBounds { .. }));
        assert!(matches!(load("buffer+16288", "%in", "256", "bar"), Problem::OutOfBounds { .. }));
        assert!(matches!(load("buffer", "%buffer", "256", "bar"), Problem::OutOfBounds { .. }));
    }

    #[test]
    fn global_bytes_that_nobody_wrote_are_found() {
        let data = vec![0; 200];
        let copy = |bytes| {
            let copy = format!(
                "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer], [%in], {bytes}, [bar];"
            );
            launch_with(&format!("{} {copy} {WAIT}", expect(bytes)), ONE, &data, &[])
        };
        copy(192).unwrap();
        let problem = copy(208).unwrap_err().problem;
        assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
    }

    #[test]
    fn bytes_out_of_bounds_that_are_ignored_are_not_known() {
        let copy = |from: &str, left: u32, right: u32| {
            format!(
                "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.ignore_oob [buffer], [{from}], 256, {left}, {right}, [bar];"
            )
        };
        let body = |copy: &str| format!("{} {copy} {WAIT} {SHOW}", expect(256));
        let out = run(&body(&copy("%in", 3, 5)));
        let expected = |i| if (3..251).contains(&i) { input(i) } else { 0xFF };
        assert!((0..256).all(|i| out[i] == expected(i)));
        let data = vec![7; 251];
        launch_with(&body(&copy("%in", 0, 5)), ONE, &data, &[]).unwrap();
        launch_with(&body(&copy("%in", 0, 4)), ONE, &data, &[]).unwrap_err();
        assert!(matches!(problem(&body(&copy("%in", 16, 0)), ONE), Problem::Illegal(_)));
    }

    #[test]
    fn bytes_and_sectors_are_counted() {
        let (_, report) = launch(&format!("{} {LOAD} {WAIT}", expect(256)), ONE).unwrap();
        let total = report.total;
        assert_eq!((total.global_bytes, total.global_sectors, total.bulk_bytes), (256, 8, 256));
        assert_eq!((report.global_unique_bytes_read, report.global_unique_bytes_written), (256, 0));
        assert!(report.explain().contains("bytes of bulk copies"));
        assert!(report.explain().contains("distinct global bytes read"));
    }
}

mod stores {
    use super::*;

    #[test]
    fn what_is_copied_is_there_after_the_wait() {
        let body = format!(
            "{FILL} {FENCE} {} {COMMIT} {DONE} @%q ld.global.u32 %r1, [%out+64]; @%q st.global.u32 [%out+4096], %r1;",
            store(1024)
        );
        let out = run(&body);
        assert!((0..1024).all(|i| out[i] == input(i)));
        assert!((1024..4096).all(|i| out[i] == BEFORE));
        assert!((0..4).all(|i| out[4096 + i] == input(64 + i)));
    }

    #[test]
    fn hints_change_nothing() {
        let store =
            "@%q cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%out], [buffer], 64, %policy;";
        let out = run(&format!("{FILL} {FENCE} {store} {COMMIT} {DONE}"));
        assert!((0..64).all(|i| out[i] == input(i)) && out[64] == BEFORE);
    }

    #[test]
    fn reading_what_is_written_before_the_wait_is_found() {
        let read = "ld.global.u32 %r1, [%out+64];";
        for wait in ["", "@%q cp.async.bulk.wait_group.read 0;", "@%q cp.async.bulk.wait_group 1;"] {
            let body = format!("{FILL} {FENCE} {} {COMMIT} {wait} @%q {read} {DONE}", store(1024));
            let checks = Checks { race: false, ..Checks::ALL };
            let problem = problem(&body, Setup { checks, ..ONE });
            assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
        }
        run(&format!("{FILL} {FENCE} {} {COMMIT} {DONE} @%q {read}", store(1024)));
    }

    #[test]
    fn unchecked_memory_holds_poison_until_the_wait() {
        let read = "@%q ld.global.u32 %r1, [%out+64]; @%q st.global.u32 [%out+4096], %r1;";
        let body = format!("{FILL} {FENCE} {} {COMMIT} {read} {DONE}", store(1024));
        let out = launch(&body, UNCHECKED).unwrap().0;
        assert_eq!(out[4096..4100], [0xFF; 4]);
        assert!((0..1024).all(|i| out[i] == input(i)));
    }

    #[test]
    fn overwriting_the_source_before_the_wait_is_found() {
        let again = "@%q st.shared.u32 [buffer+1020], %t;";
        let issue = format!("{FILL} {FENCE} {} {COMMIT}", store(1024));
        let what = fault(&format!("{issue} {again} {DONE}"));
        assert!(what.contains("may still read"), "{what}");
        for wait in ["cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group 0;"] {
            let out = run(&format!("{issue} @%q {wait} {again} {DONE}"));
            assert!((0..1024).all(|i| out[i] == input(i)));
        }
    }

    #[test]
    fn a_missing_proxy_fence_is_found() {
        let what = fault(&format!("{FILL} bar.sync 0; {} {COMMIT} {DONE}", store(1024)));
        assert!(what.contains("without fence.proxy.async since"), "{what}");
        run(&format!("{FILL} fence.proxy.async; bar.sync 0; {} {COMMIT} {DONE}", store(1024)));
        run(&format!("{FILL} bar.sync 0; @%q fence.proxy.async; {} {COMMIT} {DONE}", store(1024)));
    }

    #[test]
    fn what_a_copy_brought_may_leave_without_a_fence() {
        let load =
            "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [buffer], [%in], 256, [bar];";
        let out = run(&format!("{} {load} {WAIT} {} {COMMIT} {DONE}", expect(256), store(256)));
        assert!((0..256).all(|i| out[i] == input(i)));
        let what = fault(&format!("{} {load} {} {COMMIT} {WAIT} {DONE}", expect(256), store(256)));
        assert!(
            what.contains("by a bulk copy, that an asynchronous copy has not finished writing"),
            "{what}"
        );
    }

    #[test]
    fn shared_bytes_that_nobody_wrote_are_found() {
        let body = |bytes| format!("st.shared.u32 [%to], %t; {FENCE} {} {COMMIT} {DONE}", store(bytes));
        run(&body(256));
        let problem = problem(&body(272), ONE);
        assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
    }

    #[test]
    fn each_lane_waits_for_its_own_groups_the_oldest_first() {
        let store = |group: u32| {
            format!(
                "@%q cp.async.bulk.global.shared::cta.bulk_group [%out+{0}], [buffer+{0}], 256; {COMMIT}",
                256 * group
            )
        };
        let issue = format!("{FILL} {FENCE} {} {} {}", store(0), store(1), store(2));
        let write = |group: u32| format!("@%q st.shared.u32 [buffer+{}], %t;", 256 * group);
        let one = "@%q cp.async.bulk.wait_group.read 1;";
        run(&format!("{issue} {one} {} {} {DONE}", write(0), write(1)));
        fault(&format!("{issue} {one} {} {DONE}", write(2)));
        fault(&format!("{issue} @!%q cp.async.bulk.wait_group.read 0; bar.sync 0; {} {DONE}", write(0)));
    }

    #[test]
    fn what_was_not_committed_is_not_waited_for() {
        let write = "@%q st.shared.u32 [buffer], %t;";
        let wait = "@%q cp.async.bulk.wait_group.read 0;";
        fault(&format!("{FILL} {FENCE} {} {wait} {write} {COMMIT} {DONE}", store(64)));
        run(&format!("{FILL} {FENCE} {} {COMMIT} {wait} {write} {DONE}", store(64)));
    }

    #[test]
    fn what_was_read_and_not_waited_for_is_written_when_the_block_ends() {
        let issue = format!("{FILL} {FENCE} {} {COMMIT}", store(1024));
        let out = run(&format!("{issue} @%q cp.async.bulk.wait_group.read 0;"));
        assert!((0..1024).all(|i| out[i] == input(i)));
    }

    #[test]
    fn a_block_that_ends_before_its_memory_was_read_is_found() {
        for committed in [COMMIT, ""] {
            let what = fault(&format!("{FILL} {FENCE} {} {committed}", store(1024)));
            assert!(what.contains("cp.async.bulk.wait_group.read is missing"), "{what}");
        }
    }

    #[test]
    fn a_mask_tells_which_bytes_of_each_16_are_written() {
        let mask = 0b1000_0000_1111_0001_u32;
        let body = format!(
            "mov.b16 %h1, {mask}; @%q cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint.cp_mask [%out], [buffer], 64, %policy, %h1;"
        );
        let out = run(&format!("{FILL} {FENCE} {body} {COMMIT} {DONE}"));
        let expected = |i| if i < 64 && mask >> (i % 16) & 1 == 1 { input(i) } else { BEFORE };
        assert!((0..96).all(|i| out[i] == expected(i)));
    }

    #[test]
    fn addresses_and_sizes_are_checked() {
        let store = |to: &str, from: &str, bytes: &str| {
            let copy = format!("@%q cp.async.bulk.global.shared::cta.bulk_group [{to}], [{from}], {bytes};");
            problem(&format!("{FILL} {FENCE} {copy}"), ONE)
        };
        let misaligned = |problem| matches!(problem, Problem::Misaligned { align: 16, .. });
        assert!(misaligned(store("%out+4", "buffer", "64")));
        assert!(misaligned(store("%out", "buffer+4", "64")));
        assert!(matches!(store("%out", "buffer", "56"), Problem::Illegal(_)));
        assert!(matches!(store("%out+16368", "buffer", "32"), Problem::OutOfBounds { .. }));
        assert!(matches!(store("%out", "buffer+17408", "64"), Problem::OutOfBounds { .. }));
    }

    #[test]
    fn bytes_and_sectors_are_counted() {
        let body = |store: &str| format!("st.shared.u32 [%to], %t; {FENCE} {store} {COMMIT} {DONE}");
        let (_, report) = launch(&body(&store(192)), ONE).unwrap();
        let total = report.total;
        assert_eq!((total.global_bytes, total.global_sectors, total.bulk_bytes), (192, 6, 192));
        assert_eq!((report.global_unique_bytes_read, report.global_unique_bytes_written), (0, 192));
    }
}

mod clusters {
    use super::*;

    const SYNC: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";

    /// Every block initialises its first barrier and expects so many bytes; then all know.
    fn expect_all(bytes: u32) -> String {
        format!(
            "@%q mbarrier.init.shared::cta.b64 [bar], 1; @%q fence.mbarrier_init.release.cluster;
            @%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {bytes}; {SYNC}"
        )
    }

    /// Each block loads its part of 256 bytes, and sends it to the blocks of a mask.
    fn multicast(blocks: u32, mask: &str, wait: &str) -> String {
        let part = 256 / blocks;
        format!(
            "{} mov.b16 %h1, {mask}; mul.lo.u32 %r4, %rank, {part}; add.u32 %r5, %buffer, %r4;
            cvt.u64.u32 %rd1, %r4; add.s64 %rd1, %in, %rd1;
            @%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r5], [%rd1], {part}, [bar], %h1;
            {wait} {SHOW} {SYNC}",
            expect_all(256)
        )
    }

    #[test]
    fn each_block_of_the_mask_gets_what_is_multicast() {
        for (blocks, mask) in [(2, "3"), (4, "15")] {
            let setup = Setup { cluster: blocks, ..ONE };
            let (out, report) =
                launch(&multicast(blocks, mask, WAIT), setup).unwrap_or_else(|it| panic!("{it}"));
            for block in 0..blocks as usize {
                assert!((0..256).all(|i| out[1024 * block + i] == input(i)), "{blocks}, {block}");
            }
            let read = report.global_unique_bytes_read;
            assert_eq!((read, report.total.bulk_bytes), (256, 256 * u64::from(blocks)));
        }
    }

    #[test]
    fn a_block_of_the_mask_that_the_cluster_has_not_is_found() {
        let problem = problem(&multicast(2, "7", WAIT), Setup { cluster: 2, ..ONE });
        assert!(matches!(problem, Problem::OutOfBounds { .. }), "{problem}");
    }

    #[test]
    fn a_block_that_is_not_in_the_mask_waits_in_vain() {
        let problem = problem(&multicast(2, "1", WAIT), Setup { cluster: 2, ..ONE });
        assert!(matches!(problem, Problem::Deadlock(_) | Problem::Asynchronous(_)), "{problem}");
    }

    /// Each block fills its buffer and sends 256 bytes of it to the next block, 4096 bytes further.
    fn send(form: &str, before: &str, after: &str) -> String {
        format!(
            "{FILL} {before} fence.proxy.async; {}
            add.u32 %r4, %rank, 1; and.b32 %r4, %r4, 1; add.u32 %r5, %buffer, 4096;
            mapa.shared::cluster.u32 %r5, %r5, %r4; mapa.shared::cluster.u32 %r6, %bar, %r4;
            @%q {form} [%r5], [buffer+16], 256, [%r6];
            {after} {WAIT} ld.shared.u32 %r1, [%to+4096]; st.global.u32 [%mine], %r1; {SYNC}",
            expect_all(256)
        )
    }

    const SEND: &str = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes";
    const PAIR: Setup = Setup { cluster: 2, checks: Checks::ALL };

    #[test]
    fn a_block_sends_to_another() {
        let (out, report) = launch(&send(SEND, "", ""), PAIR).unwrap_or_else(|fault| panic!("{fault}"));
        assert!([0, 1024].iter().all(|block| (0..256).all(|i| out[block + i] == input(16 + i))));
        assert_eq!(report.total.bulk_bytes, 512);
    }

    #[test]
    fn overwriting_what_is_being_sent_is_found() {
        let again = |sync: &str| format!("{sync} @%q st.shared.u32 [buffer+16], %t;");
        let Problem::Asynchronous(what) = problem(&send(SEND, "", &again("")), PAIR) else { panic!() };
        assert!(what.contains("may still read"), "{what}");
        launch(&send(SEND, "", &again(&format!("{} {SYNC}", WAIT.replace("WAIT", "EARLY")))), PAIR).unwrap();
    }

    #[test]
    fn a_copy_to_the_block_itself_is_found() {
        let body = format!("{FILL} {FENCE} {} @%q {SEND} [buffer+4096], [buffer], 64, [bar];", expect(64));
        assert!(fault(&body).contains("must go to another block"));
    }

    #[test]
    fn a_copy_that_signals_the_barrier_of_another_block_than_it_goes_to_is_found() {
        let wrong = send(SEND, "", "").replace("%r5, %r5, %r4", "%r5, %r5, %rank");
        let Problem::Asynchronous(what) = problem(&wrong, PAIR) else { panic!() };
        assert!(what.contains("signals an mbarrier of block rank"), "{what}");
    }

    #[test]
    fn a_copy_to_shared_cta_of_another_block_is_found() {
        let body = format!(
            "{} xor.b32 %r4, %rank, 1; mapa.shared::cluster.u32 %r5, %buffer, %r4; mapa.shared::cluster.u32 %r6, %bar, %r4;
            @%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r5], [%in], 64, [%r6]; {SYNC}",
            expect_all(64)
        );
        let Problem::Asynchronous(what) = problem(&body, PAIR) else { panic!() };
        assert!(what.contains("not the block itself"), "{what}");
    }

    #[test]
    fn reductions_into_another_block_are_those_of_their_names() {
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|k| input(i + k)));
        type F = fn(u32, u32) -> u32;
        let cases: [(&str, F); 12] = [
            ("add.u32", u32::wrapping_add),
            ("add.s32", u32::wrapping_add),
            ("min.u32", u32::min),
            ("max.u32", u32::max),
            ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
            ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
            ("and.b32", |a, b| a & b),
            ("or.b32", |a, b| a | b),
            ("xor.b32", |a, b| a ^ b),
            ("inc.u32", |a, b| if a >= b { 0 } else { a + 1 }),
            ("dec.u32", |a, b| if a == 0 || a > b { b } else { a - 1 }),
            // Of the halves of 64 bits, as long as the lower ones have no carry: see below.
            ("add.u64", u32::wrapping_add),
        ];
        let before = "not.b32 %r1, %t; mul.lo.u32 %r1, %r1, 77777777; st.shared.u32 [%to+4096], %r1;";
        let old = |i: usize| (!(i as u32 / 4)).wrapping_mul(77_777_777);
        for (name, f) in cases {
            let form = format!(
                "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{name}"
            );
            let (out, _) =
                launch(&send(&form, before, ""), PAIR).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            for i in (0..256).step_by(4) {
                let mut expected = f(old(i), word(16 + i));
                if name == "add.u64" && i % 8 == 4 {
                    let carry = (u64::from(old(i - 4)) + u64::from(word(12 + i))) >> 32;
                    expected = expected.wrapping_add(carry as u32);
                }
                assert_eq!(out[i..i + 4], expected.to_le_bytes(), "{name} at {i}");
            }
        }
    }

    #[test]
    fn a_reduction_of_what_nobody_wrote_or_fenced_is_found() {
        let form = "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32";
        let problem = problem(&send(form, "", ""), PAIR);
        assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
        let write = "st.shared.u32 [%to+4096], %t;";
        let late = send(form, "", "").replace("fence.proxy.async;", &format!("fence.proxy.async; {write}"));
        let Problem::Asynchronous(what) = super::problem(&late, PAIR) else { panic!() };
        assert!(what.contains("without fence.proxy.async since"), "{what}");
        launch(&send(form, write, ""), PAIR).unwrap();
    }
}

mod reductions {
    use std::cmp::Ordering;

    use super::*;

    /// Numbers that are no NaN in any type, subnormal ones among them, as words of so many bytes.
    fn numbers(bytes: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 16
        };
        (0..1024 / bytes)
            .flat_map(|i| {
                let value = next() as u8;
                let mut word: Vec<u8> = (0..bytes).map(|_| next() as u8).collect();
                // The exponent is never that of infinity; each third number is subnormal.
                word[bytes - 1] = if i % 3 == 0 { value & 0x80 } else { value & 0xBF };
                if i % 3 == 0 && bytes >= 2 {
                    word[bytes - 2] &= 0x03;
                }
                word
            })
            .collect()
    }

    fn reduce(name: &str, bytes: usize) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let (new, old) = (numbers(bytes, 1), numbers(bytes, 2));
        let policy = if bytes == 4 { (".L2::cache_hint", ", %policy") } else { ("", "") };
        let load =
            "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [buffer], [%in], 1024, [bar];";
        let body = format!(
            "{} {load} {WAIT} @%q cp.reduce.async.bulk.global.shared::cta.bulk_group{}.{name} [%out], [buffer], 1024{};
            {COMMIT} {DONE}",
            expect(1024),
            policy.0,
            policy.1
        );
        let (out, _) = launch_with(&body, ONE, &new, &old).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        (old, new, out)
    }

    macro_rules! check {
        ($name:literal, $ty:ty, $f:expr) => {{
            const BYTES: usize = size_of::<$ty>();
            let (old, new, out) = reduce($name, BYTES);
            let f: fn($ty, $ty) -> $ty = $f;
            let word = |data: &[u8], i: usize| <$ty>::from_le_bytes(data[i..i + BYTES].try_into().unwrap());
            for i in (0..1024).step_by(BYTES) {
                let expected = f(word(&old, i), word(&new, i));
                assert_eq!(out[i..i + BYTES], expected.to_le_bytes(), "{} at {i}", $name);
            }
        }};
    }

    #[test]
    fn reductions_in_global_memory_are_those_of_their_names() {
        check!("add.u32", u32, u32::wrapping_add);
        check!("add.s32", u32, u32::wrapping_add);
        check!("add.u64", u64, u64::wrapping_add);
        check!("min.u32", u32, u32::min);
        check!("max.u32", u32, u32::max);
        check!("min.s32", i32, i32::min);
        check!("max.s32", i32, i32::max);
        check!("min.u64", u64, u64::min);
        check!("max.u64", u64, u64::max);
        check!("min.s64", i64, i64::min);
        check!("max.s64", i64, i64::max);
        check!("inc.u32", u32, |a, b| if a >= b { 0 } else { a + 1 });
        check!("dec.u32", u32, |a, b| if a == 0 || a > b { b } else { a - 1 });
        check!("and.b32", u32, |a, b| a & b);
        check!("or.b32", u32, |a, b| a | b);
        check!("xor.b32", u32, |a, b| a ^ b);
        check!("and.b64", u64, |a, b| a & b);
        check!("or.b64", u64, |a, b| a | b);
        check!("xor.b64", u64, |a, b| a ^ b);
        check!("add.f64", f64, |a, b| a + b);
        check!("add.f32", f32, |a, b| {
            let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
            flush(flush(a) + flush(b))
        });
    }

    #[test]
    fn reductions_of_halves_keep_subnormal_numbers() {
        use half::{bf16, f16};
        check!("add.noftz.f16", u16, |a, b| {
            f16::from_f64(f16::from_bits(a).to_f64() + f16::from_bits(b).to_f64()).to_bits()
        });
        check!("add.noftz.bf16", u16, |a, b| {
            bf16::from_f64(bf16::from_bits(a).to_f64() + bf16::from_bits(b).to_f64()).to_bits()
        });
        for_halves("f16", |bits| f16::from_bits(bits).to_f64());
        for_halves("bf16", |bits| bf16::from_bits(bits).to_f64());
    }

    /// The smaller and the larger of each two, where -0 is below 0.
    fn for_halves(ty: &str, value: fn(u16) -> f64) {
        for (operation, wanted) in [("min", Ordering::Less), ("max", Ordering::Greater)] {
            let (old, new, out) = reduce(&format!("{operation}.{ty}"), 2);
            for i in (0..1024).step_by(2) {
                let word = |data: &[u8]| u16::from_le_bytes([data[i], data[i + 1]]);
                let (a, b) = (word(&old), word(&new));
                let expected = if value(b).total_cmp(&value(a)) == wanted { b } else { a };
                assert_eq!(word(&out), expected, "{operation}.{ty} at {i}");
            }
        }
    }

    #[test]
    fn reductions_of_several_blocks_add_up() {
        let body = format!(
            "st.shared.u32 [%to], %t; {FENCE}
            @%q cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%out], [buffer], 256; {COMMIT} {DONE}"
        );
        for cluster in [1, 4] {
            let (out, _) = launch_with(&body, Setup { cluster, ..ONE }, &[], &[0; 256]).unwrap();
            assert!((0..64).all(|t| out[4 * t..4 * t + 4] == (cluster * t as u32).to_le_bytes()));
        }
    }

    #[test]
    fn a_reduction_of_what_nobody_wrote_is_found() {
        let body = format!(
            "st.shared.u32 [%to], %t; {FENCE}
            @%q cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%out], [buffer], 256; {COMMIT} {DONE}"
        );
        let problem = launch_with(&body, ONE, &[], &[0; 252]).unwrap_err().problem;
        assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
    }
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
