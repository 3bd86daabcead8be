//! Drawn modules, printed and read again.

use longhand_emulator::ptx::ast::{
    Base, Body, Function, Guard, Init, Instruction, LabelId, Linkage, Module, Operand, Param, Prototype,
    Register, RegisterId, Source, Space, Symbol, Targets, Type, Variable,
};
use longhand_emulator::ptx::parse;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::print::print;

const TYPES: [Type; 12] = [
    Type::B8,
    Type::U16,
    Type::B32,
    Type::S32,
    Type::U64,
    Type::B128,
    Type::F16,
    Type::F16x2,
    Type::Bf16,
    Type::F32,
    Type::F64,
    Type::Pred,
];

/// What every drawn function can name: two variables of the module, a parameter and a variable of the function, and the
/// first function.
const SYMBOLS: [Symbol; 5] =
    [Symbol::Global(0), Symbol::Global(1), Symbol::Param(0), Symbol::Local(0), Symbol::Function(0)];

/// Labels of every drawn body.
const LABELS: u32 = 3;

proptest! {
    #[test]
    fn a_module_that_is_printed_and_read_is_the_same(mut module in modules()) {
        let text = print(&mut module);
        let read = parse(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        prop_assert_eq!(read, module, "{}", text);
    }
}

fn modules() -> impl Strategy<Value = Module> {
    let files = prop::collection::vec((any::<u32>(), "[ -!#-~&&[^\\\\]]{0,8}"), 0..3);
    let variables = prop::collection::vec(variable(vec![Space::Global, Space::Const]), 2..5);
    let functions = prop::collection::vec(function(), 1..4);
    ((7..10_u32, 0..12_u32), select(vec!["sm_80", "sm_90a", "sm_120"]), files, variables, functions).prop_map(
        |(version, target, files, mut variables, mut functions)| {
            for (index, variable) in variables.iter_mut().enumerate() {
                variable.name = format!("v{index}");
            }
            name_addressed(&mut variables);
            for (index, function) in functions.iter_mut().enumerate() {
                function.name = format!("f{index}");
            }
            Module { version, target: target.to_owned(), variables, functions, files }
        },
    )
}

/// An initial address is that of a variable before, if there is one.
fn name_addressed(variables: &mut [Variable]) {
    for (index, variable) in variables.iter_mut().enumerate() {
        for init in &mut variable.init {
            if let Init::Address { name, .. } = init {
                if index == 0 {
                    *init = Init::Bits(0);
                } else {
                    *name = format!("v{}", index - 1);
                }
            }
        }
    }
}

fn variable(spaces: Vec<Space>) -> impl Strategy<Value = Variable> {
    let shape = (select(vec![Type::B8, Type::U16, Type::S32, Type::U64]), select(vec![1_u32, 2, 4]))
        .prop_filter("vectors have 16 bytes at most", |(ty, vector)| ty.bytes() * u64::from(*vector) <= 16);
    let init = prop::collection::vec(init(), 0..9);
    let linkage = select(vec![Linkage::Internal, Linkage::Visible, Linkage::Weak, Linkage::Common]);
    (select(spaces), shape, 0..8_u32, 1..20_u64, init, linkage).prop_map(
        |(space, (ty, vector), align, length, mut init, linkage)| {
            init.truncate((length * u64::from(vector)) as usize);
            // What braces leave out is 0, unless it is at the end.
            init.truncate(init.len() / vector as usize * vector as usize);
            let bytes = Some(length * ty.bytes() * u64::from(vector));
            Variable {
                name: String::new(),
                space,
                ty,
                vector,
                align: 1 << align,
                bytes,
                init,
                linkage,
                line: 0,
            }
        },
    )
}

fn init() -> impl Strategy<Value = Init> {
    prop_oneof![
        3 => any::<u64>().prop_map(Init::Bits),
        1 => (any::<i32>(), any::<bool>(), 0..9_u32).prop_map(|(offset, generic, byte)| Init::Address {
            name: String::new(),
            offset: i64::from(offset),
            generic,
            mask: 0xFF_u64.checked_shl(byte * 8).unwrap_or(u64::MAX),
        }),
    ]
}

fn param() -> impl Strategy<Value = Param> {
    (select(TYPES[..10].to_vec()), 0..8_u32, 1..30_u64).prop_map(|(ty, align, length)| Param {
        name: String::new(),
        space: Space::Param,
        ty,
        align: 1 << align,
        bytes: length * ty.bytes(),
        register: None,
    })
}

fn params(prefix: &'static str, least: usize) -> impl Strategy<Value = Vec<Param>> {
    prop::collection::vec(param(), least..4).prop_map(move |mut params| {
        for (index, param) in params.iter_mut().enumerate() {
            param.name = format!("{prefix}{index}");
        }
        params
    })
}

fn count() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(any::<u32>())
}

fn extent() -> impl Strategy<Value = Option<[u32; 3]>> {
    prop::option::of(any::<[u32; 3]>())
}

fn function() -> impl Strategy<Value = Function> {
    let linkage = select(vec![Linkage::Internal, Linkage::Visible, Linkage::Weak]);
    let limits = (extent(), extent(), extent(), count(), count());
    (any::<bool>(), params("r", 0), params("p", 1), prop::option::of(body()), limits, linkage).prop_map(
        |(entry, mut returns, params, body, limits, linkage)| {
            if entry {
                returns.clear();
            }
            let (required_block, max_block, required_cluster, max_registers, min_blocks) = limits;
            Function {
                name: String::new(),
                entry,
                returns,
                params,
                body,
                required_block,
                max_block,
                max_registers,
                min_blocks,
                required_cluster,
                linkage,
                line: 0,
            }
        },
    )
}

fn body() -> impl Strategy<Value = Body> {
    let registers = prop::collection::vec((select(TYPES.to_vec()), select(vec![1_u32, 2, 4])), 1..8)
        .prop_map(|drawn| {
            drawn
                .into_iter()
                .map(|(ty, vector)| (ty, if ty.bytes() > 4 { 1 } else { vector }))
                .collect::<Vec<_>>()
        });
    let variables = prop::collection::vec(variable(vec![Space::Local, Space::Shared, Space::Param]), 1..4);
    let labels = prop::collection::vec(any::<Index>(), LABELS as usize);
    let instructions = prop::collection::vec(instruction(), 0..20);
    let prototypes = prop::collection::vec((params("_", 0), params("_", 0)), 0..3);
    (registers, variables, instructions, labels, prototypes).prop_map(
        |(registers, mut variables, instructions, labels, prototypes)| {
            for (index, variable) in variables.iter_mut().enumerate() {
                variable.name = format!("l{index}");
                variable.init.clear();
                variable.linkage = Linkage::Internal;
            }
            let mut labels: Vec<usize> =
                labels.iter().map(|label| label.index(instructions.len() + 1)).collect();
            labels.sort_unstable();
            let mut used = Used { drawn: registers, ids: Vec::new() };
            let mut instructions: Vec<Instruction> =
                instructions.into_iter().map(|instruction| used.rename(instruction)).collect();
            keep_source(&mut instructions);
            Body {
                registers: used.registers(),
                variables,
                instructions,
                labels,
                targets: vec![
                    ("t0".to_owned(), Targets::Labels(vec![LabelId(2), LabelId(0)])),
                    ("t1".to_owned(), Targets::Functions(vec!["f0".to_owned()])),
                ],
                prototypes: prototypes
                    .into_iter()
                    .enumerate()
                    .map(|(index, (returns, params))| (format!("c{index}"), Prototype { returns, params }))
                    .collect(),
            }
        },
    )
}

/// Once there is a `.loc`, every instruction after it has a source.
fn keep_source(instructions: &mut [Instruction]) {
    let mut last = None;
    for instruction in instructions {
        last = instruction.source.or(last);
        instruction.source = last;
    }
}

/// Registers by their first use, which is how the parser numbers them.
struct Used {
    drawn: Vec<(Type, u32)>,
    /// The place in `drawn` of each.
    ids: Vec<usize>,
}

impl Used {
    fn id(&mut self, drawn: RegisterId) -> RegisterId {
        let drawn = drawn.0 as usize % self.drawn.len();
        let id = self.ids.iter().position(|id| *id == drawn).unwrap_or_else(|| {
            self.ids.push(drawn);
            self.ids.len() - 1
        });
        RegisterId(id as u32)
    }

    fn registers(&self) -> Vec<Register> {
        let named = |drawn: &usize| (format!("%r{drawn}"), self.drawn[*drawn]);
        self.ids.iter().map(named).map(|(name, (ty, vector))| Register { name, ty, vector }).collect()
    }

    fn rename(&mut self, mut instruction: Instruction) -> Instruction {
        if let Some(guard) = &mut instruction.guard {
            guard.register = self.id(guard.register);
        }
        if instruction.name != "call" {
            instruction.operands.retain(|operand| !matches!(operand, Operand::List(_)));
        }
        instruction.operands.iter_mut().for_each(|operand| self.operand(operand));
        instruction
    }

    fn operand(&mut self, operand: &mut Operand) {
        match operand {
            Operand::Register(register) | Operand::Not(register) => *register = self.id(*register),
            Operand::Component(register, index) => {
                let id = self.id(*register);
                let vector = self.drawn[self.ids[id.0 as usize]].1;
                *operand =
                    if vector == 1 { Operand::Register(id) } else { Operand::Component(id, *index % vector) };
            }
            Operand::Selected(register, part) => {
                let id = self.id(*register);
                let scalar = self.drawn[self.ids[id.0 as usize]].1 == 1;
                *operand =
                    if scalar { Operand::Selected(id, std::mem::take(part)) } else { Operand::Register(id) };
            }
            Operand::Address(base, _) => self.base(base),
            Operand::TensorAddress(base, _, groups) => {
                self.base(base);
                groups.iter_mut().flatten().for_each(|element| self.operand(element));
            }
            Operand::Vector(elements) | Operand::List(elements) => {
                elements.iter_mut().for_each(|element| self.operand(element));
            }
            Operand::Pair(first, second) => {
                self.operand(first);
                self.operand(second);
            }
            _ => {}
        }
    }

    fn base(&mut self, base: &mut Base) {
        if let Base::Register(register) = base {
            *register = self.id(*register);
        }
    }
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let guard = prop::option::of((register(), any::<bool>()));
    let modifier = "[a-z0-9][a-zA-Z0-9_]{0,6}(::[a-zA-Z0-9]{1,5}){0,2}";
    let source = prop::option::of((0..3_u32, any::<u32>(), any::<u32>()));
    (
        guard,
        select(vec!["op", "mov", "call", "_x", "l"]),
        prop::collection::vec(modifier, 0..4),
        prop::collection::vec(operand(), 0..5),
        source,
    )
        .prop_map(|(guard, name, modifiers, operands, source)| Instruction {
            guard: guard.map(|(register, negated)| Guard { register, negated }),
            name: name.to_owned(),
            modifiers,
            operands,
            line: 0,
            source: source.map(|(file, line, column)| Source { file, line, column }),
        })
}

fn register() -> impl Strategy<Value = RegisterId> {
    (0..8_u32).prop_map(RegisterId)
}

fn element() -> impl Strategy<Value = Operand> {
    prop_oneof![
        register().prop_map(Operand::Register),
        (register(), 0..4_u32).prop_map(|(register, index)| Operand::Component(register, index)),
        (register(), "[bh][0-7]{1,4}").prop_map(|(register, part)| Operand::Selected(register, part)),
        select(vec!["tid.x", "laneid", "clusterid.z"]).prop_map(|name| Operand::Special(name.to_owned())),
        any::<u64>().prop_map(Operand::Integer),
        any::<u32>().prop_map(Operand::F32),
        any::<u64>().prop_map(Operand::F64),
        (select(SYMBOLS.to_vec()), any::<i64>()).prop_map(|(symbol, offset)| Operand::Symbol(symbol, offset)),
        Just(Operand::Sink),
    ]
}

fn elements() -> impl Strategy<Value = Vec<Operand>> {
    prop::collection::vec(element(), 0..4)
}

fn base() -> impl Strategy<Value = Base> {
    prop_oneof![
        register().prop_map(Base::Register),
        select(SYMBOLS.to_vec()).prop_map(Base::Symbol),
        Just(Base::None)
    ]
}

fn operand() -> impl Strategy<Value = Operand> {
    let second = prop_oneof![register().prop_map(Operand::Register), Just(Operand::Sink)];
    prop_oneof![
        4 => element(),
        1 => register().prop_map(Operand::Not),
        2 => (base(), any::<i64>()).prop_map(|(base, offset)| Operand::Address(base, offset)),
        1 => (base(), any::<i64>(), prop::collection::vec(elements(), 1..3))
            .prop_map(|(base, offset, groups)| Operand::TensorAddress(base, offset, groups)),
        1 => elements().prop_map(Operand::Vector),
        1 => elements().prop_map(Operand::List),
        1 => (register(), second)
            .prop_map(|(first, second)| Operand::Pair(Box::new(Operand::Register(first)), Box::new(second))),
        1 => (0..LABELS).prop_map(|label| Operand::Label(LabelId(label))),
        1 => select(vec!["t0", "t1"]).prop_map(|name| Operand::Table(name.to_owned())),
    ]
}
