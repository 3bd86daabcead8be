//! Random bits by position, as `kernels/common/philox.cuh` makes them.

/// A stream of random bits: the same seed and offset give the same bits at each position, on every device.
///
/// An operation that draws takes one of these, and keeps it for backward. What follows in the same program takes
/// another offset.
///
/// ```
/// use longhand_kernels::Random;
///
/// let random = Random { seed: 42, offset: 7 };
/// assert_eq!(random.element(1000), random.words([250, 0, 0, 0])[0]);
/// assert_ne!(random.element(1000), Random { seed: 42, offset: 8 }.element(1000));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Random {
    /// Chosen by the user.
    pub seed: u64,
    /// Which of the seed's streams: one for each time that bits are drawn.
    pub offset: u64,
}

impl Random {
    /// What kernels are keyed with: the first two words of Philox of the offset under the seed, so that kernels have
    /// the whole counter for positions.
    #[must_use]
    pub fn key(self) -> u64 {
        let offset = [self.offset as u32, (self.offset >> 32) as u32, 0, 0];
        let [low, high, ..] = philox(self.seed, offset);
        u64::from(high) << 32 | u64::from(low)
    }

    /// The four words at this counter.
    #[must_use]
    pub fn words(self, counter: [u32; 4]) -> [u32; 4] {
        philox(self.key(), counter)
    }

    /// The word of element `index` of a tensor, in row-major order.
    #[must_use]
    pub fn element(self, index: u64) -> u32 {
        let quad = index / 4;
        self.words([quad as u32, (quad >> 32) as u32, 0, 0])[(index % 4) as usize]
    }
}

/// Dropout (Srivastava et al. 2014): each element is zero with this probability, and `1 / (1 - probability)` times
/// itself otherwise, so that its expectation stays what it was.
///
/// ```
/// use longhand_kernels::Random;
/// use longhand_kernels::random::Dropout;
///
/// let dropout = Dropout { probability: 0.25, random: Random { seed: 42, offset: 7 } };
/// assert_eq!(dropout.scale(), 4.0 / 3.0);
/// assert_eq!(dropout.keeps(5), dropout.random.element(5) >= 1 << 30);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// In `[0, 1)`.
    pub probability: f64,
    /// Which elements.
    pub random: Random,
}

impl Dropout {
    /// What is kept is multiplied with this.
    #[must_use]
    pub fn scale(self) -> f64 {
        1.0 / (1.0 - self.probability)
    }

    /// Elements are kept whose word is at least this.
    #[must_use]
    pub fn drop_below(self) -> u32 {
        drop_below(self.probability)
    }

    /// Whether element `index` of a tensor, in row-major order, is kept.
    #[must_use]
    pub fn keeps(self, index: u64) -> bool {
        self.random.element(index) >= self.drop_below()
    }
}

/// Dropout with `probability`, in `[0, 1)`, keeps an element where its word is at least this.
#[must_use]
pub fn drop_below(probability: f64) -> u32 {
    (probability * 4_294_967_296.0) as u32
}

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).
#[must_use]
pub fn philox(key: u64, mut counter: [u32; 4]) -> [u32; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let a = 0xD251_1F53 * u64::from(counter[0]);
        let b = 0xCD9E_8D57 * u64::from(counter[2]);
        counter =
            [(b >> 32) as u32 ^ counter[1] ^ k0, b as u32, (a >> 32) as u32 ^ counter[3] ^ k1, a as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_drops_its_share_of_words() {
        assert_eq!(drop_below(0.0), 0);
        assert_eq!(drop_below(0.25), 1 << 30);
        let random = Random { seed: 1, offset: 2 };
        let dropped = (0..10_000).filter(|&i| random.element(i) < drop_below(0.25)).count();
        assert!((2300..2700).contains(&dropped), "{dropped} of 10000");
    }

    #[test]
    fn every_bit_of_seed_and_offset_changes_the_key() {
        let key = Random { seed: 3, offset: 5 }.key();
        for bit in 0..64 {
            assert_ne!(Random { seed: 3 ^ 1 << bit, offset: 5 }.key(), key);
            assert_ne!(Random { seed: 3, offset: 5 ^ 1 << bit }.key(), key);
        }
    }
}
