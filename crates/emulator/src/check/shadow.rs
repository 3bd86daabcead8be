//! The pages of all memories that threads share.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use crate::check::page::{Actor, Conflict, Event, PAGE, Page, SpanLanes};
use crate::check::pages::Pages;
use crate::check::sync::Publications;

/// A memory: shared memory of the block of a rank, or global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Shared(usize),
    Global,
}

/// What the clusters of a grid share, where one CPU thread runs them all.
#[derive(Default)]
pub(crate) struct Across {
    /// Pages of global memory in which clusters access the same bytes: known once the launch has run.
    contested: HashSet<u64>,
    pages: Pages<Page>,
    /// What strong writes to global memory published.
    pub published: Publications,
}

impl Across {
    /// For a launch that is known to have these pages contested.
    pub fn new(contested: HashSet<u64>) -> Self {
        Across { contested, ..Across::default() }
    }
}

/// Who accessed what last, as far as it matters to one cluster.
pub(crate) struct Shadow {
    /// By rank.
    shared: Vec<Vec<Page>>,
    global: Pages<Page>,
    pub across: Rc<RefCell<Across>>,
}

impl Shadow {
    pub fn new(blocks: usize, shared_bytes: u64, across: Rc<RefCell<Across>>) -> Self {
        let block = || (0..shared_bytes.div_ceil(PAGE)).map(|_| Page::new()).collect();
        Shadow { shared: (0..blocks).map(|_| block()).collect(), global: Pages::default(), across }
    }

    /// The pages of the shared memory of the block of a rank.
    pub fn shared(&self, rank: usize) -> &[Page] {
        &self.shared[rank]
    }

    /// Lanes access one after another as many bytes from an address on, or all of them the same ones.
    #[inline]
    pub fn access(
        &mut self,
        memory: Memory,
        event: &Event,
        actor: &Actor,
        address: u64,
        bytes: u32,
        lanes: &SpanLanes,
    ) -> Result<(), Conflict> {
        let (number, offset) = (address / PAGE, address % PAGE);
        if let Memory::Shared(rank) = memory {
            return self.shared[rank][number as usize].access(event, actor, offset, bytes, lanes);
        }
        let mut across = self.across.borrow_mut();
        if across.contested.contains(&number) {
            // Times of different clusters have nothing to do with each other.
            let actor = Actor { all: 0, ..*actor };
            return across.pages.get(number, Page::new).access(event, &actor, offset, bytes, lanes);
        }
        self.global.get(number, Page::new).access(event, actor, offset, bytes, lanes)
    }
}
