//! The emulator as a [`Driver`]: launches run at once, to their end, and streams have nothing to wait for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use longhand_emulator as emulator;

use crate::driver::{Driver, Launch, Memory, Properties};
use crate::{Arch, DevicePtr, Error, Image, Result};

/// Memory of a device in bytes. The emulator has as much as is asked of it; programs that look at what is free see
/// that of a data-centre GPU.
const MEMORY: usize = 80 << 30;

/// An emulated device.
pub(crate) struct Emulated {
    gpu: emulator::Gpu,
    properties: Properties,
    state: Mutex<State>,
}

/// What handles refer to. A handle is a place in its list.
#[derive(Default)]
struct State {
    modules: Vec<emulator::Module>,
    kernels: Vec<Kernel>,
    events: Vec<Option<Instant>>,
    /// What launches did, where that is recorded.
    reports: Option<Vec<emulator::Report>>,
    /// The most bytes that were allocated at once.
    peak: usize,
}

#[derive(Clone, PartialEq, Eq)]
struct Kernel {
    module: u64,
    name: String,
}

impl Emulated {
    pub fn new(arch: Arch, options: emulator::Options) -> Result<Emulated> {
        let name = arch.to_string();
        let known: emulator::Arch = name.parse().map_err(|_| Error::Arch { text: name.clone() })?;
        let (multiprocessors, l2_bytes) = size(arch);
        let properties = Properties {
            name: format!("emulated {name}"),
            arch,
            multiprocessors,
            shared_bytes_per_block: known.shared_bytes_per_block(),
            l2_bytes,
        };
        Ok(Emulated { gpu: emulator::Gpu::with_options(known, options), properties, state: Mutex::default() })
    }

    /// Whether launches are recorded from now on.
    pub fn record_reports(&self, record: bool) {
        let mut state = self.state();
        match (record, &state.reports) {
            (true, None) => state.reports = Some(Vec::new()),
            (true, Some(_)) => (),
            (false, _) => state.reports = None,
        }
    }

    /// What the launches recorded since the last call did.
    pub fn take_reports(&self) -> Vec<emulator::Report> {
        self.state().reports.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn allocated(&self) -> usize {
        usize::try_from(self.gpu.allocated()).unwrap_or(usize::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Multiprocessors and bytes of second-level cache of the data-centre GPU of an architecture, or else of its largest
/// GeForce: what kernels are tuned by is then what it is on the hardware.
fn size(arch: Arch) -> (u32, usize) {
    let (multiprocessors, megabytes) = match arch.number() {
        86 => (82, 6),
        89 => (128, 72),
        90 => (132, 50),
        100.. if arch.major() >= 12 => (170, 96),
        100.. => (148, 126),
        _ => (108, 40),
    };
    (multiprocessors, megabytes << 20)
}

/// Keeps a thing in a list; its handle. No handle is 0, which is CUDA's default stream.
fn keep<T>(list: &mut Vec<T>, thing: T) -> u64 {
    list.push(thing);
    list.len() as u64
}

fn place(handle: u64) -> usize {
    handle as usize - 1
}

impl Driver for Emulated {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory { free: MEMORY.saturating_sub(self.allocated()), total: MEMORY })
    }

    fn peak_memory(&self) -> Result<usize> {
        Ok(self.state().peak)
    }

    fn reset_peak_memory(&self) -> Result<()> {
        self.state().peak = self.allocated();
        Ok(())
    }

    fn as_emulated(&self) -> Option<&Emulated> {
        Some(self)
    }

    fn new_stream(&self) -> Result<u64> {
        Ok(1)
    }

    unsafe fn free_stream(&self, _: u64) {}

    unsafe fn synchronize(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn new_event(&self) -> Result<u64> {
        Ok(keep(&mut self.state().events, None))
    }

    unsafe fn free_event(&self, event: u64) {
        self.state().events[place(event)] = None;
    }

    unsafe fn record(&self, event: u64, _: u64) -> Result<()> {
        self.state().events[place(event)] = Some(Instant::now());
        Ok(())
    }

    unsafe fn wait(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn elapsed_ms(&self, earlier: u64, later: u64) -> Result<f32> {
        let state = self.state();
        match [earlier, later].map(|event| state.events[place(event)]) {
            [Some(earlier), Some(later)] => Ok(later.saturating_duration_since(earlier).as_secs_f32() * 1e3),
            _ => Err(Error::argument("elapsed_ms", "event", "not recorded", "recorded on a stream")),
        }
    }

    unsafe fn alloc(&self, _: u64, bytes: usize) -> Result<DevicePtr> {
        let Memory { free, total } = self.memory()?;
        if bytes > free {
            return Err(Error::OutOfMemory { requested: bytes, free, total });
        }
        let pointer = self.gpu.alloc(bytes as u64)?;
        let mut state = self.state();
        state.peak = state.peak.max(self.allocated());
        Ok(DevicePtr(pointer))
    }

    unsafe fn free(&self, _: u64, pointer: DevicePtr) {
        // The caller gives up an allocation of this device, which cannot fail.
        let _ = self.gpu.free(pointer.0);
    }

    unsafe fn upload(&self, _: u64, target: DevicePtr, source: &[u8]) -> Result<()> {
        Ok(self.gpu.upload(target.0, source)?)
    }

    unsafe fn download(&self, _: u64, target: &mut [u8], source: DevicePtr) -> Result<()> {
        Ok(self.gpu.download(source.0, target)?)
    }

    unsafe fn copy(&self, _: u64, target: DevicePtr, source: DevicePtr, bytes: usize) -> Result<()> {
        Ok(self.gpu.copy(target.0, source.0, bytes as u64)?)
    }

    unsafe fn fill(&self, _: u64, target: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        Ok(self.gpu.fill(target.0, value, bytes as u64)?)
    }

    fn load(&self, image: &Image) -> Result<u64> {
        let module = emulator::Module::from_ptx(&self.gpu, image.ptx()).map_err(|reason| Error::Load {
            device: self.properties.name.clone(),
            program: image.program().to_owned(),
            arch: image.arch(),
            reasons: format!("PTX: {reason}"),
        })?;
        Ok(keep(&mut self.state().modules, module))
    }

    /// Modules are given up when the device is closed, and go with it.
    unsafe fn unload(&self, _: u64) {}

    unsafe fn kernel(&self, module: u64, name: &str) -> Result<u64> {
        let wanted = Kernel { module, name: name.to_owned() };
        let kernels = &mut self.state().kernels;
        match kernels.iter().position(|kernel| *kernel == wanted) {
            Some(place) => Ok(place as u64 + 1),
            None => Ok(keep(kernels, wanted)),
        }
    }

    unsafe fn allow_dynamic_shared(&self, _: u64, _: u32) -> Result<()> {
        Ok(())
    }

    unsafe fn launch(&self, kernel: u64, _: u64, shape: &Launch, params: &[u8]) -> Result<()> {
        let (module, name) = {
            let state = self.state();
            let Kernel { module, name } = state.kernels[place(kernel)].clone();
            (state.modules[place(module)].clone(), name)
        };
        let shape = emulator::Shape {
            grid: shape.grid,
            block: shape.block,
            // As on a GPU, a launch that says nothing of clusters gets those that the kernel was compiled for.
            cluster: module.required_cluster(&name).unwrap_or([1; 3]),
            dynamic_shared: shape.shared_bytes,
        };
        let report = module
            .launch(&name, &shape, params)
            .map_err(|fault| Error::Fault { operation: "launch".to_owned(), fault: Box::new(fault) })?;
        if let Some(reports) = &mut self.state().reports {
            reports.push(report);
        }
        Ok(())
    }
}
