//! One case on one device.

use crate::tolerance::{Judged, Output, Rule};
use crate::{Error, Layout, Precision, View};
use longhand_gpu::{Buffer, Stream};
use std::time::{Duration, Instant};

/// What a case runs in: it allocates here, launches here, and hands in what came out.
#[derive(Debug)]
pub struct Trial {
    stream: Stream,
    judged: Vec<Judged>,
    written: Vec<Written>,
    time: Duration,
}

/// What a kernel wrote to an output.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The output's name.
    pub name: &'static str,
    /// The type of its elements.
    pub precision: Precision,
    /// Its elements in row-major order.
    pub values: Vec<f64>,
}

impl Trial {
    pub(crate) fn new(stream: Stream) -> Trial {
        Trial { stream, judged: Vec::new(), written: Vec::new(), time: Duration::ZERO }
    }

    pub(crate) fn into_parts(self) -> (Vec<Judged>, Vec<Written>, Duration) {
        (self.judged, self.written, self.time)
    }

    /// Where everything is enqueued.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// A tensor of these values.
    ///
    /// # Errors
    /// As [`View::upload`].
    pub fn input(
        &self,
        name: &'static str,
        precision: Precision,
        layout: &Layout,
        values: &[f64],
    ) -> Result<View, Error> {
        View::upload(&self.stream, name, precision, layout, values)
    }

    /// A contiguous tensor of these values in one dimension.
    ///
    /// # Errors
    /// As [`View::upload`].
    pub fn vector(&self, name: &'static str, precision: Precision, values: &[f64]) -> Result<View, Error> {
        self.input(name, precision, &Layout::contiguous(&[values.len()]), values)
    }

    /// A tensor for a kernel to write.
    ///
    /// # Errors
    /// As [`View::poisoned`].
    pub fn output(&self, name: &'static str, precision: Precision, layout: &Layout) -> Result<View, Error> {
        View::poisoned(&self.stream, name, precision, layout)
    }

    /// Scratch memory that nobody wrote.
    ///
    /// # Errors
    /// As [`View::poisoned`].
    pub fn workspace(&self, bytes: usize) -> Result<View, Error> {
        self.output("workspace", Precision::F32, &Layout::contiguous(&[bytes.div_ceil(4)]))
    }

    /// Unsigned integers.
    ///
    /// # Errors
    /// Where the device has no memory.
    pub fn integers(&self, values: &[u32]) -> Result<Buffer, Error> {
        let buffer = self.stream.alloc(size_of_val(values))?;
        buffer.upload(0, bytemuck::cast_slice(values))?;
        Ok(buffer)
    }

    /// Launches, waits for the end, and counts the time that takes.
    ///
    /// # Errors
    /// What `launch` returns, or what the device says at the end.
    pub fn launch(
        &mut self,
        launch: impl FnOnce(&Stream) -> longhand_kernels::Result<()>,
    ) -> Result<(), Error> {
        let start = Instant::now();
        launch(&self.stream)?;
        self.stream.synchronize()?;
        self.time += start.elapsed();
        Ok(())
    }

    /// Judges what a kernel wrote to a tensor, beside what the plain algorithm and the reference say.
    ///
    /// # Errors
    /// As [`View::download`].
    pub fn judge(
        &mut self,
        rule: Rule,
        written: &View,
        plain: &[f64],
        reference: &[f64],
    ) -> Result<(), Error> {
        self.judge_with(rule, written, plain, reference, 0.0)
    }

    /// As [`Trial::judge`], allowing as much more, absolutely: see [`Output::cancellation`].
    ///
    /// # Errors
    /// As [`View::download`].
    pub fn judge_with(
        &mut self,
        rule: Rule,
        written: &View,
        plain: &[f64],
        reference: &[f64],
        cancellation: f64,
    ) -> Result<(), Error> {
        let kernel = written.download()?;
        let output = Output::new(written.name(), written.precision(), &kernel, plain, reference);
        self.judged.push(output.cancellation(cancellation).judge(rule));
        self.written.push(Written { name: written.name(), precision: written.precision(), values: kernel });
        Ok(())
    }

    /// Judges what has to be exactly what the reference says.
    ///
    /// # Errors
    /// As [`View::download`].
    pub fn judge_exact(&mut self, written: &View, reference: &[f64]) -> Result<(), Error> {
        self.judge(Rule::Exact, written, reference, reference)
    }

    /// Judges values that were read from where no [`View`] is.
    pub fn judge_values(
        &mut self,
        rule: Rule,
        name: &'static str,
        precision: Precision,
        written: Vec<f64>,
        plain: &[f64],
        reference: &[f64],
    ) {
        self.judged.push(Output::new(name, precision, &written, plain, reference).judge(rule));
        self.written.push(Written { name, precision, values: written });
    }

    /// Judges one number that has to be exactly this.
    pub fn judge_number(&mut self, name: &'static str, was: f64, must: f64) {
        self.judged.push(Output::new(name, Precision::F32, &[was], &[must], &[must]).judge(Rule::Exact));
    }
}
