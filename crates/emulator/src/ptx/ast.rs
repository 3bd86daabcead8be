//! What a PTX module says, with every name resolved.
//!
//! Scopes are gone: each register, label and variable of a function body is one entry of a table, and operands refer
//! to it by its index. What an instruction means is not known here; its name and modifiers are kept as they are
//! written.

/// A whole `.ptx` file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// `.version 9.0` is `(9, 0)`.
    pub version: (u32, u32),
    /// The first word of `.target`, such as `sm_90a`.
    pub target: String,
    /// Variables of the module's scope.
    pub variables: Vec<Variable>,
    /// Entries and device functions, each once: a declaration and its definition are one entry of this table.
    pub functions: Vec<Function>,
    /// The names that `.file` gives, by its numbers.
    pub files: Vec<(u32, String)>,
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.reg`
    Reg,
    /// `.global`
    Global,
    /// `.const`
    Const,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`
    Param,
}

/// A fundamental type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Pred,
}

impl Type {
    /// The type that is written `.b32`, by what stands after the dot.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "pred" => Type::Pred,
            _ => return None,
        })
    }

    /// Bytes in memory; a predicate has none, and counts as one.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Type::Pred | Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::Bf16x2 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
        }
    }
}

/// How a name is seen from other modules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Linkage {
    #[default]
    Internal,
    Visible,
    Extern,
    Weak,
    Common,
}

/// A variable in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// As written.
    pub name: String,
    /// Any but `.reg`.
    pub space: Space,
    /// Of an element.
    pub ty: Type,
    /// Elements of its vector type: 1, 2 or 4.
    pub vector: u32,
    /// In bytes: as written, else the natural one.
    pub align: u64,
    /// In bytes; None for an array of no given size (`extern .shared .b8 x[]`).
    pub bytes: Option<u64>,
    /// Initial elements from the first on; what is missing is 0. Each is one element of `ty`.
    pub init: Vec<Init>,
    /// As declared.
    pub linkage: Linkage,
    /// Where it is declared, counted from 1.
    pub line: u32,
}

/// One initial element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// Its bits, zero- or sign-extended to 64.
    Bits(u64),
    /// An address: of a variable or function of the module, by name.
    Address {
        /// Whose address.
        name: String,
        /// Added to it, in bytes.
        offset: i64,
        /// `generic(name)`: the generic address, not the one of its state space.
        generic: bool,
        /// `0xFF00(name)`: the one byte of the address that this mask selects, shifted down. All ones: all of it.
        mask: u64,
    },
}

/// `.entry` or `.func`.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// As written.
    pub name: String,
    /// Whether it can be launched.
    pub entry: bool,
    /// What it returns: parameters of a `.func`.
    pub returns: Vec<Param>,
    /// What it takes.
    pub params: Vec<Param>,
    /// None for a function that is only declared.
    pub body: Option<Body>,
    /// `.reqntid`: the block must have this shape.
    pub required_block: Option<[u32; 3]>,
    /// `.maxntid`: the block has at most the product of these threads.
    pub max_block: Option<[u32; 3]>,
    /// `.maxnreg`: a thread has at most so many registers.
    pub max_registers: Option<u32>,
    /// `.minnctapersm`: a multiprocessor is to have room for so many blocks.
    pub min_blocks: Option<u32>,
    /// `.reqnctapercluster`, or `.explicitcluster` alone (then all 0).
    pub required_cluster: Option<[u32; 3]>,
    /// As declared.
    pub linkage: Linkage,
    /// Where it is declared, counted from 1.
    pub line: u32,
}

/// A formal parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// As written.
    pub name: String,
    /// `.param` (in memory) or `.reg`.
    pub space: Space,
    /// Of an element.
    pub ty: Type,
    /// In bytes.
    pub align: u64,
    /// In bytes, the whole array.
    pub bytes: u64,
    /// The register of the body that it is, for a parameter in `.reg`.
    pub register: Option<RegisterId>,
}

/// Index into [`Body::registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegisterId(pub u32);

/// Index into [`Body::labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelId(pub u32);

/// What a function does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// Every register of every scope that an instruction uses (`%r<46>` declares 46, of which the used ones are here).
    pub registers: Vec<Register>,
    /// Variables of every scope: `.local`, `.shared`, and `.param` for calls.
    pub variables: Vec<Variable>,
    /// In order.
    pub instructions: Vec<Instruction>,
    /// The instruction that each label stands before; the number of instructions for one at the end.
    pub labels: Vec<usize>,
    /// `.branchtargets` and `.calltargets` by the name of their label: for `brx.idx` and `call`.
    pub targets: Vec<(String, Targets)>,
    /// `.callprototype` by the name of its label.
    pub prototypes: Vec<(String, Prototype)>,
}

/// A list that an indirect jump or call goes through.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// `.branchtargets`
    Labels(Vec<LabelId>),
    /// `.calltargets`: functions by name.
    Functions(Vec<String>),
}

/// The types of an indirect call.
#[derive(Clone, Debug, PartialEq)]
pub struct Prototype {
    /// What it returns.
    pub returns: Vec<Param>,
    /// What it takes.
    pub params: Vec<Param>,
}

/// One register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// As written; two scopes may have the same.
    pub name: String,
    /// Of a component.
    pub ty: Type,
    /// Components: 1, 2 or 4.
    pub vector: u32,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// `@%p1` or `@!%p1`.
    pub guard: Option<Guard>,
    /// What stands before the first `.`: `mma`, `ld`.
    pub name: String,
    /// What stands between its dots: `["sync", "aligned", "m16n8k16", ...]`, `["async", "bulk", "shared::cluster"]`.
    pub modifiers: Vec<String>,
    /// In the order they are written; destinations first, as PTX has them.
    pub operands: Vec<Operand>,
    /// The line of the PTX text, counted from 1.
    pub line: u32,
    /// The line of the source that the last `.loc` told.
    pub source: Option<Source>,
}

/// A predicate before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The predicate.
    pub register: RegisterId,
    /// `@!`
    pub negated: bool,
}

/// A line of the source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// The number that `.file` gave it.
    pub file: u32,
    /// Counted from 1; 0 where the compiler says none.
    pub line: u32,
    /// Counted from 1; 0 where the compiler says none.
    pub column: u32,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// `%r1`
    Register(RegisterId),
    /// `%v1.x` is component 0.
    Component(RegisterId, u32),
    /// `%r1.b0`, `%r1.h10`: the bytes or halves that a video instruction takes of a register.
    Selected(RegisterId, String),
    /// `!%p1`
    Not(RegisterId),
    /// `%tid.x`, `%laneid`: its name without the `%`.
    Special(String),
    /// `-1`, `0x10`, constant expressions and `WARP_SZ`: 64 bits, two's complement.
    Integer(u64),
    /// `0f3F800000`: its bits.
    F32(u32),
    /// `0d3FF0000000000000` and decimal: its bits.
    F64(u64),
    /// A variable, parameter or function by itself, with an offset: its address.
    Symbol(Symbol, i64),
    /// `[%rd1+8]`, `[x+8]`, `[16]`
    Address(Base, i64),
    /// `[%rd1, {%r1, %r2}]`: of a tensor copy; further groups (im2col offsets) follow the first.
    TensorAddress(Base, i64, Vec<Vec<Operand>>),
    /// `{%r1, %r2}`
    Vector(Vec<Operand>),
    /// `%p1|%p2`
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)`: arguments and results of a call.
    List(Vec<Operand>),
    /// The target of a branch.
    Label(LabelId),
    /// A name of a table: of `.branchtargets`, `.calltargets` or `.callprototype`.
    Table(String),
    /// `_`
    Sink,
}

/// What an address starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Base {
    /// An address in a register.
    Register(RegisterId),
    /// That of a variable.
    Symbol(Symbol),
    /// Zero.
    None,
}

/// A thing with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// Index into [`Module::variables`].
    Global(usize),
    /// Index into [`Body::variables`].
    Local(usize),
    /// Index into [`Function::params`].
    Param(usize),
    /// Index into [`Function::returns`].
    Return(usize),
    /// Index into [`Module::functions`].
    Function(usize),
}
