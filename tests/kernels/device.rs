//! The device that the tests run on, and tensors there.

use longhand_gpu::{Buffer, Device, DevicePtr, Error, Stream};
use longhand_tests::Precision;
use std::io::Write;
use std::sync::OnceLock;

/// A stream of the CUDA device 0. Without one, says in one line that the test is skipped, and why.
pub fn stream() -> Option<Stream> {
    static DEVICE: OnceLock<Result<Device, String>> = OnceLock::new();
    match DEVICE.get_or_init(|| Device::cuda(0).map_err(|error| reason(&error))) {
        Ok(device) => Some(device.new_stream().unwrap()),
        Err(reason) => {
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("a test");
            // Not eprintln!, which the test harness keeps to itself unless the test fails.
            let _ = writeln!(std::io::stderr(), "{test}: skipped: no CUDA device: {reason}");
            None
        }
    }
}

/// The error in one line, without the list of places that were looked at.
fn reason(error: &Error) -> String {
    match error {
        Error::LibraryNotFound { library, .. } => format!("{library} was not found"),
        error => error.to_string().replace('\n', " "),
    }
}

/// What fills every byte that nobody wrote: NaN in each of the types, so that reading one shows.
const POISON: u8 = 0xFF;

/// Bytes of poison before the first element and after the last.
const GUARD: usize = 256;

/// A tensor on the device whose elements may lie apart: `strides` gives the elements from one index to the next.
/// Its allocation is poisoned, so a kernel that reads or leaves what it must not is found out.
pub struct View {
    buffer: Buffer,
    precision: Precision,
    shape: Vec<usize>,
    /// In elements, as kernels take them
    pub strides: Vec<i64>,
}

impl View {
    /// An output: `shape` with `strides`, all of it poison.
    pub fn poisoned(stream: &Stream, precision: Precision, shape: &[usize], strides: &[i64]) -> View {
        assert_eq!(shape.len(), strides.len());
        let last: usize = shape.iter().zip(strides).map(|(n, s)| n.saturating_sub(1) * *s as usize).sum();
        let elements = if shape.contains(&0) { 0 } else { last + 1 };
        let buffer = stream.alloc(GUARD + elements * precision.bytes() + GUARD).unwrap();
        buffer.fill(POISON).unwrap();
        View { buffer, precision, shape: shape.to_vec(), strides: strides.to_vec() }
    }

    /// An input: `values`, in row-major order of `shape`, at their places; poison in between.
    pub fn upload(
        stream: &Stream,
        precision: Precision,
        shape: &[usize],
        strides: &[i64],
        values: &[f64],
    ) -> View {
        let view = View::poisoned(stream, precision, shape, strides);
        let mut bytes = vec![POISON; view.buffer.len()];
        let places = view.places();
        assert_eq!(places.len(), values.len(), "elements of the shape and values");
        for (place, value) in places.into_iter().zip(values) {
            bytes[place..place + precision.bytes()].copy_from_slice(&precision.encode(*value));
        }
        view.buffer.upload(0, &bytes).unwrap();
        view
    }

    /// Contiguous in row-major order.
    pub fn upload_contiguous(stream: &Stream, precision: Precision, shape: &[usize], values: &[f64]) -> View {
        View::upload(stream, precision, shape, &contiguous(shape), values)
    }

    /// Contiguous in row-major order, all of it poison.
    pub fn poisoned_contiguous(stream: &Stream, precision: Precision, shape: &[usize]) -> View {
        View::poisoned(stream, precision, shape, &contiguous(shape))
    }

    /// The elements in row-major order of the shape.
    ///
    /// Fails when a byte between or around them is poison no more.
    #[track_caller]
    pub fn download(&self) -> Vec<f64> {
        let mut bytes = vec![0; self.buffer.len()];
        self.buffer.download(0, &mut bytes).unwrap();
        let elements = |place: usize| place..place + self.precision.bytes();
        let places = self.places();
        let values = places.iter().map(|&place| self.precision.decode(&bytes[elements(place)])).collect();
        for place in places {
            bytes[elements(place)].fill(POISON);
        }
        let touched = bytes.iter().position(|&byte| byte != POISON);
        assert_eq!(touched, None, "the byte at this offset is of no element and was written");
        values
    }

    pub fn ptr(&self) -> DevicePtr {
        self.buffer.ptr().offset(GUARD as i64)
    }

    /// The offset in bytes of every element, in row-major order.
    fn places(&self) -> Vec<usize> {
        let mut places = vec![GUARD];
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            let step = stride as usize * self.precision.bytes();
            places = places.iter().flat_map(|place| (0..size).map(move |i| place + i * step)).collect();
        }
        places
    }
}

/// Unsigned integers, contiguous.
pub fn upload_u32(stream: &Stream, values: &[u32]) -> Buffer {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let buffer = stream.alloc(bytes.len()).unwrap();
    buffer.upload(0, &bytes).unwrap();
    buffer
}

/// The strides of a row-major tensor.
pub fn contiguous(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as i64;
    }
    strides
}
