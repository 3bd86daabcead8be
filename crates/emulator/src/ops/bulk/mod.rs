//! Bulk copies (PTX ISA, "Data Movement and Conversion Instructions: Bulk copy" and "Tensor copy").
//!
//! [`engine`] is what reads and writes memory, [`groups`] the waits for what goes to global memory. What arrives in
//! shared memory is waited for with the `mbarrier` that it signals. The ISA has these instructions access their
//! `mbarrier` through the generic proxy: its initialisation needs no proxy fence to be seen.

mod copy;
mod engine;
mod groups;
mod said;
mod tensor;
mod tensormap;

pub(crate) use groups::BulkGroups;

use crate::count::Class;
use crate::ops::Form;

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "cp.async.bulk",
        syntax: "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes{.L2::cache_hint}{.ignore_oob} [dst], [src], size{, left, right}, [mbar]{, policy}; cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes{.multicast::cluster}{.L2::cache_hint} [dst], [src], size, [mbar]{, mask}{, policy}; cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [dst], [src], size, [mbar]; cp.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint}{.cp_mask} [dst], [src], size{, policy}{, mask}",
        class: Class::Copy,
        decode: copy::copy,
    },
    Form {
        name: "cp.reduce.async.bulk",
        syntax: "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.op.type [dst], [src], size, [mbar]; cp.reduce.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint}.op{.noftz}.type [dst], [src], size{, policy}",
        class: Class::Copy,
        decode: copy::reduce,
    },
    Form {
        name: "cp.async.bulk.prefetch",
        syntax: "cp.async.bulk.prefetch.L2.global{.L2::cache_hint} [src], size{, policy}",
        class: Class::Copy,
        decode: copy::prefetch,
    },
    Form {
        name: "cp.async.bulk.tensor",
        syntax: "cp.async.bulk.tensor.dim.shared::cta|.shared::cluster.global{.tile|.tile::gather4|.im2col}.mbarrier::complete_tx::bytes{.multicast::cluster}{.cta_group::1}{.L2::cache_hint} [dst], [map, coordinates], [mbar]{, offsets}{, mask}{, policy}; cp.async.bulk.tensor.dim.global.shared::cta{.tile|.tile::scatter4|.im2col_no_offs}.bulk_group{.L2::cache_hint} [map, coordinates], [src]{, policy}; .dim = .1d .2d .3d .4d .5d",
        class: Class::Copy,
        decode: tensor::copy,
    },
    Form {
        name: "cp.reduce.async.bulk.tensor",
        syntax: "cp.reduce.async.bulk.tensor.dim.global.shared::cta.op{.tile|.im2col_no_offs}.bulk_group{.L2::cache_hint} [map, coordinates], [src]{, policy}",
        class: Class::Copy,
        decode: tensor::reduce,
    },
    Form {
        name: "cp.async.bulk.prefetch.tensor",
        syntax: "cp.async.bulk.prefetch.tensor.dim.L2.global{.tile|.tile::gather4|.im2col}{.L2::cache_hint} [map, coordinates]{, offsets}{, policy}",
        class: Class::Copy,
        decode: tensor::prefetch,
    },
    Form {
        name: "tensormap.replace",
        syntax: "tensormap.replace.tile.global_address|.rank{.global|.shared::cta}.b1024.type [map], value; tensormap.replace.tile.box_dim|.global_dim|.global_stride|.element_stride{.global|.shared::cta}.b1024.type [map], ordinal, value; tensormap.replace.tile.elemtype|.interleave_layout|.swizzle_mode|.swizzle_atomicity|.fill_mode{.global|.shared::cta}.b1024.b32 [map], value",
        class: Class::Memory,
        decode: tensormap::replace,
    },
    Form {
        name: "tensormap.cp_fenceproxy",
        syntax: "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.scope.sync.aligned [dst], [src], 128",
        class: Class::Memory,
        decode: tensormap::copy,
    },
    Form {
        name: "cp.async.bulk.commit_group",
        syntax: "cp.async.bulk.commit_group",
        class: Class::Copy,
        decode: groups::commit,
    },
    Form {
        name: "cp.async.bulk.wait_group",
        syntax: "cp.async.bulk.wait_group{.read} n",
        class: Class::Copy,
        decode: groups::wait,
    },
];
