//! `setmaxnreg`.

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
