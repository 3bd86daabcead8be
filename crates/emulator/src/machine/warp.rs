//! A warp: lanes that go together as long as they can.

use crate::lanes::{LANES, Lanes};
use crate::machine::Waiting;
use crate::memory::LocalMemory;
use crate::ops::wgmma::{Pending, Touched};
use crate::program::Function;
use crate::registers::RegisterFile;

/// 32 lanes, of which the last warp of a block may lack some.
pub(crate) struct Warp {
    /// Rank of its block within the cluster.
    pub rank: usize,
    /// Number within the block.
    pub index: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Groups of lanes that stand at different instructions, or in different activations.
    pub fragments: Vec<Fragment>,
    /// Activations of functions, the entry's first. An activation that has ended leaves a hole.
    pub frames: Vec<Option<Frame>>,
    pub local: LocalMemory,
    /// Products (`wgmma`) that have not been waited for.
    pub products: Pending,
}

/// Lanes that stand at the same instruction of the same activation.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    pub mask: u32,
    pub pc: usize,
    /// Index into the warp's frames.
    pub frame: usize,
    pub waiting: Option<Waiting>,
    /// Whether it has had its turn while others had to wait.
    pub yielded: bool,
}

impl Fragment {
    /// Whether others can join it where it stands.
    fn may_meet(&self) -> bool {
        matches!(self.waiting, None | Some(Waiting::Lanes { .. }))
    }
}

/// One activation of a function, which one or several fragments may be in.
pub(crate) struct Frame {
    pub function: usize,
    /// Registers; taken out while a fragment runs.
    pub registers: RegisterFile,
    /// Where it was called; None for the entry.
    pub caller: Option<Caller>,
    /// Calls between the entry and this.
    pub depth: u32,
    /// Bytes of a thread's stack that this and what called it take.
    pub stack: u64,
    /// Lanes that have not returned.
    pub lanes: u32,
    /// Where its local memory starts.
    pub local_base: u32,
    /// What asynchronous products have to do with its registers.
    pub touched: Touched,
}

/// The most bytes of a thread's stack.
pub(super) const STACK_LIMIT: u64 = 512 * 1024;

/// What an activation takes of it: its local memory, and at most as many registers as a thread has.
pub(super) fn stack_bytes(function: &Function) -> u64 {
    let RegisterFile { b32, b64, b128, .. } = &function.registers;
    let registers = 4 * b32.len() + 8 * b64.len() + 16 * b128.len();
    u64::from(function.local_bytes) + registers.min(255 * 4) as u64
}

/// Where an activation goes when it ends.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub frame: usize,
    /// The call instruction.
    pub pc: usize,
}

impl Warp {
    /// The frame of an index that a fragment holds.
    pub fn frame(&mut self, index: usize) -> &mut Frame {
        self.frames[index].as_mut().expect("a fragment holds its frame alive")
    }

    /// Coordinates of each lane's thread in a block of this shape.
    pub fn coordinates(&self, block: [u32; 3]) -> Lanes<[u32; 3]> {
        let mut out = [[0; 3]; LANES];
        for (lane, out) in out.iter_mut().enumerate() {
            let thread = self.index * 32 + lane as u32;
            *out = [thread % block[0], thread / block[0] % block[1], thread / block[0] / block[1]];
        }
        out
    }

    /// Whether all lanes wait, some of them only for others to have their turn.
    pub fn gives_way(&self) -> bool {
        self.fragments.iter().all(|it| it.waiting.is_some())
            && self
                .fragments
                .iter()
                .any(|it| matches!(it.waiting, Some(Waiting::Turn | Waiting::Tested { .. })))
    }

    /// Puts fragments that stand at the same place together. Those that wait there for each other try again.
    pub fn merge(&mut self) {
        let mut i = 0;
        while i < self.fragments.len() {
            let (done, rest) = self.fragments.split_at_mut(i);
            let this = &rest[0];
            let twin = done.iter_mut().find(|other| {
                other.pc == this.pc && other.frame == this.frame && other.may_meet() && this.may_meet()
            });
            match twin {
                Some(twin) => {
                    twin.mask |= this.mask;
                    twin.waiting = None;
                    self.fragments.remove(i);
                }
                None => i += 1,
            }
        }
    }
}
