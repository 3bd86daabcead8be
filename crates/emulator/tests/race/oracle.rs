//! Races in drawn programs, against an oracle that draws the graph of what is ordered before what.

use super::common::Run;
use longhand_emulator::{Checks, Fault, Location, Options, Problem, Shape};
use proptest::prelude::*;

const WARPS: u32 = 3;
/// Lanes of a warp that do something.
const LANES: u32 = 4;
/// Threads of a block that do something, by their numbers.
const THREADS: u32 = WARPS * LANES;
/// Bytes that threads access, in shared and in global memory.
const BYTES: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    StrongRead,
    StrongWrite,
    Atomic,
}

#[derive(Clone, Debug)]
enum Step {
    /// The threads of a set access `bytes` at `base + stride * thread`, modulo the bytes there are.
    Access {
        threads: u32,
        access: Access,
        global: bool,
        bytes: u32,
        base: u32,
        stride: u32,
        same_value: bool,
    },
    /// The lanes of a set, which is the same in each warp.
    WarpBarrier { lanes: u32 },
    /// Warps of one set arrive, and those of another wait.
    Barrier { arrive: u32, wait: u32 },
}

fn access() -> impl Strategy<Value = Step> {
    let kinds = [Access::Read, Access::Write, Access::StrongRead, Access::StrongWrite, Access::Atomic];
    let kind = prop::sample::select(kinds.to_vec());
    let threads = prop_oneof![1u32..1 << THREADS, (0..THREADS).prop_map(|thread| 1 << thread)];
    (threads, kind, any::<bool>(), prop::sample::select(vec![1u32, 2, 4]), 0..BYTES, 0..3u32, any::<bool>())
        .prop_map(|(threads, access, global, bytes, base, stride, same_value)| {
            let bytes = if access == Access::Atomic { 4 } else { bytes };
            let base = base / bytes * bytes;
            Step::Access { threads, access, global, bytes, base, stride: stride * bytes, same_value }
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => access(),
        1 => (1u32..1 << LANES).prop_map(|lanes| Step::WarpBarrier { lanes }),
        1 => (0u32..1 << WARPS, 1u32..1 << WARPS)
            .prop_map(|(arrive, wait)| Step::Barrier { arrive: arrive & !wait, wait }),
        1 => Just(Step::Barrier { arrive: 0, wait: (1 << WARPS) - 1 }),
    ]
}

/// One thread's part in a step.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Event {
    block: u32,
    thread: u32,
    step: usize,
}

struct Oracle<'a> {
    steps: &'a [Step],
}

impl Oracle<'_> {
    /// Bytes that a thread accesses in a step.
    fn bytes(&self, event: Event) -> Option<(bool, std::ops::Range<u32>)> {
        match self.steps[event.step] {
            Step::Access { threads, global, bytes, base, stride, .. } if threads >> event.thread & 1 == 1 => {
                let start = (base + stride * event.thread) % BYTES;
                Some((global, start..start + bytes))
            }
            _ => None,
        }
    }

    /// Whether two threads' parts of steps conflict, whatever orders them.
    fn conflict(&self, a: Event, b: Event) -> bool {
        let (Some((global, x)), Some((other, y))) = (self.bytes(a), self.bytes(b)) else { return false };
        let (Step::Access { access: first, same_value, .. }, Step::Access { access: second, .. }) =
            (&self.steps[a.step], &self.steps[b.step])
        else {
            return false;
        };
        let overlap = x.start < y.end && y.start < x.end;
        let reads = |it: &Access| matches!(it, Access::Read | Access::StrongRead);
        let strong = |it: &Access| matches!(it, Access::StrongRead | Access::StrongWrite | Access::Atomic);
        let one_instruction = a.step == b.step && a.block == b.block && a.thread / LANES == b.thread / LANES;
        global == other
            && (global || a.block == b.block)
            && overlap
            && (a.block, a.thread) != (b.block, b.thread)
            && !(reads(first) && reads(second))
            && !(strong(first) && strong(second))
            && !(one_instruction && *same_value)
    }

    /// Whether one is ordered before the other.
    fn ordered(&self, a: Event, b: Event) -> bool {
        if a.block != b.block {
            return false;
        }
        // All that is reached from `a`: for each thread, from which step on.
        let mut from = vec![usize::MAX; THREADS as usize];
        from[a.thread as usize] = a.step;
        for step in a.step..self.steps.len() {
            let reached = |thread: u32, from: &[usize]| from[thread as usize] <= step;
            match self.steps[step] {
                Step::Access { .. } => {}
                Step::WarpBarrier { lanes } => {
                    for warp in 0..WARPS {
                        let members: Vec<u32> = (0..LANES)
                            .filter(|lane| lanes >> lane & 1 == 1)
                            .map(|lane| warp * LANES + lane)
                            .collect();
                        if members.iter().any(|thread| reached(*thread, &from)) {
                            for thread in members {
                                from[thread as usize] = from[thread as usize].min(step + 1);
                            }
                        }
                    }
                }
                Step::Barrier { arrive, wait } => {
                    let of = |set: u32| (0..THREADS).filter(move |thread| set >> (thread / LANES) & 1 == 1);
                    if of(arrive | wait).any(|thread| reached(thread, &from)) {
                        for thread in of(wait) {
                            from[thread as usize] = from[thread as usize].min(step + 1);
                        }
                    }
                }
            }
        }
        from[b.thread as usize] <= b.step
    }

    fn races(&self, a: Event, b: Event) -> bool {
        self.conflict(a, b) && !self.ordered(a, b) && !self.ordered(b, a)
    }

    fn any_race(&self, blocks: u32) -> bool {
        let steps = self.steps.len();
        let events: Vec<Event> = (0..blocks)
            .flat_map(|block| (0..THREADS).map(move |thread| (block, thread)))
            .flat_map(|(block, thread)| (0..steps).map(move |step| Event { block, thread, step }))
            .collect();
        events.iter().enumerate().any(|(i, a)| events[i..].iter().any(|b| self.races(*a, *b)))
    }
}

/// The text of a step, on one line.
fn text(number: usize, step: &Step) -> String {
    match *step {
        Step::Access { threads, access, global, bytes, base, stride, same_value } => {
            let space = if global { "global" } else { "shared" };
            let value = if same_value { "%one" } else { "%v" };
            let half = if same_value { "%hone" } else { "%hv" };
            let value = if bytes < 4 { half } else { value };
            let result = if bytes < 4 { "%h" } else { "%r" };
            let bits = 8 * bytes;
            let act = match access {
                Access::Read => format!("ld.{space}.u{bits} {result}, [%a]"),
                Access::StrongRead => format!("ld.volatile.{space}.u{bits} {result}, [%a]"),
                Access::Write => format!("st.{space}.u{bits} [%a], {value}"),
                Access::StrongWrite => format!("st.volatile.{space}.u{bits} [%a], {value}"),
                Access::Atomic => format!("red.{space}.add.u32 [%a], {value}"),
            };
            let start = if global { "%out" } else { "%shared" };
            format!(
                "mov.u32 %x, {threads}; shr.u32 %x, %x, %n; and.b32 %x, %x, 1; setp.ne.u32 %p, %x, 0; \
                 and.pred %p, %p, %actor; mad.lo.u32 %x, %n, {stride}, {base}; and.b32 %x, %x, {}; \
                 mul.wide.u32 %a, %x, 1; add.s64 %a, %a, {start}; @%p {act};",
                BYTES - 1
            )
        }
        // The lanes that do nothing else stay away.
        Step::WarpBarrier { lanes } => format!(
            "mov.u32 %x, {lanes}; shr.u32 %x, %x, %lane; and.b32 %x, %x, 1; setp.ne.u32 %p, %x, 0; \
             @%p bar.warp.sync {lanes};"
        ),
        Step::Barrier { arrive, wait } => {
            let count = 32 * (arrive | wait).count_ones();
            let id = number + 1;
            format!(
                "mov.u32 %x, {arrive}; shr.u32 %x, %x, %w; and.b32 %x, %x, 1; setp.ne.u32 %p, %x, 0; \
                 @%p bar.arrive {id}, {count}; \
                 mov.u32 %x, {wait}; shr.u32 %x, %x, %w; and.b32 %x, %x, 1; setp.ne.u32 %p, %x, 0; \
                 @%p bar.sync {id}, {count};"
            )
        }
    }
}

/// The line of the first step.
const FIRST_LINE: u32 = 26;

fn program(steps: &[Step]) -> String {
    let mut barriers = 0;
    let steps: Vec<String> = steps
        .iter()
        .map(|step| {
            let text = text(barriers, step);
            barriers += usize::from(matches!(step, Step::Barrier { .. }));
            text
        })
        .collect();
    let text = format!(
        ".version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 out) {{
.reg .pred %p, %actor;
.reg .b16 %h, %hv, %hone;
.reg .b32 %r, %t, %n, %x, %lane, %w, %v, %one;
.reg .b64 %a, %out, %shared;
.shared .align 16 .b32 s[32];
ld.param.u64 %out, [out];
mov.u32 %t, %tid.x;
and.b32 %lane, %t, 31;
shr.u32 %w, %t, 5;
mad.lo.u32 %n, %w, {LANES}, %lane;
setp.lt.u32 %actor, %lane, {LANES};
mov.b32 {{%hv, %h}}, %n;
mov.u16 %hone, 1;
mov.u32 %v, %n;
mov.u32 %one, 1;
mul.wide.u32 %shared, %lane, 4;
add.s64 %shared, %shared, s;
setp.eq.u32 %p, %w, 0;
@%p st.shared.u32 [%shared], %v;
mov.u64 %shared, s;
bar.sync 0;
{}
}}",
        steps.join("\n")
    );
    assert_eq!(text.lines().nth(FIRST_LINE as usize - 1), steps.first().map(String::as_str));
    text
}

fn run(text: &str, blocks: u32, threads: usize) -> Result<(), Fault> {
    let options = Options { threads, checks: Checks::ALL, ..Options::default() };
    let shape = Shape { grid: [blocks, 1, 1], block: [32 * WARPS, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    Run { options, shape, ..Run::default() }.launch(text, &mut [vec![0; 16]]).map(drop)
}

fn event(place: &Location) -> Event {
    let step = (place.line - FIRST_LINE) as usize;
    Event { block: place.block[0], thread: place.warp * LANES + place.lane, step }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A race is found if and only if there is one, and the two accesses that are told race; whatever the number of CPU
    /// threads.
    #[test]
    fn the_verdict_is_that_of_the_graph(steps in prop::collection::vec(step(), 1..14), blocks in 1u32..3) {
        let text = program(&steps);
        let oracle = Oracle { steps: &steps };
        let result = run(&text, blocks, 1);
        match &result {
            Ok(()) => prop_assert!(!oracle.any_race(blocks), "a race was not found in\n{text}"),
            Err(Fault { problem: Problem::Race { earlier, .. }, place: Some(place), .. }) => {
                prop_assert!(oracle.races(event(earlier), event(place)), "no race: {:?} in\n{text}", result);
            }
            Err(fault) => prop_assert!(false, "{fault}\n{text}"),
        }
        for threads in [2, 5] {
            prop_assert_eq!(&run(&text, blocks, threads), &result);
        }
    }
}
