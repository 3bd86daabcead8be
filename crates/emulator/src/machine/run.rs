//! Running one warp: which of its groups of lanes goes next, and the instructions themselves.

use crate::count::Profile;
use crate::fault::Problem;
use crate::lanes::{Done, Reg, lanes_of};
use crate::machine::warp::{Caller, Fragment, STACK_LIMIT, stack_bytes};
use crate::machine::{Cluster, Context, Launch, Stop, Trouble, Waiting, Warp};
use crate::memory::GlobalView;
use crate::program::{Action, AnyReg, Call, CallTarget, FUNCTION_BASE, Instruction, Place};
use crate::registers::RegisterFile;

/// Trouble, and the instruction and the lanes that met it.
type Failed = (Box<Trouble>, (usize, u32));

impl Warp {
    /// Has one group of lanes run, until it waits or parts or the warp's turn is over: until the cluster has executed
    /// so many instructions. False where all wait.
    pub fn run(
        &mut self,
        launch: &Launch,
        cluster: &mut Cluster,
        global: &mut GlobalView,
        profile: &mut Profile,
        until: u64,
    ) -> Result<bool, Failed> {
        let Some(index) = self.pick(launch, cluster) else { return Ok(false) };
        let waited = self.fragments[index].waiting.take();
        if let (Some(Waiting::WarpBarrier { .. }), Some(races)) = (waited, &mut cluster.races) {
            races.pass(self.rank, self.index, self.fragments[index].mask);
        }
        let Fragment { mask, pc, frame, .. } = self.fragments[index];
        let registers = std::mem::take(&mut self.frame(frame).registers);
        let mut cx = Context { mask, pc, frame, registers, warp: self, cluster, launch, global, profile };
        let end = cx.run_fragment(index, until);
        let Context { registers, pc, mask, .. } = cx;
        self.restore(frame, registers);
        if cluster.executed >= until
            && let Some(fragment) = self.fragments.get_mut(index)
        {
            fragment.yielded = true;
        }
        match end {
            Err(trouble) => Err((trouble, (pc, mask))),
            Ok(()) => Ok(true),
        }
    }

    fn restore(&mut self, frame: usize, registers: RegisterFile) {
        // The activation may have ended.
        if let Some(Some(frame)) = self.frames.get_mut(frame) {
            frame.registers = registers;
        }
    }

    /// The group that goes next: of those that need not wait, and have not just had a long turn, the one deepest in
    /// calls and at the lowest rank.
    fn pick(&mut self, launch: &Launch, cluster: &mut Cluster) -> Option<usize> {
        if let [only] = &self.fragments[..] {
            return (only.waiting.is_none() || self.is_ready(only, cluster)).then_some(0);
        }
        self.release_warp_barriers(cluster);
        self.merge();
        if self.fragments.iter().all(|it| it.yielded || it.waiting.is_some()) {
            self.fragments.iter_mut().for_each(|it| it.yielded = false);
        }
        let key = |it: &Fragment| {
            let depth = self.frames[it.frame].as_ref().map_or(0, |frame| frame.depth);
            (it.yielded, std::cmp::Reverse(depth), launch.program.code[it.pc].rank)
        };
        let ready = (0..self.fragments.len()).filter(|&i| self.is_ready(&self.fragments[i], cluster));
        ready.min_by_key(|&i| key(&self.fragments[i]))
    }

    fn is_ready(&self, fragment: &Fragment, cluster: &Cluster) -> bool {
        match fragment.waiting {
            None | Some(Waiting::Turn | Waiting::Tested { .. }) => true,
            Some(Waiting::Barrier { id, generation }) => {
                cluster.blocks[self.rank].barriers[id].generation > generation
            }
            Some(Waiting::Lanes { mask } | Waiting::WarpBarrier { mask }) => {
                mask & self.live & !fragment.mask == 0
            }
            Some(Waiting::Mbarrier { rank, address, phase }) => {
                cluster.time_out || cluster.blocks[rank].mbarriers.may_pass(address, phase)
            }
            Some(Waiting::Registers { needed }) => cluster.blocks[self.rank].registers.free() >= needed,
            Some(Waiting::Cluster { generation }) => cluster.barrier.generation > generation,
            Some(Waiting::Warpgroup { issued }) => {
                cluster.blocks[self.rank].warpgroups[self.index as usize / 4].together() >= issued
            }
        }
    }

    /// Lanes that wait at several `bar.warp.sync` of the same mask go on once all of the mask are there.
    fn release_warp_barriers(&mut self, cluster: &mut Cluster) {
        for i in 0..self.fragments.len() {
            let waiting @ Some(Waiting::WarpBarrier { mask }) = self.fragments[i].waiting else { continue };
            let same = |it: &&mut Fragment| it.waiting == waiting;
            let there = self.fragments.iter_mut().filter(same).fold(0, |lanes, it| lanes | it.mask);
            if mask & self.live & !there == 0 {
                self.fragments.iter_mut().filter(same).for_each(|it| it.waiting = None);
                if let Some(races) = &mut cluster.races {
                    races.pass(self.rank, self.index, there);
                }
            }
        }
    }
}

impl Context<'_> {
    /// Runs a fragment until it waits, parts, may meet others, or the turn is over.
    fn run_fragment(&mut self, index: usize, until: u64) -> Result<(), Box<Trouble>> {
        let code = &self.launch.program.code;
        let alone = self.warp.fragments.len() == 1;
        let all = self.mask;
        let start = self.pc;
        loop {
            let instruction = &code[self.pc];
            if instruction.leader && (self.cluster.executed >= until || !alone && self.pc != start) {
                self.warp.fragments[index].pc = self.pc;
                return Ok(());
            }
            self.mask = match instruction.guard {
                None => all,
                Some(predicate) => all & self.test(predicate),
            };
            self.cluster.executed += 1;
            if self.mask != 0 {
                let counts = &mut self.profile.instructions[self.pc];
                counts.instructions += 1;
                counts.lane_instructions += u64::from(self.mask.count_ones());
            }
            match &instruction.action {
                Action::Run(_) if self.mask == 0 => self.pc += 1,
                Action::Run(run) => match self.watched(instruction).and_then(|()| run(self)) {
                    Ok(()) => self.pc += 1,
                    Err(stop) => return self.stop(index, all, stop),
                },
                Action::Branch(target) => {
                    if self.mask == all {
                        self.pc = *target;
                    } else if self.mask == 0 {
                        self.pc += 1;
                    } else {
                        self.profile.instructions[self.pc].divergent_branches += 1;
                        self.part(index, all, *target);
                        return Ok(());
                    }
                }
                Action::BranchIndexed(register, targets) => {
                    if self.mask == 0 {
                        self.pc += 1;
                        continue;
                    }
                    self.branch_indexed(index, all, *register, targets)?;
                    return Ok(());
                }
                Action::Call(call) => {
                    if self.mask == 0 {
                        self.pc += 1;
                        continue;
                    }
                    self.call(index, all, call)?;
                    return Ok(());
                }
                Action::Return | Action::Exit => {
                    if self.mask == 0 {
                        self.pc += 1;
                        continue;
                    }
                    let exit = matches!(instruction.action, Action::Exit);
                    self.leave(index, all, exit)?;
                    return Ok(());
                }
            }
        }
    }

    /// Nothing is wrong with the registers that an instruction touches.
    #[inline(always)]
    fn watched(&mut self, instruction: &Instruction) -> Done {
        match &instruction.touches {
            Some(touches) if self.launch.options.checks.asynchronous => self.watch(touches),
            _ => Ok(()),
        }
    }

    fn stop(&mut self, index: usize, all: u32, stop: Stop) -> Result<(), Box<Trouble>> {
        let fragment = &mut self.warp.fragments[index];
        match stop {
            Stop::Fault(trouble) => return Err(trouble),
            Stop::Wait(waiting) => {
                self.cluster.executed -= 1;
                let counts = &mut self.profile.instructions[self.pc];
                counts.instructions -= 1;
                counts.lane_instructions -= u64::from(self.mask.count_ones());
                fragment.pc = self.pc;
                fragment.waiting = Some(waiting);
                fragment.mask = self.mask;
            }
            Stop::DoneThenWait(waiting) => {
                fragment.pc = self.pc + 1;
                fragment.waiting = Some(waiting);
                fragment.mask = self.mask;
            }
        }
        // Lanes whose guard does not hold wait for nothing.
        self.rest(index, all & !self.mask, self.pc + 1);
        Ok(())
    }

    /// Lanes of a fragment that go elsewhere than the others.
    fn rest(&mut self, index: usize, mask: u32, pc: usize) {
        if mask != 0 {
            let frame = self.warp.fragments[index].frame;
            self.warp.fragments.push(Fragment { mask, pc, frame, waiting: None, yielded: false });
        }
    }

    /// Active lanes jump, the others go on.
    fn part(&mut self, index: usize, all: u32, target: usize) {
        let fragment = &mut self.warp.fragments[index];
        fragment.mask = self.mask;
        fragment.pc = target;
        self.rest(index, all & !self.mask, self.pc + 1);
    }

    fn branch_indexed(
        &mut self,
        index: usize,
        all: u32,
        register: Reg<u32>,
        targets: &[usize],
    ) -> Result<(), Box<Trouble>> {
        let values = *self.get(register);
        let first = self.mask.trailing_zeros() as usize;
        let Some(target) = targets.get(values[first] as usize) else {
            let problem = Problem::Illegal(format!(
                "brx.idx to target {} of a table of {}",
                values[first],
                targets.len()
            ));
            return Err(Box::new(Trouble { problem, lane: Some(first as u32) }));
        };
        let same = lanes_of(self.mask).filter(|lane| values[*lane] == values[first]);
        let mask = same.fold(0, |mask, lane| mask | 1 << lane);
        if mask != all {
            self.profile.instructions[self.pc].divergent_branches += 1;
        }
        let others = self.mask & !mask;
        self.rest(index, all & !self.mask, self.pc + 1);
        self.rest(index, others, self.pc);
        let fragment = &mut self.warp.fragments[index];
        fragment.mask = mask;
        fragment.pc = *target;
        Ok(())
    }

    fn call(&mut self, index: usize, all: u32, call: &Call) -> Result<(), Box<Trouble>> {
        let (function, mask) = self.callee(call)?;
        let others = self.mask & !mask;
        self.rest(index, all & !self.mask, self.pc + 1);
        self.rest(index, others, self.pc);
        let frame = self.warp.fragments[index].frame;
        let stack = self.warp.frame(frame).stack + stack_bytes(&self.launch.program.functions[function]);
        if stack > STACK_LIMIT {
            let what =
                format!("a call that needs a stack of {stack} bytes (at most {STACK_LIMIT} for a thread)");
            let lane = Some(mask.trailing_zeros());
            return Err(Box::new(Trouble { problem: Problem::Illegal(what), lane }));
        }
        let block = self.cluster.blocks[self.warp.rank].coordinates;
        let caller = Caller { frame, pc: self.pc };
        let mut callee = self.warp.activate(self.launch, function, Some(caller), mask, block);
        let from = self.warp.frame(frame).local_base;
        let program = self.launch.program;
        for (argument, parameter) in call.arguments.iter().zip(&program.functions[function].params) {
            let to = callee.local_base;
            copy(
                self.warp,
                mask,
                (&self.registers, from, *argument),
                (&mut callee.registers, to, *parameter),
            );
        }
        let hole = self.warp.frames.iter().position(Option::is_none);
        let place = hole.unwrap_or_else(|| {
            self.warp.frames.push(None);
            self.warp.frames.len() - 1
        });
        self.warp.frames[place] = Some(callee);
        let start = program.functions[function].start;
        self.warp.fragments[index] =
            Fragment { mask, pc: start, frame: place, waiting: None, yielded: false };
        Ok(())
    }

    /// Whom the first active lane calls, and which lanes call the same.
    fn callee(&self, call: &Call) -> Result<(usize, u32), Box<Trouble>> {
        let register = match call.target {
            CallTarget::Function(function) => return Ok((function, self.mask)),
            CallTarget::Register(register) => register,
        };
        let values = self.get(register);
        let first = self.mask.trailing_zeros() as usize;
        let index = values[first].wrapping_sub(FUNCTION_BASE + 16) / 16;
        let functions = &self.launch.program.functions;
        let fits = functions.get(index as usize).is_some_and(|it| {
            it.params.len() == call.arguments.len() && it.returns.len() == call.results.len()
        });
        if !values[first].is_multiple_of(16) || !fits {
            let what = format!("call of {:#x}, which is no function of this prototype", values[first]);
            return Err(Box::new(Trouble { problem: Problem::Illegal(what), lane: Some(first as u32) }));
        }
        let same = lanes_of(self.mask).filter(|lane| values[*lane] == values[first]);
        Ok((index as usize, same.fold(0, |mask, lane| mask | 1 << lane)))
    }

    /// Active lanes return, or exit.
    fn leave(&mut self, index: usize, all: u32, exit: bool) -> Result<(), Box<Trouble>> {
        let mask = self.mask;
        self.rest(index, all & !mask, self.pc + 1);
        let fragment = &mut self.warp.fragments[index];
        fragment.mask = mask;
        let at = fragment.frame;
        let caller = self.warp.frame(at).caller;
        match caller {
            Some(caller) if !exit => self.leave_to(index, at, caller),
            _ => {
                self.exit(mask)?;
                self.warp.fragments.swap_remove(index);
                let mut frame = Some(at);
                while let Some(at) = frame {
                    frame = self.warp.frame(at).caller.map(|caller| caller.frame);
                    self.drop_lanes(at, mask);
                }
            }
        }
        Ok(())
    }

    fn leave_to(&mut self, index: usize, at: usize, caller: Caller) {
        let mask = self.mask;
        let program = self.launch.program;
        let from = self.warp.frame(at).local_base;
        let function = self.warp.frame(at).function;
        let Action::Call(call) = &program.code[caller.pc].action else { return };
        let mut target = std::mem::take(&mut self.warp.frame(caller.frame).registers);
        let to = self.warp.frame(caller.frame).local_base;
        for (value, result) in program.functions[function].returns.iter().zip(&call.results) {
            copy(self.warp, mask, (&self.registers, from, *value), (&mut target, to, *result));
        }
        self.warp.frame(caller.frame).registers = target;
        let fragment = &mut self.warp.fragments[index];
        *fragment = Fragment { mask, pc: caller.pc + 1, frame: caller.frame, waiting: None, yielded: false };
        self.drop_lanes(at, mask);
    }

    /// Lanes leave an activation, which ends with the last of them.
    fn drop_lanes(&mut self, at: usize, mask: u32) {
        let frame = self.warp.frame(at);
        frame.lanes &= !mask;
        if frame.lanes != 0 || frame.caller.is_none() {
            return;
        }
        self.warp.frames[at] = None;
        let program = self.launch.program;
        let ends = self.warp.frames.iter().flatten();
        let top = ends.map(|it| it.local_base + program.functions[it.function].local_bytes).max();
        self.warp.local.resize(top.unwrap_or(0));
    }

    fn exit(&mut self, mask: u32) -> Result<(), Box<Trouble>> {
        self.warp.live &= !mask;
        self.cluster.changes += 1;
        let (writer, generation) = (self.writer(), self.cluster.barrier.generation);
        self.cluster.barrier.exit(writer, mask);
        let (rank, index) = (self.warp.rank, self.warp.index);
        let block = &mut self.cluster.blocks[rank];
        let complete = block.exit(mask.count_ones());
        let is_last = block.live == 0;
        if let Some(races) = &mut self.cluster.races {
            races.exit(rank, index, mask);
            complete.into_iter().for_each(|id| races.complete(rank, id, block.live, true));
        }
        self.cluster.tell_barrier(generation);
        if self.warp.live != 0 {
            return Ok(());
        }
        let done = self.block().registers.exit(index as usize);
        let done = done.and_then(|()| self.end_products()).and_then(|()| self.end_block());
        let done = if is_last { done.and_then(|()| self.check_strangers()) } else { done };
        done.map_err(|problem| Box::new(Trouble { problem, lane: None }))
    }
}

/// Copies a value between the places of two activations, in some lanes.
fn copy(
    warp: &mut Warp,
    mask: u32,
    (from, from_base, source): (&RegisterFile, u32, Place),
    (to, to_base, target): (&mut RegisterFile, u32, Place),
) {
    let bytes = match (source, target) {
        (Place::Memory { bytes, .. }, _) | (_, Place::Memory { bytes, .. }) => bytes,
        (Place::Register(_), Place::Register(_)) => 16,
    };
    for lane in lanes_of(mask) {
        for start in (0..bytes).step_by(4) {
            let length = (bytes - start).min(4);
            let (word, known) = match source {
                Place::Memory { offset, .. } => warp.local.read(lane, from_base + offset + start, length),
                Place::Register(register) => (read_word(from, register, lane, start / 4), true),
            };
            match target {
                Place::Memory { offset, .. } if known => {
                    warp.local.write(lane, to_base + offset + start, length, word);
                }
                Place::Memory { .. } => {}
                Place::Register(register) => write_word(to, register, lane, start / 4, word),
            }
        }
    }
}

fn read_word(registers: &RegisterFile, register: AnyReg, lane: usize, word: u32) -> u32 {
    match (register, word) {
        (AnyReg::B32(index), 0) => registers.b32[index as usize][lane],
        (AnyReg::B64(index), 0 | 1) => (registers.b64[index as usize][lane] >> (32 * word)) as u32,
        (AnyReg::B128(index), 0..4) => (registers.b128[index as usize][lane] >> (32 * word)) as u32,
        (AnyReg::Pred(index), 0) => registers.pred[index as usize] >> lane & 1,
        _ => 0,
    }
}

fn write_word(registers: &mut RegisterFile, register: AnyReg, lane: usize, word: u32, value: u32) {
    match (register, word) {
        (AnyReg::B32(index), 0) => registers.b32[index as usize][lane] = value,
        (AnyReg::B64(index), 0 | 1) => {
            let target = &mut registers.b64[index as usize][lane];
            *target = *target & !(0xFFFF_FFFF << (32 * word)) | u64::from(value) << (32 * word);
        }
        (AnyReg::B128(index), 0..4) => {
            let target = &mut registers.b128[index as usize][lane];
            *target = *target & !(0xFFFF_FFFF << (32 * word)) | u128::from(value) << (32 * word);
        }
        (AnyReg::Pred(index), 0) => {
            let target = &mut registers.pred[index as usize];
            *target = *target & !(1 << lane) | (value & 1) << lane;
        }
        _ => {}
    }
}
