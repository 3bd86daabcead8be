//! Exchange between the lanes of a warp, against plain loops over lanes.
#![allow(
    clippy::needless_range_loop,
    reason = "a lane or a matrix is a number, with which several things are found"
)]

use longhand_emulator::{Arch, Checks, Fault, Gpu, LoadError, Module, Options, Problem, Shape};
use proptest::prelude::*;

/// What one lane brings, or leaves: four words.
type Words = [u32; 4];

/// Each lane loads its words into `%r0`..`%r3` (`%rd0`: the first two as one) and stores `%r4`..`%r7`. `%p0` holds in
/// the lanes of the mask `%r3`.
fn kernel(body: &str) -> String {
    format!(
        "
.version 8.6
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 data)
{{
.reg .pred %p<8>;
.reg .b32 %r<32>;
.reg .b64 %rd<8>;
.reg .b64 %mine;
mov.u32 %r8, %tid.x;
ld.param.u64 %rd1, [data];
mad.wide.u32 %mine, %r8, 16, %rd1;
ld.global.v4.u32 {{%r0, %r1, %r2, %r3}}, [%mine];
mov.b64 %rd0, {{%r0, %r1}};
shr.u32 %r9, %r3, %r8;
and.b32 %r9, %r9, 1;
setp.ne.u32 %p0, %r9, 0;
mov.u32 %r4, 0;
mov.u32 %r5, 0;
mov.u32 %r6, 0;
mov.u32 %r7, 0;
{body}
st.global.v4.u32 [%mine], {{%r4, %r5, %r6, %r7}};
}}"
    )
}

fn gpu(checks: Checks) -> Gpu {
    let options = Options { checks, instruction_limit: 1 << 20, ..Options::default() };
    Gpu::with_options("sm_100a".parse::<Arch>().unwrap(), options)
}

fn run_on(gpu: &Gpu, body: &str, words: &[Words]) -> Result<Vec<Words>, Fault> {
    let module = Module::from_ptx(gpu, &kernel(body)).unwrap_or_else(|error| panic!("{error}"));
    let data = gpu.alloc(16 * words.len() as u64).unwrap();
    let mut bytes: Vec<u8> = words.iter().flatten().flat_map(|it| it.to_le_bytes()).collect();
    gpu.upload(data, &bytes).unwrap();
    let shape = Shape { grid: [1; 3], block: [words.len() as u32, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    module.launch("k", &shape, &data.to_le_bytes())?;
    gpu.download(data, &mut bytes).unwrap();
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    Ok(bytes.chunks(16).map(|lane| std::array::from_fn(|k| word(&lane[4 * k..][..4]))).collect())
}

fn run(body: &str, words: &[Words]) -> Result<Vec<Words>, Fault> {
    run_on(&gpu(Checks::ALL), body, words)
}

/// What a shuffle's pseudocode (PTX ISA, "shfl.sync") says: from which lane, and whether within the segment.
fn source(direction: &str, lane: i32, b: u32, c: u32) -> (i32, bool) {
    let (b, clamp, segment) = ((b & 31) as i32, (c & 31) as i32, (c >> 8 & 31) as i32);
    let last = (lane & segment) | (clamp & !segment);
    let first = lane & segment;
    let (from, holds) = match direction {
        "up" => (lane - b, lane - b >= last),
        "down" => (lane + b, lane + b <= last),
        "bfly" => (lane ^ b, (lane ^ b) <= last),
        _ => (first | (b & !segment), (first | (b & !segment)) <= last),
    };
    (if holds { from } else { lane }, holds)
}

fn words() -> impl Strategy<Value = Vec<Words>> {
    prop::collection::vec(any::<Words>(), 32)
}

fn mask() -> impl Strategy<Value = u32> {
    prop_oneof![Just(u32::MAX), any::<u32>(), Just(1), Just(0x8000_0000)].prop_filter("a lane", |it| *it != 0)
}

/// The clamp values that `__shfl_*_sync` makes of a width, and any other.
fn clamp() -> impl Strategy<Value = u32> {
    prop_oneof![
        (0..6u32, any::<bool>()).prop_map(|(log, up)| (32 - (1 << log)) << 8 | if up { 0 } else { 31 }),
        any::<u32>(),
    ]
}

fn lanes(mask: u32) -> Vec<usize> {
    (0..32).filter(|lane| mask >> lane & 1 == 1).collect()
}

/// Words of which the last is this mask in every lane.
fn with_mask(mut words: Vec<Words>, mask: u32) -> Vec<Words> {
    words.iter_mut().for_each(|it| it[3] = mask);
    words
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_shuffle_reads_from_the_lane_that_the_isa_tells(
        words in words(),
        direction in prop::sample::select(vec!["up", "down", "bfly", "idx"]),
        b in 0..40u32,
        clamp in clamp(),
        immediate: bool,
    ) {
        let words: Vec<Words> = words.iter().map(|it| [it[0], b, clamp, u32::MAX]).collect();
        let operands = if immediate { format!("{b}, {clamp}, -1") } else { "%r1, %r2, %r3".into() };
        let body = format!("shfl.sync.{direction}.b32 %r4|%p1, %r0, {operands}; selp.u32 %r5, 1, 0, %p1;");
        let out = run(&body, &words).unwrap();
        for lane in 0..32 {
            let (from, holds) = source(direction, lane as i32, b, clamp);
            prop_assert_eq!(&out[lane][..2], &[words[from as usize & 31][0], u32::from(holds)], "lane {}", lane);
        }
    }

    #[test]
    fn a_shuffle_of_which_each_lane_names_its_own_source_reads_there(words in words(), mask in mask()) {
        let lanes = lanes(mask);
        let mut words = with_mask(words, mask);
        words.iter_mut().for_each(|it| it[1] = lanes[it[1] as usize % lanes.len()] as u32);
        let out = run("@%p0 shfl.sync.idx.b32 %r4, %r0, %r1, 31, %r3;", &words).unwrap();
        for lane in 0..32 {
            let expected = if lanes.contains(&lane) { words[words[lane][1] as usize][0] } else { 0 };
            prop_assert_eq!(out[lane][0], expected);
        }
    }

    #[test]
    fn a_vote_counts_the_lanes_of_its_mask_alone(words in words(), mask in mask(), like in 0..3u32) {
        let mut words = with_mask(words, mask);
        if like < 2 {
            words.iter_mut().for_each(|it| it[0] = like);
        }
        let body = "
            setp.lt.s32 %p1, %r0, 1;
            @%p0 vote.sync.all.pred %p2, %p1, %r3;
            @%p0 vote.sync.any.pred %p3, %p1, %r3;
            @%p0 vote.sync.uni.pred %p4, !%p1, %r3;
            @%p0 vote.sync.ballot.b32 %r7, %p1, %r3;
            selp.u32 %r4, 1, 0, %p2;
            selp.u32 %r5, 1, 0, %p3;
            selp.u32 %r6, 1, 0, %p4;";
        let out = run(body, &words).unwrap();
        let lanes = lanes(mask);
        let votes: Vec<bool> = lanes.iter().map(|lane| (words[*lane][0] as i32) < 1).collect();
        let ballot = lanes.iter().zip(&votes).fold(0, |bits, (lane, vote)| bits | u32::from(*vote) << lane);
        let (all, any) = (votes.iter().all(|it| *it), votes.iter().any(|it| *it));
        let expected = [u32::from(all), u32::from(any), u32::from(all || !any), ballot];
        for lane in lanes {
            prop_assert_eq!(out[lane], expected);
        }
    }

    #[test]
    fn a_match_finds_the_lanes_of_its_mask_that_hold_the_same(words in words(), mask in mask(), kinds in 1..4u32) {
        let mut words = with_mask(words, mask);
        words.iter_mut().for_each(|it| { it[0] %= kinds; it[1] %= kinds.min(2); });
        let body = "
            @%p0 match.any.sync.b32 %r4, %r0, %r3;
            @%p0 match.any.sync.b64 %r5, %rd0, %r3;
            @%p0 match.all.sync.b32 %r6|%p1, %r0, %r3;
            @%p1 add.u32 %r6, %r6, 1;
            @%p0 match.all.sync.b64 %r7, %rd0, %r3;";
        let out = run(body, &words).unwrap();
        let lanes = lanes(mask);
        for lane in &lanes {
            let same = |width: usize| {
                let twins = lanes.iter().filter(|it| words[**it][..width] == words[*lane][..width]);
                twins.fold(0, |bits, it| bits | 1u32 << it)
            };
            let all = |width: usize| if same(width) == mask { mask } else { 0 };
            let first = if same(1) == mask { mask.wrapping_add(1) } else { 0 };
            prop_assert_eq!(out[*lane], [same(1), same(2), first, all(2)], "lane {}", lane);
        }
    }

    #[test]
    fn a_reduction_is_that_of_the_lanes_of_its_mask(words in words(), mask in mask()) {
        let words = with_mask(words, mask);
        let values: Vec<u32> = lanes(mask).iter().map(|lane| words[*lane][0]).collect();
        let signed = || values.iter().map(|it| *it as i32);
        let cases = [
            ("add.u32", values.iter().fold(0u32, |sum, it| sum.wrapping_add(*it))),
            ("add.s32", values.iter().fold(0u32, |sum, it| sum.wrapping_add(*it))),
            ("min.u32", *values.iter().min().unwrap()),
            ("max.u32", *values.iter().max().unwrap()),
            ("min.s32", signed().min().unwrap() as u32),
            ("max.s32", signed().max().unwrap() as u32),
            ("and.b32", values.iter().fold(u32::MAX, |all, it| all & it)),
            ("or.b32", values.iter().fold(0, |all, it| all | it)),
            ("xor.b32", values.iter().fold(0, |all, it| all ^ it)),
        ];
        for (operation, expected) in cases {
            let out = run(&format!("@%p0 redux.sync.{operation} %r4, %r0, %r3;"), &words).unwrap();
            for lane in 0..32 {
                let expected = if mask >> lane & 1 == 1 { expected } else { 0 };
                prop_assert_eq!(out[lane][0], expected, "{}", operation);
            }
        }
    }

    #[test]
    fn a_reduction_of_floats_takes_a_nan_as_it_is_told(
        words in words(),
        mask in mask(),
        special in prop::collection::vec(0..6usize, 32),
        nans: bool,
    ) {
        let specials = [0x7FC0_0001, 0x8000_0000, 0, 0xFF80_0000, 0x0000_0001];
        let mut words = with_mask(words, mask);
        for (words, special) in words.iter_mut().zip(special) {
            words[0] = specials.get(special).copied().unwrap_or(words[0]);
            if nans {
                words[0] |= 0x7F80_0001;
            }
        }
        let values: Vec<f32> = lanes(mask).iter().map(|lane| f32::from_bits(words[*lane][0])).collect();
        for (abs, nan, max) in [0, 1, 2, 3, 4, 5, 6, 7].map(|bits: u32| (bits & 1 == 1, bits & 2 == 2, bits & 4 == 4)) {
            let values = values.iter().map(|it| if abs { it.abs() } else { *it });
            let has_nan = values.clone().any(f32::is_nan);
            let numbers = values.filter(|it| !it.is_nan());
            let best = if max { numbers.max_by(f32::total_cmp) } else { numbers.min_by(f32::total_cmp) };
            let expected = match best {
                Some(best) if !(nan && has_nan) => best.to_bits(),
                _ => 0x7FFF_FFFF,
            };
            let (name, abs, nan) = (if max { "max" } else { "min" }, if abs { ".abs" } else { "" }, if nan { ".NaN" } else { "" });
            let out = run(&format!("@%p0 redux.sync.{name}{abs}{nan}.f32 %r4, %r0, %r3;"), &words).unwrap();
            prop_assert_eq!(out[lanes(mask)[0]][0], expected, "{}{}{}", name, abs, nan);
        }
    }

    #[test]
    fn the_first_lane_of_the_mask_is_elected(mask in mask()) {
        let body = "@%p0 elect.sync %r4|%p1, %r3; selp.u32 %r5, 1, 0, %p1; @%p0 activemask.b32 %r6;";
        let out = run(body, &with_mask(vec![[0; 4]; 32], mask)).unwrap();
        let leader = mask.trailing_zeros();
        for lane in lanes(mask) {
            prop_assert_eq!(&out[lane][..3], &[leader, u32::from(lane as u32 == leader), mask]);
        }
    }

    #[test]
    fn lanes_that_come_one_group_after_another_exchange_all_the_same(words in words(), split in 1..32u32) {
        // Some lanes go through a loop before they come to the shuffle.
        let body = format!("
            setp.ge.u32 %p1, %r8, {split};
            @%p1 bra SHUFFLE;
            mov.u32 %r10, 0;
            LOOP: add.u32 %r10, %r10, 1;
            setp.lt.u32 %p2, %r10, %r8;
            @%p2 bra LOOP;
            SHUFFLE: shfl.sync.bfly.b32 %r4, %r0, 31, 31, -1;");
        let out = run(&body, &words).unwrap();
        for lane in 0..32 {
            prop_assert_eq!(out[lane][0], words[31 - lane][0]);
        }
    }
}

#[test]
fn halves_of_a_warp_that_name_their_own_masks_exchange_within_themselves() {
    let words: Vec<Words> =
        (0..32).map(|it| [it, 0, 0, if it < 16 { 0xFFFF } else { 0xFFFF_0000 }]).collect();
    let body = "redux.sync.add.u32 %r4, %r0, %r3; shfl.sync.idx.b32 %r5, %r0, 3, 0x100F, %r3;";
    let out = run(body, &words).unwrap();
    assert_eq!((out[0][0], out[31][0]), ((0..16).sum(), (16..32).sum()));
    assert_eq!((out[0][1], out[31][1]), (3, 19));
}

/// The half that is complete must not wait for the other, which waits for it.
#[test]
fn a_half_of_a_warp_that_is_complete_goes_on_while_the_other_half_is_not() {
    let words: Vec<Words> =
        (0..32).map(|it| [it, 0, 0, if it < 16 { 0xFFFF } else { 0xFFFF_0000 }]).collect();
    let body = "
        bar.sync 0;
        setp.eq.u32 %p1, %r8, 31;
        @!%p1 bra SHUFFLE;
        SPIN: ld.acquire.gpu.global.u32 %r10, [%rd1 + 500];
        setp.eq.u32 %p2, %r10, 0;
        @%p2 bra SPIN;
        SHUFFLE: redux.sync.add.u32 %r4, %r0, %r3;
        setp.ne.u32 %p3, %r8, 0;
        mov.u32 %r11, 1;
        @!%p3 st.release.gpu.global.u32 [%rd1 + 500], %r11;";
    let out = run(body, &words).unwrap();
    assert_eq!((out[5][0], out[31][0]), ((0..16).sum(), (16..32).sum()));
}

#[test]
fn lanes_that_waited_elsewhere_join_those_that_wait_at_the_shuffle() {
    // Lane 0 of the first warp and all but lane 0 of the second meet at a barrier, while the others are at the shuffle.
    let body = "
        and.b32 %r9, %r8, 31;
        setp.eq.u32 %p1, %r9, 0;
        setp.lt.u32 %p2, %r8, 32;
        xor.pred %p3, %p1, %p2;
        @%p3 bra SHUFFLE;
        barrier.sync 1, 32;
        SHUFFLE: add.u32 %r0, %r0, 1;
        shfl.sync.idx.b32 %r4, %r0, 0, 31, -1;";
    let words: Vec<Words> = (0..64).map(|it| [it + 7, 0, 0, 0]).collect();
    let out = run(body, &words).unwrap();
    assert!(out[..32].iter().all(|it| it[0] == 8) && out[32..].iter().all(|it| it[0] == 40));
}

#[test]
fn lanes_that_have_exited_are_not_waited_for() {
    let body = "
        setp.ge.u32 %p1, %r8, 20;
        @%p1 exit;
        redux.sync.add.u32 %r4, %r0, -1;
        vote.sync.ballot.b32 %r5, 1, -1;
        match.any.sync.b32 %r6, %r3, -1;
        vote.sync.all.pred %p2, %p0, -1;
        selp.u32 %r7, 1, 0, %p2;";
    let out = run(body, &with_mask(vec![[1, 0, 0, 0]; 32], u32::MAX)).unwrap();
    assert_eq!(out[3], [20, 0xF_FFFF, 0xF_FFFF, 1]);
}

#[test]
fn a_warp_that_lacks_lanes_does_not_wait_for_them() {
    let out = run("vote.sync.ballot.b32 %r4, 1, -1;", &[[0; 4]; 5]).unwrap();
    assert_eq!(out[4][0], 0b11111);
}

fn synchronisation(fault: &Fault) -> &str {
    match &fault.problem {
        Problem::Synchronisation(what) => what,
        other => panic!("{other}"),
    }
}

#[test]
fn a_lane_that_its_mask_lacks_is_found() {
    for instruction in [
        "shfl.sync.bfly.b32 %r4, %r0, 1, 31, 0x7FFFFFFF;",
        "vote.sync.any.pred %p1, %p0, 0x7FFFFFFF;",
        "match.any.sync.b32 %r4, %r0, 0x7FFFFFFF;",
        "redux.sync.add.u32 %r4, %r0, 0x7FFFFFFF;",
        "elect.sync _|%p1, 0x7FFFFFFF;",
    ] {
        let fault = run(instruction, &[[0; 4]; 32]).unwrap_err();
        assert!(synchronisation(&fault).contains("lacks"), "{fault}");
        assert_eq!(fault.place.unwrap().lane, 31);
        run(&instruction.replace("0x7FFFFFFF", "-1"), &[[0; 4]; 32]).unwrap();
    }
}

#[test]
fn lanes_of_one_mask_that_name_different_masks_are_found() {
    let words: Vec<Words> = (0..32).map(|it| [0, 0, 0, if it == 9 { 0xFFFF } else { u32::MAX }]).collect();
    let fault = run("redux.sync.add.u32 %r4, %r0, %r3;", &words).unwrap_err();
    assert!(synchronisation(&fault).contains("different masks"), "{fault}");
}

#[test]
fn a_lane_of_the_mask_that_never_comes_is_a_deadlock() {
    let body = |mask: &str| {
        format!(
            "
        setp.eq.u32 %p1, %r8, 7;
        @%p1 bra AWAY;
        shfl.sync.bfly.b32 %r4, %r0, 8, 31, {mask};
        AWAY: bar.warp.sync -1;"
        )
    };
    let fault = run(&body("-1"), &[[0; 4]; 32]).unwrap_err();
    let Problem::Deadlock(waits) = &fault.problem else { panic!("{fault}") };
    assert!(waits.iter().any(|it| it.contains("0x00000080") && it.contains("shfl.sync")), "{waits:?}");
    // Lane 15 reads from lane 7, which must not be in the mask, and so stays away too.
    let mended = body("0xFFFF7F7F").replace(
        "setp.eq.u32 %p1, %r8, 7;",
        "and.b32 %r9, %r8, 0xFFFFFFF7;
        setp.eq.u32 %p1, %r9, 7;",
    );
    run(&mended, &[[0; 4]; 32]).unwrap();
}

#[test]
fn reading_from_a_lane_that_takes_no_part_is_found_or_gives_all_ones() {
    let words = with_mask(vec![[5; 4]; 32], 0xFFFF);
    let body = "@%p0 shfl.sync.down.b32 %r4, %r0, 8, 31, %r3;";
    let fault = run(body, &words).unwrap_err();
    assert!(synchronisation(&fault).contains("lane 16"), "{fault}");
    assert_eq!(fault.place.unwrap().lane, 8);
    let unchecked = run_on(&gpu(Checks::NONE), body, &words).unwrap();
    assert_eq!((unchecked[7][0], unchecked[8][0]), (5, u32::MAX));
    let within = "@%p0 shfl.sync.down.b32 %r4, %r0, 8, 15, %r3;";
    assert_eq!(run(within, &words).unwrap()[8][0], 5);
}

#[test]
fn what_is_not_in_the_isa_is_refused_when_the_module_is_loaded() {
    for (instruction, why) in [
        ("shfl.bfly.b32 %r4, %r0, 1, 31;", "without .sync"),
        ("vote.any.pred %p1, %p0;", "without .sync"),
        ("shfl.sync.left.b32 %r4, %r0, 1, 31, -1;", ".left"),
        ("shfl.sync.bfly.b64 %rd1, %rd0, 1, 31, -1;", ".b64"),
        ("shfl.sync.bfly.b32.x %r4, %r0, 1, 31, -1;", ".x"),
        ("vote.sync.ballot.pred %p1, %p0, -1;", ".pred"),
        ("match.any.sync.b32 %r4|%p1, %r0, -1;", "no predicate"),
        ("match.some.sync.b32 %r4, %r0, -1;", ".some"),
        ("redux.sync.and.u32 %r4, %r0, -1;", ".and"),
        ("redux.sync.add.f32 %r4, %r0, -1;", ".add"),
        ("redux.sync.min.abs.s32 %r4, %r0, -1;", ".abs"),
        ("elect.sync %r4, -1;", "operands"),
        ("activemask.b64 %rd0;", ".b64"),
    ] {
        let error = Module::from_ptx(&gpu(Checks::ALL), &kernel(instruction)).err().unwrap();
        assert!(matches!(error, LoadError::Unsupported(_)), "{instruction}: {error}");
        assert!(error.to_string().contains(why), "{instruction}: {error}");
    }
}
