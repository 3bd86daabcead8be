//! Asynchronous copies by the lanes of a warp (PTX ISA, "Data Movement and Conversion Instructions: cp.async").
//!
//! Sources are read when a copy is issued; what is copied lands when the lane waits for it. Until then the destination
//! holds poison, and nobody may touch it.

use std::collections::VecDeque;

use crate::check::Completes;
use crate::count::Class;
use crate::decode::{Address, Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::lanes::{Done, LANES, Lanes, Pred, Reg, lanes_of, test2};
use crate::machine::{Context, Effect, Landing, Stop};
use crate::memory::{Issuer, Kind, Request, SharedMemory, Space, Target};
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand, Type};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "cp.async",
        syntax: "cp.async.ca|.cg.shared{::cta}.global{.L2::cache_hint}{.L2::64B|.L2::128B|.L2::256B} [dst], [src], cp-size{, src-size or ignore-src}{, policy}",
        class: Class::Copy,
        decode: copy,
    },
    Form {
        name: "cp.async.commit_group",
        syntax: "cp.async.commit_group",
        class: Class::Copy,
        decode: commit,
    },
    Form {
        name: "cp.async.wait_group",
        syntax: "cp.async.wait_group n",
        class: Class::Copy,
        decode: wait_group,
    },
    Form { name: "cp.async.wait_all", syntax: "cp.async.wait_all", class: Class::Copy, decode: wait_all },
    Form {
        name: "cp.async.mbarrier.arrive",
        syntax: "cp.async.mbarrier.arrive{.noinc}{.shared{::cta}}.b64 [addr]",
        class: Class::Copy,
        decode: arrive,
    },
];

/// Copies of a warp's lanes that have not landed.
#[derive(Debug, Default)]
pub(crate) struct CopyGroups {
    /// In the order they were issued.
    issued: VecDeque<Issued>,
    /// Those that landed last, as far as they did: nobody has been told yet.
    landed: Vec<Landed>,
    /// Lanes that have copies which landed because an `mbarrier` was waited for.
    landed_for_others: u32,
    /// How often copies were issued.
    count: u64,
    /// How many groups each lane has committed.
    committed: Lanes<u32>,
}

/// Copies of one execution of `cp.async` that landed.
#[derive(Debug)]
struct Landed {
    mask: u32,
    targets: Lanes<u32>,
    words: u32,
    pc: usize,
}

/// The copies of one execution of `cp.async`.
#[derive(Debug)]
struct Issued {
    /// How often copies were issued before.
    number: u64,
    /// Lanes whose copy has not landed.
    mask: u32,
    /// The instruction.
    pc: usize,
    targets: Lanes<u32>,
    /// Words of a copy.
    words: u32,
    data: [Lanes<u32>; 4],
    /// The group of each lane that the copy belongs to, by its number.
    groups: Lanes<u32>,
}

impl CopyGroups {
    /// Ends the groups of some lanes, and begins new ones.
    fn commit(&mut self, mask: u32) {
        for (lane, committed) in self.committed.iter_mut().enumerate() {
            *committed += mask >> lane & 1;
        }
    }

    /// Lands the copies of some lanes that belong to groups before these.
    fn land_groups(&mut self, shared: &mut SharedMemory, mask: u32, before: &Lanes<u32>) {
        self.land(shared, |issued| mask & test2(&issued.groups, before, |group, before| group < before));
    }

    /// Lands the copies of some lanes that were issued before this number.
    pub fn land_before(&mut self, shared: &mut SharedMemory, mask: u32, before: u64) {
        self.land(shared, |issued| if issued.number < before { mask } else { 0 });
    }

    fn land(&mut self, shared: &mut SharedMemory, lanes: impl Fn(&Issued) -> u32) {
        let mut landed = false;
        for issued in &mut self.issued {
            let now = issued.mask & lanes(issued);
            issued.land(now, shared);
            if now != 0 {
                let Issued { targets, words, pc, .. } = *issued;
                self.landed.push(Landed { mask: now, targets, words, pc });
            }
            issued.mask &= !now;
            landed |= issued.mask == 0;
        }
        while self.issued.front().is_some_and(|it| it.mask == 0) {
            self.issued.pop_front();
        }
        if landed && self.issued.iter().any(|it| it.mask == 0) {
            self.issued.retain(|it| it.mask != 0);
        }
    }
}

impl Issued {
    fn land(&self, mask: u32, shared: &mut SharedMemory) {
        match self.words {
            1 => self.land_words::<1>(mask, shared),
            2 => self.land_words::<2>(mask, shared),
            _ => self.land_words::<4>(mask, shared),
        }
    }

    fn land_words<const N: usize>(&self, mask: u32, shared: &mut SharedMemory) {
        for lane in lanes_of(mask) {
            let words: [[u8; 4]; N] = std::array::from_fn(|k| self.data[k][lane].to_le_bytes());
            shared.end_write(self.targets[lane].into(), words.as_flattened());
        }
    }
}

/// A `cp.async`, decoded.
struct Copy {
    target: Address,
    source: Address,
    read: Read,
}

/// How much of the source is read; the rest of the destination becomes 0.
#[derive(Clone, Copy)]
enum Read {
    All,
    /// So many bytes.
    Bytes(Reg<u32>),
    /// Nothing where this holds.
    Unless(Pred),
}

fn copy(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("async");
    let only16 = modifiers.need("cache operator", &[("ca", false), ("cg", true)])?;
    modifiers.need("state space", &[("shared", ()), ("shared::cta", ())])?;
    modifiers.need("state space", &[("global", ())])?;
    let policy = modifiers.flag("L2::cache_hint");
    modifiers.one_of(&[("L2::64B", ()), ("L2::128B", ()), ("L2::256B", ())]);
    modifiers.finish()?;
    let [target, source, Operand::Integer(size), rest @ ..] = &instruction.operands[..] else {
        return Err("operands".into());
    };
    let rest = match (policy, rest) {
        (true, [rest @ .., policy]) => {
            decoder.src64(policy)?;
            rest
        }
        (true, []) => return Err("no cache policy".into()),
        (false, rest) => rest,
    };
    let read = match rest {
        [] => Read::All,
        [ignore] if decoder.declared(ignore) == Some(Type::Pred) => Read::Unless(decoder.pred(ignore)?),
        [bytes] => Read::Bytes(decoder.src32(bytes)?),
        _ => return Err("operands".into()),
    };
    let copy = Copy { target: decoder.address(target)?, source: decoder.address(source)?, read };
    match size {
        4 if !only16 => Ok(Action::run(move |cx| copy.run::<1>(cx))),
        8 if !only16 => Ok(Action::run(move |cx| copy.run::<2>(cx))),
        16 => Ok(Action::run(move |cx| copy.run::<4>(cx))),
        _ if only16 => Err(format!("a copy of {size} bytes (must be 16)")),
        _ => Err(format!("a copy of {size} bytes (must be 4, 8 or 16)")),
    }
}

impl Copy {
    /// Issues copies of `N` words.
    fn run<const N: usize>(&self, cx: &mut Context) -> Done {
        let bytes = 4 * N as u32;
        let mut data = [[0; LANES]; 4];
        let sources = cx.addresses(&self.source);
        match self.read {
            Read::All => cx.load(Space::Global, &sources, bytes, Kind::READ, &mut data[..N])?,
            Read::Bytes(register) => {
                let read = *cx.get(register);
                read_part(cx, &sources, bytes, &read, &mut data[..N])?;
            }
            Read::Unless(ignore) => {
                let ignored = cx.test(ignore);
                let read = std::array::from_fn(|lane| if ignored >> lane & 1 == 1 { 0 } else { bytes });
                read_part(cx, &sources, bytes, &read, &mut data[..N])?;
            }
        }
        let targets = cx.addresses(&self.target);
        cx.requests(Space::Shared, &targets, bytes, Kind::WRITE, |cx, request| issue::<N>(cx, request, &data))
    }
}

/// Loads as many bytes as each lane reads.
fn read_part(
    cx: &mut Context,
    sources: &Lanes<u64>,
    bytes: u32,
    read: &Lanes<u32>,
    data: &mut [Lanes<u32>],
) -> Done {
    if let Some(lane) = lanes_of(cx.mask).find(|lane| read[*lane] > bytes) {
        let what = format!("cp.async of {bytes} bytes reads {}", read[lane]);
        return Err(Stop::lane(lane, Problem::Illegal(what)));
    }
    let active = cx.mask;
    let mut rest: u32 =
        lanes_of(active).filter(|lane| read[*lane] > 0).fold(0, |mask, lane| mask | 1 << lane);
    while rest != 0 {
        let length = read[rest.trailing_zeros() as usize];
        cx.mask = lanes_of(rest).filter(|lane| read[*lane] == length).fold(0, |mask, lane| mask | 1 << lane);
        rest &= !cx.mask;
        cx.load_part(Space::Global, sources, bytes, length, data)?;
    }
    cx.mask = active;
    Ok(())
}

/// Marks the destinations, and keeps the data until it lands.
fn issue<const N: usize>(cx: &mut Context, request: &Request, data: &[Lanes<u32>; 4]) -> Done {
    let rank = cx.warp.rank;
    if request.target != Target::Shared(rank) {
        let lane = request.mask.trailing_zeros() as usize;
        let nearest = "cp.async writes to the shared memory of its own block".into();
        return Err(Stop::lane(lane, Problem::OutOfBounds { access: request.access(lane), nearest }));
    }
    let bytes = 4 * N as u64;
    let (checked, issuer) = (cx.launch.options.checks.asynchronous, cx.issuer(0));
    let block = &mut cx.cluster.blocks[rank];
    for lane in lanes_of(request.mask) {
        let address = request.addresses[lane];
        if checked && block.shared.arriving(address, bytes).is_some() {
            let what = format!("{}, to which another lane copies at the same time", request.access(lane));
            return Err(Stop::lane(lane, Problem::Asynchronous(what)));
        }
        block.shared.begin_write(address, bytes, Issuer { lane: lane as u8, ..issuer });
    }
    cx.profile.instructions[cx.pc].copied_bytes += bytes * u64::from(request.mask.count_ones());
    let copies = &mut block.copies[cx.warp.index as usize];
    copies.count += 1;
    copies.issued.push_back(Issued {
        number: copies.count - 1,
        mask: request.mask,
        pc: cx.pc,
        targets: request.addresses.map(|it| it as u32),
        words: N as u32,
        data: *data,
        groups: copies.committed,
    });
    Ok(())
}

impl Context<'_> {
    /// Copies are writes when they are issued, which no access before may race with, and when they land, which no access
    /// after may. Lanes have waited for their own.
    fn tell_landed(&mut self, lanes: u32) -> Done {
        let (rank, warp) = (self.warp.rank, self.warp.index);
        let copies = &mut self.block().copies[warp as usize];
        let elsewhere = copies.landed_for_others & lanes;
        copies.landed_for_others &= !lanes;
        for landed in std::mem::take(&mut copies.landed) {
            landed.request(rank, |request| self.check_races_of(warp, landed.pc, request))?;
        }
        if let Some(races) = self.cluster.races.as_mut().filter(|_| elsewhere != 0) {
            races.know_copies(rank, warp, elsewhere);
        }
        Ok(())
    }

    /// The same of copies that landed because a phase of an `mbarrier` of the block is over.
    pub fn tell_landed_at(&mut self, mbarrier: (usize, u64), phase: u64) -> Done {
        let rank = self.warp.rank;
        for warp in 0..self.block().copies.len() {
            let copies = &mut self.block().copies[warp];
            for landed in std::mem::take(&mut copies.landed) {
                self.block().copies[warp].landed_for_others |= landed.mask;
                let Some(races) = &mut self.cluster.races else { continue };
                let done = landed.request(rank, |request| {
                    let done = races.copies_land_at(rank, warp as u32, (landed.pc, request), mbarrier, phase);
                    done.map_err(|conflict| (request.access(conflict.lane), conflict))
                });
                done.map_err(|(access, conflict)| self.race(access, &conflict))?;
            }
        }
        Ok(())
    }
}

impl Landed {
    /// Calls a function with what landed in the shared memory of the block of a rank.
    fn request<R>(&self, rank: usize, f: impl FnOnce(&Request) -> R) -> R {
        let addresses = self.targets.map(u64::from);
        let (target, mask, bytes) = (Target::Shared(rank), self.mask, 4 * self.words);
        f(&Request { target, mask, addresses: &addresses, bytes, kind: Kind::WRITE, data: &[], page: None })
    }
}

fn commit(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("async");
    modifiers.flag("commit_group");
    modifiers.finish()?;
    let [] = &instruction.operands[..] else { return Err("operands".into()) };
    Ok(Action::run(|cx| {
        let (mask, warp) = (cx.mask, cx.warp.index as usize);
        cx.block().copies[warp].commit(mask);
        Ok(())
    }))
}

fn wait_group(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("async");
    modifiers.flag("wait_group");
    modifiers.finish()?;
    let [Operand::Integer(pending)] = instruction.operands[..] else { return Err("operands".into()) };
    let pending = u32::try_from(pending).map_err(|_| "operands")?;
    Ok(Action::run(move |cx| {
        let (mask, warp) = (cx.mask, cx.warp.index as usize);
        let block = cx.block();
        let copies = &mut block.copies[warp];
        let before = copies.committed.map(|committed| committed.saturating_sub(pending));
        copies.land_groups(&mut block.shared, mask, &before);
        cx.tell_landed(mask)
    }))
}

fn wait_all(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("async");
    modifiers.flag("wait_all");
    modifiers.finish()?;
    let [] = &instruction.operands[..] else { return Err("operands".into()) };
    Ok(Action::run(|cx| {
        let (mask, warp) = (cx.mask, cx.warp.index as usize);
        let block = cx.block();
        let copies = &mut block.copies[warp];
        copies.commit(mask);
        let before = copies.committed;
        copies.land_groups(&mut block.shared, mask, &before);
        cx.tell_landed(mask)
    }))
}

/// The copies of each lane so far arrive at an `mbarrier` when they have landed: which is when a lane that waits for it
/// needs them.
fn arrive(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    ["async", "mbarrier", "arrive"].iter().for_each(|it| {
        modifiers.flag(it);
    });
    let counted = modifiers.flag("noinc");
    let shared = modifiers.one_of(&[("shared", ()), ("shared::cta", ())]);
    modifiers.need("type", &[("b64", ())])?;
    modifiers.finish()?;
    let [address] = &instruction.operands[..] else { return Err("operands".into()) };
    let address = decoder.address(address)?;
    let space = if shared.is_some() { Space::Shared } else { Space::Generic };
    Ok(Action::run(move |cx| {
        cx.end_epoch();
        let addresses = cx.addresses(&address);
        let mut rest = cx.mask;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let place = cx.own_mbarrier(first, space, addresses[first])?;
            let same = lanes_of(rest).filter(|lane| addresses[*lane] == addresses[first]);
            let lanes = same.fold(0, |mask, lane| mask | 1 << lane);
            rest &= !lanes;
            arrive_at(cx, place, lanes, counted).map_err(|problem| Stop::lane(first, problem))?;
        }
        Ok(())
    }))
}

/// `counted`: whether the barrier was initialised for these arrivals too; else it is to expect them from now on.
fn arrive_at(
    cx: &mut Context,
    (rank, address): (usize, u64),
    lanes: u32,
    counted: bool,
) -> Result<(), Problem> {
    let warp = cx.warp.index as usize;
    let before = cx.block().copies[warp].count;
    let arrivals = lanes.count_ones();
    if !counted {
        cx.cluster.mbarrier(rank, address, |object| object.expect_arrivals(arrivals))?;
    }
    let effect = Effect::Copies { warp, lanes, before };
    let operation = cx.begin_operation_of(lanes, Completes::Mbarrier { rank, address });
    cx.cluster.enqueue(rank, address, Landing { effect, bytes: 0, arrivals, operation })
}
