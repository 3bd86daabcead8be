//! A CUDA kernel of one's own as a differentiable operation: `cargo run -p longhand-tensor --example own_kernel`.
//!
//! It is compiled when the program runs, and launched on the GPU where there is one, else on an emulated one, which also
//! finds what the kernel does wrong. Compiling takes NVRTC; `longhand doctor` says where it is looked for.

use longhand_gpu::{DevicePtr, Kernel, Launch, Program, emulator, params};
use longhand_tensor::{Backward, Device, Dtype, Error, Forward, Gpu, Operation, Result, Tensor, apply};

/// Snake (Ziyin et al. 2020, arXiv 2006.08195, eq. 3) and its derivative, one element per thread.
const SOURCE: &str = r#"
struct Params {
    const float* x;     // (n)
    const float* grad;  // (n), of out; backward only
    float*       out;   // (n), overwritten: snake of x, or the gradient of x
    long long    n;
    float        a;
};

extern "C" __global__ void snake(const __grid_constant__ Params p) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= p.n) return;
    const float s = sinf(p.a * p.x[i]);
    p.out[i] = p.x[i] + s * s / p.a;
}

extern "C" __global__ void snake_backward(const __grid_constant__ Params p) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= p.n) return;
    p.out[i] = p.grad[i] * (1 + sinf(2 * p.a * p.x[i]));
}
"#;

params! {
    /// The struct in the source, field for field; compiling checks that both have the same layout.
    struct Params {
        x: DevicePtr,
        grad: DevicePtr,
        out: DevicePtr,
        n: i64,
        a: f32,
        _pad: u32,
    }
}

/// `x + sin²(a x) / a`, elementwise, of f32 on one GPU. Made once: the kernels are compiled here.
#[derive(Clone)]
struct Snake {
    a: f32,
    forward: Kernel,
    backward: Kernel,
}

const NAME: &str = "snake";

impl Snake {
    fn new(a: f32, gpu: &Gpu) -> Result<Snake> {
        let program = Program::new("snake.cu", SOURCE).params(Params::LAYOUT);
        let module = gpu.device().compile_and_load(&program)?;
        Ok(Snake { a, forward: module.kernel("snake")?, backward: module.kernel("snake_backward")? })
    }

    fn launch(&self, kernel: &Kernel, x: &Tensor, grad: Option<&Tensor>) -> Result<Tensor> {
        let Device::Gpu(gpu) = x.device() else {
            return Err(Error::argument(
                NAME,
                "x",
                "on the CPU",
                "on the GPU that its kernels are compiled for",
            ));
        };
        let out = gpu.empty(x.shape(), Dtype::F32)?;
        let params = Params {
            x: x.pointer(NAME)?,
            grad: grad.map_or(Ok(DevicePtr::NULL), |grad| grad.pointer(NAME))?,
            out: out.pointer(NAME)?,
            n: x.numel() as i64,
            a: self.a,
            _pad: 0,
        };
        let blocks = x.numel().div_ceil(256) as u32;
        if blocks > 0 {
            let shape = Launch { grid: [blocks, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
            // SAFETY: x, grad and out are contiguous, of this device, and have n elements; out is new.
            unsafe { kernel.launch(gpu.stream(), shape, &params)? };
        }
        Ok(out)
    }
}

impl Operation for Snake {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let x = inputs[0].contiguous()?;
        if x.dtype() != Dtype::F32 {
            return Err(Error::argument(NAME, "x", x.dtype().to_string(), "f32"));
        }
        let out = self.launch(&self.forward, &x, None)?;
        // What backward reads, and only when it will be run.
        Ok(Forward::new([out]).save([needs[0].then_some(x)]))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?.contiguous()?;
        Ok(vec![Some(self.launch(&self.backward, ctx.saved(0)?, Some(&grad))?)])
    }
}

/// Fits one number through the operation, and compares with the formula on the way.
fn run() -> Result<()> {
    let device = match Device::gpu(0) {
        Ok(gpu) => gpu,
        Err(_) => Device::emulated("sm_80".parse()?, emulator::Options::default())?,
    };
    let Device::Gpu(gpu) = &device else { return Ok(()) };
    let snake = Snake::new(0.5, gpu)?;

    let values: Vec<f32> = (0..1000).map(|i| i as f32 * 0.01 - 5.0).collect();
    let x = Tensor::from_slice(&values, &[10, 100], &device)?.requires_grad();
    let y = apply(snake, &[&x])?.remove(0);
    let gradients = y.mul(&y)?.sum_all()?.backward()?; // through the operation and others
    println!("on {device}: {y:?}");

    let gradient = gradients.get(&x).map(Tensor::to_vec::<f32>).transpose()?.unwrap_or_default();
    for ((x, y), gradient) in values.iter().zip(y.to_vec::<f32>()?).zip(gradient) {
        let expected = x + (0.5 * x).sin().powi(2) / 0.5;
        assert!((y - expected).abs() < 1e-5, "snake({x}) = {y}, not {expected}");
        let expected = 2.0 * expected * (1.0 + x.sin());
        assert!((gradient - expected).abs() < 1e-4, "the gradient at {x} is {gradient}, not {expected}");
    }
    println!("values and gradients are those of the formula");
    Ok(())
}

fn main() -> Result<()> {
    run()
}

#[test]
fn values_and_gradients_are_those_of_the_formula() {
    match longhand_gpu::Compiler::new() {
        Ok(_) => run().unwrap(),
        Err(reason) => println!("skipped, there is nothing to compile with: {reason}"),
    }
}
