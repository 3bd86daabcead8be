//! Movement between devices.

use crate::autograd::apply1;
use crate::cpu::pool;
use crate::dtype::with_element;
use crate::{Backward, Device, Forward, Operation, Result, Tensor};

impl Tensor {
    /// The same elements on `device`; itself where they are there.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Tensor};
    /// let x = Tensor::from([1.0f32]).to_device(&Device::default_device())?;
    /// assert_eq!(x.item()?, 1.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device is out of memory or does not take the element type.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if self.device() == device { Ok(self.clone()) } else { apply1(ToDevice(device.clone()), &[self]) }
    }
}

struct ToDevice(Device);

impl Operation for ToDevice {
    fn name(&self) -> &str {
        "to_device"
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0].contiguous()?;
        let out = match (x.device(), &self.0) {
            (Device::Cpu, Device::Cpu) => x.clone(),
            (Device::Cpu, Device::Gpu(gpu)) => with_element!(x.dtype(), E => {
                let values = x.read::<E>("to_device")?;
                gpu.upload(bytemuck::cast_slice(&values[..x.numel()]), x.shape(), x.dtype())
            })?,
            (Device::Gpu(gpu), Device::Cpu) => with_element!(x.dtype(), E => {
                let mut values = pool::buffer::<E>(x.numel());
                gpu.download(x, bytemuck::cast_slice_mut(&mut values))?;
                Tensor::from_elements(values, x.shape())
            }),
            (Device::Gpu(_), other) => x.to_device(&Device::Cpu)?.to_device(other)?,
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?.to_device(&ctx.input(0).device)?)])
    }
}
