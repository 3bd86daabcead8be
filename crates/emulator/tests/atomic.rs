//! Atomic operations and reductions, against lanes that act one after another in a plain loop.

use half::{bf16, f16};
use longhand_emulator::{Arch, Fault, Gpu, LoadError, Module, Options, Problem, Report, Shape};
use proptest::prelude::*;

/// Cells that the lanes act on.
const CELLS: usize = 4;

/// What each lane brings: operands, and the cell it acts on.
#[derive(Clone, Copy, Debug)]
struct Lane {
    b: u128,
    c: u128,
    cell: usize,
}

/// The operations of one type that the ISA has, each on single values and on vectors of so many.
const FORMS: &[(&str, &str, &[u32])] = &[
    ("and", "b32", &[1]),
    ("or", "b32", &[1]),
    ("xor", "b32", &[1]),
    ("exch", "b32", &[1]),
    ("cas", "b32", &[1]),
    ("and", "b64", &[1]),
    ("or", "b64", &[1]),
    ("xor", "b64", &[1]),
    ("exch", "b64", &[1]),
    ("cas", "b64", &[1]),
    ("cas", "b16", &[1]),
    ("exch", "b128", &[1]),
    ("cas", "b128", &[1]),
    ("add", "u32", &[1]),
    ("inc", "u32", &[1]),
    ("dec", "u32", &[1]),
    ("min", "u32", &[1]),
    ("max", "u32", &[1]),
    ("add", "s32", &[1]),
    ("min", "s32", &[1]),
    ("max", "s32", &[1]),
    ("add", "u64", &[1]),
    ("min", "u64", &[1]),
    ("max", "u64", &[1]),
    ("add", "s64", &[1]),
    ("min", "s64", &[1]),
    ("max", "s64", &[1]),
    ("add", "f32", &[1, 2, 4]),
    ("add", "f64", &[1]),
    ("add", "f16", &[1, 2, 4, 8]),
    ("min", "f16", &[2, 4, 8]),
    ("max", "f16", &[2, 4, 8]),
    ("add", "bf16", &[1, 2, 4, 8]),
    ("min", "bf16", &[2, 4, 8]),
    ("max", "bf16", &[2, 4, 8]),
    ("add", "f16x2", &[1, 2, 4]),
    ("min", "f16x2", &[2, 4]),
    ("max", "f16x2", &[2, 4]),
    ("add", "bf16x2", &[1, 2, 4]),
    ("min", "bf16x2", &[2, 4]),
    ("max", "bf16x2", &[2, 4]),
];

/// Bits of a value.
fn bits(ty: &str) -> u32 {
    match ty {
        "f16x2" | "bf16x2" => 32,
        _ => ty.trim_start_matches(char::is_alphabetic).parse().unwrap(),
    }
}

fn low(bits: u32) -> u128 {
    u128::MAX >> (128 - bits)
}

/// The value after an operation on one value that is no vector and not packed.
fn apply(operation: &str, ty: &str, in_global: bool, a: u128, b: u128, c: u128) -> u128 {
    let flush = |x: f32| if in_global && x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    let numbers = |max: bool, a: f32, b: f32| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if max == a.total_cmp(&b).is_gt() => a,
        _ => b,
    };
    let new = match (operation, ty) {
        ("and", _) => a & b,
        ("or", _) => a | b,
        ("xor", _) => a ^ b,
        ("exch", _) => b,
        ("cas", _) => return if a == b { c } else { a },
        ("inc", _) => {
            if a >= b {
                0
            } else {
                a + 1
            }
        }
        ("dec", _) => {
            if a == 0 || a > b {
                b
            } else {
                a - 1
            }
        }
        ("add", "f32") => {
            let (a, b) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
            flush(flush(a) + flush(b)).to_bits().into()
        }
        ("add", "f64") => (f64::from_bits(a as u64) + f64::from_bits(b as u64)).to_bits().into(),
        ("add", "f16") => (f16::from_bits(a as u16) + f16::from_bits(b as u16)).to_bits().into(),
        ("add", "bf16") => (bf16::from_bits(a as u16) + bf16::from_bits(b as u16)).to_bits().into(),
        (_, "f16") => {
            let (a, b) = (f16::from_bits(a as u16).to_f32(), f16::from_bits(b as u16).to_f32());
            f16::from_f32(numbers(operation == "max", a, b)).to_bits().into()
        }
        (_, "bf16") => {
            let (a, b) = (bf16::from_bits(a as u16).to_f32(), bf16::from_bits(b as u16).to_f32());
            bf16::from_f32(numbers(operation == "max", a, b)).to_bits().into()
        }
        ("add", _) => a.wrapping_add(b),
        (_, "s32" | "s64") => {
            let shift = 128 - bits(ty);
            let (a, b) = ((a << shift) as i128, (b << shift) as i128);
            (if operation == "max" { a.max(b) } else { a.min(b) }) as u128 >> shift
        }
        ("max", _) => a.max(b),
        _ => a.min(b),
    };
    new & low(bits(ty))
}

/// The value after an operation on a vector of values, which lie side by side.
fn apply_all(operation: &str, ty: &str, count: u32, in_global: bool, [a, b, c]: [u128; 3]) -> u128 {
    let (element, count) = match ty.strip_suffix("x2") {
        Some(element) => (element, 2 * count),
        None => (ty, count),
    };
    let size = bits(element);
    (0..count).map(|i| i * size).fold(0, |new, shift| {
        let [a, b, c] = [a, b, c].map(|it| it >> shift & low(size));
        new | apply(operation, element, in_global, a, b, c) << shift
    })
}

/// The same bits, but that any NaN is as good as another.
fn same(ty: &str, found: u128, expected: u128) -> bool {
    let element = ty.trim_end_matches("x2");
    let size = bits(element);
    let is_nan = |value: u128| match element {
        "f16" => f16::from_bits(value as u16).is_nan(),
        "bf16" => bf16::from_bits(value as u16).is_nan(),
        "f32" => f32::from_bits(value as u32).is_nan(),
        "f64" => f64::from_bits(value as u64).is_nan(),
        _ => false,
    };
    (0..128).step_by(size as usize).all(|shift| {
        let [found, expected] = [found, expected].map(|it| it >> shift & low(size));
        found == expected || is_nan(found) && is_nan(expected)
    })
}

/// A kernel in which each lane loads `%b*`, `%c*` and the cell's number, executes the instruction on `[%cell]`, and
/// stores `%d*`. `data` holds 64 bytes for each lane, and then the cells. With `shared` the cells are in shared memory.
fn kernel(instruction: &str, bits: u32, count: u32, shared: bool) -> String {
    let each =
        |text: &dyn Fn(u32, u32) -> String| (0..count).map(|i| text(i, i * bits / 8)).collect::<String>();
    let load = |name: &str, at: u32| {
        each(&|i, byte| format!("ld.global.b{bits} %{name}{i}, [%mine+{}];\n", at + byte))
    };
    let store = each(&|i, byte| format!("st.global.b{bits} [%mine+{}], %d{i};\n", 32 + byte));
    let (before, cell, after) = if shared {
        let copy = |from: &str, to: &str| {
            format!(
                "
            setp.lt.u32 %p1, %r0, {CELLS};
            mul.wide.u32 %rd3, %r0, 16;
            add.u64 %rd4, %cells, %rd3;
            mov.u32 %r3, room;
            mad.lo.u32 %r3, %r0, 16, %r3;
            @%p1 ld.{from}.v4.u32 {{%r4, %r5, %r6, %r7}}, [{}];
            @%p1 st.{to}.v4.u32 [{}], {{%r4, %r5, %r6, %r7}};
            bar.sync 0;",
                if from == "shared" { "%r3" } else { "%rd4" },
                if to == "shared" { "%r3" } else { "%rd4" },
            )
        };
        (
            copy("global", "shared"),
            "mov.u32 %r8, room; mad.lo.u32 %cell, %r2, 16, %r8;",
            format!("bar.sync 0; {}", copy("shared", "global")),
        )
    } else {
        (String::new(), "mad.wide.u32 %cell, %r2, 16, %cells;", String::new())
    };
    format!(
        "
.version 8.6
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 data)
{{
.shared .align 16 .b8 room[{}];
.reg .pred %p<8>;
.reg .b32 %r<32>;
.reg .b64 %rd<8>;
.reg .b{} %cell;
.reg .b64 %mine, %cells;
.reg .b{bits} %b<8>, %c<8>, %d<8>;
mov.u32 %r0, %tid.x;
mov.u32 %r1, %ntid.x;
ld.param.u64 %rd1, [data];
mad.wide.u32 %mine, %r0, 64, %rd1;
mad.wide.u32 %cells, %r1, 64, %rd1;
{before}
ld.global.u32 %r2, [%mine+48];
{cell}
{}{}
{instruction}
{store}
{after}
}}",
        16 * CELLS,
        if shared { 32 } else { 64 },
        load("b", 0),
        load("c", 16),
    )
}

fn gpu() -> Gpu {
    let options = Options { instruction_limit: 1 << 24, ..Options::default() };
    Gpu::with_options("sm_100a".parse::<Arch>().unwrap(), options)
}

/// What the lanes got, the cells afterwards, and the counts.
fn run(
    text: &str,
    lanes: &[Lane],
    cells: [u128; CELLS],
) -> Result<(Vec<u128>, [u128; CELLS], Report), Fault> {
    let gpu = gpu();
    let module = Module::from_ptx(&gpu, text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let words = lanes.iter().flat_map(|it| [it.b, it.c, 0, it.cell as u128]).chain(cells);
    let mut bytes: Vec<u8> = words.flat_map(u128::to_le_bytes).collect();
    let data = gpu.alloc(bytes.len() as u64).unwrap();
    gpu.upload(data, &bytes).unwrap();
    let shape = Shape { grid: [1; 3], block: [lanes.len() as u32, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    let report = module.launch("k", &shape, &data.to_le_bytes())?;
    gpu.download(data, &mut bytes).unwrap();
    let words: Vec<u128> = bytes.chunks(16).map(|it| u128::from_le_bytes(it.try_into().unwrap())).collect();
    let (lanes, cells) = words.split_at(words.len() - CELLS);
    Ok((lanes.iter().skip(2).step_by(4).copied().collect(), cells.try_into().unwrap(), report))
}

/// The instruction of a form, `%d*` left out for `red`.
fn instruction(name: &str, space: &str, (operation, ty, count): (&str, &str, u32)) -> String {
    let noftz = if ty.contains("f16") { ".noftz" } else { "" };
    let vector = if count > 1 { format!(".v{count}") } else { String::new() };
    let registers = |letter: &str| {
        let all = (0..count).map(|i| format!("%{letter}{i}")).collect::<Vec<_>>().join(", ");
        if count > 1 { format!("{{{all}}}") } else { all }
    };
    let (d, c) = (registers("d"), registers("c"));
    let d = if name == "atom" { format!("{d}, ") } else { String::new() };
    let c = if operation == "cas" { format!(", {c}") } else { String::new() };
    format!("{name}{space}.{operation}{noftz}{vector}.{ty} {d}[%cell], {}{c};", registers("b"))
}

/// Bits among which there are equal ones, zeros, infinities, NaNs and subnormals of every type.
fn value() -> impl Strategy<Value = u128> {
    let special =
        [0u16, 0x8000, 1, 0x8001, 0x3C00, 0xBC00, 0x3F80, 0x7C00, 0x7F80, 0xFF80, 0x7FFF, 0x7BFF, 5];
    let half = prop_oneof![prop::sample::select(special.to_vec()), any::<u16>()];
    let halves = prop::array::uniform8(half)
        .prop_map(|it| it.iter().fold(0u128, |all, it| all << 16 | u128::from(*it)));
    prop_oneof![halves, (0..4u128), Just(u128::MAX), Just(0x0040_0000), Just(0x8040_0000_0080_0000)]
}

fn lanes() -> impl Strategy<Value = Vec<Lane>> {
    let lane = (value(), value(), 0..CELLS).prop_map(|(b, c, cell)| Lane { b, c, cell });
    prop::collection::vec(lane, CELLS..=32)
}

fn forms() -> impl Strategy<Value = (&'static str, &'static str, u32)> {
    let all = FORMS.iter().flat_map(|(operation, ty, counts)| counts.iter().map(|it| (*operation, *ty, *it)));
    prop::sample::select(all.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_form_does_in_each_space_what_lanes_one_after_another_do(
        form in forms(),
        lanes in lanes(),
        mut cells in prop::array::uniform4(value()),
        space in prop::sample::select(vec!["", ".global", ".shared", ".shared::cta", ".shared::cluster"]),
        reduce: bool,
        swap in 0..CELLS,
    ) {
        let (operation, ty, count) = form;
        let shared = space.starts_with(".shared");
        prop_assume!(!(shared && count > 1));
        let reduce = reduce && !matches!(operation, "cas" | "exch");
        // Comparisons that hold now and then.
        cells[swap] = lanes[0].b;
        let (size, width) = (bits(ty), bits(ty) * count);
        let name = if reduce { "red" } else { "atom" };
        let mut text = kernel(&instruction(name, space, form), size, count, shared);
        if reduce {
            text = text.replace("st.global.b", "// st.global.b");
        }
        let (got, after, report) = run(&text, &lanes, cells).unwrap();
        for (lane, got) in lanes.iter().zip(got) {
            let old = cells[lane.cell] & low(width);
            prop_assert!(reduce || same(ty, got & low(width), old), "{:?} got {:#x}, not {:#x}", form, got, old);
            let new = apply_all(operation, ty, count, !shared, [old, lane.b & low(width), lane.c & low(width)]);
            cells[lane.cell] = cells[lane.cell] & !low(width) | new;
        }
        for (after, expected) in after.into_iter().zip(cells) {
            prop_assert!(same(ty, after, expected), "{:?} left {:#x}, not {:#x}", form, after, expected);
        }
        prop_assert_eq!(report.total.atomics, lanes.len() as u64);
    }
}

fn plain(b: u128) -> Vec<Lane> {
    vec![Lane { b, c: 0, cell: 0 }; 32]
}

#[test]
fn modifiers_may_stand_in_any_order_and_all_semantics_and_scopes_are_taken() {
    for text in [
        "atom.global.add.u32 %d0, [%cell], %b0;",
        "atom.add.global.u32 %d0, [%cell], %b0;",
        "atom.relaxed.gpu.global.add.u32 %d0, [%cell], %b0;",
        "atom.global.acquire.sys.add.u32 %d0, [%cell], %b0;",
        "atom.global.release.cluster.add.u32 %d0, [%cell], %b0;",
        "atom.acq_rel.cta.global.add.u32 %d0, [%cell], %b0;",
        "atom.global.add.L2::cache_hint.u32 %d0, [%cell], %b0, %rd1;",
        "mov.u32 %d0, 0; red.global.add.u32 [%cell], %b0;",
        "mov.u32 %d0, 0; red.release.gpu.global.add.u32 [%cell], %b0;",
        "mov.u32 %d0, 0; atom.global.add.u32 _, [%cell], 3;",
        "mov.u32 %d0, 0; red.add.L2::cache_hint.u32 [%cell], 3, %rd1;",
    ] {
        let (_, cells, _) = run(&kernel(text, 32, 1, false), &plain(3), [4; CELLS]).unwrap();
        assert_eq!(cells[0], 4 + 3 * 32, "{text}");
    }
}

#[test]
fn sums_in_shared_memory_keep_subnormals_and_those_in_global_memory_flush_them() {
    let tiny = u128::from(f32::MIN_POSITIVE.to_bits() / 2);
    let add = "mov.u32 %d0, 0; red{}.add.f32 [%cell], %b0;";
    let sum = |space: &str, shared| {
        run(&kernel(&add.replace("{}", space), 32, 1, shared), &plain(tiny), [0; CELLS]).unwrap().1[0] as u32
    };
    assert_eq!(f32::from_bits(sum(".shared", true)), 16.0 * f32::MIN_POSITIVE);
    assert_eq!(sum(".global", false), 0);
    assert_eq!(sum("", false), 0);
    let generic = kernel(
        "mov.u32 %d0, 0; mul.wide.u32 %rd5, %cell, 1; cvta.shared.u64 %rd5, %rd5; red.add.f32 [%rd5], %b0;",
        32,
        1,
        true,
    );
    let sum = run(&generic, &plain(tiny), [0; CELLS]).unwrap().1[0] as u32;
    assert_eq!(f32::from_bits(sum), 16.0 * f32::MIN_POSITIVE);
}

#[test]
fn blocks_and_warps_lose_none_of_each_others_sums() {
    let text = "
.version 8.6
.target sm_90
.address_size 64
.visible .entry k(.param .u64 data)
{
.reg .b64 %rd<4>;
.reg .b32 %r<4>;
ld.param.u64 %rd1, [data];
red.global.add.u64 [%rd1], 1;
atom.global.inc.u32 %r1, [%rd1+8], 0xFFFFFFFF;
}";
    let gpu =
        Gpu::with_options("sm_90".parse::<Arch>().unwrap(), Options { threads: 4, ..Options::default() });
    let data = gpu.alloc(16).unwrap();
    gpu.fill(data, 0, 16).unwrap();
    let shape = Shape { grid: [7, 3, 2], block: [70, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    Module::from_ptx(&gpu, text).unwrap().launch("k", &shape, &data.to_le_bytes()).unwrap();
    let mut sums = [0; 16];
    gpu.download(data, &mut sums).unwrap();
    assert_eq!(u64::from_le_bytes(sums[..8].try_into().unwrap()), 7 * 3 * 2 * 70);
    assert_eq!(u64::from_le_bytes(sums[8..].try_into().unwrap()), 7 * 3 * 2 * 70);
}

/// A lock that lanes of one warp take in turn, each with a compare-and-swap in a loop.
fn lock(release: &str) -> String {
    let body = format!(
        "
        SPIN: atom.global.acquire.gpu.cas.b32 %r4, [%cells], 0, 1;
        setp.ne.u32 %p1, %r4, 0;
        @%p1 bra SPIN;
        ld.volatile.global.u32 %r5, [%cells+16];
        add.u32 %r5, %r5, 1;
        st.volatile.global.u32 [%cells+16], %r5;
        {release}
        mov.u32 %d0, 0;"
    );
    kernel(&body, 32, 1, false)
}

#[test]
fn a_lock_that_lanes_of_a_warp_spin_on_is_taken_by_each_of_them() {
    let (_, cells, _) =
        run(&lock("atom.global.release.gpu.exch.b32 %r6, [%cells], 0;"), &plain(0), [0; CELLS]).unwrap();
    assert_eq!(cells[..2], [0, 32]);
}

#[test]
fn a_lock_that_nobody_gives_back_is_a_deadlock() {
    let fault = run(&lock(""), &plain(0), [0; CELLS]).unwrap_err();
    assert!(matches!(fault.problem, Problem::Deadlock(_)), "{fault}");
}

#[test]
fn faults_of_atomic_accesses_are_those_of_plain_ones() {
    let fault = |instruction: &str| {
        run(&kernel(instruction, 32, 1, false), &plain(1), [0; CELLS]).unwrap_err().problem
    };
    let problem = fault("add.u64 %cell, %cell, 2; red.global.add.u32 [%cell], %b0;");
    assert!(matches!(problem, Problem::Misaligned { align: 4, .. }), "{problem}");
    let problem = fault("red.global.add.u32 [%cell+4096], %b0;");
    assert!(matches!(problem, Problem::OutOfBounds { .. }), "{problem}");
    let problem = fault("red.shared.add.u32 [room], %b0;");
    assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
    let problem = fault("mov.u64 %rd5, data; cvta.param.u64 %rd5, %rd5; red.add.u32 [%rd5], %b0;");
    assert!(matches!(problem, Problem::WrongSpace { .. }), "{problem}");
    let vector = "mov.u64 %rd5, room; cvta.shared.u64 %rd5, %rd5; red.add.v2.f32 [%rd5], {%b0, %b0};";
    let problem = fault(vector);
    assert!(matches!(problem, Problem::WrongSpace { .. }), "{problem}");
}

#[test]
fn what_is_not_in_the_isa_is_refused_when_the_module_is_loaded() {
    for (instruction, why) in [
        ("atom.global.add.b32 %d0, [%cell], %b0;", ".add"),
        ("atom.global.and.u32 %d0, [%cell], %b0;", ".and"),
        ("atom.global.inc.s32 %d0, [%cell], %b0;", ".inc"),
        ("atom.global.min.f32 %d0, [%cell], %b0;", ".min"),
        ("atom.global.min.noftz.f16x2 %d0, [%cell], %b0;", ".min"),
        ("atom.global.exch.b16 %d0, [%cell], %b0;", ".exch"),
        ("atom.global.add.f16x2 %d0, [%cell], %b0;", ".noftz must stand"),
        ("atom.global.add.noftz.f32 %d0, [%cell], %b0;", ".noftz must not"),
        ("atom.global.add.v2.u32 {%d0, %d1}, [%cell], {%b0, %b1};", "vector"),
        ("red.shared.add.v2.f32 [%cell], {%b0, %b1};", "vector"),
        ("red.global.add.v8.f32 [%cell], {%b0, %b1, %b2, %b3, %b4, %b5, %b6, %b7};", "vector"),
        ("red.global.add.v2.f32 [%cell], {%b0, %b1, %b2, %b3};", "4 registers"),
        ("red.global.exch.b32 [%cell], %b0;", ".exch"),
        ("red.global.cas.b32 [%cell], %b0, %c0;", ".cas"),
        ("atom.global.cas.b32 %d0, [%cell], %b0;", "operands"),
        ("atom.global.add.u32 %d0, [%cell], %b0, %c0;", "operands"),
        ("atom.global.add.u32 %rd1, [%cell], %b0;", "4 bytes"),
        ("atom.local.add.u32 %d0, [%cell], %b0;", ".local"),
        ("atom.global.u32 %d0, [%cell], %b0;", "no operation"),
        ("atom.global.add %d0, [%cell], %b0;", "no type"),
    ] {
        let error = Module::from_ptx(&gpu(), &kernel(instruction, 32, 1, false)).err().expect(instruction);
        assert!(matches!(error, LoadError::Unsupported(_)), "{instruction}: {error}");
        assert!(error.to_string().contains(why), "{instruction}: {error}");
    }
}
