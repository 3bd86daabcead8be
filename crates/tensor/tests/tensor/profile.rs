//! What a profile notes.

use longhand_tensor::ops::AttentionOptions;
use longhand_tensor::profile::{Line, Phase, Profile, profile};
use longhand_tensor::{
    AdamW, Device, Dtype, Forward, Operation, Result, Tensor, apply, checkpoint, memory, ops,
};

use crate::gpu::gpus;

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, Dtype::F32, &Device::Cpu).unwrap()
}

fn line(profile: &Profile, operation: &str, phase: Phase) -> Line {
    let lines = profile.by_operation().into_iter();
    let mut found = lines.filter(|line| line.operation == operation && line.phase == phase);
    found.next().unwrap_or_else(|| panic!("no {operation} {phase} in\n{profile}"))
}

/// `2 (x + x)`, from two operations.
struct Own;

impl Operation for Own {
    fn name(&self) -> &str {
        "own \"operation\""
    }
    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        Ok(Forward::new([inputs[0].add(&inputs[0])?.scale(2.0)?]))
    }
}

#[test]
fn an_operation_counts_without_those_that_it_runs() {
    let x = zeros(&[1000]);
    let (_, found) = profile(|| apply(Own, &[&x]).unwrap());
    let names: Vec<(&str, usize)> =
        found.events().iter().map(|event| (event.operation.as_str(), event.depth)).collect();
    assert_eq!(names, [("add", 1), ("scale", 1), ("own \"operation\"", 0)]);
    let bytes = ["add", "scale", "own \"operation\""].map(|name| line(&found, name, Phase::Forward).bytes);
    assert_eq!(bytes, [4000, 4000, 0]);
    let [add, scale, own] = found.events() else { unreachable!() };
    assert_eq!(own.own_time + add.time + scale.time, own.time);
    assert!(own.start <= add.start && add.start + add.time <= scale.start);
    assert!(found.by_operation().iter().map(|line| line.time).sum::<std::time::Duration>() <= found.total());
    // A name is whatever the operation's author chose.
    assert!(found.chrome_trace().contains(r#""name":"own \"operation\"""#));
}

#[test]
fn phases_are_told_apart() {
    let weight = zeros(&[4]).requires_grad();
    let mut optimiser = AdamW::new(vec![("w".into(), weight.clone())], Default::default()).unwrap();
    let captured = weight.clone();
    let (result, found) = profile(|| -> Result<()> {
        let y = weight.mul(&weight)?;
        let y = checkpoint(move |y| Ok(vec![y[0].mul(&captured)?]), &[&y])?.remove(0);
        optimiser.step(&y.sum_all()?.backward()?, 0.1)?;
        Ok(())
    });
    result.unwrap();
    let calls = |name, phase| line(&found, name, phase).calls;
    assert_eq!(calls("mul", Phase::Forward), 2);
    assert_eq!(calls("mul", Phase::Recompute), 1);
    // Each rule multiplies twice.
    assert_eq!(calls("mul", Phase::Backward), 2 + 4);
    assert_eq!(calls("accumulate", Phase::Backward), 2);
    assert_eq!(calls("AdamW", Phase::Update), 1);
}

#[test]
fn profiles_follow_each_other_and_what_is_not_profiled_is_not_noted() {
    let x = zeros(&[1000]);
    let (_, mut all) = profile(|| x.scale(2.0).unwrap());
    x.scale(3.0).unwrap();
    let before = all.total();
    let (failed, second) = profile(|| (x.add(&zeros(&[7])).is_err(), x.scale(4.0).unwrap()));
    assert!(failed.0);
    let total = before + second.total();
    all.append(second);
    assert_eq!(all.total(), total);
    let found: Vec<(&str, usize)> =
        all.events().iter().map(|event| (event.operation.as_str(), event.depth)).collect();
    assert_eq!(found, [("scale", 0), ("add", 0), ("scale", 0)]);
    assert!(all.events()[1].start >= before);
    let shown = all.to_string();
    assert!(shown.contains("(between)") && shown.contains("total"), "{shown}");
}

#[test]
fn a_gpu_is_waited_for() {
    for device in gpus() {
        let x = zeros(&[1, 64, 1, 64]).to_device(&device).unwrap().requires_grad();
        let (gradients, found) =
            profile(|| ops::attention(&x, &x, &x, &AttentionOptions::default())?.sum_all()?.backward());
        assert!(gradients.unwrap().get(&x).is_some());
        let [forward, backward] =
            [Phase::Forward, Phase::Backward].map(|phase| line(&found, "attention", phase));
        assert_eq!([forward.calls, backward.calls], [1, 1]);
        // out and the log-sum-exp; three gradients.
        assert_eq!([forward.bytes, backward.bytes], [4 * (64 * 64 + 64), 4 * 3 * 64 * 64]);
        // The longest thing there is on an emulated GPU.
        assert!(forward.time.as_micros() > 0 && backward.time > forward.time / 10, "{found}");
    }
}

#[test]
fn memory_counts_tensors_on_every_device() {
    for device in gpus().into_iter().chain([Device::Cpu]) {
        let before = memory::allocated();
        let x = Tensor::zeros(&[250_000], Dtype::F32, &device).unwrap();
        let view = x.reshape(&[500, 500]).unwrap();
        // Tests beside this one make small ones.
        let grown = memory::allocated() as f64 - before as f64;
        assert!((grown - 1e6).abs() < 5e5, "{grown} on {device}");
        drop((x, view));
        assert!((memory::allocated() as f64 - before as f64).abs() < 5e5);
        assert!(memory::peak() > before);
    }
}

#[test]
fn adding_up_by_index_copies_what_is_added_to_once() {
    let (x, ids) = (zeros(&[30, 40]), Tensor::from([3u32, 1, 3]));
    for (dim, shape, of_source) in [(0, [3, 40], 0), (1, [30, 3], 4 * 30 * 3)] {
        let source = zeros(&shape);
        let (_, found) = profile(|| x.index_add(dim, &ids, &source).unwrap());
        let bytes: usize = found.by_operation().iter().map(|line| line.bytes).sum();
        assert_eq!(bytes, 4 * 30 * 40 + of_source, "along dimension {dim}");
    }
}
