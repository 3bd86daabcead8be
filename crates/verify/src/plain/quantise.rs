use crate::Precision;
use longhand_kernels::kv_cache::Storage;
use longhand_reference::{e4m3, to_e4m3, to_int8};

/// A head as it comes back from a cache: rounded to the type; or to the nearest 8-bit element with the head's largest at
/// the end of their range, in f32, and multiplied by the scale.
#[must_use]
pub fn requantised(precision: Precision, storage: Storage, head: &[f64]) -> Vec<f64> {
    let largest_element = match storage {
        Storage::Plain => return head.iter().map(|&x| precision.round(x as f32).into()).collect(),
        Storage::Int8 => 127.0f32,
        Storage::E4m3 => 448.0,
    };
    let largest = head.iter().fold(0.0, |largest: f32, &x| largest.max((x as f32).abs()));
    let inverse = if largest > 1e-30 { largest_element / largest } else { 0.0 };
    let scale = f64::from(largest / largest_element);
    let element = |x: f64| {
        let x = f64::from(x as f32 * inverse);
        if storage == Storage::Int8 { to_int8(x).into() } else { e4m3(to_e4m3(x)) }
    };
    head.iter().map(|&x| element(x) * scale).collect()
}
