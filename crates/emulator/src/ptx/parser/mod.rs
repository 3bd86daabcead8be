//! A recursive-descent parser of PTX text.

mod body;
mod cursor;
mod debug;
mod declaration;
mod expression;
mod function;
mod initializer;
mod instruction;
mod labels;
mod names;
mod operand;

use std::collections::HashMap;

use self::body::BodyState;
use self::cursor::Parsed;
use self::names::Names;
use super::ast::{Linkage, Module};
use super::error::{ParseError, ParseErrors};
use super::lexer::{Kind, Lexer, Token};

/// Reads a module of PTX ISA 7.0 or later.
///
/// What instructions mean is not checked: those that this crate does not know are read all the same.
///
/// # Errors
///
/// Everything in the text that is not PTX, each with its line: reading goes on after the first. Registers, variables,
/// labels and functions that are used have to be declared.
pub fn parse(text: &str) -> Result<Module, ParseErrors> {
    Parser::new(text.trim_end_matches('\0')).parse()
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    token: Token<'t>,
    errors: Vec<ParseError>,
    /// Whether there were too many errors to go on.
    gave_up: bool,
    nesting: u32,
    module: Module,
    names: Names<'t>,
    /// Of the function that is being read.
    state: BodyState<'t>,
    /// What function each is another name of, by their places in the module.
    aliases: HashMap<usize, usize>,
    /// Zeros that initialisers with nested braces left out, so far.
    padding: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        let mut lexer = Lexer::new(text);
        let token = lexer.next();
        Self {
            lexer,
            token,
            errors: Vec::new(),
            gave_up: false,
            nesting: 0,
            module: Module::default(),
            names: Names::default(),
            state: BodyState::default(),
            aliases: HashMap::new(),
            padding: 0,
        }
    }

    fn parse(mut self) -> Result<Module, ParseErrors> {
        if let Err(error) = self.version_and_target() {
            self.report(error);
        }
        while !self.at_end() {
            let start = self.here();
            if let Err(error) = self.module_directive() {
                self.report(error);
                self.leave_function();
                self.skip_declaration(start);
            }
        }
        self.resolve_aliases();
        if self.errors.is_empty() {
            return Ok(self.module);
        }
        self.errors.sort_by_key(|error| (error.line, error.column));
        Err(ParseErrors(self.errors))
    }

    fn version_and_target(&mut self) -> Parsed<()> {
        if !self.accept_directive("version") {
            return self.fail("`.version`");
        }
        let number = self.expect_kind(Kind::Number, "a version such as 9.0")?;
        let Some(version) = version(number.text) else {
            return Err(self.error_at(number, "a version such as 9.0"));
        };
        self.module.version = version;
        if !self.accept_directive("target") {
            return self.fail("`.target`");
        }
        let words = self.separated(|p| p.expect_name("a target such as sm_90"))?;
        self.module.target = words[0].text.to_owned();
        Ok(())
    }

    fn module_directive(&mut self) -> Parsed<()> {
        let start = self.token;
        let directive = self.expect_kind(Kind::Dotted, "a directive")?;
        match directive.text {
            "address_size" => self.address_size(),
            "file" => self.file(),
            "section" => self.section(),
            "loc" => self.location(),
            "pragma" => self.pragma(),
            "alias" => self.alias(),
            "visible" => self.linked(Linkage::Visible),
            "extern" => self.linked(Linkage::Extern),
            "weak" => self.linked(Linkage::Weak),
            "common" => self.linked(Linkage::Common),
            _ => self.declared(start, Linkage::Internal),
        }
    }

    fn linked(&mut self, linkage: Linkage) -> Parsed<()> {
        let directive = self.expect_kind(Kind::Dotted, "a state space, `.entry` or `.func`")?;
        self.declared(directive, linkage)
    }

    /// After `directive`, which says what is declared.
    fn declared(&mut self, directive: Token<'t>, linkage: Linkage) -> Parsed<()> {
        match directive.text {
            "entry" => self.function(true, linkage),
            "func" => self.function(false, linkage),
            "global" | "const" | "shared" => self.module_variables(directive, linkage),
            "reg" | "local" | "param" => Err(self.error_at(directive, "it within a function")),
            _ => Err(self.error_at(directive, "a directive of a module")),
        }
    }

    fn address_size(&mut self) -> Parsed<()> {
        let number = self.expect_kind(Kind::Number, "64")?;
        if number.text == "64" { Ok(()) } else { Err(self.error_at(number, "64: addresses of 64 bits")) }
    }

    /// `.pragma "nounroll";`: hints of which none changes what a program computes.
    fn pragma(&mut self) -> Parsed<()> {
        self.separated(|p| p.expect_kind(Kind::String, "a string"))?;
        self.expect(";")
    }
}

/// `8.10` is `(8, 10)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
