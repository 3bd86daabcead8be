//! Variables, their initial values, and functions.

use longhand_emulator::ptx::ast::{Init, Linkage, Param, Space, Type, Variable};
use proptest::prelude::*;

use crate::{errors, module};

fn variable(text: &str) -> Variable {
    let mut variables = module(text).expect("it is PTX").variables;
    variables.pop().expect("it declares one")
}

fn bits(text: &str) -> Vec<u64> {
    let elements = variable(text).init;
    elements
        .iter()
        .map(|element| match element {
            Init::Bits(bits) => *bits,
            Init::Address { .. } => panic!("{element:?}"),
        })
        .collect()
}

#[test]
fn a_variable_has_the_size_and_alignment_of_its_elements_unless_told() {
    let sized = |text: &str| {
        let variable = variable(text);
        (variable.bytes, variable.align)
    };
    assert_eq!(sized(".global .u16 x;"), (Some(2), 2));
    assert_eq!(sized(".global .v4 .f32 x;"), (Some(16), 16));
    assert_eq!(sized(".shared .align 128 .b8 x[3][5];"), (Some(15), 128));
    assert_eq!(sized(".global .v2 .u8 x[7];"), (Some(14), 2));
    assert_eq!(sized(".extern .shared .align 16 .b8 x[];"), (None, 16));
    assert_eq!(sized(".extern .shared .b64 x[][4];"), (None, 8));
    assert_eq!(sized(".global .b32 x[2 * (WARP_SZ + 1)];"), (Some(264), 4));
}

#[test]
fn an_array_without_a_length_has_that_of_its_values() {
    assert_eq!(variable(".global .u32 x[] = {1, 2, 3};").bytes, Some(12));
    assert_eq!(variable(".global .u16 x[][3] = {{1}, {2, 3}};").bytes, Some(12));
    assert!(module(".global .u32 x[];").is_err());
}

#[test]
fn linkage_and_place_are_as_declared() {
    let parsed = module(
        ".visible .global .u8 a;\n.weak .const .u8 b;\n.common .global .u8 c, d;\n.extern .global .u8 e;",
    )
    .expect("it is PTX");
    let told: Vec<_> =
        parsed.variables.iter().map(|v| (v.name.as_str(), v.space, v.linkage, v.line)).collect();
    assert_eq!(
        told,
        [
            ("a", Space::Global, Linkage::Visible, 4),
            ("b", Space::Const, Linkage::Weak, 5),
            ("c", Space::Global, Linkage::Common, 6),
            ("d", Space::Global, Linkage::Common, 6),
            ("e", Space::Global, Linkage::Extern, 7),
        ]
    );
}

#[test]
fn a_definition_takes_the_place_of_an_external_declaration() {
    let parsed = module(".extern .global .align 16 .u32 x; .global .u32 y; .visible .global .u32 x = 5;");
    let parsed = parsed.expect("it is PTX");
    assert_eq!(parsed.variables.len(), 2);
    assert_eq!((parsed.variables[0].linkage, parsed.variables[0].align), (Linkage::Visible, 16));
    assert_eq!(parsed.variables[0].init, [Init::Bits(5)]);
    assert!(module(".extern .global .u32 x; .global .u64 x;").is_err());
}

#[test]
fn braces_leave_out_zeros() {
    assert_eq!(bits(".global .u8 x[2][3] = {{1}, {2, 3}};"), [1, 0, 0, 2, 3]);
    assert_eq!(bits(".global .u8 x[2][2][2] = {{{1}, {2}}, {{3, 4}}};"), [1, 0, 2, 0, 3, 4]);
    assert_eq!(bits(".global .v4 .u8 x[2] = {{1, 2, 3, 4}, {5, 6, 7, 8}};"), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bits(".global .v2 .u8 x = {1, 2};"), [1, 2]);
    assert_eq!(bits(".global .u8 x[4] = {};"), []);
}

#[test]
fn a_value_has_the_bits_of_its_type() {
    assert_eq!(bits(".global .s8 x = -1;"), [u64::MAX]);
    assert_eq!(bits(".global .f32 x[3] = {0f3FC00000, 1.5, 0d3FF8000000000000};"), [0x3FC0_0000; 3]);
    assert_eq!(bits(".global .b32 x = 1.5;"), [0x3FC0_0000]);
    assert_eq!(bits(".global .f64 x[2] = {1.5, 0d3FF8000000000000};"), [0x3FF8_0000_0000_0000; 2]);
    assert_eq!(bits(".global .b64 x = 1.5;"), [0x3FF8_0000_0000_0000]);
}

#[test]
fn values_that_do_not_suit_are_errors() {
    for text in [
        ".global .u32 x = 1.5;",
        ".global .f32 x = 1;",
        ".global .f64 x = 0f3FC00000;",
        ".global .f16 x = 1.5;",
        ".shared .u32 x = 1;",
        ".global .u32 x = {1};",
        ".global .u32 x[2] = 1;",
        ".global .u32 x[2] = {1, 2, 3};",
        ".global .u32 x[2][2] = {1, 2};",
        ".global .u32 x[2][2] = {{1, 2, 3}};",
        ".global .u32 x[2] = {{1}, {2}};",
        ".global .u32 x = ;",
        ".global .u32 x[2] = {1 2};",
        ".global .u64 x = y;",
        ".global .u64 x = generic(y;",
        ".global .u32 y; .global .u8 x = 0xFFFF(y);",
        ".global .u32 y; .global .u8 x = 0xF0(y);",
        ".global .u32 y; .global .u8 x = 0x1FF00(y);",
    ] {
        assert!(module(text).is_err(), "{text}");
    }
}

#[test]
fn addresses_are_kept_by_name() {
    let address = |offset, generic, mask| Init::Address { name: "y".to_owned(), offset, generic, mask };
    let init = |text: &str| variable(&format!(".global .u32 y[4]; {text}")).init;
    assert_eq!(init(".global .u64 x = y;"), [address(0, false, u64::MAX)]);
    assert_eq!(init(".global .u64 x = y + 4 * 2;"), [address(8, false, u64::MAX)]);
    assert_eq!(init(".global .u64 x = generic(y)-4;"), [address(-4, true, u64::MAX)]);
    assert_eq!(init(".global .u64 x = generic(y + 4) + 4;"), [address(8, true, u64::MAX)]);
    assert_eq!(
        init(".global .u8 x[3] = {0xFF(y), 0xFF00(generic(y)+4), 0xFF00000000000000(y)};"),
        [address(0, false, 0xFF), address(4, true, 0xFF00), address(0, false, 0xFF << 56)]
    );
    assert_eq!(init(".func f () { ret; } .global .u64 x[2] = {0, y};")[1], address(0, false, u64::MAX));
}

proptest! {
    /// Whatever is left out, an element is where its indices say.
    #[test]
    fn elements_lie_in_row_major_order(rows in prop::collection::vec(prop::collection::vec(1..200_u64, 0..4), 1..5)) {
        let text: Vec<String> = rows.iter().map(|row| {
            format!("{{{}}}", row.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
        }).collect();
        let found = bits(&format!(".global .u8 x[{}][4] = {{{}}};", rows.len(), text.join(", ")));
        for (i, row) in rows.iter().enumerate() {
            for j in 0..4 {
                let expected = row.get(j).copied().unwrap_or(0);
                prop_assert_eq!(found.get(i * 4 + j).copied().unwrap_or(0), expected);
            }
        }
    }
}

#[test]
fn what_is_left_out_cannot_fill_the_memory() {
    assert!(module(".global .u8 x[2][1000000] = {{1}, {2}};").is_ok());
    let found = errors(module(".global .u8 x[2][1000000000000] = {{1}, {2}};"));
    assert!(found[0].3.contains("left out"), "{found:?}");
    assert!(module(".global .u8 x[4][1000000] = {{1}, {2}, {3}, {4}};").is_err());
}

#[test]
fn sizes_that_no_address_reaches_are_errors() {
    for text in [
        ".global .u64 x[0xFFFFFFFFFFFFFFFF];",
        ".global .u8 x[0x100000000][0x100000000];",
        ".extern .shared .u64 x[][0x4000000000000000];",
        ".global .u8 x[-1];",
    ] {
        assert!(module(text).is_err(), "{text}");
    }
}

fn params(text: &str) -> Vec<Param> {
    module(text).expect("it is PTX").functions.pop().expect("it declares one").params
}

#[test]
fn parameters_have_sizes_and_alignments() {
    let told = |text: &str| {
        let params = params(text);
        params.iter().map(|param| (param.ty, param.bytes, param.align)).collect::<Vec<_>>()
    };
    assert_eq!(
        told(
            ".entry k(.param .u64 .ptr .global .align 16 a, .param .u64 .ptr b, .param .align 8 .b8 c[24]) {}"
        ),
        [(Type::U64, 8, 8), (Type::U64, 8, 8), (Type::B8, 24, 8)]
    );
    assert_eq!(
        told(".extern .func f(.param .b64 a, .param .align 8 .b8 rest[]);"),
        [(Type::B64, 8, 8), (Type::B8, 0, 8)]
    );
    assert_eq!(told(".entry k {}"), []);
}

#[test]
fn a_declaration_and_its_definition_are_one_function() {
    let parsed = module(
        ".func (.param .b32 o) f (.param .b32 a);
         .func g () { .reg .b32 %r; call (%r), f, (%r); ret; }
         .visible .func (.param .b32 out) f (.param .b32 in) { op in; }
         .func (.param .b32 o) f (.param .b32 a);",
    )
    .expect("it is PTX");
    assert_eq!(parsed.functions.len(), 2);
    let f = &parsed.functions[0];
    assert_eq!((f.params[0].name.as_str(), f.line, f.linkage), ("in", 6, Linkage::Visible));
    assert!(f.body.is_some());
}

#[test]
fn a_definition_agrees_with_its_declaration() {
    assert!(module(".func f (.param .b32 a); .func f (.param .b64 a) { ret; }").is_err());
    assert!(module(".func f (.param .b32 a); .func f () { ret; }").is_err());
    assert!(module(".func f (); .entry f () { ret; }").is_err());
    assert!(module(".func f () { ret; } .func f () { ret; }").is_err());
}

#[test]
fn limits_of_the_launch_are_kept() {
    let parsed = module(
        ".entry a () .maxntid 256 .minnctapersm 2 .maxnreg 64 { ret; }
         .entry b () .reqntid 8, 4, 2 .explicitcluster .reqnctapercluster 2, 1, 1 .maxnctapersm 1 { ret; }
         .entry c () .explicitcluster .maxclusterrank 8 .blocksareclusters { ret; }
         .func d () .noreturn .abi_preserve 12 .attribute(.unified(1, 2)) { trap; }",
    )
    .expect("it is PTX");
    let told: Vec<_> =
        parsed.functions.iter().map(|f| (f.max_block, f.required_block, f.required_cluster)).collect();
    assert_eq!(
        told,
        [
            (Some([256, 1, 1]), None, None),
            (None, Some([8, 4, 2]), Some([2, 1, 1])),
            (None, None, Some([0, 0, 0])),
            (None, None, None),
        ]
    );
    assert!(module(".entry a () .maxntid 1, 2, 3, 4 { ret; }").is_err());
    assert!(module(".entry a () .maxntid 0x100000000 { ret; }").is_err());
}

#[test]
fn textures_samplers_and_surfaces_are_handles_whose_properties_say_nothing() {
    let parsed = module(
        ".global .texref t; .extern .global .surfref s[4];
         .global .samplerref p = { addr_mode_0 = clamp_to_border, filter_mode = nearest, normalized = 1 };
         .global .samplerref q[2] = { { filter_mode = linear }, { filter_mode = nearest } };
         .entry k (.param .texref u) { .reg .b32 %r<4>; tex.1d.v4.s32.s32 {%r0, %r1, %r2, %r3}, [t, p, {%r0}]; ret; }",
    )
    .expect("it is PTX");
    let bytes: Vec<Option<u64>> = parsed.variables.iter().map(|it| it.bytes).collect();
    assert_eq!(bytes, [Some(8), Some(32), Some(8), Some(16)]);
    assert!(parsed.variables.iter().all(|it| it.init.is_empty()));
    assert_eq!(parsed.functions[0].params[0].bytes, 8);
    assert!(module(".global .samplerref p = { filter_mode };").is_err());
    assert!(module(&format!(".global .samplerref p = {}", "{".repeat(100_000))).is_err());
}
