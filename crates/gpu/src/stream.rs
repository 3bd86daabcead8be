//! Streams, device memory and events.

use std::sync::Arc;

use crate::{Device, DevicePtr, Error, Result};

/// A queue of work: what is enqueued on one stream happens in that order. A cheap handle.
#[derive(Clone, Debug)]
pub struct Stream(Arc<RawStream>);

#[derive(Debug)]
struct RawStream {
    device: Device,
    handle: u64,
    foreign: bool,
}

impl Stream {
    pub(crate) fn new(device: &Device) -> Result<Stream> {
        let handle = device.driver().new_stream()?;
        Ok(Stream(Arc::new(RawStream { device: device.clone(), handle, foreign: false })))
    }

    /// Wraps a stream that somebody else made (a `CUstream` as an integer; 0 is CUDA's default stream). It is not
    /// destroyed with the last handle.
    ///
    /// # Safety
    ///
    /// The stream belongs to the context of `device` and outlives every clone of the handle and every [`Buffer`]
    /// allocated on it.
    #[must_use]
    pub unsafe fn from_raw(device: &Device, handle: u64) -> Stream {
        Stream(Arc::new(RawStream { device: device.clone(), handle, foreign: true }))
    }

    /// The handle, for other libraries: a `CUstream` as an integer.
    #[must_use]
    pub fn as_raw(&self) -> u64 {
        self.0.handle
    }

    /// The device it is a stream of.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Allocates memory, whose content is undefined, for what comes later on this stream.
    ///
    /// No bytes need no memory: the pointer is then [`DevicePtr::NULL`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] with what is free.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer> {
        let pointer = match bytes {
            0 => DevicePtr::NULL,
            // SAFETY: the stream is alive.
            _ => unsafe { self.device().driver().alloc(self.0.handle, bytes) }?,
        };
        Ok(Buffer { stream: self.clone(), pointer, bytes })
    }

    /// Copies from the host to the device. Returns when `source` may be changed, which can be before the copy is
    /// done.
    ///
    /// # Safety
    ///
    /// `source.len()` bytes from `target` on are memory of this device.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub unsafe fn upload(&self, target: DevicePtr, source: &[u8]) -> Result<()> {
        if source.is_empty() {
            return Ok(());
        }
        // SAFETY: the stream is alive; the caller answers for the address.
        unsafe { self.device().driver().upload(self.0.handle, target, source) }
    }

    /// Copies from the device to the host, and returns when that is done, and so all that came before.
    ///
    /// # Safety
    ///
    /// `target.len()` bytes from `source` on are memory of this device.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for what failed earlier on the stream.
    pub unsafe fn download(&self, source: DevicePtr, target: &mut [u8]) -> Result<()> {
        if target.is_empty() {
            return Ok(());
        }
        // SAFETY: the stream is alive; the caller answers for the address.
        unsafe { self.device().driver().download(self.0.handle, target, source) }
    }

    /// Copies within the device.
    ///
    /// # Safety
    ///
    /// `bytes` from `target` on and from `source` on are memory of this device and do not overlap.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub unsafe fn copy(&self, target: DevicePtr, source: DevicePtr, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the stream is alive; the caller answers for the addresses.
        unsafe { self.device().driver().copy(self.0.handle, target, source, bytes) }
    }

    /// Sets `bytes` bytes to `value`.
    ///
    /// # Safety
    ///
    /// `bytes` from `target` on are memory of this device.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub unsafe fn fill(&self, target: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the stream is alive; the caller answers for the address.
        unsafe { self.device().driver().fill(self.0.handle, target, value, bytes) }
    }

    /// Sets `bytes` bytes to 0.
    ///
    /// # Safety
    ///
    /// As [`Stream::fill`].
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub unsafe fn fill_zero(&self, target: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: the caller answers for it.
        unsafe { self.fill(target, 0, bytes) }
    }

    /// Waits until all that was enqueued is done.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for what failed earlier on the stream.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { self.device().driver().synchronize(self.0.handle) }
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for an event of another device; [`Error::Driver`].
    pub fn record(&self, event: &Event) -> Result<()> {
        event.check_device("record", self.device())?;
        // SAFETY: both are alive and of the same device.
        unsafe { self.device().driver().record(event.0.handle, self.0.handle) }
    }

    /// Has what comes later on this stream wait for the event, which another stream recorded.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for an event of another device; [`Error::Driver`].
    pub fn wait(&self, event: &Event) -> Result<()> {
        event.check_device("wait", self.device())?;
        // SAFETY: both are alive and of the same device.
        unsafe { self.device().driver().wait(self.0.handle, event.0.handle) }
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        if !self.foreign {
            // SAFETY: this was the last handle. CUDA finishes what is enqueued before the stream goes.
            unsafe { self.device.driver().free_stream(self.handle) };
        }
    }
}

/// Device memory with an owner. Given back when dropped, once the stream that it was allocated on has come to that
/// point: whoever uses it on another stream orders the two with an [`Event`].
#[derive(Debug)]
pub struct Buffer {
    stream: Stream,
    pointer: DevicePtr,
    bytes: usize,
}

impl Buffer {
    /// Its address; [`DevicePtr::NULL`] for an empty one. A multiple of 256.
    #[must_use]
    pub fn ptr(&self) -> DevicePtr {
        self.pointer
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The stream it was allocated on.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Copies `source` into the buffer at `offset` bytes, on the buffer's stream, as [`Stream::upload`] does.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for bytes outside the buffer; [`Error::Driver`].
    pub fn upload(&self, offset: usize, source: &[u8]) -> Result<()> {
        let target = self.range("upload", offset, source.len())?;
        // SAFETY: the bytes lie in this allocation.
        unsafe { self.stream.upload(target, source) }
    }

    /// Copies from the buffer at `offset` bytes into `target`, on the buffer's stream, and waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for bytes outside the buffer; [`Error::Driver`].
    pub fn download(&self, offset: usize, target: &mut [u8]) -> Result<()> {
        let source = self.range("download", offset, target.len())?;
        // SAFETY: the bytes lie in this allocation.
        unsafe { self.stream.download(source, target) }
    }

    /// Sets every byte to `value`, on the buffer's stream.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub fn fill(&self, value: u8) -> Result<()> {
        // SAFETY: the bytes are this allocation.
        unsafe { self.stream.fill(self.pointer, value, self.bytes) }
    }

    fn range(&self, operation: &str, offset: usize, bytes: usize) -> Result<DevicePtr> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let was = format!("{bytes} bytes at offset {offset}");
            return Err(Error::argument(operation, "range", was, format!("within {} bytes", self.bytes)));
        }
        Ok(DevicePtr(self.pointer.0 + offset as u64))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.pointer.is_null() {
            // SAFETY: the allocation is alive and nobody owns it but this buffer.
            unsafe { self.stream.device().driver().free(self.stream.0.handle, self.pointer) };
        }
    }
}

/// A point in a stream's work, with its time. A cheap handle.
#[derive(Clone, Debug)]
pub struct Event(Arc<RawEvent>);

#[derive(Debug)]
struct RawEvent {
    device: Device,
    handle: u64,
}

impl Event {
    /// An event that has not been recorded yet.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`].
    pub fn new(device: &Device) -> Result<Event> {
        let handle = device.driver().new_event()?;
        Ok(Event(Arc::new(RawEvent { device: device.clone(), handle })))
    }

    /// Milliseconds since `earlier` (resolution about 0.5 µs). Waits until this event has happened.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for an event of another device; [`Error::Driver`], also where one of the two was never
    /// recorded.
    pub fn elapsed_ms(&self, earlier: &Event) -> Result<f32> {
        earlier.check_device("elapsed_ms", &self.0.device)?;
        // SAFETY: both are alive and of the same device.
        unsafe { self.0.device.driver().elapsed_ms(earlier.0.handle, self.0.handle) }
    }

    /// A handle means nothing to another device.
    fn check_device(&self, operation: &str, device: &Device) -> Result<()> {
        if self.0.device == *device {
            return Ok(());
        }
        let (was, must) =
            (format!("one of {:?}", self.0.device), format!("one of {device:?}, as opened for the stream"));
        Err(Error::argument(operation, "event", was, must))
    }
}

impl Drop for RawEvent {
    fn drop(&mut self) {
        // SAFETY: this was the last handle.
        unsafe { self.device.driver().free_event(self.handle) };
    }
}
