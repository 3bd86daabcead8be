//! Declarations of variables and registers (PTX ISA, "State Spaces, Types, and Variables").

use super::Parser;
use super::cursor::Parsed;
use super::names::{Name, Range};
use crate::ptx::ast::{Linkage, Space, Symbol, Type, Variable};
use crate::ptx::lexer::{Kind, Token};

/// In bytes.
const LARGEST_VECTOR: u64 = 16;

/// What stands between a state space and the names it declares.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub ty: Type,
    pub vector: u32,
    /// In bytes.
    pub align: u64,
    /// Of a texture, sampler or surface, which is taken for a handle of 64 bits.
    pub opaque: bool,
}

impl Shape {
    /// Of one element.
    pub fn bytes(self) -> u64 {
        self.ty.bytes() * u64::from(self.vector)
    }
}

/// The lengths of an array; the first may be missing.
#[derive(Default)]
pub(super) struct Dimensions(pub Vec<Option<u64>>);

impl<'t> Parser<'t> {
    /// After `.global`, `.const` or `.shared` outside of functions.
    pub fn module_variables(&mut self, directive: Token<'t>, linkage: Linkage) -> Parsed<()> {
        let space = memory_space(directive.text).ok_or_else(|| self.error_at(directive, "a state space"))?;
        let shape = self.shape()?;
        self.separated(|p| {
            let (name, variable) = p.variable(space, shape, linkage)?;
            p.add_module_variable(name, variable)
        })?;
        self.expect(";")
    }

    /// After the state space in a function.
    pub fn local_variables(&mut self, space: Space) -> Parsed<()> {
        let shape = self.shape()?;
        self.separated(|p| {
            let (name, variable) = p.variable(space, shape, Linkage::Internal)?;
            p.declare_local(name, variable)
        })?;
        self.expect(";")
    }

    /// After `.reg` in a function: `.v2 .b32 a, %r<46>;`
    pub fn registers(&mut self) -> Parsed<()> {
        let shape = self.shape()?;
        self.separated(|p| p.register(shape))?;
        self.expect(";")
    }

    fn register(&mut self, shape: Shape) -> Parsed<()> {
        let name = self.expect_name("the name of a register")?;
        if !self.accept("<") {
            return self.declare(name, Name::Unused(shape.ty, shape.vector));
        }
        // The expression `46>;` would not end at the bracket.
        let number = self.token;
        let count = u64::from(self.number_u32()?);
        self.expect(">")?;
        let range = Range { count, ty: shape.ty, vector: shape.vector };
        if self.names.declare_range(name.text, range) {
            Ok(())
        } else {
            Err(self.error_at(number, &format!("registers `{}` to be declared once in a scope", name.text)))
        }
    }

    /// `.align 8 .v4 .f32`, in any order, with attributes that say nothing of what a program computes.
    pub fn shape(&mut self) -> Parsed<Shape> {
        let (mut ty, mut vector, mut align, mut opaque) = (None, None, None, false);
        while self.token.kind == Kind::Dotted {
            match self.token.text {
                "align" => align = Some(self.align()?),
                "attribute" => self.attribute()?,
                "ptr" => self.pointer()?,
                "v2" if vector.is_none() => {
                    vector = Some(2);
                    self.advance();
                }
                "v4" if vector.is_none() => {
                    vector = Some(4);
                    self.advance();
                }
                name if ty.is_none() => {
                    opaque = matches!(name, "texref" | "samplerref" | "surfref");
                    ty = if opaque { Some(Type::B64) } else { Type::from_name(name) };
                    if ty.is_none() {
                        return self.fail("a fundamental type such as `.b32`");
                    }
                    self.advance();
                }
                _ => return self.fail("a name"),
            }
        }
        let Some(ty) = ty else {
            return self.fail("a type");
        };
        let vector = vector.unwrap_or(1);
        let bytes = ty.bytes() * u64::from(vector);
        if bytes > LARGEST_VECTOR {
            return self.fail("a vector of at most 16 bytes");
        }
        Ok(Shape { ty, vector, align: align.unwrap_or(bytes), opaque })
    }

    fn align(&mut self) -> Parsed<u64> {
        self.advance();
        let number = self.token;
        let align = self.integer()?;
        if align.is_power_of_two() {
            Ok(align)
        } else {
            Err(self.error_at(number, "an alignment that is a power of two"))
        }
    }

    /// `.attribute(.managed)`, `.attribute(.unified(1, 2))`
    pub fn attribute(&mut self) -> Parsed<()> {
        self.advance();
        self.enclosed("(", ")", |p| {
            p.expect_kind(Kind::Dotted, "an attribute")?;
            if p.at("(") {
                p.enclosed("(", ")", Self::integer)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// `.ptr .global .align 16`: what a parameter points to. That it does is not checked.
    fn pointer(&mut self) -> Parsed<()> {
        self.advance();
        if self.token.kind == Kind::Dotted && POINTED.contains(&self.token.text) {
            self.advance();
        }
        if self.at_directive("align") {
            self.align()?;
        }
        Ok(())
    }

    /// A name with its array lengths and initial value.
    fn variable(&mut self, space: Space, shape: Shape, linkage: Linkage) -> Parsed<(Token<'t>, Variable)> {
        let name = self.expect_name("the name of a variable")?;
        let dimensions = self.dimensions()?;
        let mut bytes = self.array_bytes(name, shape, &dimensions)?;
        let mut init = Vec::new();
        if shape.opaque && self.accept("=") {
            self.properties()?;
        } else if self.at("=") {
            self.check_initialised(space, shape)?;
            init = self.initializer(shape, &dimensions)?;
            bytes = bytes.or_else(|| dimensions.bytes_of(init.len() as u64, shape));
        }
        if bytes.is_none() && linkage != Linkage::Extern {
            return Err(self.error_at(name, "an array with a length, as it is not .extern"));
        }
        if shape.ty == Type::Pred {
            return Err(self.error_at(name, "a type other than .pred: predicates live in registers"));
        }
        let variable = Variable {
            name: name.text.to_owned(),
            space,
            ty: shape.ty,
            vector: shape.vector,
            align: shape.align,
            bytes,
            init,
            linkage,
            line: name.line,
        };
        Ok((name, variable))
    }

    /// `{ filter_mode = linear, addr_mode_0 = wrap }` of a sampler, or several of these in braces: they say how textures
    /// are read, which nothing here does.
    fn properties(&mut self) -> Parsed<()> {
        self.enclosed("{", "}", |p| {
            if p.at("{") {
                return p.nested(Self::properties);
            }
            p.expect_name("a property")?;
            p.expect("=")?;
            if p.token.kind == Kind::Word {
                p.advance();
                return Ok(());
            }
            p.integer().map(|_| ())
        })?;
        Ok(())
    }

    fn check_initialised(&self, space: Space, shape: Shape) -> Parsed<()> {
        if !matches!(space, Space::Global | Space::Const) {
            return self.fail("no initial value: only .global and .const have one");
        }
        if matches!(shape.ty, Type::Pred | Type::F16x2 | Type::Bf16x2 | Type::B128) {
            return self.fail("no initial value: this type has none");
        }
        Ok(())
    }

    /// `[4][2]`, `[]`
    pub fn dimensions(&mut self) -> Parsed<Dimensions> {
        let mut lengths = Vec::new();
        while self.at("[") {
            self.advance();
            let empty = lengths.is_empty() && self.at("]");
            lengths.push(if empty { None } else { Some(self.integer()?) });
            self.expect("]")?;
        }
        Ok(Dimensions(lengths))
    }

    /// `None` for an array whose first length is missing.
    pub fn array_bytes(&self, name: Token<'t>, shape: Shape, dimensions: &Dimensions) -> Parsed<Option<u64>> {
        let row = dimensions.row().and_then(|row| row.checked_mul(shape.bytes()));
        let bytes = match dimensions.0.first() {
            Some(None) => row.map(|_| None),
            Some(Some(length)) => row.and_then(|row| row.checked_mul(*length)).map(Some),
            None => row.map(Some),
        };
        // Half of the address space, so that sums of sizes and addresses do not overflow.
        match bytes {
            Some(bytes) if bytes.unwrap_or(0) <= u64::MAX / 2 => Ok(bytes),
            _ => Err(self.error_at(name, "an array of less than 2^63 bytes")),
        }
    }

    fn add_module_variable(&mut self, name: Token<'t>, variable: Variable) -> Parsed<()> {
        let Some(Name::Symbol(Symbol::Global(index))) = self.names.of_module(name.text) else {
            self.declare(name, Name::Symbol(Symbol::Global(self.module.variables.len())))?;
            self.module.variables.push(variable);
            return Ok(());
        };
        let known = &self.module.variables[index];
        let one_is_extern = known.linkage == Linkage::Extern || variable.linkage == Linkage::Extern;
        if !one_is_extern
            || (known.space, known.ty, known.vector) != (variable.space, variable.ty, variable.vector)
        {
            let expected = format!("another name: this one is declared in line {}", known.line);
            return Err(self.error_at(name, &expected));
        }
        if known.linkage == Linkage::Extern {
            let align = known.align.max(variable.align);
            self.module.variables[index] = Variable { align, ..variable };
        }
        Ok(())
    }

    fn declare_local(&mut self, name: Token<'t>, variable: Variable) -> Parsed<()> {
        if matches!(variable.space, Space::Global | Space::Const) {
            return self.declare_static(name, variable);
        }
        let symbol = Symbol::Local(self.state.body.variables.len());
        self.declare(name, Name::Symbol(symbol))?;
        self.state.body.variables.push(variable);
        Ok(())
    }

    /// A variable that only a function sees, and that lives as long as the module. A dot, which no name may have,
    /// keeps it apart from others of the module.
    fn declare_static(&mut self, name: Token<'t>, variable: Variable) -> Parsed<()> {
        let index = self.module.variables.len();
        self.declare(name, Name::Symbol(Symbol::Global(index)))?;
        let name = format!("{}.{index}", variable.name);
        self.module.variables.push(Variable { name, ..variable });
        Ok(())
    }

    /// Makes a name known in the innermost scope.
    pub fn declare(&mut self, token: Token<'t>, name: Name) -> Parsed<()> {
        if self.names.declare(token.text, name) {
            Ok(())
        } else {
            Err(self.error_at(token, "another name: this one is declared already"))
        }
    }
}

/// State spaces that `.ptr` may tell.
const POINTED: [&str; 5] = ["const", "global", "local", "shared", "generic"];

/// The state spaces of variables in memory.
pub(super) fn memory_space(name: &str) -> Option<Space> {
    Some(match name {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}

impl Dimensions {
    /// Elements of all but the first length; `None` if they are too many.
    pub fn row(&self) -> Option<u64> {
        self.0.iter().skip(1).flatten().try_fold(1, |product: u64, length| product.checked_mul(*length))
    }

    /// The size of an array whose first length is what `elements` initial ones need.
    fn bytes_of(&self, elements: u64, shape: Shape) -> Option<u64> {
        let row = self.row()?.checked_mul(u64::from(shape.vector))?.max(1);
        elements.div_ceil(row).checked_mul(row)?.checked_mul(shape.ty.bytes())
    }
}
