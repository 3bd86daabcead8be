use crate::draw::{check_all, precisions};
use longhand_verify::cases::{AttentionMerge, HeadLayout, Pass};
use proptest::prelude::*;

#[test]
fn parts_merge_as_precisely_as_their_type_allows_forward_and_backward() {
    check_all(18, cases());
}

prop_compose! {
    /// Heads that do and do not allow 16-byte accesses, and parts, rows and whole results without keys.
    fn cases()(
        backward: bool, precision in precisions(),
        sizes in (1..3usize, prop::sample::select(vec![0, 1, 2, 7, 33]), 1..5usize),
        dim in prop::sample::select(vec![1, 8, 40, 64, 65, 256]),
        parts in prop::sample::select(vec![2, 3, 8]), empty in prop::sample::select(vec![0, 1, 2, 5]),
        heads_before_tokens: bool, gap in prop::sample::select(vec![0, 0, 8, 3]), dlse: bool, wanted: [bool; 2], seed: u64,
    ) -> AttentionMerge {
        let pass = if backward { Pass::Backward } else { Pass::Forward };
        let layouts = [HeadLayout::default(), HeadLayout { heads_before_tokens, gap }];
        let sizes = [sizes.0, sizes.1, sizes.2, dim];
        AttentionMerge { pass, precision, sizes, parts, empty, layouts, dlse, wanted, seed }
    }
}
