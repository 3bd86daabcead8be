//! Running the text of a kernel.

use longhand_emulator::{Fault, Gpu, Module, Options, Report, Shape};

/// How an entry `k` is launched whose parameters are addresses of words.
pub struct Run {
    pub arch: &'static str,
    pub options: Options,
    pub shape: Shape,
}

impl Default for Run {
    fn default() -> Self {
        let shape = Shape { grid: [1; 3], block: [32, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
        Run { arch: "sm_90a", options: Options::default(), shape }
    }
}

impl Run {
    pub fn gpu(&self) -> Gpu {
        Gpu::with_options(self.arch.parse().unwrap(), self.options)
    }

    /// Launches a text with a parameter for each buffer of words; in the end, the buffers hold what memory does.
    pub fn launch(&self, text: &str, buffers: &mut [Vec<u32>]) -> Result<Report, Fault> {
        let gpu = self.gpu();
        let module = Module::from_ptx(&gpu, text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut addresses = Vec::new();
        for buffer in &*buffers {
            let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_le_bytes()).collect();
            let address = gpu.alloc(bytes.len() as u64).unwrap();
            gpu.upload(address, &bytes).unwrap();
            addresses.push(address);
        }
        let params: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
        let report = module.launch("k", &self.shape, &params)?;
        for (buffer, address) in buffers.iter_mut().zip(addresses) {
            let mut bytes = vec![0; 4 * buffer.len()];
            gpu.download(address, &mut bytes).unwrap();
            let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
            *buffer = words.collect();
        }
        Ok(report)
    }
}
