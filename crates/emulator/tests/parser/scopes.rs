//! Which declaration a name means.

use std::collections::HashMap;
use std::fmt::Write as _;

use longhand_emulator::ptx::ast::{Operand, RegisterId, Symbol, Targets, Type};
use proptest::prelude::*;

use crate::{body, errors, module};

#[derive(Clone, Debug)]
enum Step {
    Open,
    Close,
    Declare(usize),
    Use(usize),
}

const NAMES: [&str; 3] = ["a", "%b", "c$"];
const TYPES: [(&str, Type); 6] = [
    ("b16", Type::B16),
    ("b32", Type::B32),
    ("u32", Type::U32),
    ("s64", Type::S64),
    ("f32", Type::F32),
    ("f64", Type::F64),
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Open),
        Just(Step::Close),
        (0..NAMES.len()).prop_map(Step::Declare),
        (0..NAMES.len()).prop_map(Step::Use),
        (0..NAMES.len()).prop_map(Step::Use),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Each use is told by the type of the register it means, which differs from those of the scopes around.
    #[test]
    fn a_name_means_its_innermost_declaration_before(steps in steps()) {
        let mut text = String::new();
        let mut expected = Vec::new();
        let mut scopes = vec![HashMap::new()];
        for step in steps {
            match step {
                Step::Open if scopes.len() < TYPES.len() => {
                    text.push('{');
                    scopes.push(HashMap::new());
                }
                Step::Close if scopes.len() > 1 => {
                    text.push('}');
                    scopes.pop();
                }
                Step::Declare(name) => {
                    let (word, ty) = TYPES[scopes.len() - 1];
                    let innermost = scopes.last_mut().expect("one is open");
                    if innermost.insert(name, ty).is_none() {
                        writeln!(text, ".reg .{word} {};", NAMES[name]).expect("a string");
                    }
                }
                Step::Use(name) => {
                    if let Some(ty) = scopes.iter().rev().find_map(|scope| scope.get(&name)) {
                        writeln!(text, "op {};", NAMES[name]).expect("a string");
                        expected.push(*ty);
                    }
                }
                Step::Open | Step::Close => {}
            }
        }
        text.push_str(&"}".repeat(scopes.len() - 1));
        let body = body(&text).expect("it is PTX");
        let used: Vec<Type> = body.instructions.iter().map(|instruction| match instruction.operands[..] {
            [Operand::Register(RegisterId(register))] => body.registers[register as usize].ty,
            _ => panic!("{instruction:?}"),
        }).collect();
        prop_assert_eq!(used, expected);
    }
}

#[test]
fn only_registers_that_are_used_are_in_the_table() {
    let body =
        body(".reg .b32 %x<4000000000>, %y; op %x3999999999; op %x0, %x3999999999;").expect("it is PTX");
    let names: Vec<&str> = body.registers.iter().map(|register| register.name.as_str()).collect();
    assert_eq!(names, ["%x3999999999", "%x0"]);
}

#[test]
fn a_range_declares_no_more_than_its_count() {
    let found = errors(body("op %r9; op %r10;"));
    assert_eq!(found, [(5, 12, "`%r10`".to_owned(), "a register that is declared".to_owned())]);
}

#[test]
fn a_prefix_of_a_range_may_end_in_digits() {
    let body = body(".reg .f64 %d1<3>; op %d10, %d12;").expect("it is PTX");
    assert_eq!(body.registers.iter().map(|register| register.ty).collect::<Vec<_>>(), [Type::F64, Type::F64]);
    assert!(crate::body(".reg .f64 %d1<3>; op %d13;").is_err());
    assert!(crate::body(".reg .f64 %d1<3>; op %d1;").is_err());
}

#[test]
fn a_name_can_be_declared_once_in_a_scope() {
    assert!(body(".reg .b32 x; { .reg .b32 x; }").is_ok());
    assert!(body(".reg .b32 x; .reg .b64 x;").is_err());
    assert!(body(".reg .b32 %r3;").is_err(), "%r<10> has it");
    assert!(body(".reg .b32 %r<2>;").is_err());
    assert!(body(".local .b32 x; .reg .b64 x;").is_err());
    assert!(module(".global .u32 x; .global .u32 x;").is_err());
    assert!(module(".global .u32 x; .func x () { ret; }").is_err());
}

/// Where each jump goes to.
fn jumps(text: &str) -> Vec<usize> {
    let body = body(text).expect("it is PTX");
    let labels = body.instructions.iter().flat_map(|instruction| &instruction.operands);
    labels
        .filter_map(|operand| match operand {
            Operand::Label(label) => Some(body.labels[label.0 as usize]),
            _ => None,
        })
        .collect()
}

#[test]
fn a_jump_goes_to_the_innermost_label_wherever_it_stands() {
    assert_eq!(jumps("L: a; { bra L; }"), [0]);
    assert_eq!(jumps("{ bra L; } a; L: b;"), [2]);
    assert_eq!(jumps("L: a; { bra L; L: b; } bra L;"), [2, 0]);
    assert_eq!(jumps("{ L: bra L; } { a; L: bra L; }"), [0, 2]);
    assert_eq!(jumps("{ { bra L; } bra L; L: a; } bra L; L:"), [2, 2, 4]);
}

#[test]
fn a_label_at_the_end_stands_before_the_number_of_instructions() {
    assert_eq!(jumps("bra END; END:"), [1]);
}

#[test]
fn a_label_of_a_scope_is_not_known_around_it() {
    let found = errors(body("bra L;\n{ L: a; }"));
    assert_eq!(
        found,
        [(5, 5, "`L`".to_owned(), "a name that is declared, or a label of the function".to_owned())]
    );
}

#[test]
fn a_label_is_not_known_in_another_function() {
    assert!(module(".entry a() { L: ret; }\n.entry b() { bra L; }").is_err());
}

#[test]
fn tables_of_two_scopes_may_have_one_name() {
    let body = body(
        "A: { t: .branchtargets A, B; brx.idx %r1, t; B: }
         { brx.idx %r1, t; t: .branchtargets C, A; C: }",
    )
    .expect("it is PTX");
    let tables: Vec<_> =
        body.instructions.iter().map(|instruction| instruction.operands[1].clone()).collect();
    let names: Vec<_> = body.targets.iter().map(|(name, _)| Operand::Table(name.clone())).collect();
    assert_ne!(names[0], names[1]);
    assert_eq!(tables, names);
    let places: Vec<Vec<usize>> = body
        .targets
        .iter()
        .map(|(_, targets)| match targets {
            Targets::Labels(labels) => labels.iter().map(|label| body.labels[label.0 as usize]).collect(),
            Targets::Functions(_) => panic!("they are labels"),
        })
        .collect();
    assert_eq!(places, [[0, 1], [2, 0]]);
}

#[test]
fn a_branch_goes_to_an_instruction_not_to_a_table() {
    assert!(body("t: .branchtargets t; brx.idx %r1, t;").is_err());
    assert!(body("{ t: .branchtargets L; L: } u: .branchtargets L; L:").is_ok());
}

#[test]
fn what_a_function_declares_is_gone_when_it_is_wrong() {
    let found = errors(module(".entry k (.param .b32 a, .param .b32 a) { }\n.entry l () { op a; }"));
    assert_eq!(found.iter().map(|error| error.0).collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn parameters_and_variables_are_told_apart() {
    let parsed = module(
        ".global .u32 g; .func h () { ret; }
         .func (.param .b32 out) f (.param .b32 in, .reg .b32 value) { .local .b32 l; op out, in, l, g, h, value; }",
    )
    .expect("it is PTX");
    let f = parsed.functions.iter().find(|function| function.name == "f").expect("it is there");
    let register = f.params[1].register.expect("it is a register");
    let symbol = |symbol| Operand::Symbol(symbol, 0);
    assert_eq!(
        f.body.as_ref().expect("it is defined").instructions[0].operands,
        [
            symbol(Symbol::Return(0)),
            symbol(Symbol::Param(0)),
            symbol(Symbol::Local(0)),
            symbol(Symbol::Global(0)),
            symbol(Symbol::Function(0)),
            Operand::Register(register),
        ]
    );
}

#[test]
fn a_variable_of_a_function_that_lives_as_long_as_the_module_is_one_of_the_module() {
    let parsed = module(
        ".global .u32 counter = 1;
         .entry a() { .global .u32 counter = 2; .global .u64 at = counter; mov.u64 %rd, counter; }"
            .replace("mov.u64 %rd", ".reg .b64 %rd; mov.u64 %rd")
            .as_str(),
    )
    .expect("it is PTX");
    assert_eq!(parsed.variables.len(), 3);
    let names: Vec<&str> = parsed.variables.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(names, ["counter", "counter.1", "at.2"]);
    let body = parsed.functions[0].body.as_ref().expect("it is defined");
    assert_eq!(body.instructions[0].operands[1], Operand::Symbol(Symbol::Global(1), 0));
}
