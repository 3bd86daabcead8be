//! One device against another: the hardware against the emulator, on the same PTX.

use crate::{Case, Error, verify};
use longhand_gpu::Device;

/// How far an output of two devices is apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The output's name.
    pub name: &'static str,
    /// Its number of elements.
    pub elements: usize,
    /// How many of them are not bitwise the same. A NaN is the same as any other.
    pub differing: usize,
    /// The largest distance; infinite where one of the two has a NaN or an infinity alone.
    pub distance: f64,
    /// The largest distance allowed: how far the output may be from the reference.
    pub limit: f64,
}

impl Difference {
    /// Whether they are near enough. Bitwise equality is not asked for: hardware approximates `ex2`, `rsqrt` and their like
    /// within bounds that the PTX ISA gives, and a tensor core's sums have an order of their own.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.differing == 0 || self.distance <= self.limit
    }
}

/// Runs a case on both devices and compares what they wrote.
///
/// # Errors
/// What kept either of them from writing it.
pub fn compare(case: &dyn Case, device: &Device, other: &Device) -> Result<Vec<Difference>, Error> {
    let (one, two) = (verify(case, device), verify(case, other));
    if let Some(error) = [one.error, two.error].into_iter().flatten().next() {
        return Err(error);
    }
    let limit =
        |name| two.outputs.iter().find(|output| output.name == name).map_or(0.0, |output| output.limit);
    let pairs = one.written.iter().zip(&two.written);
    Ok(pairs.map(|(a, b)| difference(a.name, &a.values, &b.values, limit(a.name))).collect())
}

fn difference(name: &'static str, a: &[f64], b: &[f64], limit: f64) -> Difference {
    let same = |(a, b): &(&f64, &f64)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let distances = a.iter().zip(b).filter(|pair| !same(pair)).map(|(a, b)| {
        let distance = (a - b).abs();
        if distance.is_nan() { f64::INFINITY } else { distance }
    });
    let (differing, distance) = distances.fold((0, 0.0), |(count, most), it| (count + 1, f64::max(most, it)));
    Difference { name, elements: a.len(), differing, distance, limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    #[test]
    fn a_distance_beyond_the_limit_or_a_nan_of_one_alone_does_not_pass() {
        let near = difference("out", &[1.0, 2.0, f64::NAN], &[1.0, 2.5, f64::NAN], 0.5);
        assert_eq!((near.differing, near.distance, near.passed()), (1, 0.5, true));
        assert!(!difference("out", &[1.0], &[1.75], 0.5).passed());
        assert!(!difference("out", &[f64::NAN], &[1.0], 0.5).passed());
        assert!(!difference("out", &[f64::INFINITY], &[f64::NEG_INFINITY], 0.5).passed());
        assert_eq!(difference("out", &[0.0], &[-0.0], 0.0).differing, 1);
    }

    #[test]
    fn two_emulated_devices_write_the_same_bits() {
        let devices = ["sm_90a", "sm_90a"].map(|arch| Device::emulated(arch.parse().unwrap()).unwrap());
        if let Err(reason) = devices[0].compiler() {
            return println!("skipped: {reason}");
        }
        for case in Op::Embedding.cases() {
            let differences = compare(&*case, &devices[0], &devices[1]).unwrap();
            assert!(!differences.is_empty(), "{case}");
            assert!(differences.iter().all(|it| it.differing == 0), "{case}: {differences:?}");
        }
    }
}
