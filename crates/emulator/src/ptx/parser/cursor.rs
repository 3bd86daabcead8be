//! Steps over tokens, and errors where one is not what it has to be.

use super::Parser;
use crate::ptx::error::ParseError;
use crate::ptx::lexer::{Kind, Lexer, Token};

pub(super) type Parsed<T> = Result<T, ParseError>;

/// A place to come back to.
#[derive(Clone, Copy)]
pub(super) struct Place<'t> {
    lexer: Lexer<'t>,
    token: Token<'t>,
}

/// Braces within braces, parentheses within parentheses: more than any compiler writes, and few enough for the stack.
const MAX_NESTING: u32 = 64;

/// Errors that one text is told at most.
const MAX_ERRORS: usize = 50;

impl<'t> Parser<'t> {
    pub fn here(&self) -> Place<'t> {
        Place { lexer: self.lexer, token: self.token }
    }

    pub fn go_to(&mut self, place: Place<'t>) {
        self.lexer = place.lexer;
        self.token = place.token;
    }

    /// The current token; the next one becomes current.
    pub fn advance(&mut self) -> Token<'t> {
        let next = self.lexer.next();
        std::mem::replace(&mut self.token, next)
    }

    pub fn at(&self, symbol: &str) -> bool {
        self.token.kind == Kind::Symbol && self.token.text == symbol
    }

    pub fn at_directive(&self, name: &str) -> bool {
        self.token.kind == Kind::Dotted && self.token.text == name
    }

    pub fn at_end(&self) -> bool {
        self.token.kind == Kind::End
    }

    /// Passes `symbol` if it stands here.
    pub fn accept(&mut self, symbol: &str) -> bool {
        let found = self.at(symbol);
        if found {
            self.advance();
        }
        found
    }

    /// Passes `.name` if it stands here.
    pub fn accept_directive(&mut self, name: &str) -> bool {
        let found = self.at_directive(name);
        if found {
            self.advance();
        }
        found
    }

    pub fn expect(&mut self, symbol: &str) -> Parsed<()> {
        if self.accept(symbol) { Ok(()) } else { self.fail(&format!("`{symbol}`")) }
    }

    pub fn expect_kind(&mut self, kind: Kind, expected: &str) -> Parsed<Token<'t>> {
        if self.token.kind == kind { Ok(self.advance()) } else { self.fail(expected) }
    }

    /// The name of something.
    pub fn expect_name(&mut self, expected: &str) -> Parsed<Token<'t>> {
        self.expect_kind(Kind::Word, expected)
    }

    /// `item` once or more, with commas between.
    pub fn separated<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.accept(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `item` any number of times up to `close`, with commas between.
    pub fn enclosed<T>(
        &mut self,
        open: &str,
        close: &str,
        item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        self.expect(open)?;
        if self.accept(close) {
            return Ok(Vec::new());
        }
        let items = self.separated(item)?;
        if !self.accept(close) {
            return self.fail(&format!("`,` or `{close}`"));
        }
        Ok(items)
    }

    /// One level deeper in something recursive.
    pub fn nested<T>(&mut self, inside: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.deepen()?;
        let result = inside(self);
        self.nesting -= 1;
        result
    }

    pub fn deepen(&mut self) -> Parsed<()> {
        if self.nesting == MAX_NESTING {
            return self.fail(&format!("at most {MAX_NESTING} levels of nesting"));
        }
        self.nesting += 1;
        Ok(())
    }

    /// The error that `expected` does not stand here.
    pub fn fail<T>(&self, expected: &str) -> Parsed<T> {
        Err(self.error_at(self.token, expected))
    }

    /// The error that `token` is not what it has to be.
    pub fn error_at(&self, token: Token<'t>, expected: &str) -> ParseError {
        let before = &self.lexer.text()[..token.offset];
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count());
        ParseError {
            line: token.line,
            column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1),
            found: describe(token),
            expected: expected.to_owned(),
        }
    }

    pub fn report(&mut self, error: ParseError) {
        self.errors.push(error);
        if self.errors.len() == MAX_ERRORS {
            self.give_up();
        }
    }

    /// Makes the end of the text the current token.
    fn give_up(&mut self) {
        self.gave_up = true;
        self.lexer.go_to_end();
        self.advance();
    }

    /// From the start of a statement with an error to after its `;`, or to the `}` that ends the scope it is in.
    pub fn skip_statement(&mut self, start: Place<'t>) {
        if self.gave_up {
            return;
        }
        self.go_to(start);
        let mut depth = 0_usize;
        while !self.at_end() {
            if self.at("}") && depth == 0 {
                return;
            }
            let token = self.advance();
            match token.text {
                _ if token.kind != Kind::Symbol => {}
                "{" => depth += 1,
                "}" => depth -= 1,
                ";" if depth == 0 => return,
                _ => {}
            }
        }
    }

    /// Like [`Self::skip_statement`] outside of functions, where `}` ends what a `{` began.
    pub fn skip_declaration(&mut self, start: Place<'t>) {
        if self.gave_up {
            return;
        }
        self.go_to(start);
        let mut depth = 0_usize;
        while !self.at_end() {
            let token = self.advance();
            match token.text {
                _ if token.kind != Kind::Symbol => {}
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && token.kind == Kind::Symbol && matches!(token.text, ";" | "}") {
                return;
            }
        }
    }
}

/// What a person sees at a token.
fn describe(token: Token<'_>) -> String {
    const LONGEST: usize = 40;
    let mut text: String = token.text.chars().take(LONGEST).collect();
    if text.len() < token.text.len() {
        text.push('…');
    }
    match token.kind {
        Kind::End => "the end of the file".to_owned(),
        Kind::Dotted => format!("`.{text}`"),
        Kind::String => format!("`\"{text}\"`"),
        Kind::Bad if text == "\"" => "a string that is not closed".to_owned(),
        Kind::Bad if text == "/*" => "a comment that is not closed".to_owned(),
        Kind::Bad => format!("{:?}", token.text),
        Kind::Word | Kind::Number | Kind::Symbol => format!("`{text}`"),
    }
}
