use crate::draw::{check_all, precisions};
use longhand_verify::cases::{Pass, Rope};
use proptest::prelude::*;

#[test]
fn queries_and_keys_turn_by_their_positions_as_precisely_as_their_type_allows() {
    check_all(28, cases());
}

prop_compose! {
    /// Parts of a head that do and do not allow 16-byte accesses, and positions up to the last.
    fn cases()(
        backward: bool, precision in precisions(),
        sizes in (1..4usize, prop::sample::select(vec![0, 1, 2, 7, 33]), 0..10usize, 0..4usize),
        (head_dim, rotary) in prop::sample::select(vec![
            (2, 2), (10, 6), (16, 16), (64, 64), (64, 32), (64, 20), (80, 80), (96, 48), (128, 128), (256, 64),
        ]),
        interleaved: bool, start in prop::sample::select(vec![0, 1, 4095, 1 << 20, u32::MAX - 20]),
        own_positions: bool, gap in prop::sample::select(vec![0, 0, 8, 3]), in_place: bool,
        factor in prop::sample::select(vec![1.0, 1.35f32]), seed: u64,
    ) -> Rope {
        let pass = if backward { Pass::Backward } else { Pass::Forward };
        let (batch, tokens, heads, kv_heads) = sizes;
        Rope {
            pass, precision, sizes: [batch, tokens, heads, kv_heads], head_dim, rotary, interleaved, start, own_positions, gap,
            in_place, factor, seed,
        }
    }
}
