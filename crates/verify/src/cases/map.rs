//! The same arithmetic on every element.

use crate::tolerance::Rule::Forward;
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View};
use longhand_kernels::elementwise::{Map as Kernel, MapArgs, Operand, Operation};
use std::fmt;

/// One map.
#[derive(Clone, Debug)]
pub struct Map {
    /// What is computed.
    pub operation: Operation,
    /// Of the operands.
    pub precision: Precision,
    /// Of the output.
    pub output: Precision,
    /// Elements of the second operand.
    pub count: usize,
    /// How often it is repeated to fill the output.
    pub repeats: usize,
    /// Elements that the first operand starts after an aligned address.
    pub shift: usize,
    /// For the operations that have one.
    pub scalar: f32,
    /// Of the operands.
    pub seed: u64,
}

impl Case for Map {
    fn operation(&self) -> &'static str {
        "map"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Map { operation, precision, count, repeats, scalar, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let (a, b) = (draw.vec(count * repeats), draw.vec(count));
        let repeated = b.repeat(repeats);
        let pairs = || a.iter().zip(&repeated);
        let expected: Vec<f64> = pairs().map(|(&a, &b)| exact(operation, a, b, scalar.into())).collect();
        let plain = pairs().map(|(&a, &b)| plain(operation, a as f32, b as f32, scalar));
        let plain: Vec<f64> = plain.map(|x| self.output.round(x).into()).collect();

        let whole = Layout::contiguous(&[count * repeats]);
        let a = trial.input("a", precision, &whole.clone().shifted(self.shift), &a)?;
        let b = trial.vector("b", precision, &b)?;
        let factor = trial.vector("scalar", Precision::F32, &[scalar.into()])?;
        let out = trial.output("out", self.output, &whole)?;
        let operand = |view: &View, count| Operand { data: view.ptr(), count };
        let operands = [operand(&a, count * repeats), operand(&b, count)];
        let [a, b] = match operands_of(operation) {
            0 => [Operand::NONE; 2],
            1 => [operands[0], Operand::NONE],
            _ if operation == Operation::ScaleBy => [operands[0], operand(&factor, 1)],
            _ => operands,
        };
        let plan = Kernel::new(operation, precision.dtype()).output(self.output.dtype());
        let plan = plan.plan(trial.stream().device())?;
        let args = MapArgs { count: count * repeats, a, b, scalar, out: out.ptr() };
        // SAFETY: each tensor has the size that it is passed with, and lives on beyond the download.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        trial.judge(Forward, &out, &plain, &expected)
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Map { operation, precision, output, count, repeats, shift, .. } = self;
        write!(f, "{operation:?} {precision}")?;
        if output != precision {
            write!(f, " to {output}")?;
        }
        write!(f, " {count}")?;
        if *repeats > 1 {
            write!(f, " x {repeats}")?;
        }
        if *shift > 0 { write!(f, " shifted") } else { Ok(()) }
    }
}

impl Map {
    /// All of them.
    pub const OPERATIONS: [Operation; 8] = [
        Operation::Fill,
        Operation::Cast,
        Operation::Scale,
        Operation::ScaleBy,
        Operation::Add,
        Operation::Sub,
        Operation::Mul,
        Operation::AddScaled,
    ];

    /// The cases that tell the most: each operation on each type, over more than one block and an operand that repeats;
    /// casts between types; none, one, and no alignment.
    #[must_use]
    pub fn telling() -> Vec<Map> {
        let new = |operation, precision| Map {
            operation,
            precision,
            output: precision,
            count: 1100,
            repeats: 3,
            shift: 0,
            scalar: -1.7,
            seed: 1,
        };
        let each = Map::OPERATIONS.into_iter();
        let mut cases: Vec<Map> =
            each.flat_map(|operation| Precision::ALL.map(|precision| new(operation, precision))).collect();
        for (from, to) in [
            (Precision::F32, Precision::Bf16),
            (Precision::Bf16, Precision::F32),
            (Precision::F32, Precision::F16),
            (Precision::F16, Precision::F32),
        ] {
            cases.push(Map { output: to, ..new(Operation::Cast, from) });
        }
        let add = new(Operation::Add, Precision::Bf16);
        cases.push(Map { count: 0, ..add });
        cases.push(Map { count: 1, repeats: 1, ..add });
        cases.push(Map { count: 2049, repeats: 1, shift: 3, ..add });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        const COUNT: usize = 16_384;
        let map = |name, operation, tensors: usize| {
            let case = Map {
                operation,
                precision: Precision::Bf16,
                output: Precision::Bf16,
                count: COUNT,
                repeats: 1,
                shift: 0,
                scalar: 1.0,
                seed: 1,
            };
            Canonical::moving(name, case, tensors * 2 * COUNT)
        };
        vec![map("add", Operation::Add, 3)]
    }
}

/// How many tensors an operation reads.
fn operands_of(operation: Operation) -> usize {
    match operation {
        Operation::Fill => 0,
        Operation::Cast | Operation::Scale => 1,
        _ => 2,
    }
}

fn exact(operation: Operation, a: f64, b: f64, scalar: f64) -> f64 {
    match operation {
        Operation::Fill => scalar,
        Operation::Cast => a,
        Operation::Scale | Operation::ScaleBy => a * scalar,
        Operation::Add => a + b,
        Operation::Sub => a - b,
        Operation::Mul => a * b,
        Operation::AddScaled => a + scalar * b,
    }
}

/// The formulas as they stand, in f32.
fn plain(operation: Operation, a: f32, b: f32, scalar: f32) -> f32 {
    match operation {
        Operation::Fill => scalar,
        Operation::Cast => a,
        Operation::Scale | Operation::ScaleBy => a * scalar,
        Operation::Add => a + b,
        Operation::Sub => a - b,
        Operation::Mul => a * b,
        Operation::AddScaled => a + scalar * b,
    }
}
