use crate::device::{View, stream};
use crate::draw::{dtype, for_all, precisions};
use longhand_gpu::Stream;
use longhand_kernels::elementwise::{Map, MapArgs, Operand, Operation};
use longhand_reference as reference;
use longhand_tests::tolerance::Output;
use longhand_tests::{Draw, Precision};
use proptest::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, PI};

#[test]
fn every_operation_is_as_close_to_the_reference_as_its_precision_allows() {
    let Some(stream) = stream() else { return };
    for_all(96, cases(), |case| case.check(&stream));
}

/// One drawn operation.
#[derive(Debug)]
struct Case {
    operation: Operation,
    precision: Precision,
    /// Elements of the second operand
    count: usize,
    /// How often it is repeated to fill the output
    repeats: usize,
    scalar: f32,
    seed: u64,
}

prop_compose! {
    fn cases()(
        operation in prop::sample::select(vec![
            Operation::Fill, Operation::Cast, Operation::Scale, Operation::Add, Operation::Sub, Operation::Mul,
            Operation::GeluTanh, Operation::GeluErf, Operation::GeluTanhBackward, Operation::GeluErfBackward,
        ]),
        precision in precisions(), count in prop::sample::select(vec![0, 1, 7, 8, 9, 64, 1000, 4097]),
        repeats in 1..4usize, scalar in -3.0..3.0f32, seed: u64,
    ) -> Case {
        Case { operation, precision, count, repeats, scalar, seed }
    }
}

impl Case {
    fn check(&self, stream: &Stream) {
        let &Case { operation, precision, count, repeats, scalar, seed } = self;
        let mut draw = Draw::new(precision, seed);
        let (a, b) = (draw.vec(count * repeats), draw.vec(count));
        let repeated = b.repeat(repeats);
        let pairs = || a.iter().zip(&repeated);
        let expected: Vec<f64> = pairs().map(|(&a, &b)| exact(operation, a, b, scalar.into())).collect();
        let plain = pairs().map(|(&a, &b)| plain(operation, a as f32, b as f32, scalar));
        let plain: Vec<f64> = plain.map(|x| precision.round(x).into()).collect();

        let [a, b] = [&a, &b].map(|x| View::upload_contiguous(stream, precision, &[x.len()], x));
        let out = View::poisoned_contiguous(stream, precision, &[count * repeats]);
        let operand = |view: &View, count| Operand { data: view.ptr(), count };
        let (a, b) = match operation {
            Operation::Fill => (Operand::NONE, Operand::NONE),
            Operation::Cast | Operation::Scale | Operation::GeluTanh | Operation::GeluErf => {
                (operand(&a, count * repeats), Operand::NONE)
            }
            _ => (operand(&a, count * repeats), operand(&b, count)),
        };
        let plan = Map::new(operation, dtype(precision)).plan(stream.device()).unwrap();
        let args = MapArgs { count: count * repeats, a, b, scalar, out: out.ptr() };
        // SAFETY: each tensor has the size that it is passed with, and lives on beyond the download.
        unsafe { plan.launch(stream, &args) }.unwrap();
        Output::new("out", precision, &out.download(), &plain, &expected).assert_forward();
    }
}

fn exact(operation: Operation, a: f64, b: f64, scalar: f64) -> f64 {
    match operation {
        Operation::Fill => scalar,
        Operation::Cast => a,
        Operation::Scale => a * scalar,
        Operation::Add => a + b,
        Operation::Sub => a - b,
        Operation::Mul => a * b,
        Operation::GeluTanh => reference::gelu_tanh(&[a])[0],
        Operation::GeluErf => reference::gelu_erf(&[a])[0],
        Operation::GeluTanhBackward => reference::gelu_tanh_backward(&[a], &[b])[0],
        Operation::GeluErfBackward => reference::gelu_erf_backward(&[a], &[b])[0],
    }
}

/// The formulas as they stand, in f32.
fn plain(operation: Operation, a: f32, b: f32, scalar: f32) -> f32 {
    let slope = (2.0 / PI).sqrt();
    let tanh = (slope * (a + 0.044715 * a * a * a)).tanh();
    let normal = 0.5 * (1.0 + reference::erf(f64::from(a * FRAC_1_SQRT_2)) as f32);
    match operation {
        Operation::Fill => scalar,
        Operation::Cast => a,
        Operation::Scale => a * scalar,
        Operation::Add => a + b,
        Operation::Sub => a - b,
        Operation::Mul => a * b,
        Operation::GeluTanh => 0.5 * a * (1.0 + tanh),
        Operation::GeluErf => a * normal,
        Operation::GeluTanhBackward => {
            let inner = slope * (1.0 + 3.0 * 0.044715 * a * a);
            b * 0.5 * (1.0 + tanh + a * (1.0 - tanh * tanh) * inner)
        }
        Operation::GeluErfBackward => b * (normal + a * (-0.5 * a * a).exp() / (2.0 * PI).sqrt()),
    }
}
