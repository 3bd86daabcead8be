use longhand_reference::{dynamic_map, nearest};

/// Steps within a decade are equal, and the middles of the parts begin half a step after it does.
#[test]
fn a_decade_is_cut_into_equal_parts() {
    for (signed, largest_step) in [(true, 0.9 / 64.0), (false, 0.9 / 128.0)] {
        let map = dynamic_map(signed);
        assert_eq!(map.len(), 256);
        let in_last_decade: Vec<f64> = map.iter().copied().filter(|x| (0.1..1.0).contains(x)).collect();
        for pair in in_last_decade.windows(2) {
            assert!((pair[1] - pair[0] - largest_step).abs() < 1e-12);
        }
        assert!((in_last_decade[0] - 0.1 - largest_step / 2.0).abs() < 1e-12);
    }
}

#[test]
fn signed_values_but_one_have_a_negative() {
    let map = dynamic_map(true);
    assert!((0..255).all(|i| map[i] == -map[254 - i]));
    assert!(dynamic_map(false).iter().all(|x| *x >= 0.0));
}

#[test]
fn every_value_is_nearest_to_itself() {
    for signed in [true, false] {
        let map = dynamic_map(signed);
        assert!(map.iter().enumerate().all(|(i, x)| nearest(&map, *x) == i));
    }
    let map = dynamic_map(true);
    assert_eq!((nearest(&map, -1.0), nearest(&map, 2.0), nearest(&map, 1e-9)), (0, 255, 127));
}
