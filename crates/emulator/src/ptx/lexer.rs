//! PTX text as tokens (PTX ISA, "Source Format", "Identifiers" and "Constants").

/// What a token is; its text says the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `mov`, `%r1`, `$L__BB0_1`, `_`
    Word,
    /// `.reg`, `.m8n8`, `.1d`, `.shared::cluster`. Its text is without the dot.
    Dotted,
    /// `1`, `0x1F`, `0f3F800000`, `9.0`, and anything else that starts with a digit.
    Number,
    /// Its text is without the quotes.
    String,
    /// Punctuation or an operator.
    Symbol,
    /// The end of the file.
    End,
    /// What is no token of PTX.
    Bad,
}

/// One token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    pub kind: Kind,
    pub text: &'t str,
    /// Where it starts in the file, in bytes.
    pub offset: usize,
    /// Counted from 1.
    pub line: u32,
}

/// A position in the text. Copying it is how the parser looks ahead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    offset: usize,
    line: u32,
}

const PAIRS: [&str; 8] = ["<<", ">>", "<=", ">=", "==", "!=", "&&", "||"];

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b'$'
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'t> Lexer<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, offset: 0, line: 1 }
    }

    /// The whole text.
    pub fn text(&self) -> &'t str {
        self.text
    }

    pub fn go_to_end(&mut self) {
        self.offset = self.text.len();
    }

    /// The next token, passing white space and comments.
    pub fn next(&mut self) -> Token<'t> {
        if let Err(unclosed) = self.skip_blank() {
            return unclosed;
        }
        let (start, line) = (self.offset, self.line);
        let Some(first) = self.byte(0) else {
            return Token { kind: Kind::End, text: "", offset: start, line };
        };
        let kind = match first {
            b'"' => return self.string(),
            b'.' if self.byte(1).is_some_and(continues_word) => return self.dotted(),
            b'0'..=b'9' => self.number(),
            b'%' if self.byte(1).is_some_and(continues_word) => self.word(),
            _ if starts_word(first) => self.word(),
            _ => self.symbol(),
        };
        let text = &self.text[start..self.offset];
        Token { kind, text, offset: start, line }
    }

    /// The fraction `.5` in place of the `.5` that was read as a modifier at `token`.
    pub fn fraction(&mut self, token: Token<'t>) -> Token<'t> {
        self.offset = token.offset;
        let kind = self.number();
        Token { kind, text: &self.text[token.offset..self.offset], ..token }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.offset + ahead).copied()
    }

    fn skip_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.byte(0).is_some_and(&keep) {
            self.offset += 1;
        }
    }

    /// `Err` is a comment that is not closed.
    fn skip_blank(&mut self) -> Result<(), Token<'t>> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(b'\n'), _) => {
                    self.line += 1;
                    self.offset += 1;
                }
                (Some(byte), _) if byte.is_ascii_whitespace() || byte == b'\x0b' => self.offset += 1,
                (Some(b'/'), Some(b'/')) => self.skip_while(|byte| byte != b'\n'),
                (Some(b'/'), Some(b'*')) => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), Token<'t>> {
        let rest = &self.text[self.offset..];
        let Some(length) = rest[2..].find("*/") else {
            let unclosed = Token { kind: Kind::Bad, text: "/*", offset: self.offset, line: self.line };
            self.line += newlines(rest);
            self.offset = self.text.len();
            return Err(unclosed);
        };
        let comment = &rest[..length + 4];
        self.line += newlines(comment);
        self.offset += comment.len();
        Ok(())
    }

    fn word(&mut self) -> Kind {
        self.offset += 1;
        self.skip_while(continues_word);
        Kind::Word
    }

    fn dotted(&mut self) -> Token<'t> {
        let offset = self.offset;
        self.offset += 1;
        self.skip_while(continues_word);
        while self.byte(0) == Some(b':')
            && self.byte(1) == Some(b':')
            && self.byte(2).is_some_and(continues_word)
        {
            self.offset += 2;
            self.skip_while(continues_word);
        }
        Token { kind: Kind::Dotted, text: &self.text[offset + 1..self.offset], offset, line: self.line }
    }

    fn number(&mut self) -> Kind {
        self.skip_while(|byte| byte.is_ascii_digit());
        if self.byte(0) == Some(b'.') {
            self.offset += 1;
            self.skip_while(|byte| byte.is_ascii_digit());
        }
        let sign = usize::from(matches!(self.byte(1), Some(b'+' | b'-')));
        if matches!(self.byte(0), Some(b'e' | b'E'))
            && self.byte(1 + sign).is_some_and(|b| b.is_ascii_digit())
        {
            self.offset += 1 + sign;
        }
        self.skip_while(continues_word);
        Kind::Number
    }

    fn string(&mut self) -> Token<'t> {
        let (offset, line) = (self.offset, self.line);
        self.offset += 1;
        loop {
            match self.byte(0) {
                None | Some(b'\n') => return Token { kind: Kind::Bad, text: "\"", offset, line },
                Some(b'"') => break,
                // An escaped quote does not close; a backslash before the end of the line does not open another.
                Some(b'\\') if self.byte(1).is_some_and(|byte| byte.is_ascii() && byte != b'\n') => {
                    self.offset += 2;
                }
                Some(_) => self.offset += 1,
            }
        }
        self.offset += 1;
        Token { kind: Kind::String, text: &self.text[offset + 1..self.offset - 1], offset, line }
    }

    fn symbol(&mut self) -> Kind {
        let rest = &self.text[self.offset..];
        if PAIRS.iter().any(|pair| rest.starts_with(pair)) {
            self.offset += 2;
            return Kind::Symbol;
        }
        let first = rest.chars().next().map_or('\0', |first| first);
        self.offset += first.len_utf8();
        if "{}()[]<>,;:=+-*/%&|^~!?@".contains(first) { Kind::Symbol } else { Kind::Bad }
    }
}

fn newlines(text: &str) -> u32 {
    text.bytes().map(|byte| u32::from(byte == b'\n')).sum()
}
