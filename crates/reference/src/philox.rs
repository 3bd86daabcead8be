//! Philox4x32-10.

/// Four random words for a key and a counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
/// section 3.3): ten rounds, each of which multiplies two words of the counter to 64 bits and mixes the halves with
/// the other two and the key.
#[must_use]
pub fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for _ in 0..10 {
        let [first, second] = [0xD251_1F53 * u64::from(counter[0]), 0xCD9E_8D57 * u64::from(counter[2])];
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}
