use longhand_reference::{e4m3, to_e4m3, to_int8};

#[test]
fn the_codes_of_e4m3_are_the_values_of_the_specification() {
    let known =
        [(0x00, 0.0), (0x01, 2f64.powi(-9)), (0x08, 2f64.powi(-6)), (0x38, 1.0), (0x3c, 1.5), (0x7e, 448.0)];
    for (code, value) in known {
        assert_eq!((e4m3(code), e4m3(code | 0x80)), (value, -value));
    }
    assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
}

#[test]
fn every_value_rounds_to_itself_and_what_lies_between_to_the_nearer_or_the_even() {
    for code in (0..0x7e).chain(0x80..0xfe) {
        let (value, next) = (e4m3(code), e4m3(code + 1));
        assert_eq!(to_e4m3(value), code);
        let middle = (value + next) / 2.0;
        assert_eq!(to_e4m3(middle), if code % 2 == 0 { code } else { code + 1 });
        assert_eq!(to_e4m3(middle + (next - value) / 100.0), code + 1);
    }
    assert_eq!((to_e4m3(1e9), to_e4m3(-1e9)), (0x7e, 0xfe));
}

#[test]
fn whole_numbers_are_the_nearest_and_ties_are_even() {
    assert_eq!([2.5, 3.5, -2.5, 126.6, -127.0].map(to_int8), [2, 4, -2, 127, -127]);
}
