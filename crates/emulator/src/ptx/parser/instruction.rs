//! Instructions (PTX ISA, "Instruction Statements" and "Predicated Execution").

use super::Parser;
use super::cursor::Parsed;
use super::names::Name;
use crate::ptx::ast::{Guard, Instruction, RegisterId};
use crate::ptx::lexer::{Kind, Token};

impl<'t> Parser<'t> {
    /// `@%p1 instruction` or `@!%p1 instruction`
    pub fn guarded(&mut self) -> Parsed<()> {
        self.expect("@")?;
        let negated = self.accept("!");
        let register = self.register_use()?;
        let name = self.expect_name("an instruction")?;
        self.instruction(Some(Guard { register, negated }), name)
    }

    /// After its name.
    pub fn instruction(&mut self, guard: Option<Guard>, name: Token<'t>) -> Parsed<()> {
        let mut modifiers = Vec::new();
        while self.token.kind == Kind::Dotted {
            modifiers.push(self.advance().text.to_owned());
        }
        let call = name.text == "call";
        let operands = if self.at(";") { Vec::new() } else { self.separated(|p| p.operand(call))? };
        if !self.accept(";") {
            return self.fail("`,` or `;`");
        }
        self.state.body.instructions.push(Instruction {
            guard,
            name: name.text.to_owned(),
            modifiers,
            operands,
            line: name.line,
            source: self.state.source,
        });
        Ok(())
    }

    /// A register that is declared.
    pub fn register_use(&mut self) -> Parsed<RegisterId> {
        let token = self.expect_name("a register")?;
        match self.find(token) {
            Some(Name::Register(register)) => Ok(register),
            _ => Err(self.error_at(token, "a register that is declared")),
        }
    }

    pub fn find(&mut self, token: Token<'t>) -> Option<Name> {
        self.names.find(token.text, &mut self.state.body.registers)
    }
}
