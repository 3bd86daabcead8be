//! A module ready to run.

use std::collections::HashMap;
use std::fmt;

use crate::fault::Location;
use crate::lanes::{Done, Pred, Reg};
use crate::machine::Context;
use crate::memory::Constants;
use crate::ops::Form;
use crate::ptx::ast::Source;
use crate::registers::RegisterFile;
use crate::special::Special;

/// All functions of a module.
pub(crate) struct Program {
    pub functions: Vec<Function>,
    pub entries: HashMap<String, usize>,
    /// The instructions of all functions, each function's in a row.
    pub code: Vec<Instruction>,
    /// The `.const` variables.
    pub constants: Constants,
    /// Source files by their numbers.
    pub files: HashMap<u32, String>,
    /// The lines of the text, for reports.
    pub text: Vec<String>,
}

impl Program {
    /// One lane at one instruction.
    pub fn location(&self, pc: usize, block: [u32; 3], warp: u32, lane: u32) -> Location {
        let (line, source) = match self.code.get(pc) {
            Some(instruction) => (instruction.line, instruction.source),
            None => (0, None),
        };
        let text = self.text.get(line.saturating_sub(1) as usize);
        let text = text.map(|text| text.trim().to_owned()).unwrap_or_default();
        let source = source.map(|source| {
            let file = self.files.get(&source.file).cloned();
            (file.unwrap_or_else(|| format!("file {}", source.file)), source.line)
        });
        Location { block, warp, lane, line, text, source }
    }
}

/// One entry or device function.
pub(crate) struct Function {
    pub name: String,
    /// Its first instruction.
    pub start: usize,
    /// Registers as they are before the first instruction.
    pub registers: RegisterFile,
    /// Registers that are filled in when an activation begins.
    pub fills: Vec<(Fill, AnyReg)>,
    /// Bytes of local memory, parameters included, for each lane.
    pub local_bytes: u32,
    /// Where the parameters lie: in the launch's parameter block for an entry, in local memory for a device function.
    pub params: Vec<Place>,
    pub returns: Vec<Place>,
    pub params_bytes: u32,
    /// Bytes of static shared memory that the module's functions declare.
    pub shared_bytes: u32,
    /// Alignment of dynamic shared memory.
    pub dynamic_shared_align: u32,
    pub required_block: Option<[u32; 3]>,
    pub max_block: Option<[u32; 3]>,
    /// Registers of a thread when it starts, where directives tell.
    pub registers_per_thread: Option<u32>,
    pub required_cluster: Option<[u32; 3]>,
    /// Whether blocks speak to each other within a launch: atomics or volatile accesses in global memory.
    pub communicates: bool,
}

/// What a register is filled with when an activation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Special(Special),
    /// The local address of the activation's own byte of this number.
    Local(u64),
    /// The shared address of the dynamic shared memory's byte of this number.
    DynamicShared(u64),
}

/// A value that is known when a module is loaded, or when an activation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Known(u64),
    Filled(Fill),
}

impl Value {
    pub fn plus(self, offset: u64) -> Value {
        match self {
            Value::Known(value) => Value::Known(value.wrapping_add(offset)),
            Value::Filled(Fill::Local(value)) => Value::Filled(Fill::Local(value.wrapping_add(offset))),
            Value::Filled(Fill::DynamicShared(value)) => {
                Value::Filled(Fill::DynamicShared(value.wrapping_add(offset)))
            }
            Value::Filled(special @ Fill::Special(_)) => Value::Filled(special),
        }
    }
}

/// Where a parameter lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bytes from an offset on.
    Memory { offset: u32, bytes: u32 },
    /// A register of the function.
    Register(AnyReg),
}

/// A register of any width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnyReg {
    B32(u32),
    B64(u32),
    B128(u32),
    Pred(u32),
}

/// One instruction.
pub(crate) struct Instruction {
    pub guard: Option<Pred>,
    pub action: Action,
    /// Among instructions of one function, the lower runs first where lanes have parted: see `order`.
    pub rank: u32,
    /// Whether lanes that went other ways may meet here.
    pub leader: bool,
    pub form: &'static Form,
    pub line: u32,
    pub source: Option<Source>,
    /// In a function that has asynchronous products: what the instruction has to do with its registers.
    pub touches: Option<Box<Touches>>,
}

/// The registers of 32 bits that an instruction reads or writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touches {
    pub all: Vec<u32>,
    pub written: Vec<u32>,
}

type Run = dyn Fn(&mut Context) -> Done + Send + Sync;

/// What an instruction does.
pub(crate) enum Action {
    /// Computes, and goes on with the next one.
    Run(Box<Run>),
    Branch(usize),
    /// Jumps to the target that the register numbers.
    BranchIndexed(Reg<u32>, Vec<usize>),
    Call(Box<Call>),
    Return,
    Exit,
}

impl Action {
    pub fn run(f: impl Fn(&mut Context) -> Done + Send + Sync + 'static) -> Action {
        Action::Run(Box::new(f))
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Run(_) => "Run",
            Action::Branch(_) => "Branch",
            Action::BranchIndexed(..) => "BranchIndexed",
            Action::Call(_) => "Call",
            Action::Return => "Return",
            Action::Exit => "Exit",
        })
    }
}

/// A call: places of the caller that are copied to those of the callee, and back.
pub(crate) struct Call {
    pub target: CallTarget,
    pub arguments: Vec<Place>,
    pub results: Vec<Place>,
}

/// Whom a call calls.
pub(crate) enum CallTarget {
    Function(usize),
    /// The address of a function: 1 + its index, times 16, above [`FUNCTION_BASE`].
    Register(Reg<u64>),
}

/// Addresses of functions start here, where nothing can be read or written.
pub(crate) const FUNCTION_BASE: u64 = 0x0000_0600_0000_0000;
