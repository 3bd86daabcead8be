//! Kernels on a GPU, timed by its own clock.

use std::time::Duration;

use half::bf16;
use longhand_gpu::{Buffer, Device, Event, Result, Stream};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The first GPU and a stream on it.
pub struct Gpu {
    /// The device.
    pub device: Device,
    /// What is timed runs here.
    pub stream: Stream,
}

impl Gpu {
    /// The first GPU. Where there is none, says on standard error why `what` is skipped.
    pub fn open(what: &str) -> Option<Gpu> {
        let open = || -> Result<Gpu> {
            let device = Device::cuda(0)?;
            Ok(Gpu { stream: device.new_stream()?, device })
        };
        open().inspect_err(|error| eprintln!("{what} on the GPU: skipped: {error}")).ok()
    }

    /// Device memory with `count` random bf16 numbers in [-1, 1): never zeros, which take less power to multiply.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn random_bf16(&self, count: usize) -> Result<Buffer> {
        let mut rng = StdRng::seed_from_u64(count as u64);
        let values: Vec<bf16> =
            (0..count).map(|_| bf16::from_f32(rng.next_u32() as i32 as f32 / 2f32.powi(31))).collect();
        self.upload(bytemuck::cast_slice(&values))
    }

    /// Device memory with `count` random f32 numbers in [-1, 1).
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn random_f32(&self, count: usize) -> Result<Buffer> {
        let mut rng = StdRng::seed_from_u64(count as u64);
        let values: Vec<f32> = (0..count).map(|_| rng.next_u32() as i32 as f32 / 2f32.powi(31)).collect();
        self.upload(bytemuck::cast_slice(&values))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.stream.alloc(bytes.len())?;
        buffer.upload(0, bytes)?;
        Ok(buffer)
    }

    /// Time on the device from the first of `iterations` launches to the end of the last.
    ///
    /// # Errors
    /// What `launch` returns, or what the device refuses.
    pub fn time<E: From<longhand_gpu::Error>>(
        &self,
        iterations: u64,
        mut launch: impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<Duration, E> {
        let (start, end) = (Event::new(&self.device)?, Event::new(&self.device)?);
        self.stream.record(&start)?;
        for _ in 0..iterations {
            launch()?;
        }
        self.stream.record(&end)?;
        self.stream.synchronize()?;
        Ok(Duration::from_secs_f64(f64::from(end.elapsed_ms(&start)?) / 1e3))
    }
}
