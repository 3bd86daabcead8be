//! GELU and SwiGLU with bias, forward and backward, by number of rows, in bytes that have to move: GPT-2's MLP, and the
//! halves of one tensor as Llama's MLP has them.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row, normal};
use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::Dtype;
use longhand_kernels::activation::{
    Activation as Kernel, ActivationBackwardArgs, ActivationForwardArgs, Function, Rows,
};
use longhand_tensor::ops::Activation;
use longhand_tensor::{Tensor, no_grad, ops};

const TOKENS: [usize; 4] = [256, 1024, 4096, 16_384];
const GPU_TOKENS: [usize; 4] = [1024, 8192, 65_536, 262_144];

/// Which of the two.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Gelu,
    SwiGlu,
}

const KINDS: [Kind; 2] = [Kind::Gelu, Kind::SwiGlu];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Gelu => "GELU",
            Kind::SwiGlu => "SwiGLU",
        }
    }

    /// Of the result.
    fn width(self) -> usize {
        match self {
            Kind::Gelu => 3072,
            Kind::SwiGlu => 2048,
        }
    }

    /// Of the input.
    fn columns(self) -> usize {
        if self == Kind::SwiGlu { 2 * self.width() } else { self.width() }
    }

    fn row(self, pass: &str, rows: usize, (dtype, bytes): (&str, usize)) -> Row {
        let width = self.width();
        let row = Row::new(&format!("{} {pass}", self.name()), dtype, "N", rows);
        // Backward reads the input and the gradient of the result, and writes that of the input.
        let inputs = if pass == "backward" { 2 } else { 1 };
        let moved = (inputs * self.columns() + width) * rows * bytes;
        row.variant(&format!("bias W{width}")).sizes([("N", rows), ("W", width)]).moves(moved)
    }

    fn apply(self, x: &Tensor, bias: &Tensor) -> longhand_tensor::Result<Tensor> {
        match self {
            Kind::Gelu => ops::activation(x, Some(bias), Activation::GeluTanh),
            Kind::SwiGlu => ops::gated_halves(x, Some(bias), Activation::Silu),
        }
    }

    fn kernel(self) -> Kernel {
        match self {
            Kind::Gelu => Kernel::new(Function::GeluTanh, Dtype::Bf16).bias(true),
            Kind::SwiGlu => Kernel::new(Function::Silu, Dtype::Bf16).gated(true).bias(true),
        }
    }

    /// The two inputs that lie in this tensor of `columns`.
    fn halves(self, tensor: &Buffer) -> [Rows; 2] {
        let rows = |data| Rows { data, stride: self.columns() as i64 };
        [rows(tensor.ptr()), if self == Kind::SwiGlu { rows(self.second(tensor)) } else { Rows::NONE }]
    }

    /// What lies behind the first `W` elements, where there is something.
    fn second(self, tensor: &Buffer) -> DevicePtr {
        if self == Kind::SwiGlu { tensor.ptr().offset(2 * self.width() as i64) } else { DevicePtr::NULL }
    }
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for (kind, rows) in KINDS.into_iter().flat_map(|kind| TOKENS.map(|rows| (kind, rows))) {
        let inputs = || -> Result<_> {
            Ok([normal(&[rows, kind.columns()])?.requires_grad(), normal(&[kind.columns()])?.requires_grad()])
        };
        bench.measure(kind.row("forward", rows, ("f32", 4)), || {
            let [x, bias] = inputs()?;
            Ok(move || Ok(no_grad(|| kind.apply(&x, &bias))?))
        })?;
        bench.measure_backward(kind.row("backward", rows, ("f32", 4)), || {
            let [x, bias] = inputs()?;
            Ok(move || Ok(vec![kind.apply(&x, &bias)?]))
        })?;
    }
    Ok(())
}

fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    for kind in KINDS {
        for rows in gpu.lengths(&GPU_TOKENS, 64) {
            forward(bench, gpu, kind, rows)?;
            backward(bench, gpu, kind, rows)?;
        }
    }
    Ok(())
}

fn forward(bench: &mut Bench, gpu: &Gpu, kind: Kind, rows: usize) -> Result<()> {
    let (width, columns) = (kind.width(), kind.columns());
    let bytes = 2 * rows * (columns + width);
    let row = kind.row("forward", rows, ("bf16", 2)).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = kind.kernel().plan_forward(&gpu.device)?;
        let bias = gpu.random(Dtype::Bf16, columns)?;
        let random = |columns: usize| gpu.random(Dtype::Bf16, rows * columns);
        let mut sets = gpu.cycle(bytes, || Ok([random(columns)?, random(width)?]))?;
        Ok(move || {
            let [input, out] = sets.take();
            let [x, up] = kind.halves(input);
            let up_bias = kind.second(&bias);
            let args =
                ActivationForwardArgs { rows, width, x, up, bias: bias.ptr(), up_bias, out: out.ptr() };
            // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

fn backward(bench: &mut Bench, gpu: &Gpu, kind: Kind, rows: usize) -> Result<()> {
    let (width, columns) = (kind.width(), kind.columns());
    let bytes = 2 * rows * (2 * columns + width);
    let row = kind.row("backward", rows, ("bf16", 2)).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = kind.kernel().plan_backward(&gpu.device)?;
        let workspace = gpu.stream.alloc(plan.workspace_bytes(rows, width))?;
        let [bias, dbias] = [gpu.random(Dtype::Bf16, columns)?, gpu.random(Dtype::Bf16, columns)?];
        let random = |columns: usize| gpu.random(Dtype::Bf16, rows * columns);
        let mut sets = gpu.cycle(bytes, || Ok([random(columns)?, random(columns)?, random(width)?]))?;
        Ok(move || {
            let [input, gradient, dout] = sets.take();
            let ([x, up], [dx, dup]) = (kind.halves(input), kind.halves(gradient));
            let args = ActivationBackwardArgs {
                rows,
                width,
                dout: dout.ptr(),
                x,
                up,
                bias: bias.ptr(),
                up_bias: kind.second(&bias),
                dx,
                dup,
                dbias: dbias.ptr(),
                dup_bias: kind.second(&dbias),
                workspace: workspace.ptr(),
            };
            // SAFETY: as above.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu)
}
