//! Whether a module refers only to what it has, so that whoever reads it may index its tables.

use longhand_emulator::ptx::ast::{
    Base, Body, Function, LabelId, Module, Operand, RegisterId, Symbol, Targets,
};

/// Panics at the first thing that is not there.
pub fn check(module: &Module) {
    for function in &module.functions {
        if let Some(body) = &function.body {
            Checker { module, function, body }.check();
        }
    }
}

struct Checker<'m> {
    module: &'m Module,
    function: &'m Function,
    body: &'m Body,
}

impl Checker<'_> {
    fn check(&self) {
        for label in &self.body.labels {
            assert!(*label <= self.body.instructions.len());
        }
        for (_, targets) in &self.body.targets {
            if let Targets::Labels(labels) = targets {
                labels.iter().for_each(|label| self.label(*label));
            }
        }
        for param in self.function.params.iter().chain(&self.function.returns) {
            param.register.iter().for_each(|register| self.register(*register));
        }
        for instruction in &self.body.instructions {
            instruction.guard.iter().for_each(|guard| self.register(guard.register));
            self.operands(&instruction.operands);
        }
    }

    fn register(&self, register: RegisterId) {
        assert!((register.0 as usize) < self.body.registers.len());
    }

    fn label(&self, label: LabelId) {
        assert!((label.0 as usize) < self.body.labels.len());
    }

    fn symbol(&self, symbol: Symbol) {
        let (index, length) = match symbol {
            Symbol::Global(index) => (index, self.module.variables.len()),
            Symbol::Local(index) => (index, self.body.variables.len()),
            Symbol::Param(index) => (index, self.function.params.len()),
            Symbol::Return(index) => (index, self.function.returns.len()),
            Symbol::Function(index) => (index, self.module.functions.len()),
        };
        assert!(index < length);
    }

    fn operands(&self, operands: &[Operand]) {
        operands.iter().for_each(|operand| self.operand(operand));
    }

    fn operand(&self, operand: &Operand) {
        match operand {
            Operand::Register(register) | Operand::Not(register) | Operand::Selected(register, _) => {
                self.register(*register);
            }
            Operand::Component(register, index) => {
                self.register(*register);
                assert!(*index < self.body.registers[register.0 as usize].vector);
            }
            Operand::Symbol(symbol, _) => self.symbol(*symbol),
            Operand::Address(base, _) => self.base(base),
            Operand::TensorAddress(base, _, groups) => {
                self.base(base);
                groups.iter().for_each(|group| self.operands(group));
            }
            Operand::Vector(elements) | Operand::List(elements) => self.operands(elements),
            Operand::Pair(first, second) => {
                self.operand(first);
                self.operand(second);
            }
            Operand::Label(label) => self.label(*label),
            Operand::Table(name) => {
                let targets = self.body.targets.iter().filter(|(table, _)| table == name).count();
                let prototypes = self.body.prototypes.iter().filter(|(table, _)| table == name).count();
                assert_eq!(targets + prototypes, 1);
            }
            Operand::Special(_) | Operand::Integer(_) | Operand::F32(_) | Operand::F64(_) | Operand::Sink => {
            }
        }
    }

    fn base(&self, base: &Base) {
        match base {
            Base::Register(register) => self.register(*register),
            Base::Symbol(symbol) => self.symbol(*symbol),
            Base::None => {}
        }
    }
}
