use crate::devices::Devices;
use crate::draw::{check_all, precisions};
use longhand_kernels::sampling::SampleOptions;
use longhand_verify::cases::Sample;
use proptest::prelude::*;

#[test]
fn tokens_are_those_of_the_definition() {
    check_all(24, cases());
}

#[test]
fn tokens_of_rows_that_no_block_holds_are_those_of_the_definition() {
    let Some(devices) = Devices::open() else { return };
    Sample::telling().iter().filter(|case| case.vocabulary > 10_000).for_each(|case| devices.check(case));
}

prop_compose! {
    fn options()(
        temperature in prop::sample::select(vec![0.0, 0.05, 0.7, 1.0, 3.0]), top_k in prop::option::of(1..70usize),
        top_p in prop::sample::select(vec![1.0, 0.95, 0.5, 0.01]),
    ) -> SampleOptions {
        SampleOptions { temperature, top_k, top_p }
    }
}

prop_compose! {
    fn cases()(
        precision in precisions(), vocabulary in prop::sample::select(vec![1, 2, 31, 1000, 1024, 2049]),
        rows in 0..12usize, gap in 0..3usize, step in prop::sample::select(vec![0.0, 0.25, 2.0]),
        options in options(), seed: u64,
    ) -> Sample {
        Sample { precision, rows, vocabulary, gap, step, options, seed }
    }
}
