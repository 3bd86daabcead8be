use crate::device::{View, stream};
use crate::draw::{dtype, for_all};
use longhand_gpu::{DevicePtr, Stream};
use longhand_kernels::adamw::{AdamW, AdamWArgs, AdamWTensor, State};
use longhand_reference::{self as reference, AdamWOptions};
use longhand_tests::Precision::{self, Bf16, F16, F32};
use longhand_tests::tolerance::Output;
use longhand_tests::{Draw, plain};
use proptest::prelude::*;

#[test]
fn steps_are_as_close_to_the_reference_as_their_precision_allows() {
    let Some(stream) = stream() else { return };
    for_all(64, cases(), |case| case.check(&stream));
}

/// One drawn optimizer and its tensors.
#[derive(Debug)]
struct Case {
    parameter: Precision,
    gradient: Precision,
    master: bool,
    tensors: Vec<Size>,
    steps_before: u32,
    steps: u32,
    lr: f32,
    eps: f32,
    gradient_scale: Option<f32>,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    count: usize,
    /// Elements that the tensor starts after an aligned address
    shift: usize,
    weight_decay: f32,
}

prop_compose! {
    fn sizes()(
        count in prop::sample::select(vec![0, 1, 7, 8, 9, 1000, 16_383, 16_384, 16_385, 40_000]),
        shift in prop::sample::select(vec![0, 0, 1, 4]),
        weight_decay in prop::sample::select(vec![0.0, 0.1f32]),
    ) -> Size {
        Size { count, shift, weight_decay }
    }
}

prop_compose! {
    fn cases()(
        (parameter, gradient, master) in prop::sample::select(vec![
            (F32, F32, false), (Bf16, Bf16, false), (Bf16, Bf16, true), (Bf16, F32, true), (F16, F16, true),
        ]),
        tensors in prop::collection::vec(sizes(), 0..6),
        steps_before in prop::sample::select(vec![0, 1, 10, 1000, 1_000_000]),
        steps in 1..4u32, lr in 1e-4..1e-1f32, eps in prop::sample::select(vec![1e-8, 1e-3f32]),
        gradient_scale in prop::option::of(0.1..1.0f32), seed: u64,
    ) -> Case {
        Case { parameter, gradient, master, tensors, steps_before, steps, lr, eps, gradient_scale, seed }
    }
}

const BETAS: (f64, f64) = (0.9, 0.999);

impl Case {
    fn check(&self, stream: &Stream) {
        let mut tensors: Vec<Tensor> = (self.seed..)
            .zip(&self.tensors)
            .map(|(seed, size)| Tensor::new(self, *size, seed, stream))
            .collect();
        let plan = AdamW::new(dtype(self.parameter), dtype(self.gradient)).master(self.master);
        let plan = plan.plan(stream.device()).unwrap();
        let table: Vec<AdamWTensor> = tensors.iter().map(Tensor::on_device).collect();
        let table = plan.tensors(stream, &table).unwrap();

        let state = stream.alloc(size_of::<State>()).unwrap();
        state.upload(0, bytemuck::bytes_of(&State::new(self.steps_before.into(), self.lr))).unwrap();
        let scale =
            self.gradient_scale.map(|scale| View::upload_contiguous(stream, F32, &[], &[scale.into()]));
        let args = AdamWArgs {
            tensors: &table,
            state: state.ptr(),
            gradient_scale: scale.as_ref().map_or(DevicePtr::NULL, View::ptr),
            beta1: BETAS.0,
            beta2: BETAS.1,
            eps: self.eps,
        };
        for step in 1..=self.steps {
            let gradients: Vec<Shifted> = tensors
                .iter_mut()
                .map(|tensor| tensor.step(self, self.steps_before + step, stream))
                .collect();
            let pointers: Vec<DevicePtr> = gradients.iter().map(Shifted::ptr).collect();
            table.gradients().set(&pointers).unwrap();
            // SAFETY: the tensors and the gradients just set have the sizes that the table was made with, and live on
            // beyond the synchronisation.
            unsafe { plan.launch(stream, &args) }.unwrap();
            stream.synchronize().unwrap();
        }
        tensors.iter().for_each(|tensor| tensor.assert(self));
        let mut after = [0; size_of::<State>()];
        state.download(0, &mut after).unwrap();
        let after: State = bytemuck::pod_read_unaligned(&after);
        assert_eq!(after.step, i64::from(self.steps_before + self.steps));
    }

    fn options(&self, weight_decay: f32) -> AdamWOptions {
        AdamWOptions {
            lr: self.lr.into(),
            beta1: BETAS.0,
            beta2: BETAS.1,
            eps: self.eps.into(),
            weight_decay: weight_decay.into(),
        }
    }
}

/// A parameter and its moments.
#[derive(Clone)]
struct Values {
    parameter: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

/// A parameter on the device, and what it has to become.
struct Tensor {
    size: Size,
    draw: Draw,
    expected: Values,
    /// With a master copy, this is of that
    plain: Values,
    parameter: Shifted,
    master: Option<Shifted>,
    m: Shifted,
    v: Shifted,
}

impl Tensor {
    fn new(case: &Case, size: Size, seed: u64, stream: &Stream) -> Tensor {
        let mut f32s = Draw::new(F32, seed);
        let values = Values {
            parameter: Draw::new(if case.master { F32 } else { case.parameter }, seed).vec(size.count),
            m: f32s.vec(size.count),
            v: f32s.vec(size.count).iter().map(|x| f64::from((x * x + 0.01) as f32)).collect(),
        };
        let upload = |precision, values: &[f64]| Shifted::upload(stream, precision, size.shift, values);
        Tensor {
            size,
            draw: Draw::new(case.gradient, seed),
            parameter: upload(case.parameter, &values.parameter),
            master: case.master.then(|| upload(F32, &values.parameter)),
            m: upload(F32, &values.m),
            v: upload(F32, &values.v),
            plain: values.clone(),
            expected: values,
        }
    }

    fn on_device(&self) -> AdamWTensor {
        AdamWTensor {
            count: self.size.count,
            parameter: self.parameter.ptr(),
            master: self.master.as_ref().map_or(DevicePtr::NULL, Shifted::ptr),
            m: self.m.ptr(),
            v: self.v.ptr(),
            weight_decay: self.size.weight_decay,
        }
    }

    /// Draws a gradient, steps what is expected, and returns the gradient on the device.
    fn step(&mut self, case: &Case, step: u32, stream: &Stream) -> Shifted {
        let gradient = self.draw.vec(self.size.count);
        let scale = case.gradient_scale.unwrap_or(1.0);
        let options = case.options(self.size.weight_decay);

        let scaled: Vec<f64> = gradient.iter().map(|g| g * f64::from(scale)).collect();
        let Values { parameter, m, v } = &mut self.expected;
        reference::adamw(&options, step.into(), parameter, &scaled, m, v);

        let scaled: Vec<f64> = gradient.iter().map(|g| (*g as f32 * scale).into()).collect();
        let Values { parameter, m, v } = &mut self.plain;
        let precision = if case.master { F32 } else { case.parameter };
        plain::adamw(precision, &options, step.into(), parameter, &scaled, m, v);

        Shifted::upload(stream, case.gradient, self.size.shift, &gradient)
    }

    fn assert(&self, case: &Case) {
        let Tensor { plain, expected, .. } = self;
        let mut rounded = plain.parameter.clone();
        rounded.iter_mut().for_each(|x| *x = case.parameter.round(*x as f32).into());
        Output::new("parameter", case.parameter, &self.parameter.download(), &rounded, &expected.parameter)
            .assert_forward();
        if let Some(master) = &self.master {
            Output::new("master", F32, &master.download(), &plain.parameter, &expected.parameter)
                .assert_forward();
        }
        Output::new("m", F32, &self.m.download(), &plain.m, &expected.m).assert_forward();
        Output::new("v", F32, &self.v.download(), &plain.v, &expected.v).assert_forward();
    }
}

/// A contiguous tensor that starts some elements after an aligned address.
struct Shifted {
    view: View,
    precision: Precision,
    shift: usize,
}

impl Shifted {
    const BEFORE: f64 = 7.0;

    fn upload(stream: &Stream, precision: Precision, shift: usize, values: &[f64]) -> Shifted {
        let all = [&vec![Shifted::BEFORE; shift], values].concat();
        Shifted { view: View::upload_contiguous(stream, precision, &[all.len()], &all), precision, shift }
    }

    fn ptr(&self) -> DevicePtr {
        self.view.ptr().offset((self.shift * self.precision.bytes()) as i64)
    }

    fn download(&self) -> Vec<f64> {
        let mut all = self.view.download();
        let values = all.split_off(self.shift);
        assert!(all.iter().all(|&x| x == Shifted::BEFORE), "what lies before the tensor was written");
        values
    }
}
