//! Asynchronous copies by the lanes of a warp (PTX ISA, "cp.async").

/// Copies of a warp's lanes that have not been waited for.
#[derive(Debug, Default)]
pub(crate) struct CopyGroups {}
