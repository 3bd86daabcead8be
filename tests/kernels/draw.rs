//! How cases are drawn.

use crate::devices::{Devices, tell};
use longhand_verify::{Case, Precision};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

/// Checks `count` drawn cases on every device, and fails with the smallest that fails.
///
/// The cases are the same every time, unless `PROPTEST_RNG_SEED` says otherwise: whether a change is at fault is then
/// never in doubt. `PROPTEST_CASES` asks for more, or fewer. How many there were is told.
pub fn check_all<S: Strategy<Value: Case>>(count: u32, cases: S) {
    let Some(devices) = Devices::open() else { return };
    let environment = ProptestConfig::default();
    let rng_seed = match environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    let count = if std::env::var_os("PROPTEST_CASES").is_some() { environment.cases } else { count };
    let config = ProptestConfig { cases: count, rng_seed, failure_persistence: None, ..environment };
    let result = TestRunner::new(config).run(&cases, |case| {
        devices.check(&case);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    tell(&format!("{count} configurations hold"));
}

/// Lengths at and around the edges of tiles, and any other up to 300.
pub fn lengths() -> impl Strategy<Value = usize> + Clone {
    let edges = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257];
    prop_oneof![3 => prop::sample::select(edges.to_vec()), 1 => 0..300usize]
}

/// Any of the types.
pub fn precisions() -> impl Strategy<Value = Precision> {
    prop::sample::select(Precision::ALL.to_vec())
}
