//! The sum of everything, and the norm of all gradients.

use crate::tolerance::Rule::Forward;
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View};
use longhand_gpu::DevicePtr;
use longhand_kernels::reduction::{
    GradientNorm as NormKernel, GradientNormArgs, Sum as SumKernel, SumArgs, SumPlan,
};
use longhand_kernels::{Dtype, TensorList};
use std::fmt;

/// One sum.
#[derive(Clone, Debug)]
pub struct Sum {
    /// Of the elements and of the sum.
    pub precision: Precision,
    /// Elements.
    pub count: usize,
    /// Elements left out before the first.
    pub shift: usize,
    /// What the sum is multiplied by.
    pub factor: f64,
    /// Of the elements.
    pub seed: u64,
}

impl Case for Sum {
    fn operation(&self) -> &'static str {
        "sum"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Sum { precision, count, factor, .. } = self;
        let values = Draw::new(precision, self.seed).vec(count);
        let expected = values.iter().sum::<f64>() * factor;
        let plain = values.iter().fold(0.0f32, |sum, x| sum + *x as f32);
        let plain = f64::from(precision.round((f64::from(plain) * factor) as f32));

        let x = trial.input("x", precision, &Layout::contiguous(&[count]).shifted(self.shift), &values)?;
        let out = trial.output("out", precision, &Layout::contiguous(&[]))?;
        let workspace = trial.workspace(SumPlan::WORKSPACE_BYTES)?;
        let plan = SumKernel::new(precision.dtype()).plan(trial.stream().device())?;
        let args = SumArgs { count, x: x.ptr(), factor, out: out.ptr(), workspace: workspace.ptr() };
        // SAFETY: each tensor has the size that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        workspace.download()?; // nothing was written around it
        // The terms, of either sign, cancel; the f32 partial sums of 8 to some 100 of them do not.
        let cancellation = f64::from(f32::EPSILON) * (count as f64).sqrt() * factor.abs();
        trial.judge_with(Forward, &out, &[plain], &[expected], cancellation)
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.precision, self.count)?;
        if self.shift > 0 { write!(f, " shifted") } else { Ok(()) }
    }
}

impl Sum {
    /// The cases that tell the most: each type over several blocks; more than the most blocks take at once; none, one,
    /// and no alignment.
    #[must_use]
    pub fn telling() -> Vec<Sum> {
        let new = |precision, count| Sum { precision, count, shift: 0, factor: 0.25, seed: 1 };
        let mut cases: Vec<Sum> = Precision::ALL.map(|precision| new(precision, 5000)).into();
        cases.extend([0, 1, 2048, 2_100_000].map(|count| new(Precision::Bf16, count)));
        cases.push(Sum { shift: 3, ..new(Precision::F32, 4097) });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let count = 1 << 17;
        let case = Sum { precision: Precision::Bf16, count, shift: 0, factor: 1.0, seed: 1 };
        vec![Canonical::moving("sum", case, 2 * count + 2)]
    }
}

/// One norm of gradients.
#[derive(Clone, Debug)]
pub struct GradientNorm {
    /// Of the gradients.
    pub tensors: Vec<GradientSize>,
    /// The norm not to be exceeded.
    pub max_norm: f32,
    /// What the last element of all is, in place of what is drawn.
    pub last: Option<f64>,
    /// Of the gradients.
    pub seed: u64,
}

/// One gradient.
#[derive(Clone, Copy, Debug)]
pub struct GradientSize {
    /// Of its elements.
    pub precision: Precision,
    /// Elements.
    pub count: usize,
    /// Elements left out before the first.
    pub shift: usize,
}

impl Case for GradientNorm {
    fn operation(&self) -> &'static str {
        "gradient norm"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let max_norm = self.max_norm;
        let values = self.values();
        let upload = |(values, size): (&Vec<f64>, &GradientSize)| {
            let layout = Layout::contiguous(&[size.count]).shifted(size.shift);
            trial.input("gradient", size.precision, &layout, values)
        };
        let tensors = values.iter().zip(&self.tensors).map(upload).collect::<Result<Vec<View>, _>>()?;
        let lists = Precision::ALL.map(|precision| list(precision, &self.tensors, &tensors, trial));
        let [f32, bf16, f16] = lists;
        let [f32, bf16, f16] = [f32?, bf16?, f16?];
        let gradients = [(Dtype::F32, &f32), (Dtype::Bf16, &bf16), (Dtype::F16, &f16)];
        let number = Layout::contiguous(&[]);
        let norm_out = trial.output("norm", Precision::F32, &number)?;
        let factor_out = trial.output("factor", Precision::F32, &number)?;
        let plan = NormKernel::new().plan(trial.stream().device())?;
        let workspace = trial.workspace(plan.workspace_bytes(&gradients))?;
        let args = GradientNormArgs {
            gradients: &gradients,
            max_norm,
            norm: norm_out.ptr(),
            factor: factor_out.ptr(),
            workspace: workspace.ptr(),
        };
        // SAFETY: each tensor has the size that it is listed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        workspace.download()?; // nothing was written around it

        let norm = values.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
        let plain = values.iter().flatten().fold(0.0f32, |sum, x| sum + (*x as f32).powi(2)).sqrt();
        if !plain.is_finite() {
            let is_finite = norm_out.download()?[0].is_finite();
            trial.judge_number("norm is finite", f64::from(u8::from(is_finite)), 0.0);
            return trial.judge_exact(&factor_out, &[1.0]);
        }
        trial.judge(Forward, &norm_out, &[plain.into()], &[norm])?;
        let factor = |norm: f64| (f64::from(max_norm) / (norm + 1e-6)).min(1.0);
        trial.judge(Forward, &factor_out, &[factor(plain.into())], &[factor(norm)])
    }
}

/// Those of the gradients that are of one type.
fn list(
    precision: Precision,
    sizes: &[GradientSize],
    tensors: &[View],
    trial: &Trial,
) -> Result<TensorList, Error> {
    let of_type = || sizes.iter().zip(tensors).filter(|(size, _)| size.precision == precision);
    let list = TensorList::new(trial.stream(), &of_type().map(|(size, _)| size.count).collect::<Vec<_>>())?;
    list.set(&of_type().map(|(_, tensor)| tensor.ptr()).collect::<Vec<DevicePtr>>())?;
    Ok(list)
}

impl fmt::Display for GradientNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements: usize = self.tensors.iter().map(|size| size.count).sum();
        match &self.tensors[..] {
            [first, rest @ ..] if rest.iter().all(|size| size.precision == first.precision) => {
                write!(f, "{} ", first.precision)?;
            }
            _ => (),
        }
        write!(f, "{} tensors, {elements} elements", self.tensors.len())?;
        self.last.map_or(Ok(()), |last| write!(f, ", the last {last}"))
    }
}

impl GradientNorm {
    /// The cases that tell the most: each type, clipped, and all of them together; not clipped; none at all; and elements
    /// that are not finite, or whose squares are not.
    #[must_use]
    pub fn telling() -> Vec<GradientNorm> {
        let sizes = [(16_385, 0), (0, 0), (1000, 1), (7, 3)];
        let of = |precision| sizes.map(|(count, shift)| GradientSize { precision, count, shift }).to_vec();
        let case = |tensors, max_norm| GradientNorm { tensors, max_norm, last: None, seed: 1 };
        let mut cases: Vec<GradientNorm> = Precision::ALL.map(|precision| case(of(precision), 1.0)).into();
        cases.push(case(Precision::ALL.map(of).concat(), 1.0));
        cases.push(case(of(Precision::Bf16), f32::INFINITY));
        cases.push(case(Vec::new(), 1.0));
        let last = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 2e19];
        cases.extend(last.map(|last| GradientNorm { last: Some(last), ..case(of(Precision::Bf16), 1.0) }));
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let count = 8 * 16_384;
        let tensors = vec![GradientSize { precision: Precision::Bf16, count, shift: 0 }];
        let case = GradientNorm { tensors, max_norm: 1.0, last: None, seed: 1 };
        vec![Canonical::moving("gradient_norm", case, 2 * count + 8)]
    }

    fn values(&self) -> Vec<Vec<f64>> {
        let seeds = (0..).map(|i| self.seed.wrapping_add(i));
        let draw = |(seed, size): (u64, &GradientSize)| Draw::new(size.precision, seed).vec(size.count);
        let mut values: Vec<Vec<f64>> = seeds.zip(&self.tensors).map(draw).collect();
        if let (Some(value), Some(last)) = (self.last, values.iter_mut().flatten().last()) {
            *last = value;
        }
        values
    }
}
