//! Copies of parts of tensors: each fault planted, and mended.

use longhand_emulator::tensor::tma::{Mode, TensorElement, TensorMap};
use longhand_emulator::tensor::wgmma::Swizzle;
use longhand_emulator::{Checks, Module, Problem};

use super::gpu;
use super::tensor_kernel::*;

#[test]
fn reading_before_the_wait_is_found() {
    let given = Given::new(plain());
    let read = "ld.shared.u32 %r1, [tile];";
    let Problem::Asynchronous(what) = given.problem(&format!("{EXPECT} {} {read} {WAIT}", load(2))) else {
        panic!()
    };
    assert!(what.contains("has not finished writing"), "{what}");
    given.launch(&format!("{EXPECT} {} {WAIT} {read}", load(2)), false).unwrap();
}

#[test]
fn a_box_that_lies_outside_is_all_that_the_phase_waits_for() {
    let given = Given { at: [-40, 0, 0, 0, 0], ..Given::new(plain()) };
    let (out, report) = given.launch(&format!("{EXPECT} {} {WAIT} {SHOW}", load(2)), false).unwrap();
    assert_eq!(out[..1024], [0; 1024]);
    assert_eq!(report.global_unique_bytes_read, 0);
}

#[test]
fn overwriting_the_source_of_a_store_is_found_even_where_it_lies_outside() {
    let given = Given { at: [48, 0, 0, 0, 0], ..Given::new(plain()) };
    let body = |wait: &str| {
        format!("{EXPECT} {FILL} {WAIT} {} @%q cp.async.bulk.commit_group; {wait} @%q st.shared.u32 [tile+124], %t;
            {DONE}", store(2))
    };
    let Problem::Asynchronous(what) = given.problem(&body("")) else { panic!() };
    assert!(what.contains("may still read"), "{what}");
    given.launch(&body("@%q cp.async.bulk.wait_group.read 0;"), false).unwrap();
}

#[test]
fn a_missing_proxy_fence_is_found() {
    let map = TensorMap { mode: Mode::Tiled { box_dims: vec![32, 1] }, ..plain() };
    let given = Given { at: [0, 2, 0, 0, 0], ..Given::new(map) };
    let body = |fence: &str| {
        format!(
            "mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 4, %r1; st.shared.u32 [%r1], %t; {fence} bar.sync 0; {} {DONE}",
            store(2)
        )
    };
    let Problem::Asynchronous(what) = given.problem(&body("")) else { panic!() };
    assert!(what.contains("without fence.proxy.async since"), "{what}");
    let (out, _) = given.launch(&body("fence.proxy.async.shared::cta;"), true).unwrap();
    assert!((0..32).all(|t| out[512 + 4 * t..][..4] == (t as u32).to_le_bytes()));
}

#[test]
fn sectors_are_those_of_the_rows() {
    let given = Given { at: [4, 0, 0, 0, 0], ..Given::new(plain()) };
    let (_, report) = given.launch(&format!("{EXPECT} {} {WAIT}", load(2)), false).unwrap();
    // Each row of 128 bytes starts in the middle of a sector.
    assert_eq!((report.total.global_bytes, report.total.global_sectors), (8 * 128, 8 * 5));
    let map = TensorMap { swizzle: Swizzle::B128, ..plain() };
    let (_, report) = Given::new(map).launch(&format!("{EXPECT} {} {WAIT}", load(2)), false).unwrap();
    assert_eq!((report.total.global_bytes, report.total.global_sectors), (8 * 128, 8 * 4));
}

#[test]
fn a_tensor_that_is_longer_than_its_memory_is_found() {
    let map = TensorMap { dims: vec![64, 1000], ..plain() };
    let at = |row| Given { at: [0, row, 0, 0, 0], ..Given::new(map.clone()) };
    let body = format!("{EXPECT} {} {WAIT}", load(2));
    at(248).launch(&body, false).unwrap();
    let problem = at(249).problem(&body);
    assert!(matches!(problem, Problem::OutOfBounds { .. }), "{problem}");
}

#[test]
fn elements_that_nobody_wrote_are_found() {
    let body = format!("{EXPECT} {} {WAIT}", load(2));
    let mut given = Given::new(plain());
    given.input.truncate(7 * 256 + 128);
    given.launch(&body, false).unwrap();
    given.input.truncate(7 * 256 + 124);
    let problem = given.problem(&body);
    assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
    // Adding to what nobody wrote.
    let mut given = Given::new(plain());
    let body = format!("{EXPECT} {FILL} {WAIT} {} {DONE}", reduce(2, "add"));
    given.launch(&body, true).unwrap();
    given.output.truncate(100);
    let problem = given.launch(&body, true).unwrap_err().problem;
    assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
}

#[test]
fn misused_maps_are_found() {
    let given = Given::new(plain());
    let load = |operands: &str, dims: u32| {
        given.problem(&format!(
            "{EXPECT} @%q cp.async.bulk.tensor.{dims}d.shared::cluster.global.mbarrier::complete_tx::bytes {operands};"
        ))
    };
    let illegal = |problem: Problem, expected: &str| {
        let Problem::Illegal(what) = problem else { panic!("{problem}") };
        assert!(what.contains(expected), "{what}");
    };
    illegal(load("[tile], [%map, {%c0, %c1, %c2}], [bar]", 3), "3 dimensions with a tensor map of 2");
    illegal(load("[tile], [%in, {%c0, %c1}], [bar]", 2), "magic");
    assert!(matches!(
        load("[tile+64], [%map, {%c0, %c1}], [bar]", 2),
        Problem::Misaligned { align: 128, .. }
    ));
    assert!(matches!(load("[tile], [%map+32, {%c0, %c1}], [bar]", 2), Problem::Misaligned { align: 64, .. }));
    assert!(matches!(load("[tile], [%map+192, {%c0, %c1}], [bar]", 2), Problem::OutOfBounds { .. }));
    assert!(matches!(load("[tile+32256], [%map, {%c0, %c1}], [bar]", 2), Problem::OutOfBounds { .. }));
    let shared = "mov.u64 %rd1, tile; cvta.shared.u64 %rd1, %rd1;";
    let copy = "@%q cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1, {%c0, %c1}], [bar];";
    assert!(matches!(given.problem(&format!("{EXPECT} {shared} {copy}")), Problem::WrongSpace { .. }));
    let im2col = "@%q cp.async.bulk.tensor.3d.shared::cta.global.im2col.mbarrier::complete_tx::bytes [tile], [%map, {%c0, %c1, %c2}], [bar], {%o0};";
    let tiled3 = TensorMap {
        dims: vec![64, 4, 5],
        strides: vec![256, 1024],
        mode: Mode::Tiled { box_dims: vec![32, 2, 2] },
        element_strides: vec![1; 3],
        ..plain()
    };
    illegal(Given::new(tiled3).problem(&format!("{EXPECT} {im2col}")), "im2col mode");
    let mut outside = Given::new(images([1, 1]));
    outside.at = [0, -2, 0, 0, 0];
    let im2col = "@%q cp.async.bulk.tensor.4d.shared::cta.global.im2col.mbarrier::complete_tx::bytes [tile], [%map, {%c0, %c1, %c2, %c3}], [bar], {%o0, %o1};";
    illegal(outside.problem(&format!("{EXPECT} {im2col}")), "within its corners");
    let gather = "@%q cp.async.bulk.tensor.2d.shared::cta.global.tile::gather4.mbarrier::complete_tx::bytes [tile], [%map, {%c0, %c1, %c2, %c3, %c4}], [bar];";
    illegal(given.problem(&format!("{EXPECT} {gather}")), "boxes of one row");
    let one_row = TensorMap { mode: Mode::Tiled { box_dims: vec![32, 1] }, ..plain() };
    let last = gather.replace("[tile]", "[tile+32256]");
    Given::new(one_row.clone())
        .launch(&format!("mul.lo.u32 %box, %box, 4; {EXPECT} {last} {WAIT}"), false)
        .unwrap();
    let beyond = gather.replace("[tile]", "[tile+32384]");
    let problem = Given::new(one_row).problem(&format!("mul.lo.u32 %box, %box, 4; {EXPECT} {beyond}"));
    assert!(matches!(problem, Problem::OutOfBounds { .. }), "{problem}");
    let halves = Given::new(TensorMap { element: TensorElement::U16, ..plain() });
    illegal(
        halves.problem(&format!("{EXPECT} {FILL} {WAIT} {}", reduce(2, "add"))),
        "a reduction .add of elements U16",
    );
}

#[test]
fn a_map_that_a_kernel_spoils_is_found() {
    let given = Given::new(plain());
    let body = |field: &str, value: &str| {
        format!(
            "@%q tensormap.replace.tile.{field} [%global_map], {value};
            mov.u64 %map, %global_map; {EXPECT} {} {WAIT}",
            load(2)
        )
    };
    for (field, value, expected) in [
        ("global_address.global.b1024.b64", "24", "address"),
        ("global_stride.global.b1024.b64", "0, 8", "stride"),
        ("rank.global.b1024.b32", "5", "rank"),
        ("rank.global.b1024.b32", "255", "rank"),
        ("box_dim.global.b1024.b32", "1, 65537", "box dimension"),
        ("element_stride.global.b1024.b32", "1, 257", "element stride"),
        ("fill_mode.global.b1024.b32", "1", "fill"),
    ] {
        let Problem::Illegal(what) = given.problem(&body(field, value)) else { panic!("{field}") };
        assert!(what.contains(expected), "{what}");
    }
    given.launch(&body("rank.global.b1024.b32", "1"), false).unwrap();
}

#[test]
fn a_prefetch_does_nothing_but_needs_a_map() {
    let given = Given::new(plain());
    let prefetch = |map: &str| {
        format!(
            "@%q cp.async.bulk.prefetch.tensor.2d.L2.global.tile [{map}, {{%c0, %c1}}];
            @%q cp.async.bulk.prefetch.tensor.2d.L2.global.L2::cache_hint [%map, {{%c0, %c1}}], %policy;"
        )
    };
    assert_eq!(given.launch(&prefetch("%map"), false).unwrap().0, given.output);
    assert!(matches!(given.problem(&prefetch("%in")), Problem::Illegal(_)));
}

#[test]
fn forms_that_the_isa_has_not_are_refused() {
    let load = "cp.async.bulk.tensor";
    let to = "shared::cta.global.mbarrier::complete_tx::bytes";
    for (body, expected) in [
        (format!("{load}.6d.{to} [tile], [%map, {{%c0}}], [bar];"), "modifier .6d"),
        (format!("{load}.{to} [tile], [%map, {{%c0}}], [bar];"), "no dimension"),
        (format!("{load}.2d.{to} [tile], [%map, {{%c0}}], [bar];"), "1 coordinates and 0 offsets (must be 2 and 0)"),
        (format!("{load}.2d.{to} [tile], [%map], [bar];"), "no coordinates"),
        (format!("{load}.1d.{to} [tile], [%map, {{%c0}}];"), "operands"),
        (format!("{load}.1d.{to}.cta_group::2 [tile], [%map, {{%c0}}], [bar];"), "cta_group::2"),
        (format!("{load}.1d.{to}.multicast::cluster [tile], [%map, {{%c0}}], [bar], 1;"), "multicast::cluster"),
        (format!("{load}.2d.{to}.im2col [tile], [%map, {{%c0, %c1}}], [bar];"), ".2d in this mode"),
        (format!("{load}.3d.{to}.im2col [tile], [%map, {{%c0, %c1, %c2}}], [bar];"), "0 offsets (must be 3 and 1)"),
        (format!("{load}.3d.{to}.im2col::w [tile], [%map, {{%c0, %c1, %c2}}], [bar], {{0, 0}};"), "im2col::w"),
        (format!("{load}.2d.{to}.tile::scatter4 [tile], [%map, {{0, 0, 0, 0, 0}}], [bar];"), "direction"),
        (format!("{load}.1d.{to}.add [tile], [%map, {{%c0}}], [bar];"), "modifier .add"),
        (format!("{load}.1d.global.shared::cta.bulk_group.multicast::cluster [%map, {{%c0}}], [tile];"), "multicast"),
        (format!("{load}.1d.global.shared::cta.mbarrier::complete_tx::bytes [%map, {{%c0}}], [tile];"), "completion"),
        (format!("{load}.1d.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [tile], [%map, {{%c0}}], [bar];"), "direction"),
        (format!("{load}.2d.global.shared::cta.tile::gather4.bulk_group [%map, {{0, 0, 0, 0, 0}}], [tile];"), "direction"),
        ("cp.reduce.async.bulk.tensor.1d.global.shared::cta.bulk_group [%map, {%c0}], [tile];".into(), "no operation"),
        ("cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.u32.bulk_group [%map, {%c0}], [tile];".into(), "type"),
        ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile::scatter4.bulk_group [%map, {0, 0, 0, 0, 0}], [tile];".into(), "mode"),
        ("cp.async.bulk.prefetch.tensor.1d.L2.global.bulk_group [%map, {%c0}];".into(), "completion mechanism"),
        ("tensormap.replace.tile.elemtype.global.b1024.b32 [%map], 8;".into(), "value 8 of .elemtype"),
        ("tensormap.replace.tile.elemtype.global.b1024.b32 [%map], %c0;".into(), "not immediate"),
        ("tensormap.replace.tile.interleave_layout.global.b1024.b32 [%map], 1;".into(), "value 1"),
        ("tensormap.replace.tile.global_dim.global.b1024.b32 [%map], 5, %c0;".into(), "ordinal 5"),
        ("tensormap.replace.tile.global_dim.global.b1024.b32 [%map], %c0;".into(), "ordinal"),
        ("tensormap.replace.tile.rank.global.b1024.b64 [%map], 1;".into(), "type .b64"),
        ("tensormap.replace.tile.colour.global.b1024.b32 [%map], 1;".into(), "field .colour"),
        ("tensormap.replace.im2col.rank.global.b1024.b32 [%map], 1;".into(), "mode .im2col"),
        ("tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.acquire.gpu.sync.aligned [%out], [tile], 128;".into(), ".acquire"),
        ("cp.async.bulk.prefetch.tensor.1d.global [%map, {%c0}];".into(), "level"),
    ] {
        let what = match Module::from_ptx(&gpu(Checks::ALL), &kernel(&body)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("loaded: {body}"),
        };
        assert!(what.contains(expected), "{what}, and not: {expected}");
    }
}
