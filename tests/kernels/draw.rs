//! How the inputs of the tests are drawn.

use longhand_kernels::Dtype;
use longhand_tests::Precision;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

/// Runs `test` on `cases` drawn values, and fails with the smallest that it fails on.
///
/// The values are the same every time, unless `PROPTEST_RNG_SEED` says otherwise: whether a change is at fault is
/// then never in doubt. `PROPTEST_CASES` asks for more, or fewer.
pub fn for_all<S: Strategy>(cases: u32, values: S, test: impl Fn(S::Value)) {
    let environment = ProptestConfig::default();
    let rng_seed = match environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { environment.cases } else { cases };
    let config = ProptestConfig { cases, rng_seed, failure_persistence: None, ..environment };
    let result = TestRunner::new(config).run(&values, |value| {
        test(value);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Lengths at and around the edges of tiles, and any other up to 300.
pub fn lengths() -> impl Strategy<Value = usize> + Clone {
    let edges = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257];
    prop_oneof![3 => prop::sample::select(edges.to_vec()), 1 => 0..300usize]
}

/// The kernels' name of a type.
pub fn dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::Bf16 => Dtype::Bf16,
        Precision::F16 => Dtype::F16,
    }
}

/// Any of the types.
pub fn precisions() -> impl Strategy<Value = Precision> {
    prop::sample::select(vec![Precision::F32, Precision::Bf16, Precision::F16])
}
