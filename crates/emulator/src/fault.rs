//! What can go wrong in a launch.

use std::fmt;

use crate::ptx::ast::Space;

/// A launch that went wrong: what, where in the grid, and where in the text.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// What went wrong.
    pub problem: Problem,
    /// The entry that was launched.
    pub kernel: String,
    /// Where it went wrong; None for what no thread did (a launch that cannot be made).
    pub place: Option<Location>,
}

/// One thread at one instruction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Location {
    /// Coordinates of the block.
    pub block: [u32; 3],
    /// Number of the warp within its block.
    pub warp: u32,
    /// Number of the lane within its warp.
    pub lane: u32,
    /// The line of the PTX text, counted from 1.
    pub line: u32,
    /// That line.
    pub text: String,
    /// File and line of the source, where the text has `.loc`.
    pub source: Option<(String, u32)>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum Problem {
    /// The launch cannot be made as asked: which argument, what it was, what it had to be.
    Launch {
        /// The argument.
        argument: String,
        /// What it was.
        was: String,
        /// What it had to be.
        must: String,
    },
    /// An access beyond what is allocated or declared.
    OutOfBounds {
        /// What it did.
        access: Access,
        /// The nearest memory there is.
        nearest: String,
    },
    /// An access to memory that was freed.
    UseAfterFree {
        /// What it did.
        access: Access,
    },
    /// An address that is no multiple of what it must be a multiple of.
    Misaligned {
        /// What it did.
        access: Access,
        /// What it had to be a multiple of.
        align: u64,
    },
    /// A generic address that is of another state space than the instruction allows, or of none.
    WrongSpace {
        /// What it did.
        access: Access,
    },
    /// A read of bytes that nobody wrote.
    Uninitialised {
        /// What it did.
        access: Access,
    },
    /// Two accesses of different threads, one of them a write, that nothing orders.
    Race {
        /// What the later one did.
        access: Access,
        /// Whether the earlier one was a write.
        earlier_is_write: bool,
        /// The earlier one.
        earlier: Box<Location>,
    },
    /// A rule of barriers, `_sync` masks or convergence that was broken.
    Synchronisation(String),
    /// Every warp waits: one line for each group of lanes, with what it waits for.
    Deadlock(Vec<String>),
    /// A rule of asynchronous copies, of their barriers, of `wgmma` or of `setmaxnreg` that was broken.
    Asynchronous(String),
    /// An instruction whose operands cannot be: a call of no function, a jump past its table.
    Illegal(String),
    /// `trap`, or a failed assertion with its text.
    Trap(String),
    /// More instructions than the launch may run.
    Limit(u64),
}

/// An access to memory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Access {
    /// Whether it writes.
    pub write: bool,
    /// The state space; None for an address in none.
    pub space: Option<SpaceName>,
    /// Within that space.
    pub address: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// A state space by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
pub enum SpaceName {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

impl From<Space> for SpaceName {
    fn from(space: Space) -> Self {
        match space {
            Space::Reg | Space::Local => SpaceName::Local,
            Space::Global => SpaceName::Global,
            Space::Const => SpaceName::Const,
            Space::Shared => SpaceName::Shared,
            Space::Param => SpaceName::Param,
        }
    }
}

impl fmt::Display for SpaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpaceName::Global => "global",
            SpaceName::Const => "constant",
            SpaceName::Shared => "shared",
            SpaceName::Local => "local",
            SpaceName::Param => "parameter",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.write { "write" } else { "read" };
        write!(f, "{verb} of {} bytes at {:#x}", self.bytes, self.address)?;
        match self.space {
            Some(space) => write!(f, " of {space} memory"),
            None => f.write_str(", which is in no state space"),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "block ({x}, {y}, {z}), warp {}, lane {}, PTX line {}", self.warp, self.lane, self.line)?;
        if let Some((file, line)) = &self.source {
            write!(f, ", {file}:{line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Launch { argument, was, must } => write!(f, "{argument} is {was}, and must be {must}"),
            Problem::OutOfBounds { access, nearest } => write!(f, "out of bounds: {access}; {nearest}"),
            Problem::UseAfterFree { access } => write!(f, "use after free: {access}"),
            Problem::Misaligned { access, align } => {
                write!(f, "misaligned: {access}, not a multiple of {align}")
            }
            Problem::WrongSpace { access } => write!(f, "wrong state space: {access}"),
            Problem::Uninitialised { access } => write!(f, "uninitialised: {access}"),
            Problem::Race { access, earlier_is_write, earlier } => {
                let verb = if *earlier_is_write { "write" } else { "read" };
                write!(f, "race: {access}, which nothing orders after the {verb} by {earlier}")
            }
            Problem::Synchronisation(what) => write!(f, "synchronisation: {what}"),
            Problem::Deadlock(waits) => write!(f, "deadlock: every warp waits\n  {}", waits.join("\n  ")),
            Problem::Asynchronous(what) => write!(f, "asynchronous operation: {what}"),
            Problem::Illegal(what) => write!(f, "illegal instruction: {what}"),
            Problem::Trap(what) => write!(f, "trap: {what}"),
            Problem::Limit(limit) => write!(f, "more than {limit} warp instructions"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kernel, self.problem)?;
        match &self.place {
            Some(place) => write!(f, "\n  at {place}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}
