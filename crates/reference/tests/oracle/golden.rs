//! Against PyTorch in float64: `tests/golden/make.py` computed the file and says how.

use crate::check::assert_close;
use longhand_reference::*;
use safetensors::{Dtype, SafeTensors};

const GOLDEN: &[u8] = include_bytes!("../golden/golden.safetensors");

/// The tensor `operation.name`, with its shape left out.
fn golden(operation: &str, name: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let tensor = file.tensor(&format!("{operation}.{name}")).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F64);
    tensor.data().as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

#[test]
fn attention_is_pytorchs() {
    for (name, queries, keys, is_causal) in [
        ("attention_causal", 5, 7, true),
        ("attention_more_queries", 6, 4, true),
        ("attention_full", 3, 6, false),
    ] {
        let shape =
            AttentionShape { batch: 2, queries, keys, heads: 4, kv_heads: 2, head_dim: 8, value_dim: 8 };
        let visible = |b, h, t, s| !is_causal || causal(queries, keys)(b, h, t, s);
        let [q, k, v, dout] = ["q", "k", "v", "dout"].map(|x| golden(name, x));
        let result = attention(&shape, &q, &k, &v, 0.3, visible);
        assert_close(&result.out, &golden(name, "out"));
        assert_close(&result.lse, &golden(name, "lse"));
        let gradients = attention_backward(&shape, &q, &k, &v, 0.3, visible, &dout);
        assert_close(&gradients.dq, &golden(name, "dq"));
        assert_close(&gradients.dk, &golden(name, "dk"));
        assert_close(&gradients.dv, &golden(name, "dv"));
    }
}

#[test]
fn layer_norm_is_pytorchs() {
    let golden = |name| golden("layer_norm", name);
    let weight = golden("weight");
    let result = layer_norm(&golden("x"), Some(&golden("residual")), &weight, &golden("bias"), 1e-5);
    assert_close(&result.sum, &golden("sum"));
    assert_close(&result.out, &golden("out"));
    assert_close(&result.mean, &golden("mean"));
    assert_close(&result.rstd, &golden("rstd"));
    let gradients = layer_norm_backward(&result.sum, &weight, 1e-5, &golden("dout"), Some(&golden("dsum")));
    assert_close(&gradients.dx, &golden("dx"));
    assert_close(&gradients.dweight, &golden("dweight"));
    assert_close(&gradients.dbias, &golden("dbias"));
}

#[test]
fn adamw_is_pytorchs() {
    let golden = |name| golden("adamw", name);
    let options = AdamWOptions { lr: 0.02, beta1: 0.8, beta2: 0.95, eps: 1e-6, weight_decay: 0.3 };
    let (mut param, mut m, mut v) = (golden("before"), vec![0.0; 11], vec![0.0; 11]);
    for (step, grad) in (1..).zip(golden("grads").chunks_exact(11)) {
        adamw(&options, step, &mut param, grad, &mut m, &mut v);
    }
    assert_close(&param, &golden("after"));
    assert_close(&m, &golden("m"));
    assert_close(&v, &golden("v"));
}

#[test]
fn cross_entropy_is_pytorchs() {
    let golden = |name| golden("cross_entropy", name);
    let (logits, targets) = (golden("logits"), [0, 8, u32::MAX, 3, 3, u32::MAX]);
    let plain = CrossEntropyOptions::default();
    assert_close(&[cross_entropy(&logits, 9, &targets, u32::MAX, &plain).mean], &golden("loss"));
    assert_close(&cross_entropy_backward(&logits, 9, &targets, u32::MAX, &plain, 0.7), &golden("dlogits"));
}

#[test]
fn gelu_is_pytorchs() {
    let [x, dout] = ["x", "dout"].map(|x| golden("gelu_tanh", x));
    assert_close(&gelu_tanh(&x), &golden("gelu_tanh", "out"));
    assert_close(&gelu_tanh_backward(&x, &dout), &golden("gelu_tanh", "dx"));
    let [x, dout] = ["x", "dout"].map(|x| golden("gelu_erf", x));
    assert_close(&gelu_erf(&x), &golden("gelu_erf", "out"));
    assert_close(&gelu_erf_backward(&x, &dout), &golden("gelu_erf", "dx"));
}

#[test]
fn erf_is_pytorchs() {
    let x = golden("erf", "x");
    for ((x, expected_erf), expected_erfc) in x.iter().zip(golden("erf", "erf")).zip(golden("erf", "erfc")) {
        approx::assert_relative_eq!(erf(*x), expected_erf, max_relative = 1e-15);
        approx::assert_relative_eq!(erfc(*x), expected_erfc, max_relative = 1e-13);
    }
}

#[test]
fn linear_is_pytorchs() {
    let golden = |name| golden("linear", name);
    let (x, weight) = (golden("x"), golden("weight"));
    assert_close(&linear((3, 5), &x, &weight, Some(&golden("bias"))), &golden("y"));
    let gradients = linear_backward((3, 5), &x, &weight, &golden("dy"));
    assert_close(&gradients.dx, &golden("dx"));
    assert_close(&gradients.dweight, &golden("dweight"));
    assert_close(&gradients.dbias, &golden("dbias"));
}

#[test]
fn embedding_is_pytorchs() {
    let golden = |name| golden("embedding", name);
    let ids = [4, 0, 4, 2];
    assert_close(&embedding(&golden("weight"), 3, &ids), &golden("out"));
    assert_close(&embedding_backward(5, 3, &ids, &golden("dout")), &golden("dweight"));
}
