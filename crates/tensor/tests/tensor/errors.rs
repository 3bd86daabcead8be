//! What does not fit is refused with a message that names the operation and what was given.

use longhand_tensor::ops::{Activation, AttentionOptions, LossOptions, NormOptions, Rope};
use longhand_tensor::{AdamW, Device, Dtype, Result, Tensor, ops, safetensors};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, Dtype::F32, &Device::Cpu).unwrap()
}

fn ids(values: &[u32]) -> Tensor {
    Tensor::from_slice(values, &[values.len()], &Device::Cpu).unwrap()
}

fn message<T>(result: Result<T>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "no error".into())
}

fn head(hidden: &[usize], weight: &[usize], targets: &[u32]) -> String {
    let options = LossOptions::default();
    message(ops::linear_cross_entropy(&zeros(hidden), &zeros(weight), &ids(targets), &options))
}

#[test]
fn shapes_that_do_not_fit_are_both_shown() {
    let x = zeros(&[2, 3]);
    let attention = |q: &[usize], k: &[usize], v: &[usize]| {
        message(ops::attention(&zeros(q), &zeros(k), &zeros(v), &AttentionOptions::default()))
    };
    let merge = |out: &[usize], lse: &[usize]| {
        message(ops::attention_merge(&[(zeros(out), zeros(lse)), (zeros(out), zeros(lse))]))
    };
    let norm = |residual: &[usize], weight: &[usize]| {
        let (weight, residual) = (zeros(weight), zeros(residual));
        message(ops::layer_norm(&x, Some(&residual), Some(&weight), Some(&weight), &NormOptions::new(1e-5)))
    };
    let rope = |q: &[usize], k: &[usize], positions: usize, rotary: usize| {
        let (positions, rope) = (ids(&vec![0; positions]), Rope::new(rotary, 1e4, &Device::Cpu).unwrap());
        message(ops::rope(&zeros(q), &zeros(k), &positions, &rope))
    };
    let found = [
        (message(x.add(&zeros(&[2]))), "add: shapes [2, 3] and [2] do not fit"),
        (message(x.sub(&zeros(&[4, 3]))), "sub: shapes [2, 3] and [4, 3] do not fit"),
        (message(x.mul(&zeros(&[3, 3]))), "mul: shapes [2, 3] and [3, 3] do not fit"),
        (message(x.matmul(&zeros(&[2, 3]))), "matmul: shapes [2, 3] and [2, 3] do not fit"),
        (message(x.matmul(&zeros(&[3]))), "matmul: shapes [2, 3] and [3] do not fit"),
        (
            message(zeros(&[2, 1, 3]).matmul(&zeros(&[4, 3, 1]))),
            "matmul: shapes [2, 1, 3] and [4, 3, 1] do not fit",
        ),
        (message(x.broadcast_to(&[3, 3])), "broadcast_to: shapes [2, 3] and [3, 3] do not fit"),
        (message(Tensor::stack(&[&x, &zeros(&[2, 2])], 0)), "stack: shapes [2, 3] and [2, 2] do not fit"),
        (message(&x + &zeros(&[2])), "add: shapes [2, 3] and [2] do not fit"),
        (message(x.reshape(&[4])), "reshape: shapes [2, 3] and [4] do not fit"),
        (message(Tensor::cat(&[&x, &zeros(&[2, 4])], 0)), "cat: shapes [2, 3] and [2, 4] do not fit"),
        (message(ops::linear(&x, &zeros(&[2, 3]), None)), "linear: shapes [2, 3] and [2, 3] do not fit"),
        (message(ops::linear(&x, &zeros(&[3, 5]), Some(&x))), "linear: shapes [3, 5] and [2, 3] do not fit"),
        (
            message(ops::activation(&x, Some(&zeros(&[2])), Activation::Silu)),
            "activation: shapes [2, 3] and [2] do not fit",
        ),
        (
            message(ops::gated(&x, &zeros(&[3, 2]), None, Activation::Silu)),
            "gated: shapes [2, 3] and [3, 2] do not fit",
        ),
        (
            message(ops::gated_halves(&x, None, Activation::Silu)),
            "gated_halves: x is of shape [2, 3], expected two halves: an even last dimension",
        ),
        (norm(&[2, 3], &[2]), "layer_norm: shapes [2, 3] and [2] do not fit"),
        (norm(&[1, 3], &[3]), "layer_norm: shapes [2, 3] and [1, 3] do not fit"),
        (
            message(ops::cross_entropy(&x, &ids(&[0; 3]), &LossOptions::default())),
            "cross_entropy: shapes [2, 3] and [3] do not fit",
        ),
        (head(&[2, 3], &[5, 4], &[0; 2]), "linear_cross_entropy: shapes [2, 3] and [5, 4] do not fit"),
        (head(&[2, 3], &[5, 3], &[0; 3]), "linear_cross_entropy: shapes [2, 3] and [3] do not fit"),
        (head(&[3], &[5, 3], &[0; 3]), "linear_cross_entropy: shapes [3] and [3] do not fit"),
        (merge(&[1, 2, 3, 4], &[1, 3, 2]), "no error"),
        (merge(&[1, 2, 4], &[1, 3, 2]), "attention_merge: shapes [1, 2, 4] and [1, 3, 2] do not fit"),
        (merge(&[1, 2, 3, 4], &[1, 2, 3]), "attention_merge: shapes [1, 2, 3, 4] and [1, 2, 3] do not fit"),
        (
            attention(&[1, 2, 3, 4], &[1, 2, 2, 4], &[1, 2, 2, 4]),
            "attention: shapes [1, 2, 3, 4] and [1, 2, 2, 4]",
        ),
        (
            attention(&[1, 2, 3, 4], &[1, 5, 3, 4], &[1, 6, 3, 4]),
            "attention: shapes [1, 5, 3, 4] and [1, 6, 3, 4]",
        ),
        (
            attention(&[1, 2, 3, 4], &[1, 2, 3, 8], &[1, 2, 3, 8]),
            "attention: shapes [1, 2, 3, 4] and [1, 2, 3, 8]",
        ),
        (attention(&[2, 3], &[2, 3], &[2, 3]), "attention: shapes [2, 3] and [2, 3] do not fit"),
        (rope(&[1, 2, 3, 4], &[1, 2, 3, 6], 2, 4), "rope: shapes [1, 2, 3, 4] and [1, 2, 3, 6] do not fit"),
        (rope(&[1, 2, 3, 4], &[1, 2, 3], 2, 4), "rope: shapes [1, 2, 3, 4] and [1, 2, 3] do not fit"),
        (rope(&[1, 2, 3, 4], &[1, 2, 1, 4], 3, 4), "rope: shapes [3] and [1, 2, 3, 4] do not fit"),
        (rope(&[1, 2, 3, 4], &[1, 2, 1, 4], 2, 6), "rope: shapes [3] and [1, 2, 3, 4] do not fit"),
    ];
    for (found, expected) in found {
        assert!(found.starts_with(expected), "{found:?} does not start with {expected:?}");
    }
}

#[test]
fn arguments_out_of_range_are_named_with_the_range() {
    let x = zeros(&[2, 3]);
    let found = [
        (
            message(x.narrow(1, 2, 2)),
            "narrow: start + len is 2 + 2, expected at most 3, the size of dimension 1 of [2, 3]",
        ),
        (
            message(x.narrow(1, usize::MAX, 2)),
            "narrow: start + len is 18446744073709551615 + 2, expected at most 3",
        ),
        (message(x.slice((.., 1..4))), "slice: a range is 1..4, expected within 0..3, dimension 1 of [2, 3]"),
        (message(x.slice(2)), "slice: a range is index 2, expected within 0..2, dimension 0 of [2, 3]"),
        (message(x.slice(usize::MAX)), "slice: a range is index 18446744073709551615, expected within 0..2"),
        (message(x.slice(..=2)), "slice: a range is ..=2, expected within 0..2, dimension 0 of [2, 3]"),
        (
            message(x.slice((.., .., ..))),
            "slice: number of ranges is 3, expected at most 2, the rank of shape [2, 3]",
        ),
        (message(x.unsqueeze(3)), "unsqueeze: dim is 3, expected at most the rank of shape [2, 3]"),
        (message(x.squeeze(1)), "squeeze: dimension 1 of [2, 3] is of size 3, expected of size 1"),
        (message(x.squeeze(2)), "squeeze: dim is 2, expected less than the rank of shape [2, 3]"),
        (
            message(x.flatten(1..3)),
            "flatten: dims is 1..3, expected a range of one or more of the dimensions of shape [2, 3]",
        ),
        (
            message(x.flatten(1..1)),
            "flatten: dims is 1..1, expected a range of one or more of the dimensions of shape [2, 3]",
        ),
        (message(x.chunk(0, 0)), "chunk: chunks is 0, expected at least 1"),
        (message(x.chunk(2, 2)), "chunk: dim is 2, expected less than the rank of shape [2, 3]"),
        (message(x.permute(&[1, 1])), "permute: dims is [1, 1], expected each dimension of [2, 3] once"),
        (message(x.permute(&[0])), "permute: dims is [0], expected each dimension of [2, 3] once"),
        (message(x.narrow(2, 0, 0)), "narrow: dim is 2, expected less than the rank of shape [2, 3]"),
        (message(x.transpose(0, 2)), "transpose: dim is 2, expected less than the rank of shape [2, 3]"),
        (
            message(x.split(&[1, 1], 1)),
            "split: sizes is [1, 1], expected sizes that add up to 3, dimension 1 of [2, 3]",
        ),
        (message(Tensor::cat(&[], 0)), "cat: tensors is empty, expected at least one"),
        (message(x.item()), "item: the tensor is of shape [2, 3], expected one element"),
        (message(ops::embedding(&x, &ids(&[1, 2]))), "embedding: an id is 2, expected less than 2"),
        (message(x.sum(2)), "sum: dim is 2, expected less than the rank"),
        (message(x.mean(7)), "mean: dim is 7, expected less than the rank"),
        (message(x.index_select(2, &ids(&[0]))), "index_select: dim is 2, expected less than the rank"),
        (message(x.index_select(0, &ids(&[2]))), "index_select: an id is 2, expected less than 2"),
        (message(x.index_select(0, &x)), "index_select: elements are f32, expected u32 for the ids"),
        (
            message(x.index_add(0, &ids(&[0, 1]), &zeros(&[3, 3]))),
            "index_add: shapes [2, 3] and [3, 3] do not fit: ",
        ),
        (message(x.index_add(0, &ids(&[0, 2]), &x)), "index_add: an id is 2, expected less than 2"),
        (
            message(ops::cross_entropy(&x, &ids(&[0, 3]), &LossOptions::default())),
            "cross_entropy: a target is 3, expected less than 3, or IGNORE_INDEX",
        ),
        (
            message(ops::cross_entropy(
                &x,
                &ids(&[0, 2]),
                &LossOptions { z_loss: -1.0, ..LossOptions::default() },
            )),
            "cross_entropy: z_loss is -1, expected a finite number, 0 or above",
        ),
        (message(ops::argmax(&zeros(&[3]))), "argmax: an argument is of shape [3], expected of shape (N, V)"),
        (
            message(ops::argmax(&Tensor::full(&[2, 3], f64::NAN, Dtype::F32, &Device::Cpu).unwrap())),
            "argmax: an argument is NaN, +inf or nothing above -inf in row 0, expected finite numbers",
        ),
        (message(ops::softmax(&zeros(&[]))), "softmax: x is of shape [], expected of at least one dimension"),
        (
            head(&[2, 3], &[5, 3], &[0, 5]),
            "linear_cross_entropy: a target is 5, expected less than 5, or IGNORE_INDEX",
        ),
        (
            head(&[2, 3], &[0, 3], &[0, 0]),
            "linear_cross_entropy: weight is of shape [0, 3], expected of shape (V, W), neither of them 0",
        ),
        (
            message(Tensor::zeros(&[usize::MAX, 2], Dtype::F32, &Device::Cpu)),
            "zeros: shape is [18446744073709551615, 2], expected one whose elements memory could hold",
        ),
        (message(Tensor::full(&[1 << 40, 1 << 40], 1.0, Dtype::F32, &Device::Cpu)), "full: shape is [10"),
        (message(Tensor::from_slice(&[1.0f32], &[1 << 33, 1 << 33], &Device::Cpu)), "from_slice: shape is ["),
        (message(x.reshape(&[1 << 63, 1 << 63])), "reshape: shapes [2, 3] and [92"),
        (message(x.broadcast_to(&[1 << 62, 2, 3])), "broadcast_to: shape is [46"),
        (
            message(Tensor::from_slice(&[1.0f32; 5], &[2, 3], &Device::Cpu)),
            "from_slice: number of elements is 5, expected 6 for shape [2, 3]",
        ),
    ];
    for (found, expected) in found {
        assert!(found.starts_with(expected), "{found:?} does not start with {expected:?}");
    }
}

#[test]
fn element_types_that_do_not_fit_are_named() {
    let (x, double) = (zeros(&[2]), Tensor::zeros(&[2], Dtype::F64, &Device::Cpu).unwrap());
    let found = [
        (message(x.add(&double)), "add: arguments are f32 and f64; convert one with `to_dtype`"),
        (message(x.to_vec::<f64>()), "to_vec: arguments are f32 and f64"),
        (message(ids(&[1]).scale(2.0)), "scale: elements are u32, expected a floating-point type"),
        (message(ids(&[1]).sum_all()), "sum_all: elements are u32, expected a floating-point type"),
        (
            message(ops::embedding(&zeros(&[2, 2]), &x)),
            "embedding: elements are f32, expected u32 for the ids",
        ),
        (
            message(ops::cross_entropy(&zeros(&[2, 2]), &x, &LossOptions::default())),
            "cross_entropy: elements are f32, expected u32 for the targets",
        ),
    ];
    for (found, expected) in found {
        assert!(found.starts_with(expected), "{found:?} does not start with {expected:?}");
    }
}

#[test]
fn safetensors_that_cannot_be_written_or_read_are_errors() {
    let x = zeros(&[2]);
    let twice = [("a", &x), ("a", &x)];
    assert_eq!(
        message(safetensors::serialize(twice)),
        "safetensors: tensor `a` is there twice, expected there once"
    );
    let bytes = safetensors::serialize([("a", &x)]).unwrap();
    let load = |bytes: &[u8]| message(safetensors::deserialize(bytes, &Device::Cpu));
    assert_eq!(load(&bytes), "no error");
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..4], b"GGUF and what follows it"] {
        assert!(load(damaged).starts_with("safetensors: "), "{}", load(damaged));
    }
    let other = String::from_utf8(bytes.clone()).unwrap().replace("\"F32\"", "\"I32\"");
    let expected = "safetensors: tensor `a` is of I32, expected f64, f32, bf16, f16 or u32";
    assert_eq!(load(other.as_bytes()), expected);
    let nowhere = std::path::Path::new("/nowhere/x.safetensors");
    assert!(
        message(safetensors::save(nowhere, [("a", &x)])).starts_with("safetensors: cannot write /nowhere/x")
    );
    assert!(
        message(safetensors::load(nowhere, &Device::Cpu)).starts_with("safetensors: cannot read /nowhere/x")
    );
}

#[test]
fn parameters_that_cannot_be_optimised_are_named() {
    let new = |parameters: Vec<(&str, Tensor)>| {
        let named = parameters.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect();
        message(AdamW::new(named, Default::default()))
    };
    let x = zeros(&[2, 3]);
    assert!(
        new(vec![("w", x.transpose(0, 1).unwrap())])
            .starts_with("AdamW: parameter `w` is Tensor([3, 2], f32, cpu)")
    );
    assert!(
        new(vec![("w", x.clone()), ("w", zeros(&[1]))]).starts_with("AdamW: parameter `w` is there twice")
    );
    assert!(
        new(vec![("w", x.clone()), ("tied", x.requires_grad())])
            .starts_with("AdamW: parameter `tied` is there twice")
    );
    assert!(new(vec![("ids", ids(&[1]))]).starts_with("AdamW: parameter `ids` is Tensor([1], u32, cpu)"));
}
