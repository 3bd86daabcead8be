use crate::Precision;
use longhand_reference::AdamWOptions;

/// One step of AdamW operation by operation in f32, with f32 moments, the parameter rounded at the end.
///
/// The arguments are those of `longhand_reference::adamw`. The corrections of the bias are one number for all
/// parameters, and computed in f64.
pub fn adamw(
    precision: Precision,
    options: &AdamWOptions,
    step: u64,
    param: &mut [f64],
    grad: &[f64],
    m: &mut [f64],
    v: &mut [f64],
) {
    let AdamWOptions { lr, beta1, beta2, eps, weight_decay } = *options;
    let correction1 = (1.0 - beta1.powf(step as f64)) as f32;
    let correction2 = (1.0 - beta2.powf(step as f64)) as f32;
    let [decay, keep1, take1, keep2, take2] =
        [1.0 - lr * weight_decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(|x| x as f32);
    let (lr, eps) = (lr as f32, eps as f32);
    for i in 0..param.len() {
        let g = grad[i] as f32;
        let new_m = keep1 * m[i] as f32 + take1 * g;
        let new_v = keep2 * v[i] as f32 + take2 * g * g;
        let step = lr * (new_m / correction1) / ((new_v / correction2).sqrt() + eps);
        param[i] = precision.round(param[i] as f32 * decay - step).into();
        m[i] = new_m.into();
        v[i] = new_v.into();
    }
}
