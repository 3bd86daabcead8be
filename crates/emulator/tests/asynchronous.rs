//! Asynchronous copies: each fault planted, and mended.

use longhand_emulator::{Arch, Checks, Fault, Gpu, Module, Options, Problem, Report, Shape};

/// An entry `k` whose threads have: `%t`, the thread's number in the block; `%rank`, the block's in the cluster;
/// `%mine`, the address of the thread's own word of the output; `%from`, that of its own 16 bytes of the input; `%to`,
/// that of its own 16 bytes of the shared array `buffer`; `bar`, shared memory for 8 barriers.
fn kernel(body: &str) -> String {
    kernel_with("", body)
}

/// The same, with directives that bound the launch.
fn kernel_with(directives: &str, body: &str) -> String {
    format!(
        "
.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out) {directives}
{{
.reg .pred %p<16>, %q;
.reg .b32 %r<32>;
.reg .b64 %rd<32>, %s<8>;
.reg .b32 %t, %rank, %to, %word;
.reg .b64 %in, %out, %mine, %from, %wide;
.shared .align 1024 .b8 buffer[16384];
.shared .align 8 .b64 bar[8];
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
mov.u32 %t, %tid.x;
mov.u32 %rank, %cluster_ctarank;
mov.u32 %word, %ctaid.x;
mad.lo.u32 %word, %word, 256, %t;
mul.wide.u32 %wide, %word, 4;
add.s64 %mine, %out, %wide;
mul.wide.u32 %wide, %t, 16;
add.s64 %from, %in, %wide;
mov.u32 %to, buffer;
mad.lo.u32 %to, %t, 16, %to;
{body}
}}
"
    )
}

/// How a kernel is launched.
#[derive(Clone, Copy)]
struct Setup {
    cluster: u32,
    threads: u32,
    checks: Checks,
}

const WARP: Setup = Setup { cluster: 1, threads: 32, checks: Checks::ALL };

/// Words of the input, of which word `i` is `1000 + i`, and of the output.
const WORDS: u32 = 4096;

fn launch(body: &str, setup: Setup) -> Result<(Vec<u32>, Report), Fault> {
    launch_text(&kernel(body), setup)
}

fn launch_text(text: &str, setup: Setup) -> Result<(Vec<u32>, Report), Fault> {
    let options = Options { checks: setup.checks, ..Options::default() };
    let gpu = Gpu::with_options("sm_90a".parse::<Arch>().unwrap(), options);
    let module = Module::from_ptx(&gpu, text).unwrap_or_else(|error| panic!("{error}"));
    let [input, output] = [(); 2].map(|()| gpu.alloc(u64::from(4 * WORDS)).unwrap());
    let data: Vec<u8> = (0..WORDS).flat_map(|i| (1000 + i).to_le_bytes()).collect();
    gpu.upload(input, &data).unwrap();
    gpu.fill(output, 0, data.len() as u64).unwrap();
    let shape = Shape {
        grid: [setup.cluster, 1, 1],
        block: [setup.threads, 1, 1],
        cluster: [setup.cluster, 1, 1],
        dynamic_shared: 0,
    };
    let params: Vec<u8> = [input, output].iter().flat_map(|it| it.to_le_bytes()).collect();
    let report = module.launch("k", &shape, &params)?;
    let mut bytes = vec![0; data.len()];
    gpu.download(output, &mut bytes).unwrap();
    Ok((bytes.chunks(4).map(|it| u32::from_le_bytes(it.try_into().unwrap())).collect(), report))
}

fn run(body: &str) -> Vec<u32> {
    launch(body, WARP).unwrap_or_else(|fault| panic!("{fault}")).0
}

/// The text of the asynchronous fault that a launch meets.
#[track_caller]
fn fault(body: &str, setup: Setup) -> String {
    match launch(body, setup) {
        Err(Fault { problem: Problem::Asynchronous(what), .. }) => what,
        Err(other) => panic!("another fault: {other}"),
        Ok(_) => panic!("no fault: {body}"),
    }
}

/// Why a kernel cannot be loaded.
#[track_caller]
fn refusal(body: &str) -> String {
    match Module::from_ptx(&Gpu::new("sm_90a".parse().unwrap()), &kernel(body)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("the module was loaded"),
    }
}

mod lanes {
    use super::*;

    const COPY: &str = "cp.async.cg.shared.global [%to], [%from], 16;";
    const READ: &str = "ld.shared.u32 %r1, [%to+4]; st.global.u32 [%mine], %r1;";

    #[test]
    fn what_is_copied_is_there_after_the_wait() {
        let wait = "cp.async.commit_group; cp.async.wait_group 0;";
        let out = run(&format!("{COPY} {wait} {READ}"));
        assert!((0..32).all(|t| out[t] == 1001 + 4 * t as u32));
    }

    #[test]
    fn reading_before_the_wait_is_found() {
        for early in [
            "",
            "cp.async.commit_group;",
            "cp.async.wait_group 0;",
            "cp.async.commit_group; cp.async.wait_group 1;",
        ] {
            let what = fault(&format!("{COPY} {early} {READ}"), WARP);
            assert!(what.contains("has not finished writing"), "{what}");
        }
    }

    #[test]
    fn writing_before_the_wait_is_found() {
        let what = fault(&format!("{COPY} st.shared.u32 [%to], %t; cp.async.wait_all;"), WARP);
        assert!(what.contains("has not finished writing"), "{what}");
        run(&format!("{COPY} cp.async.wait_all; st.shared.u32 [%to], %t;"));
    }

    #[test]
    fn unchecked_memory_holds_poison_until_the_wait() {
        let body = format!("st.shared.u32 [%to+4], %t; {COPY} {READ} cp.async.wait_all;");
        let (out, _) = launch(&body, Setup { checks: Checks::NONE, ..WARP }).unwrap();
        assert_eq!(out[..32], [u32::MAX; 32]);
    }

    #[test]
    fn a_group_lands_when_no_more_than_so_many_younger_ones_are_pending() {
        let copy = |group: u32| {
            format!(
                "cp.async.ca.shared.global [%to+{}], [%from+{}], 4; cp.async.commit_group;",
                1024 * group,
                512 * group
            )
        };
        let read =
            |group: u32| format!("ld.shared.u32 %r1, [%to+{}]; st.global.u32 [%mine], %r1;", 1024 * group);
        let issue = format!("{} {} {} cp.async.wait_group 1;", copy(0), copy(1), copy(2));
        assert_eq!(run(&format!("{issue} {}", read(1)))[3], 1000 + 128 + 12);
        assert_eq!(run(&format!("{issue} {}", read(0)))[3], 1000 + 12);
        fault(&format!("{issue} {}", read(2)), WARP);
    }

    #[test]
    fn each_lane_waits_for_its_own_copies() {
        let wait = |lanes: &str| format!("setp.{lanes}.u32 %p1, %t, 5; @%p1 cp.async.wait_all;");
        let read = "setp.eq.u32 %p2, %t, 7; @%p2 ld.shared.u32 %r1, [%to];";
        fault(&format!("{COPY} {} {read}", wait("lt")), WARP);
        launch(&format!("{COPY} {} {read}", wait("ge")), WARP).unwrap();
    }

    #[test]
    fn two_copies_to_the_same_bytes_at_once_are_found() {
        let again = "cp.async.ca.shared.global [%to+8], [%from], 4; cp.async.wait_all;";
        fault(&format!("{COPY} {again}"), WARP);
        run(&format!("{COPY} cp.async.wait_all; {again}"));
        let what = fault("cp.async.ca.shared.global [buffer], [%from], 4; cp.async.wait_all;", WARP);
        assert!(what.contains("another lane"), "{what}");
    }

    #[test]
    fn what_is_not_read_becomes_zero() {
        let wait = "cp.async.wait_all; ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%to];";
        for (bytes, expected) in
            [(0, [0, 0]), (4, [1000, 0]), (6, [1000, 1001]), (8, [1000, 1001]), (16, [1000, 1001])]
        {
            let copy = format!("mov.u32 %r9, {bytes}; cp.async.cg.shared.global [%to], [%from], 16, %r9;");
            let out = run(&format!(
                "{copy} {wait}
                setp.eq.u32 %p1, %t, 0; @!%p1 exit; st.global.u32 [%out], %r1; st.global.u32 [%out+4], %r2;"
            ));
            assert_eq!(out[..2], expected, "{bytes}");
        }
    }
}

mod barriers {
    use super::*;

    const ZERO: &str = "setp.eq.u32 %q, %t, 0;";

    /// Thread 0 initialises `bar` for so many arrivals.
    fn init(count: u32) -> String {
        format!("{ZERO} @%q mbarrier.init.shared.b64 [bar], {count}; bar.sync 0;")
    }

    fn wait(name: &str, parity: u32) -> String {
        format!(
            "{name}: mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], {parity};
            @!%p1 bra {name};"
        )
    }

    #[test]
    fn a_phase_completes_when_all_have_arrived() {
        let body = format!(
            "{} mbarrier.arrive.shared.b64 %s1, [bar];
            mbarrier.test_wait.shared.b64 %p2, [bar], %s1;
            bar.sync 0;
            mbarrier.test_wait.shared.b64 %p3, [bar], %s1;
            selp.u32 %r1, 1, 0, %p2; selp.u32 %r2, 2, 0, %p3; add.u32 %r1, %r1, %r2;
            st.global.u32 [%mine], %r1;",
            init(64)
        );
        let (out, _) = launch(&body, Setup { threads: 64, ..WARP }).unwrap();
        let mut seen = [out[0], out[63]];
        seen.sort_unstable();
        assert_eq!(seen, [2, 3], "one warp asks before the other has arrived");
    }

    #[test]
    fn phases_alternate_in_parity() {
        let body = format!(
            "{} mov.u32 %r2, 0;
            mbarrier.arrive.shared.b64 _, [bar]; {} add.u32 %r2, %r2, 1;
            mbarrier.arrive.release.cta.shared::cta.b64 _, [bar]; {} add.u32 %r2, %r2, 1;
            mbarrier.test_wait.parity.b64 %p2, [%rd1], 0;
            selp.u32 %r1, 10, 0, %p2; add.u32 %r2, %r2, %r1; st.global.u32 [%mine], %r2;",
            init(96),
            wait("A", 0),
            wait("B", 1)
        );
        let body = format!("mov.u64 %rd1, bar; cvta.shared.u64 %rd1, %rd1; {body}");
        let (out, _) = launch(&body, Setup { threads: 96, ..WARP }).unwrap();
        assert_eq!(out[..96], [2; 96], "phase 2 has the parity of phase 0, and is not over");
    }

    #[test]
    fn a_state_tells_how_many_arrivals_were_pending() {
        let body = format!(
            "{} mbarrier.arrive.noComplete.shared.b64 %s1, [bar], 2;
            mbarrier.pending_count.b64 %r1, %s1; st.global.u32 [%mine], %r1;",
            init(65)
        );
        let out = run(&body);
        assert_eq!(out[..32], std::array::from_fn::<u32, 32, _>(|t| 65 - 2 * t as u32));
    }

    #[test]
    fn copies_arrive_when_they_are_needed() {
        let copy = "cp.async.cg.shared.global [%to], [%from], 16;";
        let read = "ld.shared.u32 %r1, [%to]; st.global.u32 [%mine], %r1;";
        let more = "mbarrier.arrive.shared.b64 _, [bar];";
        for (arrive, more) in [("noinc.shared.b64", ""), ("shared.b64", more)] {
            let issue = format!("{} {copy} cp.async.mbarrier.arrive.{arrive} [bar];", init(64));
            let all = Setup { threads: 64, ..WARP };
            let what = fault(&format!("{issue} {read}"), all);
            assert!(what.contains("has not finished writing"), "{what}");
            let (out, _) = launch(&format!("{issue} {more} {} {read}", wait("A", 0)), all).unwrap();
            assert_eq!((out[1], out[63]), (1004, 1252));
        }
    }

    #[test]
    fn copies_that_are_issued_later_do_not_land_with_the_arrival() {
        let copy = |offset: u32| format!("cp.async.cg.shared.global [%to+{offset}], [%from], 16;");
        let arrive = "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [bar];";
        let body = |first: u32, last: u32| {
            format!(
                "{} {} {arrive} {} {} ld.shared.u32 %r1, [%to];",
                init(32),
                copy(first),
                copy(last),
                wait("A", 0)
            )
        };
        run(&body(0, 1024));
        fault(&body(1024, 0), WARP);
    }

    #[test]
    fn a_phase_waits_for_the_bytes_that_it_expects() {
        let expect = "@%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 128;";
        let complete = "@%q mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 128;";
        run(&format!("{} {expect} {complete} {}", init(1), wait("A", 0)));
        let problem = launch(&format!("{} {expect} {}", init(1), wait("A", 0)), WARP).unwrap_err().problem;
        let Problem::Deadlock(waits) = problem else { panic!("{problem}") };
        assert!(waits[0].contains("0 arrivals and 128 bytes are missing"), "{waits:?}");
    }

    #[test]
    fn an_arrival_that_is_dropped_is_not_expected_again() {
        let arrive = "@%q mbarrier.arrive.shared.b64 _, [bar];";
        let first = |drop: &str| {
            format!("{} mbarrier.arrive{drop}.shared.b64 _, [bar]; {arrive} {}", init(33), wait("A", 0))
        };
        run(&format!("{} {arrive} {}", first("_drop"), wait("B", 1)));
        let problem = launch(&format!("{} {arrive} {}", first(""), wait("B", 1)), WARP).unwrap_err().problem;
        assert!(matches!(problem, Problem::Deadlock(_)), "{problem}");
    }

    #[test]
    fn misuse_is_found() {
        let init32 = init(32);
        let cases = [
            ("mbarrier.arrive.shared.b64 _, [bar];".to_owned(), "not initialised"),
            (format!("{init32} @%q mbarrier.init.shared.b64 [bar], 32;"), "without mbarrier.inval"),
            (format!("{ZERO} @%q mbarrier.init.shared.b64 [bar], 0;"), "must be 1 to 1048575"),
            (format!("{ZERO} @%q mbarrier.init.shared.b64 [bar], 1048576;"), "must be 1 to 1048575"),
            (format!("{init32} mbarrier.arrive.shared.b64 _, [bar], 3;"), "3 arrivals, where 2 are"),
            (format!("{init32} mbarrier.arrive.noComplete.shared.b64 %s1, [bar], 1;"), ".noComplete"),
            (format!("{init32} @%q ld.shared.u32 %r1, [bar+4];"), "belong to an mbarrier"),
            (format!("{init32} @%q st.shared.u64 [bar], %wide;"), "belong to an mbarrier"),
            (format!("{init32} mbarrier.test_wait.parity.shared.b64 %p1, [bar], 2;"), "must be 0 or 1"),
            (
                format!("{init32} mov.u64 %s1, 0x700000; mbarrier.test_wait.shared.b64 %p1, [bar], %s1;"),
                "a wait for phase 7",
            ),
            (
                format!("{init32} mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 40000;"),
                "at most 1048575",
            ),
            (
                format!(
                    "{init32} mbarrier.arrive.shared.b64 _, [bar]; bar.warp.sync -1; @%q mbarrier.inval.shared.b64 [bar]; @%q mbarrier.arrive.shared.b64 _, [bar];"
                ),
                "not initialised",
            ),
            (
                format!(
                    "{init32} @%q mbarrier.complete_tx.relaxed.cta.shared.b64 [bar], 8; mbarrier.arrive.shared.b64 _, [bar];"
                ),
                "8 bytes more",
            ),
            (
                format!(
                    "{init32} cp.async.mbarrier.arrive.noinc.shared.b64 [bar]; @%q mbarrier.inval.shared.b64 [bar];"
                ),
                "in flight that signal it",
            ),
            (
                format!(
                    "{init32} cp.async.mbarrier.arrive.noinc.shared.b64 [bar]; mbarrier.arrive.shared.b64 _, [bar];"
                ),
                "in flight that it does not expect",
            ),
        ];
        for (body, expected) in cases {
            let what = fault(&body, WARP);
            assert!(what.contains(expected), "{what}, and not: {expected}\n{body}");
        }
        let mended =
            "mbarrier.arrive.shared.b64 _, [bar]; bar.warp.sync -1; @%q mbarrier.inval.shared.b64 [bar];
            @%q st.shared.u64 [bar], %wide; @%q mbarrier.init.shared.b64 [bar], 1;";
        run(&format!("{init32} {mended}"));
    }

    #[test]
    fn unknown_forms_are_refused() {
        for (body, expected) in [
            ("mbarrier.arrive.acquire.shared.b64 %s1, [bar];", ".acquire"),
            ("mbarrier.init.shared::cluster.b64 [bar], 1;", ".shared::cluster"),
            ("mbarrier.arrive.shared::cluster.b64 %s1, [bar];", "another block"),
            ("mbarrier.try_wait.parity.gpu.shared.b64 %p1, [bar], 0;", ".gpu"),
            ("cp.async.mbarrier.arrive.global.b64 [bar];", ".global"),
            ("cp.async.cg.shared.global [%to], [%from], 8;", "must be 16"),
            ("cp.async.ca.shared.global [%to], [%from], 12;", "must be 4, 8 or 16"),
            ("cp.async.ca.shared.global.L2::512B [%to], [%from], 4;", "L2::512B"),
        ] {
            let what = refusal(body);
            assert!(what.contains(expected), "{what}");
        }
    }
}

mod clusters {
    use super::*;

    const PAIR: Setup = Setup { cluster: 2, threads: 64, checks: Checks::ALL };
    const SYNC: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";

    /// The address of the thread's 16 bytes in the other block, `%r5`.
    const OTHER: &str = "xor.b32 %r4, %rank, 1; mapa.shared::cluster.u32 %r5, %to, %r4;";

    fn synchronisation(body: &str, setup: Setup) -> String {
        match launch(body, setup) {
            Err(Fault { problem: Problem::Synchronisation(what), .. }) => what,
            Err(other) => panic!("another fault: {other}"),
            Ok(_) => panic!("no fault: {body}"),
        }
    }

    #[test]
    fn a_block_reads_what_another_wrote() {
        let body = |last: &str| {
            format!(
                "st.shared.u32 [%to], %word; {SYNC} {OTHER} ld.shared::cluster.u32 %r1, [%r5];
                getctarank.shared::cluster.u32 %r2, %r5; mad.lo.u32 %r1, %r2, 100000, %r1;
                st.global.u32 [%mine], %r1; {last}"
            )
        };
        let (out, _) = launch(&body(SYNC), PAIR).unwrap();
        assert_eq!((out[3], out[256 + 3]), (100_000 + 256 + 3, 3));
    }

    #[test]
    fn generic_addresses_are_mapped_too() {
        let body = format!(
            "st.shared.u32 [%to], %word; {SYNC} xor.b32 %r4, %rank, 1;
            cvt.u64.u32 %rd1, %to; cvta.shared.u64 %rd1, %rd1; mapa.u64 %rd2, %rd1, %r4;
            getctarank.u64 %r2, %rd2; getctarank.u64 %r3, %rd1; mad.lo.u32 %r2, %r3, 10, %r2;
            ld.u32 %r1, [%rd2]; mad.lo.u32 %r1, %r2, 100000, %r1; st.global.u32 [%mine], %r1; {SYNC}"
        );
        let (out, _) = launch(&body, PAIR).unwrap();
        assert_eq!((out[3], out[256 + 3]), (100_000 + 256 + 3, 1_000_000 + 3));
    }

    #[test]
    fn reading_a_block_before_it_has_begun_is_found() {
        let what = synchronisation(&format!("{OTHER} st.shared::cluster.u32 [%r5], %t; {SYNC}"), PAIR);
        assert!(what.contains("may not have begun"), "{what}");
    }

    #[test]
    fn reading_a_block_that_has_exited_is_found() {
        let body = |last: &str| {
            format!(
                "st.shared.u32 [%to], %word; {SYNC} setp.eq.u32 %p1, %rank, 0; @%p1 bra END;
                mov.u32 %r9, 0; SPIN: add.u32 %r9, %r9, 1; setp.lt.u32 %p2, %r9, 20000; @%p2 bra SPIN;
                {OTHER} ld.shared::cluster.u32 %r1, [%r5];
                END: {last}"
            )
        };
        let what = synchronisation(&body(""), PAIR);
        assert!(what.contains("have exited"), "{what}");
        launch(&body(SYNC), PAIR).unwrap();
    }

    #[test]
    fn the_barrier_of_the_cluster_alternates_between_arriving_and_waiting() {
        let arrive = "barrier.cluster.arrive;";
        let wait = "barrier.cluster.wait;";
        for (body, expected) in [
            (format!("{arrive} {arrive}"), "again"),
            (wait.to_owned(), "without barrier.cluster.arrive"),
            (format!("{SYNC} {wait}"), "without barrier.cluster.arrive"),
            (format!("setp.eq.u32 %p1, %t, 3; @%p1 {SYNC}"), "divergent"),
        ] {
            let what = synchronisation(&body, PAIR);
            assert!(what.contains(expected), "{what}");
        }
        launch(&format!("{arrive} {wait} {SYNC} setp.eq.u32 %p1, %t, 3; @%p1 exit; {arrive} {wait}"), PAIR)
            .unwrap();
    }

    #[test]
    fn a_block_that_does_not_come_to_the_barrier_is_a_deadlock() {
        let body = |rank: u32| {
            format!(
                "setp.ne.u32 %p1, %rank, {rank}; @%p1 bra WAIT; bar.sync 1, 96;
                WAIT: {SYNC}"
            )
        };
        let setup = Setup { threads: 96, ..PAIR };
        launch(&body(1), setup).unwrap();
        let problem =
            launch(&body(1).replace("bar.sync 1, 96", "setp.lt.u32 %p2, %t, 64; @%p2 bar.sync 1, 96"), setup);
        let problem = problem.unwrap_err().problem;
        let Problem::Deadlock(waits) = problem else { panic!("{problem}") };
        assert!(waits.iter().any(|it| it.contains("waits at the cluster's barrier")), "{waits:?}");
    }

    #[test]
    fn a_barrier_of_another_block_is_arrived_at() {
        let body = |waits: &str| {
            format!(
                "setp.eq.u32 %q, %t, 0; @%q mbarrier.init.shared.b64 [bar], 64; fence.mbarrier_init.release.cluster; {SYNC}
                mov.u32 %r6, bar; xor.b32 %r4, %rank, 1; mapa.shared::cluster.u32 %r6, %r6, %r4;
                mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];
                {waits}
                {SYNC}"
            )
        };
        let own = "W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [bar], 0; @!%p1 bra W;";
        launch(&body(own), PAIR).unwrap();
        let what = fault(&body(&own.replace("[bar]", "[%r6]")), PAIR);
        assert!(what.contains("is not the block itself"), "{what}");
    }

    #[test]
    fn stores_to_another_block_land_when_its_barrier_is_waited_for() {
        let body = |early: &str, bytes: u32| {
            format!(
                "setp.eq.u32 %q, %t, 0; @%q mbarrier.init.shared.b64 [bar], 1;
                @%q mbarrier.arrive.expect_tx.shared.b64 _, [bar], {bytes}; mov.u32 %r1, 0; st.shared.u32 [%to+8], %t; {SYNC}
                {OTHER} mov.u32 %r6, bar; mapa.shared::cluster.u32 %r6, %r6, %r4; add.u32 %r7, %word, 1;
                st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r5], {{%word, %r7}}, [%r6];
                red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r5+8], %r7, [%r6];
                {early}
                W: mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0; @!%p1 bra W;
                ld.shared.v2.u32 {{%r1, %r2}}, [%to]; ld.shared.u32 %r3, [%to+8];
                mul.lo.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; st.global.u32 [%mine], %r1; {SYNC}"
            )
        };
        let (out, _) = launch(&body("", 64 * 12), PAIR).unwrap();
        assert_eq!((out[2], out[256 + 2]), (258 * 259 + 2 + 259, 2 * 3 + 2 + 3));
        let what = fault(&body(&format!("{SYNC} ld.shared.u32 %r1, [%to];"), 64 * 12), PAIR);
        assert!(what.contains("has not finished writing"), "{what}");
        let what = fault(&body("", 64 * 8), PAIR);
        assert!(what.contains("bytes more were copied"), "{what}");
    }
}

mod registers {
    use super::*;

    const GROUPS: Setup = Setup { cluster: 1, threads: 384, checks: Checks::ALL };

    fn kernel_of(directives: &str, first: &str, others: &str) -> String {
        let body = format!(
            "setp.ge.u32 %p1, %t, 128; @%p1 bra OTHERS; {first} bra END;
            OTHERS: {others}
            END: bar.sync 0; st.global.u32 [%mine], %t;"
        );
        kernel_with(directives, &body)
    }

    fn set(action: &str, count: u32) -> String {
        format!("setmaxnreg.{action}.sync.aligned.u32 {count};")
    }

    #[test]
    fn warpgroups_take_what_another_gives() {
        for directives in [".maxnreg 168", ".maxntid 384, 1, 1 .minnctapersm 1"] {
            let text = kernel_of(directives, &set("dec", 24), &set("inc", 240));
            launch_text(&text, GROUPS).unwrap_or_else(|fault| panic!("{fault}"));
        }
    }

    #[test]
    fn more_than_the_block_has_is_a_deadlock() {
        let text = kernel_of(".maxnreg 168", &set("dec", 40), &set("inc", 240));
        let problem = launch_text(&text, GROUPS).unwrap_err().problem;
        let Problem::Deadlock(waits) = problem else { panic!("{problem}") };
        assert!(waits.iter().any(|it| it.contains("waits for 2304 registers, where ")), "{waits:?}");
    }

    #[test]
    fn misuse_is_found() {
        let half = "setp.lt.u32 %p2, %t, 64; @%p2 bra SKIP; setmaxnreg.dec.sync.aligned.u32 24; SKIP:";
        let other = "setp.lt.u32 %p2, %t, 64; @%p2 bra SKIP; setmaxnreg.dec.sync.aligned.u32 24; bra END; SKIP: setmaxnreg.dec.sync.aligned.u32 32;";
        let twice = format!("{} {}", set("dec", 32), set("dec", 24));
        let synchronised = format!("{} bar.sync 1, 128; {}", set("dec", 32), set("dec", 24));
        launch_text(&kernel_of(".maxnreg 168", &synchronised, ""), GROUPS).unwrap();
        for (first, expected) in [
            (set("inc", 160), "by a warp that has 168"),
            (set("dec", 176), "by a warp that has 168"),
            (half.to_owned(), "exits without a setmaxnreg"),
            (other.to_owned(), "where another warp of the warpgroup executed"),
            (twice, "before all warps"),
        ] {
            let problem = launch_text(&kernel_of(".maxnreg 168", &first, ""), GROUPS).unwrap_err().problem;
            let Problem::Asynchronous(what) = problem else { panic!("{problem}") };
            assert!(what.contains(expected), "{what}, and not: {expected}");
        }
        let divergent = "setp.eq.u32 %p2, %t, 3; @%p2 setmaxnreg.dec.sync.aligned.u32 24;";
        let problem = launch_text(&kernel_of(".maxnreg 168", divergent, ""), GROUPS).unwrap_err().problem;
        assert!(matches!(problem, Problem::Synchronisation(_)), "{problem}");
    }

    #[test]
    fn counts_that_are_not_allowed_are_refused() {
        for count in [16, 25, 264] {
            let what = refusal(&set("dec", count));
            assert!(what.contains("must be a multiple of 8, from 24 to 256"), "{what}");
        }
    }
}

mod hints {
    use super::*;

    #[test]
    fn fences_and_hints_change_nothing() {
        let body = "
            membar.cta; membar.gl; membar.sys; membar.proxy.alias;
            fence.sc.gpu; fence.acq_rel.cta; fence.acquire.cluster; fence.release.sys; fence.gpu;
            fence.acquire.sync_restrict::shared::cluster.cluster; fence.release.sync_restrict::shared::cta.cluster;
            fence.mbarrier_init.release.cluster;
            fence.proxy.alias; fence.proxy.async; fence.proxy.async.global; fence.proxy.async.shared::cta;
            fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;
            fence.proxy.tensormap::generic.release.gpu; fence.proxy.tensormap::generic.acquire.gpu [%in], 128;
            griddepcontrol.wait; griddepcontrol.launch_dependents;
            prefetch.global.L2 [%in]; prefetch.local.L1 [%in]; prefetch.L1 [%in]; prefetch.global.L2::evict_last [%in];
            prefetch.tensormap [%in]; prefetchu.L1 [%in];
            applypriority.global.L2::evict_normal [%in], 128;
            createpolicy.fractional.L2::evict_first.b64 %s1;
            createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %s1, 0.5;
            createpolicy.range.global.L2::evict_last.L2::evict_unchanged.b64 %s1, [%in], 128, 256;
            createpolicy.cvt.L2.b64 %s1, 7;
            cp.async.cg.shared.global.L2::cache_hint.L2::128B [%to], [%from], 16, %s1;
            cp.async.wait_all;
            st.global.u32 [%mine], %t;";
        assert_eq!(run(body)[..32], std::array::from_fn::<u32, 32, _>(|t| t as u32));
    }

    #[test]
    fn forms_that_are_not_ptx_are_refused() {
        for body in [
            "membar.gpu;",
            "fence;",
            "fence.relaxed.gpu;",
            "fence.proxy.async.local;",
            "fence.proxy.tensormap::generic.acquire.gpu [%in], 64;",
            "fence.mbarrier_init.acquire.cluster;",
            "griddepcontrol.start;",
            "prefetch.shared.L1 [%in];",
            "prefetch.local.L2::evict_last [%in];",
            "prefetchu.L2 [%in];",
            "applypriority.global.L2::evict_last [%in], 128;",
            "discard.global.L2 [%in], 64;",
            "createpolicy.fractional.L2.b64 %s1;",
            "createpolicy.range.L2::evict_last.b64 %s1, [%in];",
            "barrier.cluster.arrive.acquire;",
            "barrier.cluster.wait.relaxed;",
            "mapa.shared::cta.u32 %r1, %to, %rank;",
            "mapa.u32 %r1, %to, %rank;",
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b64 [%to], {%s1, %s1, %s1, %s1}, [bar];",
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.b16 [%to], %r1, [bar];",
            "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.min.u64 [%to], %s1, [bar];",
        ] {
            refusal(body);
        }
    }

    #[test]
    fn what_was_discarded_is_uninitialised() {
        let body = |address: u32| {
            format!(
                "setp.eq.u32 %p1, %t, 0; @%p1 discard.global.L2 [%in], 128; bar.sync 0;
                ld.global.u32 %r1, [%in+{address}];"
            )
        };
        let problem = launch(&body(124), WARP).unwrap_err().problem;
        assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
        launch(&body(128), WARP).unwrap();
        let problem = launch("discard.L2 [%from], 128;", WARP).unwrap_err().problem;
        assert!(matches!(problem, Problem::Misaligned { align: 128, .. }), "{problem}");
    }
}
