/// The 256 values of the dynamic map of Dettmers et al. 2022 (arXiv 2110.02861, section 1.3), from least to greatest, as
/// bitsandbytes' `create_dynamic_map` makes them: 0 and 1, and in each decade `(10^(d-7), 10^(d-6)]`, `d` = 0 … 6, the
/// middles of `2^d` equal parts of it and their negatives (`signed`), or of `2^(d+1)` parts.
///
/// ```
/// let map = longhand_reference::dynamic_map(true);
/// assert_eq!((map[127], map[255]), (0.0, 1.0));
/// assert!((map[128] - 0.55e-6).abs() < 1e-20); // the middle of (1e-7, 1e-6]
/// ```
#[must_use]
pub fn dynamic_map(signed: bool) -> Vec<f64> {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let parts = if signed { 1 << decade } else { 2 << decade };
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            let value = 10f64.powi(decade - 6) * middle;
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f64::total_cmp);
    values
}

/// The place in `map` of the value nearest to `x`; of two as near, of the lesser.
#[must_use]
pub fn nearest(map: &[f64], x: f64) -> usize {
    let distance = |i: &usize| (map[*i] - x).abs();
    (0..map.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
}
