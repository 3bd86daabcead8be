//! The sum of everything, and the norm of all gradients.

use crate::tolerance::Rule::Forward;
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View};
use longhand_gpu::DevicePtr;
use longhand_kernels::TensorList;
use longhand_kernels::reduction::{
    GradientNorm as NormKernel, GradientNormArgs, Sum as SumKernel, SumArgs, SumPlan,
};
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
    pub precision: Precision,
    /// Elements of each, and those left out before its first.
    pub tensors: Vec<(usize, usize)>,
    /// The norm not to be exceeded.
    pub max_norm: f32,
    /// Of the gradients.
    pub seed: u64,
}

impl Case for GradientNorm {
    fn operation(&self) -> &'static str {
        "gradient norm"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &GradientNorm { precision, max_norm, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let values: Vec<Vec<f64>> = self.tensors.iter().map(|(count, _)| draw.vec(*count)).collect();
        let squares = values.iter().flatten().map(|x| x * x);
        let norm = squares.sum::<f64>().sqrt();
        let plain_norm =
            f64::from(values.iter().flatten().fold(0.0f32, |sum, x| sum + (x * x) as f32).sqrt());

        let upload = |(values, (count, shift)): (&Vec<f64>, &(usize, usize))| {
            trial.input("gradient", precision, &Layout::contiguous(&[*count]).shifted(*shift), values)
        };
        let tensors = values.iter().zip(&self.tensors).map(upload).collect::<Result<Vec<View>, _>>()?;
        let counts: Vec<usize> = self.tensors.iter().map(|(count, _)| *count).collect();
        let gradients = TensorList::new(trial.stream(), &counts)?;
        gradients.set(&tensors.iter().map(View::ptr).collect::<Vec<DevicePtr>>())?;
        let number = Layout::contiguous(&[]);
        let norm_out = trial.output("norm", Precision::F32, &number)?;
        let factor_out = trial.output("factor", Precision::F32, &number)?;
        let plan = NormKernel::new(precision.dtype()).plan(trial.stream().device())?;
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
        trial.judge(Forward, &norm_out, &[plain_norm], &[norm])?;
        let factor = |norm: f64| (f64::from(max_norm) / (norm + 1e-6)).min(1.0);
        trial.judge(Forward, &factor_out, &[factor(plain_norm)], &[factor(norm)])
    }
}

impl fmt::Display for GradientNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements: usize = self.tensors.iter().map(|(count, _)| count).sum();
        write!(f, "{} {} tensors, {elements} elements", self.precision, self.tensors.len())
    }
}

impl GradientNorm {
    /// The cases that tell the most: each type over tensors around the edges of a chunk, with a norm that clips and one
    /// that does not; no tensor at all.
    #[must_use]
    pub fn telling() -> Vec<GradientNorm> {
        let tensors = vec![(16_385, 0), (0, 0), (1000, 1), (7, 0)];
        let new =
            |precision, max_norm| GradientNorm { precision, tensors: tensors.clone(), max_norm, seed: 1 };
        let mut cases: Vec<GradientNorm> = Precision::ALL.map(|precision| new(precision, 1.0)).into();
        cases.push(new(Precision::Bf16, 1e3));
        cases.push(GradientNorm { tensors: Vec::new(), ..new(Precision::F32, 1.0) });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let count = 1 << 17;
        let case =
            GradientNorm { precision: Precision::Bf16, tensors: vec![(count, 0)], max_norm: 1.0, seed: 1 };
        vec![Canonical::moving("gradient_norm", case, 2 * count + 2 * 4)]
    }
}
