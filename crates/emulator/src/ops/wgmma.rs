//! Matrix products of a warpgroup (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").

/// Products of a warp that have not been waited for.
#[derive(Debug, Default)]
pub(crate) struct Pending {}
