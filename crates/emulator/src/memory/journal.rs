//! Global memory as it was before a launch, so that the launch can be repeated.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::memory::global::{GlobalView, Page, PageOf};

/// Pages that a launch writes to, as they were before; None for those that did not exist.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<HashMap<PageOf, Option<Box<Page>>>>>);

/// A journal as one worker writes it.
#[derive(Default)]
pub(crate) struct Keeper {
    journal: Option<Journal>,
    /// Pages that are known to be in the journal, and the last one that was asked for.
    kept: HashSet<PageOf>,
    last: Option<PageOf>,
}

impl Journal {
    /// Puts all pages back.
    pub fn restore(&self, view: &GlobalView) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, page) in pages.drain() {
            view.page(place).become_like(page.as_deref());
        }
    }
}

impl Keeper {
    pub fn new(journal: &Journal) -> Self {
        Keeper { journal: Some(journal.clone()), ..Keeper::default() }
    }
}

impl GlobalView {
    /// Notes what a page holds before it is written to for the first time.
    #[inline]
    pub fn keep(&mut self, page: PageOf) {
        if self.keeper.journal.is_some() && self.keeper.last != Some(page) {
            self.keep_another(page);
        }
    }

    #[cold]
    fn keep_another(&mut self, place: PageOf) {
        self.keeper.last = Some(place);
        if let Some(Journal(journal)) = &self.keeper.journal
            && self.keeper.kept.insert(place)
        {
            // Another worker may be about to write: it waits until the page is in the journal.
            let mut pages = journal.lock().unwrap_or_else(PoisonError::into_inner);
            pages.entry(place).or_insert_with(|| self.existing_page(place).map(Page::copy));
        }
    }
}
