//! Special registers (PTX ISA, "Special Registers").

use crate::lanes::{LANES, Lanes};
use crate::machine::{Launch, Warp};

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    Clusterid(usize),
    Nclusterid(usize),
    ClusterCtaid(usize),
    ClusterNctaid(usize),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    DynamicSharedBytes,
    TotalSharedBytes,
    /// Counts instructions here; read when the instruction executes.
    Clock,
    ClockHigh,
    Clock64,
    GlobalTimer,
    GlobalTimerLow,
    GlobalTimerHigh,
}

impl Special {
    /// By its name without the `%`.
    pub fn parse(name: &str) -> Option<Special> {
        let (stem, axis) = match name.rsplit_once('.') {
            Some((stem, "x")) => (stem, Some(0)),
            Some((stem, "y")) => (stem, Some(1)),
            Some((stem, "z")) => (stem, Some(2)),
            Some(_) => return None,
            None => (name, None),
        };
        if let Some(axis) = axis {
            return Some(match stem {
                "tid" => Special::Tid(axis),
                "ntid" => Special::Ntid(axis),
                "ctaid" => Special::Ctaid(axis),
                "nctaid" => Special::Nctaid(axis),
                "clusterid" => Special::Clusterid(axis),
                "nclusterid" => Special::Nclusterid(axis),
                "cluster_ctaid" => Special::ClusterCtaid(axis),
                "cluster_nctaid" => Special::ClusterNctaid(axis),
                _ => return None,
            });
        }
        Some(match stem {
            "laneid" => Special::LaneId,
            "warpid" => Special::WarpId,
            "nwarpid" => Special::NWarpId,
            "smid" => Special::SmId,
            "nsmid" => Special::NSmId,
            "gridid" => Special::GridId,
            "cluster_ctarank" => Special::ClusterCtarank,
            "cluster_nctarank" => Special::ClusterNctarank,
            "is_explicit_cluster" => Special::IsExplicitCluster,
            "lanemask_eq" => Special::LanemaskEq,
            "lanemask_le" => Special::LanemaskLe,
            "lanemask_lt" => Special::LanemaskLt,
            "lanemask_ge" => Special::LanemaskGe,
            "lanemask_gt" => Special::LanemaskGt,
            "dynamic_smem_size" => Special::DynamicSharedBytes,
            "total_smem_size" => Special::TotalSharedBytes,
            "clock" => Special::Clock,
            "clock_hi" => Special::ClockHigh,
            "clock64" => Special::Clock64,
            "globaltimer" => Special::GlobalTimer,
            "globaltimer_lo" => Special::GlobalTimerLow,
            "globaltimer_hi" => Special::GlobalTimerHigh,
            _ => return None,
        })
    }

    /// Whether it changes while a kernel runs.
    pub fn is_clock(self) -> bool {
        use Special::{Clock, Clock64, ClockHigh, GlobalTimer, GlobalTimerHigh, GlobalTimerLow};
        matches!(self, Clock | ClockHigh | Clock64 | GlobalTimer | GlobalTimerLow | GlobalTimerHigh)
    }

    /// Whether it is a predicate.
    pub fn is_predicate(self) -> bool {
        self == Special::IsExplicitCluster
    }

    /// Its value after so many instructions of the block, where it is a clock.
    pub fn at(self, executed: u64) -> u64 {
        match self {
            Special::ClockHigh | Special::GlobalTimerHigh => executed >> 32,
            Special::Clock | Special::GlobalTimerLow => executed & 0xFFFF_FFFF,
            _ => executed,
        }
    }

    /// Its value in each lane, for one that does not change.
    pub fn values(self, launch: &Launch, warp: &Warp, block: [u32; 3]) -> Lanes<u64> {
        let same = |value: u32| [u64::from(value); LANES];
        let by_lane = |f: &dyn Fn(u32) -> u32| std::array::from_fn(|lane| u64::from(f(lane as u32)));
        let cluster = launch.cluster;
        match self {
            Special::Tid(axis) => {
                let coordinates = warp.coordinates(launch.block);
                std::array::from_fn(|lane| coordinates[lane][axis].into())
            }
            Special::Ntid(axis) => same(launch.block[axis]),
            Special::Ctaid(axis) => same(block[axis]),
            Special::Nctaid(axis) => same(launch.grid[axis]),
            Special::LaneId => by_lane(&|lane| lane),
            Special::WarpId => same(warp.index),
            Special::NWarpId => same(launch.warps()),
            Special::SmId | Special::GridId => same(0),
            Special::NSmId => same(1),
            Special::Clusterid(axis) => same(block[axis] / cluster[axis]),
            Special::Nclusterid(axis) => same(launch.grid[axis] / cluster[axis]),
            Special::ClusterCtaid(axis) => same(block[axis] % cluster[axis]),
            Special::ClusterNctaid(axis) => same(cluster[axis]),
            Special::ClusterCtarank => same(warp.rank as u32),
            Special::ClusterNctarank => same(cluster.iter().product()),
            Special::IsExplicitCluster => same(u32::from(cluster != [1; 3])),
            Special::LanemaskEq => by_lane(&|lane| 1 << lane),
            Special::LanemaskLe => by_lane(&|lane| u32::MAX >> (31 - lane)),
            Special::LanemaskLt => by_lane(&|lane| (1 << lane) - 1),
            Special::LanemaskGe => by_lane(&|lane| u32::MAX << lane),
            Special::LanemaskGt => by_lane(&|lane| (u32::MAX << lane) << 1),
            Special::DynamicSharedBytes => same(launch.dynamic_shared),
            Special::TotalSharedBytes => {
                same(launch.program.functions[launch.entry].shared_bytes + launch.dynamic_shared)
            }
            Special::Clock
            | Special::ClockHigh
            | Special::Clock64
            | Special::GlobalTimer
            | Special::GlobalTimerLow
            | Special::GlobalTimerHigh => [0; LANES],
        }
    }
}
