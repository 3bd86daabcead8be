//! What a checkpoint keeps, counted. Alone in its process, since buffers that others gave back would hide it.

mod counting;

use counting::peak;
use longhand_tensor::{Device, Dtype, Tensor, checkpoint};

const ACTIVATION: usize = 1 << 20; // bytes

/// Layers of eight operations that each save their input.
#[test]
fn a_checkpoint_keeps_its_input_alone() {
    let (layers, operations) = (12, 8);
    let x = Tensor::zeros(&[ACTIVATION / 4], Dtype::F32, &Device::Cpu).unwrap().requires_grad();
    let layer = move |x: &[Tensor]| (0..operations).try_fold(x[0].clone(), |x, _| x.mul(&x)).map(|x| vec![x]);
    let run = |again: bool| {
        let forward = |x: Tensor| if again { checkpoint(layer, &[&x]) } else { layer(&[x]) };
        let most = peak(|| {
            let y = (0..layers).fold(x.clone(), |x, _| forward(x).unwrap().remove(0));
            y.sum_all().unwrap().backward().unwrap();
        });
        most as f64 / ACTIVATION as f64
    };
    // The input of each layer, and what one layer takes while it runs again.
    let again = run(true);
    assert!(again < f64::from(layers + operations + 8), "{again} activations");
    let kept = run(false) + again; // which has buffers left from before
    assert!(kept > f64::from(layers * operations - 1), "{kept} activations");
}
