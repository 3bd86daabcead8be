//! A first or second moment on the device, in f32 or in 8 bits.

use super::ParameterSize;
use crate::Precision::F32;
use crate::tolerance::Rule::Forward;
use crate::{Draw, Error, Layout, Trial, View};
use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::adamw::Moments;
use longhand_reference::{dynamic_map, nearest};

/// Below it, a scale becomes 0: 2^-120.
const LEAST_SCALE: f64 = 7.523_163_845_262_64e-37;

pub enum Moment {
    F32(View),
    EightBit(EightBit),
}

/// Codes, and a scale for each block.
pub struct EightBit {
    name: &'static str,
    codes: Buffer,
    count: usize,
    shift: usize,
    scale: View,
    map: Vec<f64>,
}

impl Moment {
    /// `m` of either sign, or `v` of none.
    pub fn new(
        name: &'static str,
        moments: Moments,
        size: ParameterSize,
        draw: &mut Draw,
        trial: &Trial,
    ) -> Result<Moment, Error> {
        let ParameterSize { count, shift, .. } = size;
        let drawn = draw.vec(count);
        let squares = drawn.iter().map(|x| f64::from((x * x + 0.01) as f32));
        let values: Vec<f64> = if name == "m" { drawn.clone() } else { squares.collect() };
        if moments == Moments::F32 {
            return Ok(Moment::F32(trial.input(
                name,
                F32,
                &Layout::contiguous(&[count]).shifted(shift),
                &values,
            )?));
        }
        let scales: Vec<f64> =
            values.chunks(Moments::BLOCK).map(|block| f64::from((block[0].abs() + 0.25) as f32)).collect();
        let codes: Vec<u8> = drawn.iter().map(|x| (x * 1000.0) as i64 as u8).collect();
        let buffer = trial.stream().alloc(shift + count)?;
        buffer.upload(shift, &codes)?;
        Ok(Moment::EightBit(EightBit {
            name,
            codes: buffer,
            count,
            shift,
            scale: trial.vector(if name == "m" { "scale of m" } else { "scale of v" }, F32, &scales)?,
            map: dynamic_map(name == "m"),
        }))
    }

    pub fn ptr(&self) -> DevicePtr {
        match self {
            Moment::F32(view) => view.ptr(),
            Moment::EightBit(it) => it.codes.ptr().offset(it.shift as i64),
        }
    }

    pub fn scale_ptr(&self) -> DevicePtr {
        match self {
            Moment::F32(_) => DevicePtr::NULL,
            Moment::EightBit(it) => it.scale.ptr(),
        }
    }

    pub fn values(&self) -> Result<Vec<f64>, Error> {
        match self {
            Moment::F32(view) => view.download(),
            Moment::EightBit(it) => {
                let scales = it.scale.download()?;
                let value = |(i, code): (usize, &u8)| it.map[usize::from(*code)] * scales[i / Moments::BLOCK];
                Ok(it.codes()?.iter().enumerate().map(value).collect())
            }
        }
    }

    /// Judges it beside what it would be in f32 and exactly, before it is rounded to 8 bits.
    pub fn judge(
        &self,
        plain: &[f64],
        reference: &[f64],
        slack: &[f64],
        trial: &mut Trial,
    ) -> Result<(), Error> {
        match self {
            Moment::F32(view) => trial.judge(Forward, view, plain, reference),
            Moment::EightBit(it) => it.judge(plain, reference, slack, trial),
        }
    }
}

impl EightBit {
    fn codes(&self) -> Result<Vec<u8>, Error> {
        let mut codes = vec![0; self.count];
        self.codes.download(self.shift, &mut codes)?;
        Ok(codes)
    }

    /// The scales are the largest magnitudes; each code is that of the nearest value, save for an f32 that is all but half
    /// way between two.
    fn judge(&self, plain: &[f64], reference: &[f64], slack: &[f64], trial: &mut Trial) -> Result<(), Error> {
        trial.judge(Forward, &self.scale, &scales(plain), &scales(reference))?;
        let scales = self.scale.download()?;
        let codes = self.codes()?;
        let wrong = codes.iter().enumerate().filter(|(i, code)| {
            let scale = scales[i / Moments::BLOCK];
            let nearest_to = |x: f64| nearest(&self.map, if scale == 0.0 { 0.0 } else { x / scale });
            let (x, slack) = (reference[*i], slack[*i]);
            !(nearest_to(x - slack)..=nearest_to(x + slack)).contains(&usize::from(**code))
        });
        trial.judge_number(
            if self.name == "m" { "wrong codes of m" } else { "wrong codes of v" },
            wrong.count() as f64,
            0.0,
        );
        Ok(())
    }
}

fn scales(values: &[f64]) -> Vec<f64> {
    let largest = |block: &[f64]| block.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let scale = |block| Some(largest(block)).filter(|largest| *largest >= LEAST_SCALE).unwrap_or(0.0);
    values.chunks(Moments::BLOCK).map(scale).collect()
}
