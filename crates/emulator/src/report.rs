//! What a launch did.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::count::{Class, Profile};
use crate::machine::Launch;

/// What a launch did, counted. The same launch always counts the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The entry.
    pub kernel: String,
    /// Instructions executed by warps, by class.
    pub warp_instructions: BTreeMap<Class, u64>,
    /// Active lanes of these instructions together.
    pub lane_instructions: u64,
    /// Branches that parted the lanes of a warp.
    pub divergent_branches: u64,
    /// Bytes that lanes asked of global memory.
    pub global_bytes: u64,
    /// Sectors of 32 bytes of global memory that warps touched.
    pub global_sectors: u64,
    /// Passes over shared memory's banks.
    pub shared_wavefronts: u64,
    /// The passes that as many bytes would take without bank conflicts.
    pub ideal_shared_wavefronts: u64,
    /// Multiplications and additions of tensor cores: 2 m n k for each product of matrices.
    pub tensor_operations: u64,
    /// Bytes that lanes copied to shared memory asynchronously (`cp.async`).
    pub copied_bytes: u64,
}

impl Report {
    pub(crate) fn new(launch: &Launch, profile: &Profile) -> Report {
        let mut report =
            Report { kernel: launch.program.functions[launch.entry].name.clone(), ..Report::default() };
        for (instruction, counts) in launch.program.code.iter().zip(&profile.instructions) {
            if counts.warps > 0 {
                *report.warp_instructions.entry(instruction.class).or_default() += counts.warps;
            }
            report.lane_instructions += counts.lanes;
            report.divergent_branches += counts.divergent;
            report.global_bytes += counts.bytes;
            report.global_sectors += counts.sectors;
            report.shared_wavefronts += counts.wavefronts;
            report.ideal_shared_wavefronts += counts.ideal_wavefronts;
            report.tensor_operations += counts.tensor_operations;
            report.copied_bytes += counts.copied;
        }
        report
    }
}
