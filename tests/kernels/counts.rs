//! What a few launches of each kernel count on the emulator, against what they could do with. The counts are the same
//! on every machine, as long as NVRTC is: a snapshot that fails shows which one moved, from what to what. One that
//! moved for good is accepted with `cargo insta accept`, or by running the test with `INSTA_UPDATE=always`.

use crate::catalogue::{self, is_pinned_nvrtc};
use crate::devices::Devices;
use longhand_gpu::Arch;
use longhand_gpu::emulator::Report;
use longhand_verify::{Canonical, Op, Outcome, cards};
use std::fmt::Write;

/// One text for all architectures that count the same.
fn counts(outcomes: &[(Arch, Outcome)], canonical: &Canonical) -> String {
    let mut merged: Vec<(String, String)> = Vec::new();
    for (arch, outcome) in outcomes {
        let text = describe(canonical, &outcome.reports);
        match merged.iter_mut().find(|(_, known)| *known == text) {
            Some((arches, _)) => *arches += &format!(", {arch}"),
            None => merged.push((arch.to_string(), text)),
        }
    }
    merged.iter().map(|(arch, text)| format!("{arch}\n{text}")).collect::<Vec<_>>().join("\n")
}

fn describe(canonical: &Canonical, reports: &[Report]) -> String {
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    let mut text = format!("{} {}\n", canonical.case.operation(), canonical.case);
    let bytes = sum(|it| it.total.global_bytes);
    text += &line("global bytes, minimum", bytes, canonical.bytes as u64);
    if canonical.operations > 0 {
        let operations = sum(|it| it.total.tensor_operations);
        text += &line("tensor operations, useful", operations, canonical.operations as u64);
    }
    for report in reports {
        let total = &report.total;
        let _ = writeln!(text, "{}", report.kernel);
        text += &line("  global sectors, ideal", total.global_sectors, total.global_bytes.div_ceil(32));
        text += &line("  shared wavefronts, ideal", total.shared_wavefronts, total.ideal_shared_wavefronts);
        for (name, count) in [
            ("divergent branches", total.divergent_branches),
            ("barriers", total.barriers),
            ("atomics", total.atomics),
        ] {
            let _ = writeln!(text, "  {name:26} {count:>12}");
        }
        for (class, count) in &report.warp_instructions {
            let class = format!("{class:?} instructions").to_lowercase();
            let _ = writeln!(text, "  {class:26} {count:>12}");
        }
    }
    text
}

/// A count, what it would be at best, and how often it is that.
fn line(name: &str, count: u64, best: u64) -> String {
    let ratio = if best == 0 { String::new() } else { format!("{:.3}", count as f64 / best as f64) };
    format!("{name:28} {count:>12} {best:>12} {ratio:>8}").trim_end().to_owned() + "\n"
}

fn hold_counts(op: Op) {
    if !is_pinned_nvrtc() {
        return;
    }
    let Some(devices) = Devices::open() else { return };
    let canonical = op.canonical();
    assert!(!canonical.is_empty(), "no launch of {} is counted", op.name());
    let mut launches = Vec::new();
    for canonical in &canonical {
        let outcomes = devices.emulated_outcomes(&*canonical.case);
        insta::assert_snapshot!(canonical.name, counts(&outcomes, canonical));
        let on_card = outcomes.into_iter().find(|(arch, _)| arch.to_string() == cards::ARCH);
        launches.extend(on_card.map(|(_, outcome)| (canonical, outcome)));
    }
    catalogue::assert_has(op, &cards::launches(launches).unwrap());
}

/// A test for each operation, so that they run beside each other.
macro_rules! counts_are_held {
    ($($test:ident: $op:ident),+ $(,)?) => {
        $(#[test]
        fn $test() {
            hold_counts(Op::$op);
        })+

        #[test]
        fn every_operation_is_counted() {
            assert_eq!([$(Op::$op),+], Op::ALL);
        }
    };
}

counts_are_held! {
    activations_count_what_they_did: Activation,
    adamw_counts_what_it_did: AdamW,
    attention_counts_what_it_did: Attention,
    cross_entropy_counts_what_it_did: CrossEntropy,
    elementwise_operations_count_what_they_did: Elementwise,
    embedding_counts_what_it_did: Embedding,
    kv_cache_counts_what_it_did: KvCache,
    matrix_products_count_what_they_did: Matmul,
    norm_counts_what_it_did: Norm,
    reductions_count_what_they_did: Reduction,
    rope_counts_what_it_did: Rope,
    sampling_counts_what_it_did: Sampling,
    softmax_counts_what_it_did: Softmax,
}
