//! Entries and device functions (PTX ISA, "Kernel and Function Directives" and "Performance-Tuning Directives").

use std::collections::HashMap;
use std::iter::zip;

use super::Parser;
use super::cursor::Parsed;
use super::names::Name;
use crate::ptx::ast::{
    Body, Function, Init, Linkage, Operand, Param, Register, RegisterId, Space, Symbol, Targets,
};
use crate::ptx::lexer::{Kind, Token};

/// What stands between the parameters of a function and its body.
#[derive(Default)]
pub(super) struct Limits {
    required_block: Option<[u32; 3]>,
    max_block: Option<[u32; 3]>,
    max_registers: Option<u32>,
    min_blocks: Option<u32>,
    required_cluster: Option<[u32; 3]>,
}

impl<'t> Parser<'t> {
    /// After `.entry` or `.func`.
    pub fn function(&mut self, entry: bool, linkage: Linkage) -> Parsed<()> {
        self.limits()?;
        let returns = if self.at("(") { self.params()? } else { Vec::new() };
        let name = self.expect_name("the name of a function")?;
        let params = if self.at("(") { self.params()? } else { Vec::new() };
        let limits = self.limits()?;
        let defined = self.at("{");
        let function = Function {
            name: name.text.to_owned(),
            entry,
            returns: returns.iter().map(|(_, param)| param.clone()).collect(),
            params: params.iter().map(|(_, param)| param.clone()).collect(),
            body: defined.then(Body::default),
            required_block: limits.required_block,
            max_block: limits.max_block,
            max_registers: limits.max_registers,
            min_blocks: limits.min_blocks,
            required_cluster: limits.required_cluster,
            linkage,
            line: name.line,
        };
        let index = self.add_function(name, function)?;
        if !defined {
            return self.expect(";");
        }
        self.declare_params(index, &returns, &params)?;
        let body = self.body()?;
        self.module.functions[index].body = Some(body);
        Ok(())
    }

    /// `(.param .u64 a, .param .align 8 .b8 b[24])`
    pub fn params(&mut self) -> Parsed<Vec<(Token<'t>, Param)>> {
        self.enclosed("(", ")", Self::param)
    }

    fn param(&mut self) -> Parsed<(Token<'t>, Param)> {
        let space = match self.token.text {
            "param" if self.token.kind == Kind::Dotted => Space::Param,
            "reg" if self.token.kind == Kind::Dotted => Space::Reg,
            _ => return self.fail("`.param` or `.reg`"),
        };
        self.advance();
        let shape = self.shape()?;
        let name = self.expect_name("the name of a parameter")?;
        let dimensions = self.dimensions()?;
        if space == Space::Reg && !dimensions.0.is_empty() {
            return Err(self.error_at(name, "a register, which is no array"));
        }
        // A last parameter of no given length is that of a function with a variable number of arguments.
        let bytes = self.array_bytes(name, shape, &dimensions)?.unwrap_or(0);
        let param = Param {
            name: name.text.to_owned(),
            space,
            ty: shape.ty,
            align: shape.align,
            bytes,
            register: None,
        };
        Ok((name, param))
    }

    /// Directives that bound what the compiler or the launch may choose.
    pub fn limits(&mut self) -> Parsed<Limits> {
        let mut limits = Limits::default();
        while self.token.kind == Kind::Dotted {
            let directive = self.token;
            if directive.text == "attribute" {
                self.attribute()?;
                continue;
            }
            self.advance();
            match directive.text {
                "maxntid" => limits.max_block = Some(self.extent()?),
                "reqntid" => limits.required_block = Some(self.extent()?),
                "reqnctapercluster" => limits.required_cluster = Some(self.extent()?),
                "explicitcluster" => limits.required_cluster = limits.required_cluster.or(Some([0; 3])),
                "maxnreg" => limits.max_registers = Some(self.extent()?[0]),
                "minnctapersm" => limits.min_blocks = Some(self.extent()?[0]),
                "maxnctapersm" | "maxclusterrank" | "abi_preserve" | "abi_preserve_control" => {
                    self.separated(Self::integer)?;
                }
                "noreturn" | "blocksareclusters" => {}
                "pragma" => self.pragma()?,
                _ => return Err(self.error_at(directive, "a directive of a function, or its body")),
            }
        }
        Ok(limits)
    }

    /// `128`, `16, 16` or `8, 8, 2`
    fn extent(&mut self) -> Parsed<[u32; 3]> {
        let start = self.token;
        let lengths = self.separated(Self::integer)?;
        let mut extent = [1; 3];
        if lengths.len() > extent.len() {
            return Err(self.error_at(start, "at most 3 lengths"));
        }
        for (to, from) in extent.iter_mut().zip(lengths) {
            *to = u32::try_from(from).map_err(|_| self.error_at(start, "lengths below 2^32"))?;
        }
        Ok(extent)
    }

    /// Its place in the module, which is that of its earlier declaration.
    fn add_function(&mut self, name: Token<'t>, function: Function) -> Parsed<usize> {
        let Some(known) = self.names.of_module(name.text) else {
            let index = self.module.functions.len();
            self.declare(name, Name::Symbol(Symbol::Function(index)))?;
            self.module.functions.push(function);
            return Ok(index);
        };
        let Name::Symbol(Symbol::Function(index)) = known else {
            return Err(self.error_at(name, "another name: this one is declared already"));
        };
        let known = &self.module.functions[index];
        if known.body.is_some() && function.body.is_some() {
            let expected = format!("another name: this one is defined in line {}", known.line);
            return Err(self.error_at(name, &expected));
        }
        if !agree(known, &function) {
            let expected = format!("the parameters that it is declared with in line {}", known.line);
            return Err(self.error_at(name, &expected));
        }
        if function.body.is_some() {
            self.module.functions[index] = function;
        }
        Ok(index)
    }

    /// Opens the scope of the parameters.
    fn declare_params(
        &mut self,
        function: usize,
        returns: &[(Token<'t>, Param)],
        params: &[(Token<'t>, Param)],
    ) -> Parsed<()> {
        self.names.open();
        for (index, (name, param)) in returns.iter().enumerate() {
            let register = self.declare_param(*name, param, Symbol::Return(index))?;
            self.module.functions[function].returns[index].register = register;
        }
        for (index, (name, param)) in params.iter().enumerate() {
            let register = self.declare_param(*name, param, Symbol::Param(index))?;
            self.module.functions[function].params[index].register = register;
        }
        Ok(())
    }

    fn declare_param(
        &mut self,
        name: Token<'t>,
        param: &Param,
        symbol: Symbol,
    ) -> Parsed<Option<RegisterId>> {
        if param.space == Space::Param {
            self.declare(name, Name::Symbol(symbol))?;
            return Ok(None);
        }
        let registers = &mut self.state.body.registers;
        let register = RegisterId(registers.len() as u32);
        let vector = (param.bytes / param.ty.bytes()) as u32;
        registers.push(Register { name: param.name.clone(), ty: param.ty, vector });
        self.declare(name, Name::Register(register))?;
        Ok(Some(register))
    }

    /// After `.alias`: `name, function;`
    pub fn alias(&mut self) -> Parsed<()> {
        let alias = self.declared_function()?;
        self.expect(",")?;
        let function = self.declared_function()?;
        self.expect(";")?;
        self.aliases.insert(alias, function);
        Ok(())
    }

    /// A function that is declared before it is named: its place in the module.
    pub fn declared_function(&mut self) -> Parsed<usize> {
        let name = self.expect_name("the name of a function")?;
        match self.names.of_module(name.text) {
            Some(Name::Symbol(Symbol::Function(index))) => Ok(index),
            _ => Err(self.error_at(name, "a function that is declared")),
        }
    }

    /// Whoever names an alias means the function that it is another name of.
    pub fn resolve_aliases(&mut self) {
        if self.aliases.is_empty() {
            return;
        }
        let module = &mut self.module;
        let names: HashMap<String, String> = self
            .aliases
            .iter()
            .map(|(&alias, &of)| (module.functions[alias].name.clone(), module.functions[of].name.clone()))
            .collect();
        let rename = |name: &mut String| {
            if let Some(function) = names.get(name) {
                name.clone_from(function);
            }
        };
        for variable in &mut module.variables {
            for init in &mut variable.init {
                if let Init::Address { name, .. } = init {
                    rename(name);
                }
            }
        }
        for body in module.functions.iter_mut().filter_map(|function| function.body.as_mut()) {
            for (_, targets) in &mut body.targets {
                if let Targets::Functions(functions) = targets {
                    functions.iter_mut().for_each(rename);
                }
            }
            for operand in body.instructions.iter_mut().flat_map(|instruction| &mut instruction.operands) {
                if let Operand::Symbol(Symbol::Function(index), _) = operand
                    && let Some(function) = self.aliases.get(index)
                {
                    *index = *function;
                }
            }
        }
    }
}

/// Whether one can be the declaration and the other the definition of a function.
fn agree(a: &Function, b: &Function) -> bool {
    let same = |a: &[Param], b: &[Param]| {
        a.len() == b.len() && zip(a, b).all(|(a, b)| (a.space, a.bytes) == (b.space, b.bytes))
    };
    a.entry == b.entry && same(&a.returns, &b.returns) && same(&a.params, &b.params)
}
