//! Pages of global memory, of which only those exist that are accessed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Values by the numbers of pages.
pub(crate) struct Pages<T> {
    places: HashMap<u64, usize, BuildHasherDefault<PageHasher>>,
    pages: Vec<T>,
    /// The page asked for last, and its place.
    last: (u64, usize),
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Pages { places: HashMap::default(), pages: Vec::new(), last: (u64::MAX, 0) }
    }
}

impl<T> Pages<T> {
    /// The value of a page, made if there is none.
    #[inline]
    pub fn get(&mut self, page: u64, new: impl FnOnce() -> T) -> &mut T {
        if self.last.0 != page {
            let place = *self.places.entry(page).or_insert_with(|| {
                self.pages.push(new());
                self.pages.len() - 1
            });
            self.last = (page, place);
        }
        &mut self.pages[self.last.1]
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.places.iter().map(|(page, place)| (*page, &self.pages[*place]))
    }
}

/// Page numbers are spread by one multiplication (Knuth, TAOCP 6.4).
#[derive(Default)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_right(29);
    }
}
