//! What a few launches of each kernel count on the emulator, against what they could do with. The counts are the same
//! on every machine, as long as NVRTC is: a snapshot that fails shows which one moved, from what to what. One that
//! moved for good is accepted with `cargo insta accept`, or by running the test with `INSTA_UPDATE=always`.

use crate::devices::Devices;
use longhand_gpu::emulator::Report;
use longhand_gpu::nvrtc::{PINNED_WHEEL, locate};
use longhand_kernels::elementwise::Operation;
use longhand_reference::AttentionShape;
use longhand_verify::cases::{
    AdamW, Attention, ColumnSum, Copy, CrossEntropy, Embedding, GradientNorm, LayerNorm, Map, Matmul,
    ParameterSize, Pass, Sum,
};
use longhand_verify::{Case, Precision::Bf16, Precision::F32};
use std::fmt::Write;

/// A case, the bytes of the tensors that it has to read and write, and the operations of its matrix products.
struct Canonical<C> {
    case: C,
    bytes: usize,
    operations: usize,
}

impl<C: Case> Canonical<C> {
    fn moving(case: C, bytes: usize) -> Canonical<C> {
        Canonical { case, bytes, operations: 0 }
    }

    /// One text for all architectures that count the same.
    fn count(&self) -> Option<String> {
        let pinned = locate().is_ok_and(|found| PINNED_WHEEL.contains(&format!("=={}.", found.version)));
        if !pinned {
            println!("skipped: the counts are those of {PINNED_WHEEL}");
            return None;
        }
        let texts = Devices::open()?
            .emulated_outcomes(&self.case)
            .into_iter()
            .map(|(arch, outcome)| (arch.to_string(), self.describe(&outcome.reports)));
        let mut merged: Vec<(String, String)> = Vec::new();
        for (arch, text) in texts {
            match merged.iter_mut().find(|(_, known)| *known == text) {
                Some((arches, _)) => *arches += &format!(", {arch}"),
                None => merged.push((arch, text)),
            }
        }
        Some(merged.iter().map(|(arch, text)| format!("{arch}\n{text}")).collect::<Vec<_>>().join("\n"))
    }

    fn describe(&self, reports: &[Report]) -> String {
        let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
        let mut text = format!("{} {}\n", self.case.operation(), self.case);
        let bytes = sum(|it| it.total.global_bytes);
        text += &line("global bytes, minimum", bytes, self.bytes as u64);
        if self.operations > 0 {
            let operations = sum(|it| it.total.tensor_operations);
            text += &line("tensor operations, useful", operations, self.operations as u64);
        }
        for report in reports {
            let total = &report.total;
            let _ = writeln!(text, "{}", report.kernel);
            text += &line("  global sectors, ideal", total.global_sectors, total.global_bytes.div_ceil(32));
            text +=
                &line("  shared wavefronts, ideal", total.shared_wavefronts, total.ideal_shared_wavefronts);
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
}

/// A count, what it would be at best, and how often it is that.
fn line(name: &str, count: u64, best: u64) -> String {
    let ratio = if best == 0 { String::new() } else { format!("{:.3}", count as f64 / best as f64) };
    format!("{name:28} {count:>12} {best:>12} {ratio:>8}").trim_end().to_owned() + "\n"
}

macro_rules! assert_counts {
    ($name:literal, $canonical:expr) => {
        if let Some(counts) = $canonical.count() {
            insta::assert_snapshot!($name, counts);
        }
    };
}

/// Causal: query t sees t + 1 keys.
fn attention(pass: Pass) -> Canonical<Attention> {
    let shape = AttentionShape { batch: 1, queries: 256, keys: 256, heads: 4, kv_heads: 2, head_dim: 64 };
    let AttentionShape { queries, keys, heads, kv_heads, head_dim, .. } = shape;
    let pairs = heads * queries * (queries + 1) / 2;
    let (query, key, row) =
        (2 * queries * heads * head_dim, 2 * keys * kv_heads * head_dim, 4 * queries * heads);
    let case = Attention { pass, ..Attention::new(Bf16, shape, true) };
    match pass {
        // q, k, v, out, lse; two products.
        Pass::Forward => {
            Canonical { case, bytes: 2 * query + 2 * key + row, operations: 2 * 2 * pairs * head_dim }
        }
        // q, k, v, out, dout, lse, dq, dk, dv; five products.
        Pass::Backward => {
            Canonical { case, bytes: 4 * query + 4 * key + row, operations: 5 * 2 * pairs * head_dim }
        }
    }
}

#[test]
fn attention_forward_counts_what_it_did() {
    assert_counts!("attention_forward", attention(Pass::Forward));
}

#[test]
fn attention_backward_counts_what_it_did() {
    assert_counts!("attention_backward", attention(Pass::Backward));
}

fn norm(pass: Pass) -> Canonical<LayerNorm> {
    let (rows, width) = (64, 768);
    let case = LayerNorm {
        pass,
        precision: Bf16,
        rows,
        width,
        gap: 0,
        residual: true,
        in_place: false,
        eps: 1e-5,
        seed: 1,
    };
    // Four tensors; mean and rstd; weight and bias, or weight and the gradients of both.
    let vectors = if pass == Pass::Forward { 2 } else { 3 };
    Canonical::moving(case, 2 * 4 * rows * width + 2 * 4 * rows + 2 * vectors * width)
}

#[test]
fn layer_norm_forward_counts_what_it_did() {
    assert_counts!("layer_norm_forward", norm(Pass::Forward));
}

#[test]
fn layer_norm_backward_counts_what_it_did() {
    assert_counts!("layer_norm_backward", norm(Pass::Backward));
}

#[test]
fn adamw_counts_what_it_did() {
    let count = 4 * 16_384;
    let case = AdamW {
        parameter: Bf16,
        gradient: Bf16,
        master: true,
        tensors: vec![ParameterSize { count, shift: 0, weight_decay: 0.1 }],
        steps_before: 0,
        steps: 1,
        lr: 1e-3,
        eps: 1e-8,
        gradient_scale: None,
        seed: 1,
    };
    // The gradient is read, the parameter written; master, m and v are both.
    assert_counts!("adamw", Canonical::moving(case, count * (2 + 2 + 3 * 8)));
}

#[test]
fn cross_entropy_counts_what_it_did() {
    let (rows, vocabulary) = (32, 8192);
    let targets = (0..rows as u32).map(|row| row * 7).collect();
    let case =
        CrossEntropy { precision: Bf16, vocabulary, targets, gap: 0, in_place: false, dmean: 1.0, seed: 1 };
    // Logits are read forward and backward, their gradient written.
    assert_counts!("cross_entropy", Canonical::moving(case, 3 * 2 * rows * vocabulary));
}

#[test]
fn embedding_counts_what_it_did() {
    let (vocabulary, width, count) = (256, 768, 512);
    let ids = (0..count as u32).map(|i| i * 5 % vocabulary as u32).collect();
    let case = Embedding { precision: Bf16, vocabulary, width, ids, shift: 0, seed: 1 };
    // Every row of the table is looked up; then all rows of the gradient are read, and that of the table written.
    assert_counts!("embedding", Canonical::moving(case, 2 * width * 2 * (vocabulary + count)));
}

fn map(operation: Operation) -> Map {
    Map {
        operation,
        precision: Bf16,
        output: Bf16,
        count: 16_384,
        repeats: 1,
        shift: 0,
        scalar: 1.0,
        seed: 1,
    }
}

#[test]
fn maps_count_what_they_did() {
    assert_counts!("add", Canonical::moving(map(Operation::Add), 3 * 2 * 16_384));
    assert_counts!("gelu_tanh", Canonical::moving(map(Operation::GeluTanh), 2 * 2 * 16_384));
    assert_counts!("gelu_tanh_backward", Canonical::moving(map(Operation::GeluTanhBackward), 3 * 2 * 16_384));
}

#[test]
fn a_copy_counts_what_it_did() {
    let case = Copy {
        precision: Bf16,
        pairs: false,
        shape: vec![2, 64, 4, 64],
        order: vec![0, 2, 1, 3],
        gap: 0,
        shift: 0,
        seed: 1,
    };
    assert_counts!("copy", Canonical::moving(case, 2 * 2 * 2 * 64 * 4 * 64));
}

#[test]
fn reductions_count_what_they_did() {
    let (rows, width, count) = (1024, 256, 1 << 17);
    let case = ColumnSum { precision: Bf16, rows, width, gap: 0, seed: 1 };
    assert_counts!("column_sum", Canonical::moving(case, 2 * rows * width + 2 * width));
    let case = Sum { precision: Bf16, count, shift: 0, factor: 1.0, seed: 1 };
    assert_counts!("sum", Canonical::moving(case, 2 * count + 2));
    let case = GradientNorm { precision: Bf16, tensors: vec![(count, 0)], max_norm: 1.0, seed: 1 };
    assert_counts!("gradient_norm", Canonical::moving(case, 2 * count + 2 * 4));
}

#[test]
fn matrix_products_count_what_they_did() {
    let (m, n, k) = (128, 192, 256);
    let product = |precision| Matmul {
        precision,
        output: precision,
        batch: 1,
        sizes: [m, n, k],
        orders: Matmul::ORDERS[0],
        bias: false,
        gap: 0,
        shift: 0,
        seed: 1,
    };
    let elements = m * k + k * n + m * n;
    let case = product(Bf16);
    assert_counts!("matmul_bf16", Canonical { case, bytes: 2 * elements, operations: 2 * m * n * k });
    assert_counts!("matmul_f32", Canonical::moving(product(F32), 4 * elements));
}
