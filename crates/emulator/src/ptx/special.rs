//! The names of special registers (PTX ISA, "Special Registers").

/// Those of one value.
const SCALARS: [&str; 29] = [
    "laneid",
    "warpid",
    "nwarpid",
    "smid",
    "nsmid",
    "gridid",
    "is_explicit_cluster",
    "cluster_ctarank",
    "cluster_nctarank",
    "lanemask_eq",
    "lanemask_le",
    "lanemask_lt",
    "lanemask_ge",
    "lanemask_gt",
    "clock",
    "clock_hi",
    "clock64",
    "globaltimer",
    "globaltimer_lo",
    "globaltimer_hi",
    "reserved_smem_offset_begin",
    "reserved_smem_offset_end",
    "reserved_smem_offset_cap",
    "reserved_smem_offset_0",
    "reserved_smem_offset_1",
    "total_smem_size",
    "aggr_smem_size",
    "dynamic_smem_size",
    "current_graph_exec",
];

/// Those of one value for each dimension.
const VECTORS: [&str; 8] =
    ["tid", "ntid", "ctaid", "nctaid", "clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid"];

/// Whether `%name` is a special register, such as `tid.x`, `laneid` or `envreg3`.
pub(super) fn is_special(name: &str) -> bool {
    match name.split_once('.') {
        Some((vector, dimension)) => VECTORS.contains(&vector) && matches!(dimension, "x" | "y" | "z" | "w"),
        None => VECTORS.contains(&name) || SCALARS.contains(&name) || is_numbered(name),
    }
}

/// `envreg0` to `envreg31`, and the performance counters `pm0` to `pm7` and `pm0_64` to `pm7_64`.
fn is_numbered(name: &str) -> bool {
    let below = |number: &str, count: u32| number.parse().is_ok_and(|number: u32| number < count);
    if let Some(number) = name.strip_prefix("envreg") {
        return below(number, 32);
    }
    name.strip_prefix("pm").is_some_and(|counter| below(counter.strip_suffix("_64").unwrap_or(counter), 8))
}
