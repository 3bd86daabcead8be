//! Bodies of functions: scopes, directives and labels (PTX ISA, "Statements" and "Control Flow Directives").

use super::Parser;
use super::cursor::Parsed;
use super::declaration::memory_space;
use super::labels::{Labels, Target};
use crate::ptx::ast::{Body, LabelId, Operand, Prototype, Source, Targets};
use crate::ptx::lexer::{Kind, Token};

/// What is known of a function while it is read.
#[derive(Default)]
pub(super) struct BodyState<'t> {
    pub body: Body,
    pub labels: Labels<'t>,
    /// The last `.loc`.
    pub source: Option<Source>,
}

impl<'t> Parser<'t> {
    /// From its `{` to after its `}`. Errors within are reported here; the one returned is that it has no end.
    pub fn body(&mut self) -> Parsed<Body> {
        let outside = self.nesting;
        self.open_scope()?;
        while self.nesting > outside && !self.at_end() {
            let start = self.here();
            if let Err(error) = self.statement() {
                self.report(error);
                self.skip_statement(start);
            }
        }
        let closed = self.nesting == outside;
        self.nesting = outside;
        let BodyState { mut body, labels, .. } = self.leave_function();
        for name in labels.undefined() {
            self.report(self.error_at(name, "a name that is declared, or a label of the function"));
        }
        for name in resolve_labels(&mut body, &labels) {
            self.report(self.error_at(name, "a label of an instruction"));
        }
        if closed || self.gave_up { Ok(body) } else { self.fail("`}`") }
    }

    /// What has been read of a function, whose names are no longer known.
    pub fn leave_function(&mut self) -> BodyState<'t> {
        self.names.close_function();
        std::mem::take(&mut self.state)
    }

    fn open_scope(&mut self) -> Parsed<()> {
        self.deepen()?;
        self.expect("{")?;
        self.names.open();
        self.state.labels.open();
        Ok(())
    }

    fn close_scope(&mut self) {
        self.advance();
        self.nesting -= 1;
        self.names.close();
        self.state.labels.close();
    }

    fn statement(&mut self) -> Parsed<()> {
        match self.token.text {
            _ if self.token.kind == Kind::Dotted => self.body_directive(),
            _ if self.token.kind == Kind::Word => self.label_or_instruction(),
            "@" if self.token.kind == Kind::Symbol => self.guarded(),
            "{" if self.token.kind == Kind::Symbol => self.open_scope(),
            "}" if self.token.kind == Kind::Symbol => {
                self.close_scope();
                Ok(())
            }
            ";" if self.token.kind == Kind::Symbol => {
                self.advance();
                Ok(())
            }
            _ => self.fail("a statement"),
        }
    }

    fn body_directive(&mut self) -> Parsed<()> {
        let directive = self.advance();
        match directive.text {
            "reg" => self.registers(),
            "loc" => self.location(),
            "file" => self.file(),
            "pragma" => self.pragma(),
            name => match memory_space(name) {
                Some(space) => self.local_variables(space),
                None => Err(self.error_at(directive, "a directive of a function's body")),
            },
        }
    }

    fn label_or_instruction(&mut self) -> Parsed<()> {
        let word = self.advance();
        if !self.accept(":") {
            return self.instruction(None, word);
        }
        let target = match self.token.text {
            _ if self.token.kind != Kind::Dotted => None,
            "branchtargets" => Some(self.branch_targets(word)?),
            "calltargets" => Some(self.call_targets(word)?),
            "callprototype" => Some(self.call_prototype(word)?),
            _ => None,
        };
        let target = target.unwrap_or_else(|| {
            let labels = &mut self.state.body.labels;
            labels.push(self.state.body.instructions.len());
            Target::Code(LabelId(labels.len() as u32 - 1))
        });
        if self.state.labels.define(word, target) {
            Ok(())
        } else {
            Err(self.error_at(word, "another label: this scope has one of this name"))
        }
    }

    /// `.branchtargets L0, L1;`
    fn branch_targets(&mut self, name: Token<'t>) -> Parsed<Target> {
        self.advance();
        let labels = self.separated(|p| {
            let label = p.expect_name("a label")?;
            Ok(p.state.labels.used(label).provisional())
        })?;
        self.expect(";")?;
        let name = self.state.labels.name_table(name.text);
        self.state.body.targets.push((name.clone(), Targets::Labels(labels)));
        Ok(Target::Table(name))
    }

    /// `.calltargets f, g;`
    fn call_targets(&mut self, name: Token<'t>) -> Parsed<Target> {
        self.advance();
        let functions = self.separated(|p| {
            let index = p.declared_function()?;
            Ok(p.module.functions[index].name.clone())
        })?;
        self.expect(";")?;
        let name = self.state.labels.name_table(name.text);
        self.state.body.targets.push((name.clone(), Targets::Functions(functions)));
        Ok(Target::Table(name))
    }

    /// `.callprototype (.param .b32 _) _ (.param .b64 _);`
    fn call_prototype(&mut self, name: Token<'t>) -> Parsed<Target> {
        self.advance();
        let returns = if self.at("(") { self.params()? } else { Vec::new() };
        self.expect_name("`_`")?;
        let params = if self.at("(") { self.params()? } else { Vec::new() };
        self.limits()?;
        self.expect(";")?;
        let without_names = |params: Vec<_>| params.into_iter().map(|(_, param)| param).collect();
        let prototype = Prototype { returns: without_names(returns), params: without_names(params) };
        let name = self.state.labels.name_table(name.text);
        self.state.body.prototypes.push((name.clone(), prototype));
        Ok(Target::Table(name))
    }
}

/// Puts what labels turned out to be in place of their slots. Those that are defined nowhere are errors by now; what
/// is returned are the targets of branches that are tables.
fn resolve_labels<'t>(body: &mut Body, labels: &Labels<'t>) -> Vec<Token<'t>> {
    let mut tables = Vec::new();
    for operand in body.instructions.iter_mut().flat_map(|instruction| &mut instruction.operands) {
        if let Operand::Label(slot) = operand {
            match labels.target(*slot) {
                Some(Target::Code(label)) => *slot = *label,
                Some(Target::Table(name)) => *operand = Operand::Table(name.clone()),
                None => {}
            }
        }
    }
    for (_, targets) in &mut body.targets {
        let Targets::Labels(slots) = targets else { continue };
        for slot in slots {
            match labels.target(*slot) {
                Some(Target::Code(label)) => *slot = *label,
                Some(Target::Table(_)) => tables.extend(labels.first_use(*slot)),
                None => {}
            }
        }
    }
    tables
}
