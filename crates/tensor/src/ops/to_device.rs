//! Movement between devices.

use crate::autograd::apply1;
use crate::{Backward, Device, Forward, Operation, Result, Tensor};

impl Tensor {
    /// The same elements on `device`; itself where they are there.
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
        };
        Ok(Forward::new([out]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.grad(0)?.to_device(&ctx.input(0).device)?)])
    }
}
