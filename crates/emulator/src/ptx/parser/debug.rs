//! Debugging directives (PTX ISA, "Debugging Directives").

use super::Parser;
use super::cursor::Parsed;
use crate::ptx::ast::Source;
use crate::ptx::lexer::Kind;

impl Parser<'_> {
    /// After `.file`: `1 "name"`, and optionally a time and a size.
    pub fn file(&mut self) -> Parsed<()> {
        let number = self.number_u32()?;
        let name = self.expect_kind(Kind::String, "the name of a file")?;
        self.module.files.push((number, name.text.to_owned()));
        while self.accept(",") {
            self.expect_kind(Kind::Number, "a time or a size")?;
        }
        Ok(())
    }

    /// After `.loc`: `file line column`, and optionally `, function_name label+offset, inlined_at file line column`.
    ///
    /// The place told is that of the code itself, not that of the call it was inlined at.
    pub fn location(&mut self) -> Parsed<()> {
        let source = self.source()?;
        self.state.source = Some(source);
        while self.accept(",") {
            let attribute = self.expect_name("`function_name` or `inlined_at`")?;
            match attribute.text {
                "function_name" => self.function_name()?,
                "inlined_at" => {
                    self.source()?;
                }
                _ => return Err(self.error_at(attribute, "`function_name` or `inlined_at`")),
            }
        }
        Ok(())
    }

    fn source(&mut self) -> Parsed<Source> {
        Ok(Source { file: self.number_u32()?, line: self.number_u32()?, column: self.number_u32()? })
    }

    /// A place in the section of strings: a label or the section itself, and an offset.
    fn function_name(&mut self) -> Parsed<()> {
        if !matches!(self.token.kind, Kind::Word | Kind::Dotted) {
            return self.fail("a label of a `.section`");
        }
        self.advance();
        if self.accept("+") {
            self.number_u32()?;
        }
        Ok(())
    }

    /// After `.section`: its name and what it holds, which is for debuggers.
    pub fn section(&mut self) -> Parsed<()> {
        if !matches!(self.token.kind, Kind::Word | Kind::Dotted) {
            return self.fail("the name of a section");
        }
        self.advance();
        self.expect("{")?;
        let mut depth = 1;
        while depth > 0 {
            if matches!(self.token.kind, Kind::End | Kind::Bad) {
                return self.fail("`}`");
            }
            match self.advance() {
                token if token.kind != Kind::Symbol => {}
                token if token.text == "{" => depth += 1,
                token if token.text == "}" => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    pub fn number_u32(&mut self) -> Parsed<u32> {
        let token = self.expect_kind(Kind::Number, "a number")?;
        token.text.parse().map_err(|_| self.error_at(token, "a decimal number below 2^32"))
    }
}
