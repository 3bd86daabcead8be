//! Instructions and their operands.

use longhand_emulator::ptx::ast::{
    Base, Guard, Instruction, LabelId, Operand, Register, RegisterId, Source, Symbol, Type,
};

use crate::{body, errors, module};

const R0: Operand = Operand::Register(RegisterId(0));
const R1: Operand = Operand::Register(RegisterId(1));

fn instruction(text: &str) -> Instruction {
    body(text).expect("it is PTX").instructions.remove(0)
}

/// Those of one instruction. Registers are numbered by their first use.
fn operands(text: &str) -> Vec<Operand> {
    instruction(&format!("op {text};")).operands
}

#[test]
fn modifiers_are_kept_as_they_are_written() {
    let modifiers = |text: &str| instruction(text).modifiers;
    assert_eq!(
        modifiers("cp.async.bulk.tensor.1d.shared::cluster.mbarrier::complete_tx::bytes [%rd1];"),
        ["async", "bulk", "tensor", "1d", "shared::cluster", "mbarrier::complete_tx::bytes"]
    );
    assert_eq!(
        modifiers("ld.L2::128B.m8n8.x4.b8x16.b6x16_p32.3x %r1;"),
        ["L2::128B", "m8n8", "x4", "b8x16", "b6x16_p32", "3x"]
    );
    assert_eq!(modifiers("ld .global\n/* spaced */ .u32 %r1;"), ["global", "u32"]);
    assert_eq!(modifiers("ret;"), Vec::<String>::new());
}

#[test]
fn guards_are_kept() {
    let guard = |text: &str| instruction(text).guard;
    assert_eq!(guard("@%p1 op;"), Some(Guard { register: RegisterId(0), negated: false }));
    assert_eq!(guard("@!%p1 op;"), Some(Guard { register: RegisterId(0), negated: true }));
    assert_eq!(guard("op %p1;"), None);
}

#[test]
fn each_form_of_operand_is_told_apart() {
    assert_eq!(operands("%r1, %r2, %r1"), [R0, R1, R0]);
    assert_eq!(operands("!%p1, _"), [Operand::Not(RegisterId(0)), Operand::Sink]);
    assert_eq!(operands("%p1|%p2"), [Operand::Pair(Box::new(R0), Box::new(R1))]);
    assert_eq!(operands("_|%p2"), [Operand::Pair(Box::new(Operand::Sink), Box::new(R0))]);
    assert_eq!(operands("%p2|_"), [Operand::Pair(Box::new(R0), Box::new(Operand::Sink))]);
    assert_eq!(operands("{%r1, %r2}|%p1")[0], {
        Operand::Pair(Box::new(Operand::Vector(vec![R0, R1])), Box::new(Operand::Register(RegisterId(2))))
    });
    assert_eq!(
        operands("{%r1, _, 5, a}, {}"),
        [
            Operand::Vector(vec![
                R0,
                Operand::Sink,
                Operand::Integer(5),
                Operand::Symbol(Symbol::Param(0), 0)
            ]),
            Operand::Vector(vec![]),
        ]
    );
    assert_eq!(operands("5 | 3, (5)"), [Operand::Integer(7), Operand::Integer(5)]);
    assert_eq!(operands("a, a+8, a + 4 * 2, a-8").last(), Some(&Operand::Symbol(Symbol::Param(0), -8)));
}

#[test]
fn components_of_vectors_have_numbers() {
    assert_eq!(
        operands("%v1.x, %v1.y, %v1.z, %v1.w"),
        [0, 1, 2, 3].map(|i| Operand::Component(RegisterId(0), i))
    );
    assert_eq!(
        operands("%v1.r, %v1.g, %v1.b, %v1.a"),
        [0, 1, 2, 3].map(|i| Operand::Component(RegisterId(0), i))
    );
    let used = body("op %v3.y;").expect("it is PTX").registers;
    assert_eq!(used, [Register { name: "%v3".to_owned(), ty: Type::F32, vector: 4 }]);
    assert!(body("op %r1.x;").is_err());
    assert!(body("op %v1.q;").is_err());
    assert!(body(".reg .v2 .b32 v; op v.z;").is_err());
}

#[test]
fn bytes_and_halves_of_a_register_are_selected_by_name() {
    let selected = |part: &str| Operand::Selected(RegisterId(0), part.to_owned());
    assert_eq!(operands("%r1.b0, %r1.h1, %r1.b3210, %r1.h10"), ["b0", "h1", "b3210", "h10"].map(selected));
    for not_one in ["%r1.b8", "%r1.h", "%r1.c0", "%r1.b01234", "%v1.b0"] {
        assert!(body(&format!("op {not_one};")).is_err(), "{not_one}");
    }
}

#[test]
fn elements_of_arrays_are_addresses_with_an_offset() {
    let body = body(
        ".shared .b32 x[9]; .local .v2 .f32 y[3][4]; .global .b8 z[5];
         op x[2], x[1+1]+1, y[1], z[4]; op x[a]; ",
    );
    assert_eq!(errors(body)[0].0, 6);
    let body = crate::body(".shared .b32 x[9]; .global .v2 .f64 y[3]; op x[2], x[1+1]+1, y[1], x;").unwrap();
    let offsets = |operand: &Operand| match operand {
        Operand::Symbol(_, offset) => *offset,
        _ => -1,
    };
    assert_eq!(body.instructions[0].operands.iter().map(offsets).collect::<Vec<_>>(), [8, 9, 16, 0]);
    assert!(crate::body("op a[1];").is_err());
}

#[test]
fn addresses_have_a_base_and_an_offset() {
    let base = || Base::Register(RegisterId(0));
    let param = || Base::Symbol(Symbol::Param(0));
    for (text, base, offset) in [
        ("[%rd1]", base(), 0),
        ("[%rd1+8]", base(), 8),
        ("[%rd1 + -8]", base(), -8),
        ("[%rd1-8]", base(), -8),
        ("[%rd1+4*(2+1)]", base(), 12),
        ("[%rd1+0x1e+5]", base(), 35),
        ("[a]", param(), 0),
        ("[a+-8]", param(), -8),
        ("[16]", Base::None, 16),
        ("[(8)+8]", Base::None, 16),
    ] {
        assert_eq!(operands(text), [Operand::Address(base, offset)], "{text}");
    }
    assert_eq!(operands("[%rd1], _"), [Operand::Address(base(), 0), Operand::Sink]);
}

#[test]
fn addresses_of_tensors_have_coordinates() {
    let map = || Base::Register(RegisterId(0));
    assert_eq!(
        operands("[%rd1, {%r1, 0}]"),
        [Operand::TensorAddress(map(), 0, vec![vec![R1, Operand::Integer(0)]])]
    );
    assert_eq!(
        operands("[%rd1+64, {%r1}, {3, 4}]"),
        [Operand::TensorAddress(map(), 64, vec![vec![R1], vec![Operand::Integer(3), Operand::Integer(4)]])]
    );
    assert_eq!(operands("[%rd1, %r1]"), [Operand::TensorAddress(map(), 0, vec![vec![R1]])]);
}

#[test]
fn calls_have_lists() {
    let parsed = module(
        ".func f () { ret; }
         .entry k () { .reg .b32 r; .param .b32 p; call f; call.uni (r), f, (p, 5); call (), f, (); ret; }",
    )
    .expect("it is PTX");
    let calls = &parsed.functions[1].body.as_ref().expect("it is defined").instructions;
    let f = || Operand::Symbol(Symbol::Function(0), 0);
    assert_eq!(calls[0].operands, [f()]);
    let given = Operand::List(vec![Operand::Symbol(Symbol::Local(0), 0), Operand::Integer(5)]);
    assert_eq!(calls[1].operands, [Operand::List(vec![R0]), f(), given]);
    assert_eq!(calls[2].operands, [Operand::List(vec![]), f(), Operand::List(vec![])]);
}

#[test]
fn special_registers_need_no_declaration() {
    for name in
        ["tid.x", "nctaid.z", "cluster_ctaid.y", "laneid", "lanemask_lt", "clock64", "envreg31", "pm7_64"]
    {
        assert_eq!(operands(&format!("%{name}")), [Operand::Special(name.to_owned())]);
    }
    for name in ["tid.q", "laneid.x", "envreg32", "pm8", "nothing", "tid.x.y"] {
        assert!(body(&format!("op %{name};")).is_err(), "{name}");
    }
}

#[test]
fn a_declared_register_hides_a_special_one() {
    assert_eq!(body(".reg .b32 %laneid; op %laneid;").expect("it is PTX").instructions[0].operands, [R0]);
}

#[test]
fn unknown_instructions_are_read_like_known_ones() {
    let parsed = instruction("tcgen99.frobnicate::twice.x128 [%rd1], {%r1}, L; L:");
    assert_eq!((parsed.name.as_str(), parsed.modifiers.len(), parsed.operands.len()), ("tcgen99", 2, 3));
    assert_eq!(parsed.operands[2], Operand::Label(LabelId(0)));
}

#[test]
fn an_instruction_has_the_source_line_told_last_before_it() {
    let parsed = body(
        "a; .loc 1 10 3 b; .loc 2 0 0\n c;
         .loc 1 20 7, function_name $L__info_string0, inlined_at 1 10 3 { d; } e;
         .loc 1 21 7, function_name .debug_str + 12, inlined_at 1 10 3\nL: f;",
    )
    .expect("it is PTX");
    let source = |file, line, column| Some(Source { file, line, column });
    let told: Vec<_> = parsed.instructions.iter().map(|instruction| instruction.source).collect();
    assert_eq!(
        told,
        [None, source(1, 10, 3), source(2, 0, 0), source(1, 20, 7), source(1, 20, 7), source(1, 21, 7)]
    );
    let two = module(".entry a () { .loc 1 2 3 ret; } .entry b () { ret; }").expect("it is PTX");
    assert_eq!(two.functions[1].body.as_ref().expect("it is defined").instructions[0].source, None);
}

#[test]
fn empty_statements_comments_and_white_space_say_nothing() {
    let plain = body("op.x %r1, [%rd1+8];").expect("it is PTX").instructions.remove(0);
    for text in [
        ";;; op.x %r1,[%rd1+8];;",
        "/* // */ op.x\t%r1 , [ %rd1 + 8 ] ; // ;",
        "op.x/**/%r1,/* \" */[%rd1+8] ;",
        "\u{b}\u{c}op.x %r1, [%rd1+8];\r",
    ] {
        assert_eq!(body(text).expect("it is PTX").instructions, std::slice::from_ref(&plain), "{text}");
    }
    let lines = body("/* two\nlines */ op;\nop // one\n;").expect("it is PTX").instructions;
    assert_eq!(lines.iter().map(|instruction| instruction.line).collect::<Vec<_>>(), [6, 7]);
}

#[test]
fn sections_are_passed_over_whole() {
    let parsed = module(
        ".section .debug_str { info: .b8 123, 125 // }\n.b64 info+4, .debug_abbrev { nested } }
         .section text { } .entry k () { ret; }",
    );
    assert_eq!(parsed.expect("it is PTX").functions.len(), 1);
    assert_eq!(errors(module(".section .debug_str { { }")).len(), 1);
}

#[test]
fn a_text_may_end_in_zeros() {
    assert!(module(".entry k () { ret; }\0\0").is_ok());
    assert!(module(".entry k () { \0 ret; }").is_err());
}
