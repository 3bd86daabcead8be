//! Barriers in shared memory (PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier").

use std::collections::HashMap;

/// The `mbarrier` objects of a block, by their addresses.
#[derive(Debug, Default)]
pub(crate) struct Mbarriers {
    phases: HashMap<u64, u64>,
}

impl Mbarriers {
    /// How many phases the one at an address has completed.
    pub fn phase(&self, address: u64) -> Option<u64> {
        self.phases.get(&address).copied()
    }
}
