//! Barriers in shared memory, and the asynchronous operations that signal them (PTX ISA, "Parallel Synchronization and
//! Communication Instructions: mbarrier").

use std::collections::{BTreeMap, VecDeque};

use crate::check::Operation;
use crate::fault::Problem;
use crate::machine::{Block, Cluster};

/// The most arrivals, and the most bytes, that an `mbarrier` counts (PTX ISA, "mbarrier: Valid range").
const MOST: u32 = (1 << 20) - 1;

/// Bytes of an `mbarrier` object.
pub(crate) const MBARRIER_BYTES: u64 = 8;

/// The `mbarrier` objects of a block, by their addresses.
#[derive(Default)]
pub(crate) struct Mbarriers {
    objects: BTreeMap<u64, Mbarrier>,
}

/// One `mbarrier` object.
pub(crate) struct Mbarrier {
    /// Arrivals that each phase to come waits for.
    expected: u32,
    /// Arrivals that the current phase still waits for.
    pending: u32,
    /// Bytes that the current phase still waits for: those expected less those that were copied.
    transactions: i64,
    /// Phases that have completed.
    phase: u64,
    /// Operations in flight that will signal it, in the order they were issued.
    landings: VecDeque<Landing>,
}

/// An asynchronous operation in flight, and what happens when it completes.
///
/// It completes as late as it may: when a lane waits for a phase that needs no more than what is in flight.
pub(crate) struct Landing {
    pub effect: Effect,
    /// What it takes from the phase's bytes (`complete_tx`).
    pub bytes: u32,
    /// How often it arrives.
    pub arrivals: u32,
    /// What who waits for it learns. None where races are not looked for.
    pub operation: Option<Operation>,
}

/// What an operation does to the memory of the block whose `mbarrier` it signals.
pub(crate) enum Effect {
    /// Bytes arrive, which `begin_write` marked. Where they were read from shared memory, `begin_read` marked as many
    /// at this address of the block of this rank.
    Write { address: u64, data: Vec<u8>, source: Option<(usize, u64)> },
    /// Elements of so many bytes each are replaced by a function of them and of those that arrive, which were read as
    /// those of a write.
    Reduce {
        address: u64,
        element: usize,
        data: Vec<u8>,
        f: fn(u64, u64) -> u64,
        source: Option<(usize, u64)>,
    },
    /// The copies (`cp.async`) of some lanes of a warp land that were issued before this one.
    Copies { warp: usize, lanes: u32, before: u64 },
}

/// Threads that come to an `mbarrier`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub count: u32,
    /// Bytes that the phase is to wait for in addition.
    pub transactions: u32,
    /// Whether the phases to come expect them no more.
    pub drop: bool,
    /// Whether it may be the last one of a phase.
    pub may_complete: bool,
}

impl Mbarriers {
    pub fn get(&self, address: u64) -> Option<&Mbarrier> {
        self.objects.get(&address)
    }

    /// The first object that operations in flight will bring bytes for: its address, and how many.
    pub fn in_flight(&self) -> Option<(u64, u32)> {
        let bytes = self.objects.iter().map(|(address, object)| (*address, object.in_flight()));
        bytes.into_iter().find(|(_, bytes)| *bytes > 0)
    }

    /// Bytes of the shared memory of the block of this rank that operations in flight will bring.
    pub fn in_flight_from(&self, from: usize) -> usize {
        let landings = self.objects.values().flat_map(|object| &object.landings);
        let bytes = landings.map(|landing| match &landing.effect {
            Effect::Write { data, source: Some((rank, _)), .. }
            | Effect::Reduce { data, source: Some((rank, _)), .. }
                if *rank == from =>
            {
                data.len()
            }
            _ => 0,
        });
        bytes.sum()
    }

    /// Whether a lane that waits for a phase has something to do: the phase is over, or can be brought to its end.
    pub fn may_pass(&self, address: u64, phase: u64) -> bool {
        self.get(address).is_none_or(|object| object.phase != phase || object.can_land())
    }
}

impl Mbarrier {
    /// What `mbarrier.arrive` returns: the phase, and its pending arrivals in the lower 20 bits.
    pub fn state(&self) -> u64 {
        self.phase << 20 | u64::from(self.pending)
    }

    /// The phase that a state tells.
    pub fn phase_of(state: u64) -> u64 {
        state >> 20
    }

    /// The pending arrivals that a state tells.
    pub fn pending_of(state: u64) -> u32 {
        state as u32 & MOST
    }

    /// The object as it lies in memory.
    fn bits(&self) -> u64 {
        let transactions = self.transactions as u64 & 0x1F_FFFF;
        u64::from(self.pending) | u64::from(self.expected) << 20 | transactions << 40 | self.phase << 61
    }

    /// What the current phase waits for.
    pub fn missing(&self) -> String {
        format!(
            "{} arrivals and {} bytes are missing, {} bytes are in flight",
            self.pending,
            self.transactions,
            self.in_flight()
        )
    }

    /// Bytes that operations in flight will bring.
    pub fn in_flight(&self) -> u32 {
        self.landings.iter().map(|it| it.bytes).sum()
    }

    fn can_land(&self) -> bool {
        let sum = |f: fn(&Landing) -> u32| self.landings.iter().map(|it| i64::from(f(it))).sum::<i64>();
        !self.landings.is_empty()
            && i64::from(self.pending) == sum(|it| it.arrivals)
            && self.transactions <= sum(|it| it.bytes)
    }

    /// Expects so many bytes more in the current phase.
    pub fn expect(&mut self, bytes: u32) -> Result<(), String> {
        self.transactions += i64::from(bytes);
        if self.transactions > MOST.into() {
            return Err(format!("expects {} bytes (at most {MOST})", self.transactions));
        }
        self.advance()
    }

    /// So many bytes have come.
    pub fn complete(&mut self, bytes: u32) -> Result<(), String> {
        self.transactions -= i64::from(bytes);
        self.advance()
    }

    /// Expects so many arrivals more in the current phase.
    pub fn expect_arrivals(&mut self, count: u32) -> Result<(), String> {
        self.pending += count;
        if self.pending > MOST {
            Err(format!("{} pending arrivals (at most {MOST})", self.pending))
        } else {
            Ok(())
        }
    }

    /// Threads come; returns the state before.
    pub fn arrive(&mut self, arrival: Arrival) -> Result<u64, String> {
        let Arrival { count, transactions, drop, may_complete } = arrival;
        let state = self.state();
        self.transactions += i64::from(transactions);
        if self.transactions > MOST.into() {
            return Err(format!("expects {} bytes (at most {MOST})", self.transactions));
        }
        if count == 0 || count > self.pending {
            return Err(format!(
                "{count} arrivals, where {} are pending in phase {}",
                self.pending, self.phase
            ));
        }
        if drop {
            self.expected -= count.min(self.expected);
        }
        self.pending -= count;
        if !may_complete && self.pending == 0 {
            return Err("an arrival with .noComplete completes the phase".into());
        }
        self.advance()?;
        Ok(state)
    }

    /// Ends the phase if nothing is missing.
    fn advance(&mut self) -> Result<(), String> {
        if self.pending > 0 || self.transactions > 0 {
            return Ok(());
        }
        if self.transactions < 0 {
            return Err(format!(
                "{} bytes more were copied than phase {} expects",
                -self.transactions, self.phase
            ));
        }
        if !self.landings.is_empty() {
            let (bytes, phase) = (self.in_flight(), self.phase);
            return Err(format!(
                "phase {phase} completes while {bytes} bytes are in flight that it does not expect"
            ));
        }
        self.phase += 1;
        self.pending = self.expected;
        Ok(())
    }
}

impl Cluster {
    /// Makes an `mbarrier` of the shared memory at an address, which lies within the block and is a multiple of 8.
    pub fn init_mbarrier(&mut self, rank: usize, address: u64, count: u32) -> Result<(), Problem> {
        let refuse = |what: String| Err(Problem::Asynchronous(format!("mbarrier at {address:#x}: {what}")));
        let block = &mut self.blocks[rank];
        if block.mbarriers.objects.contains_key(&address) {
            return refuse("initialised again, without mbarrier.inval".into());
        }
        if count == 0 || count > MOST {
            return refuse(format!("initialised for {count} arrivals (must be 1 to {MOST})"));
        }
        if block.shared.arriving(address, MBARRIER_BYTES).is_some() {
            return refuse("initialised where an asynchronous copy has not finished writing".into());
        }
        let landings = VecDeque::new();
        let object = Mbarrier { expected: count, pending: count, transactions: 0, phase: 0, landings };
        block.shared.set_object(address, object.bits());
        block.shared.begin_object(address);
        if let Some(races) = &mut self.races {
            races.forget_phases((rank, address));
        }
        block.mbarriers.objects.insert(address, object);
        self.changes += 1;
        Ok(())
    }

    /// Ends an `mbarrier`: its memory may be used for something else.
    pub fn invalidate_mbarrier(&mut self, rank: usize, address: u64) -> Result<(), Problem> {
        self.mbarrier(rank, address, |object| match object.landings.len() {
            0 => Ok(()),
            count => Err(format!("invalidated while {count} operations are in flight that signal it")),
        })?;
        let block = &mut self.blocks[rank];
        block.mbarriers.objects.remove(&address);
        block.shared.end_object(address);
        Ok(())
    }

    /// Changes an `mbarrier`.
    pub fn mbarrier<R>(
        &mut self,
        rank: usize,
        address: u64,
        f: impl FnOnce(&mut Mbarrier) -> Result<R, String>,
    ) -> Result<R, Problem> {
        let refuse = |what: String| Problem::Asynchronous(format!("mbarrier at {address:#x}: {what}"));
        let block = &mut self.blocks[rank];
        let object = block.mbarriers.objects.get_mut(&address);
        let object = object.ok_or_else(|| refuse("is not initialised".into()))?;
        let result = f(object).map_err(refuse)?;
        block.shared.set_object(address, object.bits());
        self.changes += 1;
        Ok(result)
    }

    /// An asynchronous operation begins that will signal an `mbarrier`. What it writes and reads of shared memory is
    /// marked already.
    pub fn enqueue(&mut self, rank: usize, address: u64, landing: Landing) -> Result<(), Problem> {
        self.mbarrier(rank, address, |object| {
            object.landings.push_back(landing);
            Ok(())
        })
    }

    /// Has operations complete that signal an `mbarrier`, if they bring its phase to an end. Returns the phases that
    /// have completed.
    pub fn land(&mut self, rank: usize, address: u64) -> Result<u64, Problem> {
        let object = self.blocks[rank].mbarriers.get(address);
        if let Some(object) = object
            && !object.can_land()
        {
            return Ok(object.phase);
        }
        let (phase, landings) =
            self.mbarrier(rank, address, |object| Ok((object.phase, std::mem::take(&mut object.landings))))?;
        let (mut bytes, mut arrivals) = (0, 0);
        for landing in landings {
            bytes += landing.bytes;
            arrivals += landing.arrivals;
            if let (Some(races), Some(operation)) = (&mut self.races, &landing.operation) {
                races.complete_at((rank, address), phase, operation);
            }
            if let Effect::Write { data, source: Some((rank, address)), .. }
            | Effect::Reduce { data, source: Some((rank, address)), .. } = &landing.effect
            {
                self.blocks[*rank].shared.end_read(*address, data.len() as u64);
            }
            self.blocks[rank].land(landing.effect);
        }
        self.mbarrier(rank, address, |object| {
            object.pending -= arrivals;
            object.complete(bytes)?;
            Ok(object.phase)
        })
    }
}

impl Block {
    fn land(&mut self, effect: Effect) {
        match effect {
            Effect::Write { address, data, .. } => {
                self.shared.end_write(address, &data);
                self.shared.forget_writers(address, data.len() as u64);
            }
            Effect::Reduce { address, element, data, f, .. } => {
                let range = address as usize..address as usize + data.len();
                let word = |bytes: &[u8]| {
                    let mut word = [0; 8];
                    word[..element].copy_from_slice(bytes);
                    u64::from_le_bytes(word)
                };
                let old = self.shared.bytes[range.clone()].chunks_exact_mut(element);
                for (old, data) in old.zip(data.chunks_exact(element)) {
                    let new = f(word(old), word(data)).to_le_bytes();
                    old.copy_from_slice(&new[..element]);
                }
                self.shared.written[range].fill(true);
            }
            Effect::Copies { warp, lanes, before } => {
                self.copies[warp].land_before(&mut self.shared, lanes, before);
            }
        }
    }
}
