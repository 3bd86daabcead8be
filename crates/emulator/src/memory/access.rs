//! Loads, stores and atomic updates by the lanes of a warp.
//!
//! Data travels as words of 32 bits: an access of 8 or 16 bits is one word of which the upper bits are 0, one of 128
//! bits is four.

use crate::fault::{Access, Problem, SpaceName};
use crate::lanes::{Done, LANES, Lanes, lanes_of};
use crate::machine::{Context, Stop, access};
use crate::memory::global::{Found, PageOf};
use crate::memory::{
    CLUSTER_SHIFT, CONST_WINDOW, GLOBAL_BASE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW,
};

/// The state space that an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// None: the address tells.
    Generic,
    Global,
    Const,
    /// `shared::cta` and `shared::cluster`.
    Shared,
    Local,
    Param,
}

/// What an access does, as far as others are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub write: bool,
    /// Of atomic, volatile, relaxed, acquire and release accesses (PTX ISA, Memory Consistency Model, "Strong
    /// Operations"): what orders them. None for weak ones.
    pub strong: Option<Strong>,
}

/// What orders a strong access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strong {
    pub scope: Scope,
    pub acquire: bool,
    pub release: bool,
    /// Whether it reads and writes at once.
    pub atomic: bool,
}

/// Whose accesses a strong access or a fence is strong for (PTX ISA, Memory Consistency Model, "Scope"). The whole system
/// is one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Cta,
    Cluster,
    Gpu,
}

impl Kind {
    pub const READ: Kind = Kind { write: false, strong: None };
    pub const WRITE: Kind = Kind { write: true, strong: None };
    /// Of the reductions that bulk copies make, each by itself (PTX ISA, "cp.reduce.async.bulk").
    pub const REDUCE: Kind = Kind { write: true, strong: Some(Strong { atomic: true, ..Strong::RELAXED }) };
}

impl Strong {
    /// Volatile and relaxed accesses.
    pub const RELAXED: Strong = Strong { scope: Scope::Gpu, acquire: false, release: false, atomic: false };
}

impl Scope {
    /// By their names in PTX.
    pub const NAMES: [(&str, Scope); 4] =
        [("cta", Scope::Cta), ("cluster", Scope::Cluster), ("gpu", Scope::Gpu), ("sys", Scope::Gpu)];
}

/// The space of a generic address, and the address there.
pub(crate) fn locate(address: u64) -> Option<(SpaceName, u64)> {
    let within = |window: u64| (address.wrapping_sub(window) < WINDOW).then(|| address - window);
    if address >= GLOBAL_BASE {
        return Some((SpaceName::Global, address));
    }
    None.or_else(|| within(SHARED_WINDOW).map(|it| (SpaceName::Shared, it)))
        .or_else(|| within(LOCAL_WINDOW).map(|it| (SpaceName::Local, it)))
        .or_else(|| within(CONST_WINDOW).map(|it| (SpaceName::Const, it)))
        .or_else(|| within(PARAM_WINDOW).map(|it| (SpaceName::Param, it)))
}

impl Space {
    /// The space of an address that an instruction gives, and the address there.
    #[inline]
    pub fn locate(self, address: u64) -> Option<(SpaceName, u64)> {
        match self {
            Space::Generic => locate(address),
            Space::Global => Some((SpaceName::Global, address)),
            Space::Const => Some((SpaceName::Const, address)),
            Space::Shared => Some((SpaceName::Shared, address & 0xFFFF_FFFF)),
            Space::Local => Some((SpaceName::Local, address)),
            Space::Param => Some((SpaceName::Param, address)),
        }
    }
}

/// Where the accesses of some lanes lie: all in one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Global,
    /// Of the block with this rank in the cluster.
    Shared(usize),
    Local,
    Const,
    Param,
}

impl Target {
    pub fn space(self) -> SpaceName {
        match self {
            Target::Global => SpaceName::Global,
            Target::Shared(_) => SpaceName::Shared,
            Target::Local => SpaceName::Local,
            Target::Const => SpaceName::Const,
            Target::Param => SpaceName::Param,
        }
    }
}

/// One access by some of the lanes, to one memory, with addresses within that memory.
pub(crate) struct Request<'a> {
    pub target: Target,
    pub mask: u32,
    pub addresses: &'a Lanes<u64>,
    pub bytes: u32,
    pub kind: Kind,
    /// What is stored; nothing where that is not known yet.
    pub data: &'a [Lanes<u32>],
    /// In global memory: the one page that all lanes go to, and what to take from addresses to get offsets into it.
    pub page: Option<(PageOf, u64)>,
}

impl Request<'_> {
    pub fn words(&self) -> usize {
        self.bytes.div_ceil(4) as usize
    }

    pub fn access(&self, lane: usize) -> Access {
        access(self.kind.write, self.target.space(), self.addresses[lane], self.bytes.into())
    }
}

impl Context<'_> {
    /// Loads `bytes` (1, 2, 4, 8, 16 or 32) for each active lane into words.
    pub fn load(
        &mut self,
        space: Space,
        addresses: &Lanes<u64>,
        bytes: u32,
        kind: Kind,
        out: &mut [Lanes<u32>],
    ) -> Done {
        self.requests(space, addresses, bytes, kind, |cx, request| cx.load_from(request, out))
    }

    /// Stores `bytes` (1, 2, 4, 8, 16 or 32) for each active lane from words.
    pub fn store(
        &mut self,
        space: Space,
        addresses: &Lanes<u64>,
        bytes: u32,
        kind: Kind,
        data: &[Lanes<u32>],
    ) -> Done {
        self.check_alignment(space, addresses, bytes, kind)?;
        self.split(space, addresses, bytes, kind, data, Self::store_to)
    }

    /// Replaces what is there by a function of it, lane after lane; returns what was there. The function gets the lane
    /// and the old value, which has `bytes` (2, 4, 8 or 16).
    pub fn update(
        &mut self,
        space: Space,
        addresses: &Lanes<u64>,
        bytes: u32,
        strong: Strong,
        f: &dyn Fn(usize, u128) -> u128,
    ) -> Result<Lanes<u128>, Stop> {
        let mut old = [0; LANES];
        let kind = Kind { write: true, strong: Some(Strong { atomic: true, ..strong }) };
        self.requests(space, addresses, bytes, kind, |cx, request| {
            if !matches!(request.target, Target::Global | Target::Shared(_)) {
                return Err(not_writable(request));
            }
            for lane in lanes_of(request.mask) {
                let (target, address) = (request.target, request.addresses[lane]);
                let words = || (0..bytes).step_by(4).map(|start| (start, (bytes - start).min(4)));
                let mut initialised = true;
                for (start, length) in words() {
                    let (word, written) = cx.read_word(target, lane, address + u64::from(start), length);
                    old[lane] |= u128::from(word) << (8 * start);
                    initialised &= written;
                }
                cx.check_initialised(request, if initialised { u32::MAX } else { !(1 << lane) })?;
                let new = f(lane, old[lane]);
                for (start, length) in words() {
                    let word = (new >> (8 * start)) as u32;
                    cx.write_word(target, lane, address + u64::from(start), length, word);
                }
            }
            Ok(())
        })?;
        Ok(old)
    }

    /// Loads the first `bytes`, however many, at addresses that are multiples of `align`.
    pub fn load_part(
        &mut self,
        space: Space,
        addresses: &Lanes<u64>,
        align: u32,
        bytes: u32,
        out: &mut [Lanes<u32>],
    ) -> Done {
        self.check_alignment(space, addresses, align, Kind::READ)?;
        self.split(space, addresses, bytes, Kind::READ, &[], |cx, request| cx.load_from(request, out))
    }

    /// Checks an access, splits it by the memory it goes to, and does it.
    #[inline(always)]
    pub fn requests(
        &mut self,
        space: Space,
        addresses: &Lanes<u64>,
        bytes: u32,
        kind: Kind,
        act: impl FnMut(&mut Self, &Request) -> Done,
    ) -> Done {
        self.check_alignment(space, addresses, bytes, kind)?;
        self.split(space, addresses, bytes, kind, &[], act)
    }

    #[inline(always)]
    fn split(
        &mut self,
        space: Space,
        addresses: &Lanes<u64>,
        bytes: u32,
        kind: Kind,
        data: &[Lanes<u32>],
        mut act: impl FnMut(&mut Self, &Request) -> Done,
    ) -> Done {
        let mask = self.mask;
        // Mostly all lanes go to one memory, and their addresses are what the instruction gives.
        let target = match space {
            Space::Global => Some(Target::Global),
            Space::Shared if addresses.iter().all(|it| it >> CLUSTER_SHIFT == 0) => {
                Some(Target::Shared(self.warp.rank))
            }
            _ => None,
        };
        if let Some(target) = target {
            let request = Request { target, mask, addresses, bytes, kind, data, page: None };
            return self.request(request, &mut act);
        }
        let mut rest = mask;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let mut within = *addresses;
            let Some(target) = self.target(space, addresses[first], &mut within[first]) else {
                return Err(wrong_space(first, addresses[first], bytes, kind));
            };
            let mut mask = 1 << first;
            for lane in lanes_of(rest & !mask) {
                if self.target(space, addresses[lane], &mut within[lane]) == Some(target) {
                    mask |= 1 << lane;
                }
            }
            rest &= !mask;
            let request = Request { target, mask, addresses: &within, bytes, kind, data, page: None };
            self.request(request, &mut act)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn request(&mut self, mut request: Request, act: &mut impl FnMut(&mut Self, &Request) -> Done) -> Done {
        self.check_bounds(&mut request)?;
        self.observe(&request)?;
        act(self, &request)
    }

    /// The memory that an address is in, and the address there.
    #[inline(always)]
    fn target(&self, space: Space, address: u64, within: &mut u64) -> Option<Target> {
        if space == Space::Global {
            return Some(Target::Global);
        }
        let (name, offset) = space.locate(address)?;
        *within = offset;
        Some(match name {
            SpaceName::Global => Target::Global,
            SpaceName::Shared => {
                let (rank, offset) = self.shared_address(offset);
                *within = offset;
                Target::Shared(rank)
            }
            SpaceName::Local => Target::Local,
            SpaceName::Const => Target::Const,
            SpaceName::Param => Target::Param,
        })
    }

    /// The rank of the block that a `shared::cluster` address is of, and the address there. A rank that the cluster
    /// has not is found when bounds are checked.
    #[inline(always)]
    pub fn shared_address(&self, address: u64) -> (usize, u64) {
        match address >> CLUSTER_SHIFT {
            0 => (self.warp.rank, address),
            rank => (rank as usize - 1, address & ((1 << CLUSTER_SHIFT) - 1)),
        }
    }

    #[inline(always)]
    fn check_alignment(&self, space: Space, addresses: &Lanes<u64>, bytes: u32, kind: Kind) -> Done {
        let low = u64::from(bytes) - 1;
        let mut wrong = 0;
        for (lane, address) in addresses.iter().enumerate() {
            wrong |= u32::from(address & low != 0) << lane;
        }
        if wrong & self.mask == 0 {
            return Ok(());
        }
        let lane = (wrong & self.mask).trailing_zeros() as usize;
        let (space, address) = match space.locate(addresses[lane]) {
            Some((space, address)) => (Some(space), address),
            None => (None, addresses[lane]),
        };
        let access = Access { write: kind.write, space, address, bytes: bytes.into() };
        Err(Stop::lane(lane, Problem::Misaligned { access, align: bytes.into() }))
    }

    /// Every lane's bytes exist.
    #[inline(always)]
    fn check_bounds(&mut self, request: &mut Request) -> Done {
        let end = match request.target {
            Target::Global => return self.check_global_bounds(request),
            Target::Shared(rank) => match self.cluster.blocks.get(rank) {
                Some(block) => block.shared.len(),
                None => 0,
            },
            Target::Local => self.warp.local.len().into(),
            Target::Const => self.launch.program.constants.bytes.len() as u64,
            Target::Param => self.launch.params.len() as u64,
        };
        let limit = end.saturating_sub(request.bytes.into());
        let mut beyond = 0;
        for (lane, address) in request.addresses.iter().enumerate() {
            beyond |= u32::from(*address > limit) << lane;
        }
        if beyond & request.mask == 0 && end >= request.bytes.into() {
            return match request.target {
                Target::Shared(rank) => self.check_alive(request.mask.trailing_zeros() as usize, rank),
                _ => Ok(()),
            };
        }
        for lane in lanes_of(request.mask) {
            if request.addresses[lane].saturating_add(request.bytes.into()) > end {
                let nearest = match request.target {
                    Target::Shared(rank) if rank >= self.cluster.blocks.len() => {
                        format!("the cluster has no block of rank {rank}")
                    }
                    _ => format!("there are {end} bytes"),
                };
                return Err(Stop::lane(lane, Problem::OutOfBounds { access: request.access(lane), nearest }));
            }
        }
        Ok(())
    }

    fn check_global_bounds(&mut self, request: &mut Request) -> Done {
        let first = request.addresses[request.mask.trailing_zeros() as usize % LANES];
        let (mut low, mut high) = (first, first);
        for (lane, address) in request.addresses.iter().enumerate() {
            let address = if request.mask >> lane & 1 == 1 { *address } else { first };
            low = low.min(address);
            high = high.max(address);
        }
        let bytes = (high - low).saturating_add(request.bytes.into());
        if let Found::In(index) = self.global.find(low, bytes) {
            request.page = self.global.page_of(index, low, bytes);
            return Ok(());
        }
        for lane in lanes_of(request.mask) {
            let address = request.addresses[lane];
            match self.global.find(address, request.bytes.into()) {
                Found::In(_) => {}
                Found::Freed => {
                    return Err(Stop::lane(lane, Problem::UseAfterFree { access: request.access(lane) }));
                }
                Found::Outside => {
                    let nearest = self.global.nearest(address);
                    return Err(Stop::lane(
                        lane,
                        Problem::OutOfBounds { access: request.access(lane), nearest },
                    ));
                }
            }
        }
        Ok(())
    }

    /// What checks and counts an access that is about to be made.
    #[inline(always)]
    fn observe(&mut self, request: &Request) -> Done {
        self.check_in_flight(request)?;
        match request.target {
            Target::Global => {
                self.profile.global(self.pc, request);
                self.touch(request);
            }
            Target::Shared(_) => self.profile.shared(self.pc, request),
            Target::Local | Target::Const | Target::Param => return Ok(()),
        }
        if request.kind.write && self.launch.options.checks.asynchronous {
            self.note_writers(request);
        }
        self.check_races(request)
    }

    /// Keeps in mind who writes shared memory through the generic proxy, and when others may have been told.
    fn note_writers(&mut self, request: &Request) {
        if request.kind.strong.is_some() {
            self.end_epoch();
        }
        let Target::Shared(rank) = request.target else { return };
        let note = self.cluster.proxies.note(self.writer());
        let shared = &mut self.cluster.blocks[rank].shared;
        for lane in lanes_of(request.mask) {
            shared.note_writer(request.addresses[lane], request.bytes.into(), note);
        }
    }

    /// Whether no generic write of these bytes, which must be within the block's shared memory, needs a
    /// `fence.proxy.async` yet; else the warp that wrote.
    pub fn check_fenced(&self, rank: usize, address: u64, bytes: u64) -> Result<(), Problem> {
        let cluster = &self.cluster;
        let notes = cluster.blocks[rank].shared.writers(address, bytes);
        let mut last = 0;
        for (offset, note) in notes.iter().enumerate() {
            if *note != last
                && let Some(writer) = cluster.proxies.uncovered(*note)
            {
                let at = address + offset as u64;
                return Err(Problem::Asynchronous(format!(
                    "shared memory at {at:#x} is read through the asynchronous proxy, and warp {} of block rank {} \
                     wrote it without fence.proxy.async since",
                    writer % 32,
                    writer / 32
                )));
            }
            last = *note;
        }
        Ok(())
    }

    /// Notes which bytes of global memory are accessed, and what they held before.
    #[inline(always)]
    fn touch(&mut self, request: &Request) {
        self.cluster.touched.add_lanes(request);
        if !request.kind.write {
            return;
        }
        if let Some((page, _)) = request.page {
            return self.global.keep(page);
        }
        for lane in lanes_of(request.mask) {
            let (address, bytes) = (request.addresses[lane], request.bytes.into());
            if let Found::In(index) = self.global.find(address, bytes)
                && let Some((page, _)) = self.global.page_of(index, address, bytes)
            {
                self.global.keep(page);
            }
        }
    }

    #[inline(always)]
    fn check_races(&mut self, request: &Request) -> Done {
        self.check_races_of(self.warp.index, self.pc, request)
    }

    /// An instruction of a warp of the block accesses memory.
    #[inline(always)]
    pub fn check_races_of(&mut self, warp: u32, pc: usize, request: &Request) -> Done {
        let Some(races) = &mut self.cluster.races else { return Ok(()) };
        let done = races.access(self.warp.rank, warp, pc, request);
        done.map_err(|conflict| self.race(request.access(conflict.lane), &conflict))
    }

    /// Nobody touches shared memory that an asynchronous operation is still to write, or changes what one still reads.
    #[inline(always)]
    fn check_in_flight(&mut self, request: &Request) -> Done {
        let Target::Shared(rank) = request.target else { return Ok(()) };
        let shared = &self.cluster.blocks[rank].shared;
        if !shared.is_marked() || !self.launch.options.checks.asynchronous {
            return Ok(());
        }
        for lane in lanes_of(request.mask) {
            let done = self.check_flight(rank, &request.access(lane), "");
            done.map_err(|problem| Stop::lane(lane, problem))?;
        }
        Ok(())
    }
}

pub(super) fn not_writable(request: &Request) -> Stop {
    let lane = request.mask.trailing_zeros() as usize;
    Stop::lane(lane, Problem::WrongSpace { access: request.access(lane) })
}

fn wrong_space(lane: usize, address: u64, bytes: u32, kind: Kind) -> Stop {
    let access = Access { write: kind.write, space: None, address, bytes: bytes.into() };
    Stop::lane(lane, Problem::WrongSpace { access })
}
