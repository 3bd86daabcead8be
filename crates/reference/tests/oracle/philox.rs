use longhand_reference::philox;

/// The known answers that the authors publish beside their code (Random123, `kat_vectors`).
#[test]
fn philox_gives_the_known_answers_of_its_authors() {
    let all = u32::MAX;
    let answers = [
        ([0; 2], [0; 4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([all; 2], [all; 4], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0xa409_3822, 0x299f_31d0],
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (key, counter, words) in answers {
        assert_eq!(philox(key, counter), words);
    }
}
