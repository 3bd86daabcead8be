//! Bulk copies (PTX ISA, "Data Movement and Conversion Instructions: Bulk copy" and "Tensor copy").
//!
//! [`engine`] is what reads and writes memory, [`groups`] the waits for what goes to global memory. What arrives in
//! shared memory is waited for with the `mbarrier` that it signals. The ISA has these instructions access their
//! `mbarrier` through the generic proxy: its initialisation needs no proxy fence to be seen.

mod copy;
mod engine;
mod groups;
mod said;

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
