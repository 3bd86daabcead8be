use crate::draw::{check_all, precisions};
use longhand_kernels::elementwise::Operation;
use longhand_verify::Precision;
use longhand_verify::cases::{Copy, Map};
use proptest::prelude::*;

#[test]
fn every_operation_is_as_close_to_the_reference_as_its_precision_allows() {
    check_all(96, maps());
}

#[test]
fn a_copy_moves_every_element_to_its_place_and_nothing_else() {
    check_all(96, copies());
}

prop_compose! {
    /// Casts go to another type.
    fn maps()(
        operation in prop::sample::select(Map::OPERATIONS.to_vec()), precision in precisions(), other in precisions(),
        count in prop::sample::select(vec![0, 1, 7, 8, 9, 64, 1000, 4097]), repeats in 1..4usize,
        shift in prop::sample::select(vec![0, 0, 1, 8]), scalar in -3.0..3.0f32, seed: u64,
    ) -> Map {
        let output = if operation == Operation::Cast { other } else { precision };
        Map { operation, precision, output, count, repeats, shift, scalar, seed }
    }
}

prop_compose! {
    /// Permuted sources of up to six dimensions, of which the innermost may be whole units.
    fn copies()(
        (precision, pairs) in prop::sample::select(vec![
            (Precision::Bf16, false), (Precision::F32, false), (Precision::F32, true),
        ]),
        sizes in prop::collection::vec(prop::sample::select(vec![1usize, 2, 3, 5, 16, 0, 33]), 0..5),
        inner in prop::sample::select(vec![1, 2, 3, 4, 8, 64, 65]), order in any::<prop::sample::Index>(),
        permuted: bool, gap in 0..9usize, shift in prop::sample::select(vec![0, 0, 1, 2, 4]), seed: u64,
    ) -> Copy {
        let mut shape = Vec::new();
        for size in sizes.into_iter().chain([inner]) {
            if shape.iter().product::<usize>() * size < 1 << 15 {
                shape.push(size);
            }
        }
        let mut order: Vec<usize> = (0..shape.len()).map(|i| (i + order.index(shape.len())) % shape.len()).collect();
        if !permuted {
            order.sort_unstable();
        }
        Copy { precision, pairs, shape, order, gap, shift, seed }
    }
}
