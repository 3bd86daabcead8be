//! Numbers in 8 bits: the dynamic map of Dettmers et al. 2022 (arXiv 2110.02861, section 1.3), with bitsandbytes' values;
//! what `kernels/adamw/dynamic_map.cuh` computes, by table.

use std::sync::LazyLock;

/// Below it, a scale becomes 0: 2^-120.
const LEAST_SCALE: f32 = 7.523_164e-37;

/// The 256 values, from least to greatest, and what lies half way between neighbours.
pub(super) struct Map {
    values: [f32; 256],
    halves: [f32; 255],
}

/// For first moments.
pub(super) static SIGNED: LazyLock<Map> = LazyLock::new(|| Map::new(true));
/// For second moments.
pub(super) static UNSIGNED: LazyLock<Map> = LazyLock::new(|| Map::new(false));

impl Map {
    fn new(signed: bool) -> Map {
        let mut all = vec![0.0, 1.0];
        for decade in 0..7 {
            let parts = if signed { 1 << decade } else { 2 << decade };
            for part in 0..parts {
                let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
                let value = 10f64.powi(decade - 6) * middle;
                all.push(value);
                if signed {
                    all.push(-value);
                }
            }
        }
        all.sort_by(f64::total_cmp);
        let mut map = Map { values: [0.0; 256], halves: [0.0; 255] };
        map.values.iter_mut().zip(&all).for_each(|(to, from)| *to = *from as f32);
        map.halves
            .iter_mut()
            .zip(all.windows(2))
            .for_each(|(to, pair)| *to = ((pair[0] + pair[1]) / 2.0) as f32);
        map
    }

    /// The values of codes that share a scale.
    pub(super) fn decode(&self, values: &mut [f32], codes: &[u8], scale: f32) {
        for (value, code) in values.iter_mut().zip(codes) {
            *value = scale * self.values[usize::from(*code)];
        }
    }

    /// The nearest codes of values, and their scale: the largest magnitude.
    pub(super) fn encode(&self, codes: &mut [u8], values: &[f32]) -> f32 {
        let largest = values.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
        let scale = if largest < LEAST_SCALE { 0.0 } else { largest };
        for (code, value) in codes.iter_mut().zip(values) {
            let x = if scale > 0.0 { value / scale } else { 0.0 };
            *code = self.halves.partition_point(|half| *half < x) as u8;
        }
        scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_that_of_its_value() {
        for map in [&*SIGNED, &*UNSIGNED] {
            let codes: Vec<u8> = (0..=255).collect();
            let (mut values, mut found) = (vec![0.0; 256], vec![0; 256]);
            map.decode(&mut values, &codes, 3.0);
            assert_eq!((map.encode(&mut found, &values), found), (3.0, codes));
        }
    }

    #[test]
    fn a_block_of_zeros_or_of_next_to_nothing_stays_one() {
        for values in [[0.0f32; 3], [1e-40, 0.0, 1e-42]] {
            let (mut codes, mut decoded) = ([7u8; 3], [1.0f32; 3]);
            let scale = SIGNED.encode(&mut codes, &values);
            SIGNED.decode(&mut decoded, &codes, scale);
            assert_eq!((scale, decoded), (0.0, [0.0; 3]));
        }
    }
}
