//! The clock of the device that is measured.

use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter};
use longhand_gpu::{Event, Stream};

use crate::rate::Rate;

/// Time as criterion takes it: of the processor, or of a GPU by events on its stream, which leave out what the processor
/// does meanwhile.
pub struct Clock {
    /// That of the processor where there is none.
    stream: Option<Stream>,
    rate: Rate,
}

impl Clock {
    /// By the stream's events; by the processor's clock where there is no stream.
    pub(crate) fn new(stream: Option<Stream>, rate: Rate) -> Clock {
        Clock { stream, rate }
    }
}

/// When a measurement began.
pub enum Started {
    /// On the processor.
    Wall(Instant),
    /// On a stream.
    Event(Event),
}

fn mark(stream: &Stream) -> longhand_gpu::Result<Event> {
    let event = Event::new(stream.device())?;
    stream.record(&event)?;
    Ok(event)
}

impl Measurement for Clock {
    type Intermediate = Started;
    type Value = Duration;

    fn start(&self) -> Started {
        match &self.stream {
            None => Started::Wall(Instant::now()),
            Some(stream) => Started::Event(mark(stream).expect("the device records events")),
        }
    }

    fn end(&self, started: Started) -> Duration {
        match (&self.stream, started) {
            (_, Started::Wall(start)) => start.elapsed(),
            (None, Started::Event(_)) => unreachable!("this clock starts on the processor"),
            (Some(stream), Started::Event(start)) => {
                let elapsed = || -> longhand_gpu::Result<f32> {
                    let end = mark(stream)?;
                    stream.synchronize()?;
                    end.elapsed_ms(&start)
                };
                let milliseconds = elapsed().expect("what was launched ran");
                Duration::from_secs_f64(f64::from(milliseconds) / 1e3)
            }
        }
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &self.rate
    }
}
