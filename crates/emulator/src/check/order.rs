//! What strong accesses and fences order (PTX ISA, Memory Consistency Model, "Release and Acquire Patterns").

use std::rc::Rc;

use crate::check::Races;
use crate::check::clock::Time;
use crate::check::shadow::Memory;
use crate::check::sync::{Domain, Publications};
use crate::lanes::lanes_of;
use crate::memory::{Request, Scope, Strong};

const SCOPES: [Scope; 3] = [Scope::Cta, Scope::Cluster, Scope::Gpu];

impl Races {
    /// The domain of a scope that a block is in.
    fn domain(&self, block: u32, scope: Scope) -> Domain {
        let of = match scope {
            Scope::Cta => block,
            Scope::Cluster => self.cluster[0],
            Scope::Gpu => 0,
        };
        Domain { scope, of }
    }

    fn publications<R>(&mut self, memory: Memory, f: impl FnOnce(&mut Publications) -> R) -> R {
        match memory {
            Memory::Shared(rank) => f(&mut self.published[rank]),
            Memory::Global => f(&mut self.shadow.across.borrow_mut().published),
        }
    }

    /// Lanes execute a fence.
    pub fn fence(&mut self, rank: usize, warp: u32, lanes: u32, scope: Scope) {
        let Some(now) = self.tick() else { return };
        self.strand(rank, warp).fence(lanes, scope, now);
    }

    /// Lanes read or write strongly, one after another.
    pub(super) fn order(
        &mut self,
        index: usize,
        memory: Memory,
        request: &Request,
        strong: Strong,
        now: Time,
    ) {
        let nothing = self.publications(memory, |all| all.is_empty());
        if nothing && !strong.release && !self.strands[index].has_fences() {
            return;
        }
        for lane in lanes_of(request.mask) {
            let address = request.addresses[lane];
            if strong.atomic || !request.kind.write {
                self.observe(index, memory, address, lane, strong);
            }
            if request.kind.write {
                self.publish(index, memory, address, lane, strong, now);
            }
        }
    }

    /// A lane reads what was published at an address.
    fn observe(&mut self, index: usize, memory: Memory, address: u64, lane: usize, strong: Strong) {
        let block = self.strands[index].unit.block();
        for scope in SCOPES.into_iter().filter(|scope| *scope <= strong.scope) {
            let domain = self.domain(block, scope);
            let seen = self.publications(memory, |all| all.get(&address)?.seen_in(domain).cloned());
            let Some(clock) = seen else { continue };
            if strong.acquire {
                self.strands[index].acquire(1 << lane, &clock);
            } else {
                self.strands[index].see(lane, scope, clock);
            }
        }
    }

    /// A lane writes to an address, and publishes what it may.
    fn publish(
        &mut self,
        index: usize,
        memory: Memory,
        address: u64,
        lane: usize,
        strong: Strong,
        now: Time,
    ) {
        let strand = &self.strands[index];
        let block = strand.unit.block();
        let mut clocks: Vec<_> =
            strand.fenced(lane).map(|(scope, clock)| (scope.min(strong.scope), Rc::new(clock))).collect();
        if strong.release {
            clocks.push((strong.scope, Rc::new(strand.released(1 << lane, now))));
        }
        // An atomic operation leaves what was published before; a store does not.
        if !strong.atomic {
            self.publications(memory, |all| all.remove(&address));
        }
        for (widest, clock) in clocks {
            for scope in SCOPES.into_iter().filter(|scope| *scope <= widest) {
                let domain = self.domain(block, scope);
                self.publications(memory, |all| all.entry(address).or_default().add(domain, &clock));
            }
        }
    }

    /// Weak writes replace what was published.
    pub(super) fn overwrite(&mut self, memory: Memory, request: &Request) {
        self.publications(memory, |all| {
            if all.is_empty() {
                return;
            }
            for lane in lanes_of(request.mask) {
                let start = request.addresses[lane];
                (start..start + u64::from(request.bytes)).for_each(|address| {
                    all.remove(&address);
                });
            }
        });
    }
}
