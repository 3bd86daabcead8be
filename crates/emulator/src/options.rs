//! What a launch checks, and how it runs.

/// Checks that cost time and can be left out. Bounds, alignment, state spaces, barriers and deadlocks are always
/// checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes that nobody wrote, in global, shared and local memory.
    pub init: bool,
    /// Accesses of different threads, one of them a write, that nothing orders.
    pub race: bool,
    /// Memory and registers that asynchronous operations have in flight; missing proxy fences.
    pub asynchronous: bool,
}

impl Checks {
    /// Everything.
    pub const ALL: Checks = Checks { init: true, race: true, asynchronous: true };
    /// None of them.
    pub const NONE: Checks = Checks { init: false, race: false, asynchronous: false };
}

/// How launches run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is checked.
    pub checks: Checks,
    /// CPU threads that blocks are spread over; 0 for as many as there are cores. Nothing else depends on it.
    pub threads: usize,
    /// The most instructions of one warp that a block may execute, all its warps together, before the launch fails.
    pub instruction_limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { checks: Checks::ALL, threads: 0, instruction_limit: 1 << 40 }
    }
}
