//! Where the tokens of a sequence lie.

use super::NAME;
use crate::{Error, Result};

/// Each sequence has a page of its own, or a list of pages.
#[derive(Clone, Debug)]
pub(super) enum Pages {
    /// Of so many tokens each.
    Contiguous {
        tokens: usize,
    },
    Paged(Paged),
}

#[derive(Clone, Debug)]
pub(super) struct Paged {
    /// Of a page.
    pub tokens: usize,
    /// The pages of each sequence.
    pub lists: Vec<Vec<u32>>,
    free: Vec<u32>,
    /// Pages that there are.
    pub count: usize,
}

impl Pages {
    pub fn contiguous() -> Pages {
        Pages::Contiguous { tokens: 0 }
    }

    pub fn paged(sequences: usize, tokens: usize) -> Pages {
        Pages::Paged(Paged { tokens, lists: vec![Vec::new(); sequences], free: Vec::new(), count: 0 })
    }

    pub fn check(&self) -> Result<()> {
        match self {
            Pages::Paged(Paged { tokens: 0, .. }) => {
                Err(Error::argument(NAME, "tokens of a page", "0", "at least 1"))
            }
            _ => Ok(()),
        }
    }

    /// Makes room for sequences of so many tokens, by doubling what there is.
    pub fn reserve(&mut self, lengths: &[usize]) {
        match self {
            Pages::Contiguous { tokens } => {
                let longest = lengths.iter().copied().max().unwrap_or(0);
                if longest > *tokens {
                    *tokens = longest.max(2 * *tokens);
                }
            }
            Pages::Paged(paged) => paged.reserve(lengths),
        }
    }

    /// Gives back the pages that sequences of so many tokens do not need.
    pub fn trim(&mut self, lengths: &[usize]) {
        if let Pages::Paged(paged) = self {
            for (list, length) in paged.lists.iter_mut().zip(lengths) {
                let needed = length.div_ceil(paged.tokens);
                paged.free.extend(list.drain(needed.min(list.len())..));
            }
        }
    }

    /// Pages, and tokens of a page.
    pub fn shape(&self, sequences: usize) -> [usize; 2] {
        match self {
            Pages::Contiguous { tokens } => [sequences, *tokens],
            Pages::Paged(paged) => [paged.count, paged.tokens],
        }
    }

    /// The page of a token of a sequence, and its place there.
    pub fn place(&self, sequence: usize, token: usize) -> [usize; 2] {
        match self {
            Pages::Contiguous { .. } => [sequence, token],
            Pages::Paged(paged) => {
                [paged.lists[sequence][token / paged.tokens] as usize, token % paged.tokens]
            }
        }
    }
}

impl Paged {
    fn reserve(&mut self, lengths: &[usize]) {
        let needed: usize = lengths.iter().map(|length| length.div_ceil(self.tokens)).sum();
        if needed > self.count {
            let count = needed.max(2 * self.count);
            self.free.splice(0..0, (self.count as u32..count as u32).rev());
            self.count = count;
        }
        for (list, length) in self.lists.iter_mut().zip(lengths) {
            let missing = length.div_ceil(self.tokens).saturating_sub(list.len());
            list.extend(self.free.drain(self.free.len() - missing..).rev());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paged(pages: &Pages) -> &Paged {
        match pages {
            Pages::Paged(paged) => paged,
            Pages::Contiguous { .. } => panic!("{pages:?}"),
        }
    }

    #[test]
    fn no_page_is_of_two_sequences_and_what_is_given_back_is_used_again() {
        let mut pages = Pages::paged(3, 4);
        let mut lengths = [5, 0, 4];
        pages.reserve(&lengths);
        assert_eq!(paged(&pages).count, 3);
        for (sequence, length) in [(0, 9), (1, 1), (0, 2), (2, 17), (1, 8), (2, 0), (0, 30)] {
            lengths[sequence] = length;
            pages.trim(&lengths);
            pages.reserve(&lengths);
            let paged = paged(&pages);
            let mut all: Vec<u32> = paged.lists.iter().flatten().chain(&paged.free).copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..paged.count as u32).collect::<Vec<_>>());
            for (list, length) in paged.lists.iter().zip(&lengths) {
                assert_eq!(list.len(), length.div_ceil(4));
            }
        }
        assert!(paged(&pages).count <= 24, "{pages:?}");
    }

    #[test]
    fn a_contiguous_cache_doubles() {
        let mut pages = Pages::contiguous();
        for (length, room) in [(3, 3), (4, 6), (6, 6), (7, 12), (100, 100)] {
            pages.reserve(&[1, length]);
            assert_eq!(pages.shape(2), [2, room]);
        }
    }
}
