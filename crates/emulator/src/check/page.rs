//! Who accessed the bytes of a page last: FastTrack (Flanagan & Freund, PLDI 2009), for warps.
//!
//! Of weak writes the last is enough: all that came before are ordered before it. Of reads and of strong accesses, of
//! which many may be unordered, each warp's last are kept, in planes of its own.

use crate::check::clock::{Clock, Time, Unit};
use crate::lanes::{Lanes, lanes_of};
use crate::memory::{Kind, Scope};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 512;

/// The last accesses to the bytes of a page, by cells of 4, 2 or 1 bytes: the smallest size that anyone accessed.
pub(crate) struct Page {
    /// The logarithm of the bytes of a cell.
    shift: u32,
    /// The last weak write to each cell, and whose it was. None as long as there was none.
    writes: Option<(Plane, Vec<Unit>)>,
    /// The other accesses.
    planes: Vec<Plane>,
    /// The last of the strong writes among them, and of all of them.
    latest_write: Time,
    latest: Time,
    /// Whether engines accessed it: what they do, nobody knows of who has only met all threads.
    engines: bool,
}

/// For each cell, the last access of one kind by a unit.
struct Plane {
    unit: Unit,
    way: Way,
    /// The last of them all.
    latest: Time,
    /// When; 0 for never.
    times: Vec<Time>,
    /// The lanes that did.
    lanes: Vec<u32>,
    /// The instruction.
    pcs: Vec<u32>,
}

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub write: bool,
    /// Of strong accesses, whom they are strong for.
    pub strong: Option<Scope>,
}

impl From<Kind> for Way {
    fn from(kind: Kind) -> Self {
        Way { write: kind.write, strong: kind.strong.map(|it| it.scope) }
    }
}

/// Who makes an access, and what is ordered before it.
#[derive(Clone, Copy)]
pub(crate) struct Actor<'a> {
    pub unit: Unit,
    pub clock: &'a Clock,
    /// Whatever threads did up to this time is known.
    pub all: Time,
    /// The warp whose lanes each know what they did themselves, and up to when.
    pub own: Unit,
    pub until: Time,
    /// The blocks of the actor's cluster.
    pub cluster: &'a [u32],
}

/// One instruction's access.
pub(crate) struct Event<'a> {
    /// No other access has the same time.
    pub time: Time,
    pub pc: u32,
    pub way: Way,
    /// What is written, if that is known.
    pub data: &'a [Lanes<u32>],
}

/// Two accesses that nothing orders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    /// The lane that makes the later one.
    pub lane: usize,
    pub earlier: Unit,
    pub earlier_lane: u32,
    pub earlier_pc: u32,
    pub earlier_is_write: bool,
}

/// An access to the shared memory of a block by another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stranger {
    pub unit: Unit,
    pub lane: u32,
    pub pc: u32,
    pub is_write: bool,
}

impl Actor<'_> {
    /// Whether what other lanes than this did at a time is ordered before what it does now.
    #[inline]
    fn knows(&self, unit: Unit, lanes: u32, time: Time, lane: usize) -> bool {
        if time <= self.all {
            return true;
        }
        let own = if unit == self.own && time <= self.until { 1 << lane } else { 0 };
        lanes & !own == 0 || self.clock.knows(unit, lanes & !own, time)
    }

    /// Whether a strong access of a scope is strong for the actor, too.
    fn is_in_scope(&self, scope: Scope, unit: Unit) -> bool {
        match scope {
            Scope::Cta => unit.block() == self.unit.block(),
            Scope::Cluster => self.cluster.contains(&unit.block()),
            Scope::Gpu => true,
        }
    }

    /// Whether accesses of these kinds race unless they are ordered (PTX ISA, Memory Consistency Model, "Morally Strong
    /// Operations").
    fn conflicts(&self, mine: Way, theirs: Way, unit: Unit) -> bool {
        let strong = match (mine.strong, theirs.strong) {
            (Some(mine), Some(theirs)) => self.is_in_scope(mine.min(theirs), unit),
            _ => false,
        };
        (mine.write || theirs.write) && !strong
    }
}

impl Plane {
    fn new(unit: Unit, way: Way, cells: usize) -> Self {
        Plane { unit, way, latest: 0, times: vec![0; cells], lanes: vec![0; cells], pcs: vec![0; cells] }
    }

    /// Makes each cell several.
    fn split(&mut self, by: usize) {
        fn split(values: &[u32], by: usize) -> Vec<u32> {
            values.iter().flat_map(|value| std::iter::repeat_n(*value, by)).collect()
        }
        self.times = split(&self.times, by);
        self.lanes = split(&self.lanes, by);
        self.pcs = split(&self.pcs, by);
    }

    fn set(&mut self, start: usize, lanes: &[u32], event: &Event) {
        let cells = start..start + lanes.len();
        self.latest = event.time;
        self.times[cells.clone()].fill(event.time);
        self.pcs[cells.clone()].fill(event.pc);
        self.lanes[cells].copy_from_slice(lanes);
    }

    /// Whether the plane has room for an access: what it holds is known to all, or the same lanes do it again.
    fn fits(&self, start: usize, lanes: &[u32], known: Time) -> bool {
        let cells = start..start + lanes.len();
        let held = self.times[cells.clone()].iter().zip(&self.lanes[cells]);
        self.latest <= known || held.zip(lanes).all(|((time, held), new)| *time <= known || held & !new == 0)
    }
}

impl Page {
    pub fn new() -> Self {
        Page { shift: 2, writes: None, planes: Vec::new(), latest_write: 0, latest: 0, engines: false }
    }

    fn cells(&self) -> usize {
        PAGE as usize >> self.shift
    }

    /// Makes cells as small as an access.
    #[cold]
    fn refine(&mut self, shift: u32) {
        let by = 1 << (self.shift - shift);
        if let Some((plane, units)) = &mut self.writes {
            plane.split(by);
            *units = units.iter().flat_map(|unit| std::iter::repeat_n(*unit, by)).collect();
        }
        self.planes.iter_mut().for_each(|plane| plane.split(by));
        self.shift = shift;
    }

    /// Consecutive lanes access one after another as many bytes from an offset on; or all of them the same ones, at most
    /// 128.
    pub fn access(
        &mut self,
        event: &Event,
        actor: &Actor,
        offset: u64,
        bytes: u32,
        lanes: &SpanLanes,
    ) -> Result<(), Conflict> {
        let shift = bytes.trailing_zeros().min(2);
        if shift < self.shift {
            self.refine(shift);
        }
        let start = offset as usize >> self.shift;
        let same: [u32; 128];
        let lanes = match *lanes {
            SpanLanes::Consecutive { first, count } => {
                let each = bytes.trailing_zeros() - self.shift;
                &LANE_OF_CELL[each as usize][first << each..(first + count) << each]
            }
            SpanLanes::Same(lanes) => {
                same = [lanes; 128];
                &same[..bytes as usize >> self.shift]
            }
        };
        self.engines |= actor.unit.is_engine();
        let actor = &Actor { all: if self.engines { 0 } else { actor.all }, ..*actor };
        self.check_writes(event, actor, start, lanes)?;
        self.check_planes(event, actor, start, lanes)?;
        if event.way.write && event.way.strong.is_none() {
            self.record_write(event, actor, start, lanes)
        } else {
            self.record(event, actor, start, lanes);
            Ok(())
        }
    }

    /// Weak writes come before.
    #[inline]
    fn check_writes(
        &self,
        event: &Event,
        actor: &Actor,
        start: usize,
        lanes: &[u32],
    ) -> Result<(), Conflict> {
        let Some((plane, units)) = &self.writes else { return Ok(()) };
        if plane.latest <= actor.all {
            return Ok(());
        }
        check_cells(plane, |cell| units[cell], event, actor, start, lanes)
    }

    /// Other accesses come before, so far as they matter to this one.
    #[inline]
    fn check_planes(
        &self,
        event: &Event,
        actor: &Actor,
        start: usize,
        lanes: &[u32],
    ) -> Result<(), Conflict> {
        if actor.all >= if event.way.write { self.latest } else { self.latest_write } {
            return Ok(());
        }
        for plane in &self.planes {
            if plane.latest <= actor.all
                || !actor.conflicts(event.way, plane.way, plane.unit)
                || plane.latest <= actor.clock.whole(plane.unit)
            {
                continue;
            }
            check_cells(plane, |_| plane.unit, event, actor, start, lanes)?;
        }
        Ok(())
    }

    /// An access by another block that is not known.
    pub fn unknown_of_others(&self, block: u32, clock: &Clock) -> Option<Stranger> {
        let writes = self.writes.iter().map(|(plane, units)| (plane, Some(units)));
        let planes = writes.chain(self.planes.iter().map(|plane| (plane, None)));
        planes.into_iter().find_map(|(plane, units)| {
            (0..self.cells()).find_map(|cell| {
                let unit = units.map_or(plane.unit, |units| units[cell]);
                let (time, lanes) = (plane.times[cell], plane.lanes[cell]);
                let lane = lanes_of(lanes).find(|lane| !clock.knows(unit, 1 << lane, time));
                let lane = lane.filter(|_| time > 0 && unit.block() != block)? as u32;
                Some(Stranger { unit, lane, pc: plane.pcs[cell], is_write: plane.way.write })
            })
        })
    }

    fn record_write(
        &mut self,
        event: &Event,
        actor: &Actor,
        start: usize,
        lanes: &[u32],
    ) -> Result<(), Conflict> {
        let cells = self.cells();
        let (plane, units) = self
            .writes
            .get_or_insert_with(|| (Plane::new(actor.unit, event.way, cells), vec![actor.unit; cells]));
        let range = start..start + lanes.len();
        // Lanes of this very instruction may have written the same bytes: they must have written the same.
        let now = |plane: &Plane, units: &[Unit], cell: usize| {
            plane.times[cell] == event.time && units[cell] == actor.unit
        };
        let again = plane.latest == event.time && range.clone().any(|cell| now(plane, units, cell));
        if again || lanes[0].count_ones() > 1 {
            for (cell, lanes) in range.zip(lanes) {
                let before = if now(plane, units, cell) { plane.lanes[cell] } else { 0 };
                let all = before | lanes;
                if let Some((lane, other)) = event.differ(all) {
                    let earlier_lane = other as u32;
                    let (earlier, earlier_pc) = (actor.unit, event.pc);
                    return Err(Conflict { lane, earlier, earlier_lane, earlier_pc, earlier_is_write: true });
                }
                plane.set(cell, &[all], event);
                units[cell] = actor.unit;
            }
            return Ok(());
        }
        plane.set(start, lanes, event);
        units[range].fill(actor.unit);
        Ok(())
    }

    fn record(&mut self, event: &Event, actor: &Actor, start: usize, lanes: &[u32]) {
        self.latest = event.time;
        if event.way.write {
            self.latest_write = event.time;
        }
        let known = actor.clock.whole(actor.unit);
        let is_mine = |plane: &Plane| plane.unit == actor.unit && plane.way == event.way;
        let mut mine = self.planes.iter_mut().filter(|plane| is_mine(plane));
        match mine.next() {
            Some(plane) if plane.fits(start, lanes, known) => plane.set(start, lanes, event),
            Some(_) => {
                for (cell, lanes) in (start..).zip(lanes) {
                    self.record_cell(event, actor, cell, *lanes, known);
                }
            }
            None => {
                let mut plane = Plane::new(actor.unit, event.way, self.cells());
                plane.set(start, lanes, event);
                self.planes.push(plane);
            }
        }
    }

    /// Of lanes that accessed a cell by different instructions, each is remembered: in as many planes as need be.
    #[cold]
    fn record_cell(&mut self, event: &Event, actor: &Actor, cell: usize, mut lanes: u32, known: Time) {
        let is_mine = |plane: &Plane| plane.unit == actor.unit && plane.way == event.way;
        let mut free = None;
        for (i, plane) in self.planes.iter_mut().enumerate().filter(|(_, plane)| is_mine(plane)) {
            if plane.times[cell] == event.time {
                lanes |= plane.lanes[cell];
            }
            plane.lanes[cell] &= !lanes;
            if plane.times[cell] <= known || plane.lanes[cell] == 0 {
                free = free.or(Some(i));
            }
        }
        let free = free.unwrap_or_else(|| {
            self.planes.push(Plane::new(actor.unit, event.way, self.cells()));
            self.planes.len() - 1
        });
        self.planes[free].set(cell, &[lanes], event);
    }
}

/// The lanes that access neighbouring cells each know of what a plane holds there, which is of these units.
#[inline]
fn check_cells(
    plane: &Plane,
    units: impl Fn(usize) -> Unit,
    event: &Event,
    actor: &Actor,
    start: usize,
    lanes: &[u32],
) -> Result<(), Conflict> {
    // Neighbours mostly hold the same access, of which all lanes know the same but those that made it.
    let mut last = None;
    for (cell, lanes) in (start..).zip(lanes) {
        let unit = units(cell);
        let held = (plane.times[cell], plane.lanes[cell], unit);
        if held.0 > actor.all && last != Some(held) {
            check_cell(plane, unit, event, actor, cell, *lanes)?;
            last = (unit != actor.own).then_some(held);
        }
    }
    Ok(())
}

/// Each of these lanes knows of what a plane's cell holds.
#[inline]
fn check_cell(
    plane: &Plane,
    unit: Unit,
    event: &Event,
    actor: &Actor,
    cell: usize,
    lanes: u32,
) -> Result<(), Conflict> {
    let (time, held) = (plane.times[cell], plane.lanes[cell]);
    if time == event.time && unit == actor.unit || !actor.conflicts(event.way, plane.way, unit) {
        return Ok(());
    }
    let Some(lane) = lanes_of(lanes).find(|lane| !actor.knows(unit, held, time, *lane)) else {
        return Ok(());
    };
    let alone = |other: &usize| !actor.knows(unit, 1 << other, time, lane);
    Err(Conflict {
        lane,
        earlier: unit,
        earlier_lane: lanes_of(held).find(alone).unwrap_or(0) as u32,
        earlier_pc: plane.pcs[cell],
        earlier_is_write: plane.way.write,
    })
}

impl Event<'_> {
    /// Two of these lanes that write different values.
    fn differ(&self, lanes: u32) -> Option<(usize, usize)> {
        let first = lanes.trailing_zeros() as usize % 32;
        let other = lanes_of(lanes).find(|lane| self.data.iter().any(|word| word[*lane] != word[first]))?;
        Some((other, first))
    }
}

/// The lanes of a span.
pub(crate) enum SpanLanes {
    /// One after another, as their bytes are.
    Consecutive { first: usize, count: usize },
    /// All of them access the same bytes.
    Same(u32),
}

/// The lane that accesses each cell, as a bit, where lanes access one, two, four or eight (and so on) cells each, one
/// after another.
static LANE_OF_CELL: [[u32; 1024]; 6] = {
    let mut table = [[0; 1024]; 6];
    let mut each = 0;
    while each < 6 {
        let mut cell = 0;
        while cell < 32 << each {
            table[each][cell] = 1 << (cell >> each);
            cell += 1;
        }
        each += 1;
    }
    table
};
