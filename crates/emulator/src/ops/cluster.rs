//! The barrier of a cluster (PTX ISA, "barrier.cluster").

/// A barrier of all threads of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClusterBarrier {
    /// How often it has completed.
    pub generation: u64,
}

impl ClusterBarrier {
    /// Threads exit.
    pub fn exit(&mut self, _threads: u32) {}
}
