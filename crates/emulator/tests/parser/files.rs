//! Files as compilers write them.

use longhand_emulator::ptx::ast::{
    Base, Function, Init, Module, Operand, Source, Space, Symbol, Targets, Type,
};
use longhand_emulator::ptx::parse;

use crate::consistent;

const DIRECTIVES: &str = include_str!("../ptx/directives.ptx");
const LLVM: &str = include_str!("../ptx/llvm_calls.ptx");
const NVRTC: &str = include_str!("../ptx/nvrtc_everything.ptx");
const TRITON: &str = include_str!("../ptx/triton_wgmma.ptx");

/// Every file, for tests that hold for any.
pub const FILES: [&str; 4] = [DIRECTIVES, LLVM, NVRTC, TRITON];

fn function<'m>(module: &'m Module, name: &str) -> &'m Function {
    module.functions.iter().find(|function| function.name == name).expect("the function is there")
}

fn init<'m>(module: &'m Module, name: &str) -> &'m [Init] {
    &module.variables.iter().find(|variable| variable.name == name).expect("the variable is there").init
}

/// The line of the text that says this about instruction `index`.
fn text_of(text: &str, function: &Function, index: usize) -> String {
    let line = function.body.as_ref().expect("it is defined").instructions[index].line;
    text.lines().nth(line as usize - 1).expect("the line is there").trim().to_owned()
}

#[test]
fn every_instruction_of_every_file_is_on_the_line_it_tells() {
    for text in FILES {
        let module = parse(text).expect("it is PTX");
        for body in module.functions.iter().filter_map(|function| function.body.as_ref()) {
            for instruction in &body.instructions {
                let line = text.lines().nth(instruction.line as usize - 1).expect("the line is there");
                assert!(line.contains(&instruction.name), "{} is not on line `{line}`", instruction.name);
            }
        }
    }
}

#[test]
fn files_refer_to_what_they_have() {
    FILES.iter().for_each(|text| consistent::check(&parse(text).expect("it is PTX")));
}

#[test]
fn every_line_that_returns_is_an_instruction() {
    for text in FILES {
        let module = parse(text).expect("it is PTX");
        let bodies = module.functions.iter().filter_map(|function| function.body.as_ref());
        let lines: Vec<u32> = bodies
            .flat_map(|body| &body.instructions)
            .filter(|instruction| instruction.name == "ret" && instruction.guard.is_none())
            .map(|instruction| instruction.line)
            .collect();
        let returns = text.lines().enumerate().filter(|(_, line)| line.trim() == "ret;");
        assert_eq!(lines, returns.map(|(line, _)| line as u32 + 1).collect::<Vec<_>>());
    }
}

#[test]
fn nvrtc_text_says_what_its_source_does() {
    let module = parse(NVRTC).expect("it is PTX");
    assert_eq!((module.version, module.target.as_str()), ((9, 0), "sm_90a"));
    assert_eq!(module.files, [(1, "nvrtc_everything.cu".to_owned())]);

    let everything = function(&module, "everything");
    assert!(everything.entry);
    assert_eq!(everything.max_block, Some([256, 1, 1]));
    assert_eq!(everything.required_cluster, Some([2, 1, 1]));
    let sizes: Vec<u64> = everything.params.iter().map(|param| param.bytes).collect();
    assert_eq!(sizes, [8, 4, 48, 48]);
    assert!(function(&module, "vprintf").body.is_none());
    assert_eq!(module.functions.iter().filter(|function| function.name.contains("factorial")).count(), 1);

    let where_to = Init::Address { name: "table".to_owned(), offset: 8, generic: true, mask: u64::MAX };
    assert_eq!(init(&module, "where"), [where_to]);
    assert_eq!(init(&module, "negative"), [Init::Bits(-5_i64 as u64)]);
    assert_eq!(init(&module, "fraction"), [Init::Bits(1.5_f64.to_bits())]);
    assert_eq!(init(&module, "weights")[2..4], [Init::Bits(0x80), Init::Bits(0x3F)]);
    assert_eq!(init(&module, "words").len(), 3);
}

#[test]
fn code_that_was_inlined_has_the_line_it_was_written_on() {
    let module = parse(NVRTC).expect("it is PTX");
    let everything = function(&module, "everything");
    let body = everything.body.as_ref().expect("it is defined");
    let waits: Vec<_> =
        (0..body.instructions.len()).filter(|i| body.instructions[*i].name == "mbarrier").collect();
    assert_eq!(waits.len(), 2);
    for wait in waits {
        assert!(text_of(NVRTC, everything, wait).contains("AGAIN"));
        assert_eq!(body.instructions[wait].source.map(|source| (source.file, source.line)), Some((1, 43)));
    }
}

#[test]
fn labels_and_registers_of_inline_assembly_are_those_of_its_scope() {
    let module = parse(NVRTC).expect("it is PTX");
    let body = function(&module, "everything").body.as_ref().expect("it is defined");
    assert_eq!(body.registers.iter().filter(|register| register.name == "done").count(), 2);
    for (index, instruction) in body.instructions.iter().enumerate() {
        let [Operand::Label(label)] = instruction.operands[..] else { continue };
        let before = index.checked_sub(2).map(|before| &body.instructions[before]);
        if before.is_some_and(|before| before.name == "mbarrier") {
            assert_eq!(
                body.labels[label.0 as usize],
                index - 2,
                "`bra AGAIN` goes to the AGAIN of its scope"
            );
        }
    }
}

#[test]
fn triton_text_says_its_tensor_copies() {
    let module = parse(TRITON).expect("it is PTX");
    let matmul = function(&module, "matmul");
    assert_eq!(matmul.required_block, Some([128, 1, 1]));
    let body = matmul.body.as_ref().expect("it is defined");
    let copy = body
        .instructions
        .iter()
        .find(|instruction| {
            instruction.modifiers.iter().any(|modifier| modifier == "shared::cta")
                && instruction.modifiers.contains(&"tensor".to_owned())
        })
        .expect("it copies tensors");
    assert_eq!(copy.modifiers[..4], ["async", "bulk", "tensor", "2d"]);
    assert!(copy.guard.is_some());
    let [Operand::Address(Base::Register(_), 0), Operand::TensorAddress(_, 0, groups), Operand::Address(..)] =
        &copy.operands[..]
    else {
        panic!("{copy:?}")
    };
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2]);
}

#[test]
fn llvm_text_says_its_indirect_call() {
    let module = parse(LLVM).expect("it is PTX");
    let body = function(&module, "kern").body.as_ref().expect("it is defined");
    let (name, prototype) = &body.prototypes[0];
    assert_eq!(prototype.returns.len(), 1);
    assert_eq!(prototype.params.iter().map(|param| param.ty).collect::<Vec<_>>(), [Type::B32]);
    let call = body
        .instructions
        .iter()
        .find(|instruction| instruction.operands.contains(&Operand::Table(name.clone())))
        .expect("it is used");
    assert_eq!(call.name, "call");
    assert!(matches!(
        &call.operands[..],
        [Operand::List(returned), Operand::Register(_), Operand::List(given), Operand::Table(_)]
            if returned.len() == 1 && given.len() == 1
    ));
}

#[test]
fn rare_directives_are_understood() {
    let module = parse(DIRECTIVES).expect("it is PTX");
    assert_eq!(module.target, "sm_90a");
    assert_eq!(module.variables.iter().filter(|variable| variable.name == "dynamic").count(), 1);
    let dynamic = module.variables.iter().find(|variable| variable.name == "dynamic").expect("it is there");
    assert_eq!((dynamic.space, dynamic.bytes, dynamic.align), (Space::Shared, None, 128));

    let scopes = function(&module, "scopes");
    assert_eq!(scopes.required_block, Some([32, 4, 1]));
    assert_eq!(scopes.required_cluster, Some([2, 1, 1]));
    let body = scopes.body.as_ref().expect("it is defined");
    assert_eq!(body.registers.iter().filter(|register| register.name == "index").count(), 2);
    assert!(!body.registers.iter().any(|register| register.name == "%r5"), "%r5 is not used");

    let targets: Vec<&str> = body.targets.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(targets, ["callees", "table"]);
    assert_eq!(body.targets[0].1, Targets::Functions(vec!["twice".to_owned(), "twice".to_owned()]));
    let source = Source { file: 2, line: 3, column: 9 };
    assert!(body.instructions.iter().any(|instruction| instruction.source == Some(source)));
}

#[test]
fn calls_of_an_alias_are_calls_of_what_it_names() {
    let module = parse(DIRECTIVES).expect("it is PTX");
    let place = |name: &str| module.functions.iter().position(|function| function.name == name);
    let body = function(&module, "scopes").body.as_ref().expect("it is defined");
    let called = |name: &str| {
        let symbol = Operand::Symbol(Symbol::Function(place(name).expect("it is declared")), 0);
        body.instructions.iter().filter(|call| call.name == "call" && call.operands.contains(&symbol)).count()
    };
    assert_eq!((called("twice"), called("double_it")), (1, 0));
}
