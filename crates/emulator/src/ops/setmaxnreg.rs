//! The registers of a block, which its warpgroups hand to each other (PTX ISA, "setmaxnreg").

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::machine::{Context, Stop, Waiting};
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Function, Instruction, Operand};

pub(crate) const FORMS: &[Form] = &[Form {
    name: "setmaxnreg",
    syntax: "setmaxnreg.inc|.dec.sync.aligned.u32 count",
    class: Class::Synchronisation,
    decode,
}];

/// Registers of 32 bits that a multiprocessor has.
const REGISTERS: u32 = 1 << 16;

/// Warps of a warpgroup.
const GROUP: usize = 4;

/// Registers of a thread of an entry when it starts, where directives tell: as many as `.maxnreg` says, else as many
/// as the threads of so many blocks at once can have. Elsewhere `setmaxnreg` has no effect.
pub(crate) fn registers_at_start(entry: &Function) -> Option<u32> {
    let threads = |block: [u32; 3]| block.iter().fold(1, |all: u32, it| all.saturating_mul(*it)).max(1);
    let blocks = entry.min_blocks.unwrap_or(1).max(1);
    let share = |block| REGISTERS / threads(block).saturating_mul(blocks);
    let registers = entry.max_registers.or(entry.max_block.or(entry.required_block).map(share))?;
    Some(registers.min(256) / 8 * 8)
}

/// Who has which of a block's registers.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    /// Of a thread of each warp.
    of_warp: Vec<u32>,
    /// Those that no warp has.
    free: u32,
    /// The changes that the warps of each warpgroup make, in order.
    changes: Vec<Vec<Change>>,
    /// How many of them each warp has made.
    made: Vec<usize>,
    exited: Vec<bool>,
}

/// A `setmaxnreg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    more: bool,
    count: u32,
}

impl Registers {
    /// Registers of a block of so many warps.
    pub fn new(at_start: Option<u32>, warps: u32) -> Self {
        let warps = if at_start.is_some() { warps as usize } else { 0 };
        Registers {
            of_warp: vec![at_start.unwrap_or(0); warps],
            free: 0,
            changes: vec![Vec::new(); warps.div_ceil(GROUP)],
            made: vec![0; warps],
            exited: vec![false; warps],
        }
    }

    /// Registers that no warp has.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Gives a warp other registers than it has. Returns how many must become free first, if they are not.
    fn change(&mut self, warp: usize, change: Change) -> Result<Option<u32>, String> {
        let Some(&now) = self.of_warp.get(warp) else { return Ok(None) };
        let Change { more, count } = change;
        if more && count < now || !more && count > now {
            let action = if more { "inc" } else { "dec" };
            return Err(format!("setmaxnreg.{action} to {count} registers by a warp that has {now}"));
        }
        let needed = 32 * count.saturating_sub(now);
        if needed > self.free {
            return Ok(Some(needed));
        }
        self.check_group(warp, change)?;
        self.free = self.free + 32 * now - 32 * count;
        self.of_warp[warp] = count;
        Ok(None)
    }

    /// All warps of a warpgroup make the same changes, and none begins the next before all have made this one.
    fn check_group(&mut self, warp: usize, change: Change) -> Result<(), String> {
        let (group, made) = (warp / GROUP, self.made[warp]);
        self.made[warp] += 1;
        if let Some(expected) = self.changes[group].get(made) {
            if *expected == change {
                return Ok(());
            }
            let count =
                |change: Change| format!(".{} {}", if change.more { "inc" } else { "dec" }, change.count);
            let (theirs, ours) = (count(*expected), count(change));
            return Err(format!("setmaxnreg{ours}, where another warp of the warpgroup executed {theirs}"));
        }
        self.changes[group].push(change);
        let others = (group * GROUP..self.made.len().min((group + 1) * GROUP)).filter(|it| *it != warp);
        for other in others {
            if self.exited[other] {
                return Err(format!("setmaxnreg, which warp {other} of the warpgroup has exited without"));
            }
            if self.made[other] < made {
                let what = "before all warps of the warpgroup have executed the one before: warp";
                return Err(format!("setmaxnreg {what} {other} has not"));
            }
        }
        Ok(())
    }

    /// A warp has exited.
    pub fn exit(&mut self, warp: usize) -> Result<(), Problem> {
        let Some(exited) = self.exited.get_mut(warp) else { return Ok(()) };
        *exited = true;
        if self.made[warp] < self.changes[warp / GROUP].len() {
            let what = "a warp exits without a setmaxnreg that another warp of its warpgroup executed";
            return Err(Problem::Asynchronous(what.into()));
        }
        Ok(())
    }
}

fn decode(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let more = modifiers.need("action", &[("inc", true), ("dec", false)])?;
    for name in ["sync", "aligned", "u32"] {
        modifiers.need("modifier", &[(name, ())])?;
    }
    modifiers.finish()?;
    let [Operand::Integer(count)] = instruction.operands[..] else { return Err("operands".into()) };
    if !(24..=256).contains(&count) || count % 8 != 0 {
        return Err(format!("{count} registers (must be a multiple of 8, from 24 to 256)"));
    }
    let change = Change { more, count: count as u32 };
    Ok(Action::run(move |cx| run(cx, change)))
}

fn run(cx: &mut Context, change: Change) -> Result<(), Stop> {
    if cx.mask != cx.live() {
        let what = format!(
            "setmaxnreg in divergent code: the lanes {:#010x} are here, of {:#010x} that have not exited",
            cx.mask,
            cx.live()
        );
        return Err(Stop::warp(Problem::Synchronisation(what)));
    }
    let warp = cx.warp.index as usize;
    let needed = cx.block().registers.change(warp, change);
    match needed.map_err(|what| Stop::warp(Problem::Asynchronous(what)))? {
        Some(needed) => Err(Stop::Wait(Waiting::Registers { needed })),
        None => {
            cx.cluster.changes += 1;
            Ok(())
        }
    }
}
