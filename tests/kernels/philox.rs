//! The random words of kernels and of the CPU, beside the oracle's.

use longhand_kernels::random::philox;
use proptest::prelude::*;

proptest! {
    #[test]
    fn the_cpu_draws_the_words_of_the_reference(key: u64, counter: [u32; 4]) {
        let halves = [key as u32, (key >> 32) as u32];
        prop_assert_eq!(philox(key, counter), longhand_reference::philox(halves, counter));
    }
}
