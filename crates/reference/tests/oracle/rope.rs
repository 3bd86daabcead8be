use crate::check::{Draw, assert_close, assert_gradient, dot};
use longhand_reference::{Rope, rope, rope_backward};

#[test]
fn rope_backward_is_the_derivative_of_rope() {
    let (positions, heads, head_dim) = ([0, 3, 1_000_003], 2, 6);
    for interleaved in [false, true] {
        let table = Rope { frequencies: &[1.0, 0.1], factor: 1.3, interleaved };
        let (x, dout) = (Draw::new(1).vec(36), Draw::new(2).vec(36));
        let dx = rope_backward(&dout, &positions, heads, head_dim, &table);
        assert_gradient("dx", &x, &dx, |x| dot(&rope(x, &positions, heads, head_dim, &table), &dout));
    }
}

/// What makes it a position embedding: the product of a turned query and a turned key depends on their distance alone.
#[test]
fn products_of_turned_rows_depend_on_the_distance_of_their_positions_alone() {
    let table = Rope { frequencies: &[1.0, 0.3, 0.01], factor: 1.0, interleaved: true };
    let (q, k) = (Draw::new(3).vec(6), Draw::new(4).vec(6));
    let product =
        |p: u32, s: u32| -> f64 { dot(&rope(&q, &[p], 1, 6, &table), &rope(&k, &[s], 1, 6, &table)) };
    for shift in [1, 17, 40_000] {
        assert!((product(5, 2) - product(5 + shift, 2 + shift)).abs() < 1e-9);
        assert!((product(5, 2) - product(5 + shift, 2)).abs() > 1e-3);
    }
}

#[test]
fn a_quarter_turn_takes_the_first_element_of_a_pair_to_the_second() {
    let frequencies = [0.0, std::f64::consts::FRAC_PI_2];
    let table = |interleaved| Rope { frequencies: &frequencies, factor: 2.0, interleaved };
    // Two pairs, of which the second turns, and an element that is in none.
    let x = [1.0, 2.0, 3.0, 4.0, 5.0];
    assert_close(&rope(&x, &[0], 1, 5, &table(false)), &[2.0, 4.0, 6.0, 8.0, 5.0]);
    assert_close(&rope(&x, &[1], 1, 5, &table(false)), &[2.0, -8.0, 6.0, 4.0, 5.0]);
    assert_close(&rope(&x, &[1], 1, 5, &table(true)), &[2.0, 4.0, -8.0, 6.0, 5.0]);
}
