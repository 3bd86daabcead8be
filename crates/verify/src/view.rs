//! Tensors on a device.

use crate::{Error, Layout, Precision};
use longhand_gpu::{Buffer, DevicePtr, Stream};

/// What every byte is that nobody wrote: NaN in each of the types, so that reading one shows. An emulated device has
/// it in new memory, and knows that nobody wrote it.
const POISON: u8 = 0xFF;

/// Bytes of poison before the first element and after the last on a device that does not check bounds.
const GUARD: usize = 256;

/// A tensor on a device, in an allocation of its own that is poisoned wherever no element is: a kernel that reads or
/// writes what it must not is found out.
#[derive(Debug)]
pub struct View {
    name: &'static str,
    buffer: Buffer,
    precision: Precision,
    layout: Layout,
    /// Bytes before the layout begins
    guard: usize,
}

impl View {
    /// A tensor that nobody wrote yet.
    ///
    /// # Errors
    /// Where the device has no memory.
    pub fn poisoned(
        stream: &Stream,
        name: &'static str,
        precision: Precision,
        layout: &Layout,
    ) -> Result<View, Error> {
        let emulated = stream.device().is_emulated();
        let guard = if emulated { 0 } else { GUARD };
        let buffer = stream.alloc(guard + layout.extent() * precision.bytes() + guard)?;
        if !emulated {
            buffer.fill(POISON)?;
        }
        Ok(View { name, buffer, precision, layout: layout.clone(), guard })
    }

    /// A tensor of these values, in row-major order of the layout's shape.
    ///
    /// # Errors
    /// Where the device has no memory.
    ///
    /// # Panics
    /// When there are not as many values as elements.
    pub fn upload(
        stream: &Stream,
        name: &'static str,
        precision: Precision,
        layout: &Layout,
        values: &[f64],
    ) -> Result<View, Error> {
        let view = View::poisoned(stream, name, precision, layout)?;
        assert_eq!(layout.count(), values.len(), "{name}: elements and values");
        let mut elements: Vec<(usize, f64)> =
            layout.places().into_iter().zip(values.iter().copied()).collect();
        elements.sort_by_key(|(place, _)| *place);
        // A run of neighbours at a time: what lies between stays as nobody wrote it.
        for run in elements.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let bytes: Vec<u8> = run.iter().flat_map(|(_, value)| precision.encode(*value)).collect();
            view.buffer.upload(view.byte(run[0].0), &bytes)?;
        }
        Ok(view)
    }

    /// The elements in row-major order of the shape.
    ///
    /// # Errors
    /// When a byte between or around them is poison no more; where the device fails.
    pub fn download(&self) -> Result<Vec<f64>, Error> {
        let mut bytes = vec![0; self.buffer.len()];
        self.buffer.download(0, &mut bytes)?;
        let element = |place: usize| self.byte(place)..self.byte(place + 1);
        let places = self.layout.places();
        let values = places.iter().map(|&place| self.precision.decode(&bytes[element(place)])).collect();
        for place in places {
            bytes[element(place)].fill(POISON);
        }
        match bytes.iter().position(|&byte| byte != POISON) {
            None => Ok(values),
            Some(offset) => Err(Error::WrittenBetween { tensor: self.name, offset }),
        }
    }

    /// The first element.
    #[must_use]
    pub fn ptr(&self) -> DevicePtr {
        self.buffer.ptr().offset(self.byte(self.layout.shift()) as i64)
    }

    /// Elements from one index to the next along each dimension.
    #[must_use]
    pub fn strides(&self) -> &[i64] {
        self.layout.strides()
    }

    /// What it is called in a failure.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The type of its elements.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    fn byte(&self, place: usize) -> usize {
        self.guard + place * self.precision.bytes()
    }
}
