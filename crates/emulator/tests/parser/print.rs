//! A module as text.

use std::fmt::Write as _;

use longhand_emulator::ptx::ast::{
    Base, Body, Function, Init, Instruction, Linkage, Module, Operand, Param, Register, Space, Symbol,
    Targets, Type, Variable,
};

/// The text of a module, which is told on which line each of its parts is.
pub fn print(module: &mut Module) -> String {
    let mut text = format!(".version {}.{}\n.target {}\n", module.version.0, module.version.1, module.target);
    for (number, name) in &module.files {
        line(&mut text, &format!(".file {number} \"{name}\""));
    }
    for variable in &mut module.variables {
        variable.line = print_variable(&mut text, variable);
    }
    for index in 0..module.functions.len() {
        let header = header(&module.functions[index]);
        module.functions[index].line = line(&mut text, &header);
        if let Some(mut body) = module.functions[index].body.take() {
            print_body(&mut text, module, index, &mut body);
            module.functions[index].body = Some(body);
        } else {
            line(&mut text, ";");
        }
    }
    text
}

/// Adds a line, and says its number.
fn line(text: &mut String, what: &str) -> u32 {
    text.push_str(what);
    text.push('\n');
    text.lines().count() as u32
}

fn type_name(ty: Type) -> String {
    format!("{ty:?}").to_lowercase()
}

fn linkage(linkage: Linkage) -> &'static str {
    match linkage {
        Linkage::Internal => "",
        Linkage::Visible => ".visible ",
        Linkage::Extern => ".extern ",
        Linkage::Weak => ".weak ",
        Linkage::Common => ".common ",
    }
}

fn print_variable(text: &mut String, variable: &Variable) -> u32 {
    let vector = if variable.vector == 1 { String::new() } else { format!(".v{} ", variable.vector) };
    let element = variable.ty.bytes() * u64::from(variable.vector);
    let length = variable.bytes.map_or(String::new(), |bytes| (bytes / element).to_string());
    let init: Vec<String> = variable.init.iter().map(print_init).collect();
    let rows: Vec<String> = match variable.vector {
        1 => init,
        vector => init.chunks(vector as usize).map(|row| format!("{{{}}}", row.join(", "))).collect(),
    };
    let init = if rows.is_empty() { String::new() } else { format!(" = {{{}}}", rows.join(", ")) };
    let space = format!("{:?}", variable.space).to_lowercase();
    line(
        text,
        &format!(
            "{}.{space} .align {} {vector}.{} {}[{length}]{init};",
            linkage(variable.linkage),
            variable.align,
            type_name(variable.ty),
            variable.name
        ),
    )
}

fn print_init(init: &Init) -> String {
    match init {
        Init::Bits(bits) => format!("{bits:#x}"),
        Init::Address { name, offset, generic, mask } => {
            let name = if *generic { format!("generic({name})") } else { name.clone() };
            let address = format!("{name}+{offset}");
            if *mask == u64::MAX { address } else { format!("{mask:#X}({address})").replace("0X", "0x") }
        }
    }
}

fn header(function: &Function) -> String {
    let kind = if function.entry { ".entry" } else { ".func" };
    let returns = if function.entry { String::new() } else { print_params(&function.returns) };
    let mut text = format!(
        "{}{kind} {returns} {} {}",
        linkage(function.linkage),
        function.name,
        print_params(&function.params)
    );
    for (directive, extent) in [
        ("reqntid", function.required_block),
        ("maxntid", function.max_block),
        ("reqnctapercluster", function.required_cluster),
    ] {
        if let Some([x, y, z]) = extent {
            write!(text, " .{directive} {x}, {y}, {z}").expect("a string");
        }
    }
    for (directive, count) in [("maxnreg", function.max_registers), ("minnctapersm", function.min_blocks)] {
        if let Some(count) = count {
            write!(text, " .{directive} {count}").expect("a string");
        }
    }
    text
}

fn print_params(params: &[Param]) -> String {
    let each: Vec<String> = params
        .iter()
        .map(|param| match param.space {
            Space::Reg => format!(".reg .{} {}", type_name(param.ty), param.name),
            _ => format!(
                ".param .align {} .{} {}[{}]",
                param.align,
                type_name(param.ty),
                param.name,
                param.bytes / param.ty.bytes()
            ),
        })
        .collect();
    format!("({})", each.join(", "))
}

fn print_body(text: &mut String, module: &Module, function: usize, body: &mut Body) {
    line(text, "{");
    let first = module.functions[function].params.iter().filter(|param| param.register.is_some()).count();
    for register in &body.registers[first..] {
        line(text, &print_register(register));
    }
    for variable in &mut body.variables {
        variable.line = print_variable(text, variable);
    }
    for (name, targets) in &body.targets {
        let list: Vec<String> = match targets {
            Targets::Labels(labels) => labels.iter().map(|label| format!("L{}", label.0)).collect(),
            Targets::Functions(names) => names.clone(),
        };
        let kind = if matches!(targets, Targets::Labels(_)) { "branchtargets" } else { "calltargets" };
        line(text, &format!("{name}: .{kind} {};", list.join(", ")));
    }
    for (name, prototype) in &body.prototypes {
        let (returns, params) = (print_params(&prototype.returns), print_params(&prototype.params));
        line(text, &format!("{name}: .callprototype {returns} _ {params};"));
    }
    let mut source = None;
    for index in 0..=body.instructions.len() {
        for label in (0..body.labels.len()).filter(|label| body.labels[*label] == index) {
            line(text, &format!("L{label}:"));
        }
        let Some(instruction) = body.instructions.get(index) else { break };
        if let Some(told) = instruction.source.filter(|_| instruction.source != source) {
            line(text, &format!(".loc {} {} {}", told.file, told.line, told.column));
            source = instruction.source;
        }
        let printed = print_instruction(module, function, body, instruction);
        body.instructions[index].line = line(text, &printed);
    }
    line(text, "}");
}

fn print_register(register: &Register) -> String {
    let vector = if register.vector == 1 { String::new() } else { format!(".v{} ", register.vector) };
    format!(".reg {vector}.{} {};", type_name(register.ty), register.name)
}

fn print_instruction(module: &Module, function: usize, body: &Body, instruction: &Instruction) -> String {
    let mut text = String::new();
    if let Some(guard) = instruction.guard {
        let not = if guard.negated { "!" } else { "" };
        write!(text, "@{not}{} ", body.registers[guard.register.0 as usize].name).expect("a string");
    }
    text.push_str(&instruction.name);
    for modifier in &instruction.modifiers {
        write!(text, ".{modifier}").expect("a string");
    }
    let printer = Printer { module, function: &module.functions[function], body };
    let operands: Vec<String> = instruction.operands.iter().map(|operand| printer.operand(operand)).collect();
    format!("{text} {};", operands.join(", "))
}

struct Printer<'m> {
    module: &'m Module,
    function: &'m Function,
    body: &'m Body,
}

impl Printer<'_> {
    fn symbol(&self, symbol: Symbol) -> &str {
        match symbol {
            Symbol::Global(index) => &self.module.variables[index].name,
            Symbol::Local(index) => &self.body.variables[index].name,
            Symbol::Param(index) => &self.function.params[index].name,
            Symbol::Return(index) => &self.function.returns[index].name,
            Symbol::Function(index) => &self.module.functions[index].name,
        }
    }

    fn list(&self, operands: &[Operand]) -> String {
        operands.iter().map(|operand| self.operand(operand)).collect::<Vec<_>>().join(", ")
    }

    fn base(&self, base: &Base, offset: i64) -> String {
        match base {
            Base::Register(register) => format!("{}+{offset}", self.body.registers[register.0 as usize].name),
            Base::Symbol(symbol) => format!("{}+{offset}", self.symbol(*symbol)),
            Base::None => format!("{offset}"),
        }
    }

    fn operand(&self, operand: &Operand) -> String {
        let name = |register: &longhand_emulator::ptx::ast::RegisterId| {
            &self.body.registers[register.0 as usize].name
        };
        match operand {
            Operand::Register(register) => name(register).clone(),
            Operand::Component(register, index) => {
                format!("{}.{}", name(register), ["x", "y", "z", "w"][*index as usize])
            }
            Operand::Selected(register, part) => format!("{}.{part}", name(register)),
            Operand::Not(register) => format!("!{}", name(register)),
            Operand::Special(name) => format!("%{name}"),
            Operand::Integer(value) => format!("{value}"),
            Operand::F32(bits) => format!("0f{bits:08X}"),
            Operand::F64(bits) => format!("0d{bits:016X}"),
            Operand::Symbol(symbol, offset) => format!("{}+{offset}", self.symbol(*symbol)),
            Operand::Address(base, offset) => format!("[{}]", self.base(base, *offset)),
            Operand::TensorAddress(base, offset, groups) => {
                let groups: Vec<String> =
                    groups.iter().map(|group| format!("{{{}}}", self.list(group))).collect();
                format!("[{}, {}]", self.base(base, *offset), groups.join(", "))
            }
            Operand::Vector(elements) => format!("{{{}}}", self.list(elements)),
            Operand::Pair(first, second) => format!("{}|{}", self.operand(first), self.operand(second)),
            Operand::List(elements) => format!("({})", self.list(elements)),
            Operand::Label(label) => format!("L{}", label.0),
            Operand::Table(name) => name.clone(),
            Operand::Sink => "_".to_owned(),
        }
    }
}
