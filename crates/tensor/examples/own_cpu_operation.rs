//! A differentiable operation of one's own on the CPU: `cargo run -p longhand-tensor --example own_cpu_operation`.
//!
//! It has two inputs, two outputs and a value that forward keeps for backward, and its rule is checked against finite
//! differences.

use longhand_tensor::{
    Backward, Device, Dtype, Error, Forward, Operation, Result, Tensor, apply, check_gradient,
};

/// The cosine similarity of each row of `a` with the same row of `b`, and the products of the rows:
///
/// ```text
/// dot[i] = Σ_j a[i][j] b[i][j]                    (N)
/// cos[i] = dot[i] / (|a[i]| |b[i]|)               (N)
/// ```
///
/// `a` and `b` are `(N, W)`, of f64; the outputs are `cos` and `dot`.
struct RowCosine;

const NAME: &str = "row_cosine";

impl Operation for RowCosine {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let width = check(a, b)?;
        let (x, y) = (a.to_vec::<f64>()?, b.to_vec::<f64>()?); // in row-major order, whatever the strides
        let (mut cos, mut dots, mut norms) = (Vec::new(), Vec::new(), Vec::new());
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact(width)) {
            let norm = (dot(x, x) * dot(y, y)).sqrt();
            dots.push(dot(x, y));
            cos.push(dot(x, y) / norm);
            norms.push(norm);
        }
        let column = |values: Vec<f64>| {
            let rows = values.len();
            Tensor::from_vec(values, &[rows], &Device::Cpu)
        };
        let (cos, dots) = (column(cos)?, column(dots)?);
        let forward = Forward::new([cos.clone(), dots]);
        if !needs.contains(&true) {
            return Ok(forward); // nothing is kept where no gradient will pass
        }
        Ok(forward.save([Some(a.clone()), Some(b.clone()), Some(cos)]).keep(norms))
    }

    /// `da = dcos (b / norm - cos a / |a|²) + ddot b`, and the same the other way round.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (ctx.saved(0)?, ctx.saved(1)?);
        let width = a.shape()[1];
        let (cos, norms) = (ctx.saved(2)?.to_vec::<f64>()?, ctx.kept::<Vec<f64>>()?);
        // Zeros where the result depends on only one of the outputs.
        let [of_cos, of_dot] = [ctx.grad(0)?.to_vec::<f64>()?, ctx.grad(1)?.to_vec::<f64>()?];
        let gradient = |own: &Tensor, other: &Tensor| -> Result<Tensor> {
            let (own_values, other_values) = (own.to_vec::<f64>()?, other.to_vec::<f64>()?);
            let mut values = Vec::with_capacity(own_values.len());
            let rows = own_values.chunks_exact(width).zip(other_values.chunks_exact(width));
            for (i, (x, y)) in rows.enumerate() {
                let square = dot(x, x);
                values.extend(
                    x.iter()
                        .zip(y)
                        .map(|(x, y)| of_cos[i] * (y / norms[i] - cos[i] * x / square) + of_dot[i] * y),
                );
            }
            Tensor::from_vec(values, own.shape(), &Device::Cpu)
        };
        // A gradient that nobody wants is not computed.
        Ok(vec![
            ctx.needs(0).then(|| gradient(a, b)).transpose()?,
            ctx.needs(1).then(|| gradient(b, a)).transpose()?,
        ])
    }
}

/// The width of the rows.
fn check(a: &Tensor, b: &Tensor) -> Result<usize> {
    for (name, tensor) in [("a", a), ("b", b)] {
        if tensor.dtype() != Dtype::F64 || !tensor.device().is_cpu() {
            let found = format!("{} on {}", tensor.dtype(), tensor.device());
            return Err(Error::argument(NAME, name, found, "f64 on the CPU"));
        }
    }
    match *a.shape() {
        [_, width] if width > 0 && a.shape() == b.shape() => Ok(width),
        _ => {
            let found = format!("of shapes {:?} and {:?}", a.shape(), b.shape());
            Err(Error::argument(NAME, "a and b", found, "both of one shape (N, W), with W positive"))
        }
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn run() -> Result<()> {
    let a = Tensor::from_slice(&[1.0, 2.0, 2.0, 0.5, -1.0, 3.0], &[2, 3], &Device::Cpu)?;
    let b = Tensor::from_slice(&[2.0, 0.0, 1.0, 1.0, 1.0, 1.0], &[2, 3], &Device::Cpu)?;
    let outputs = apply(RowCosine, &[&a.requires_grad(), &b])?;
    println!("cosines  {:.4?}\nproducts {:.4?}", outputs[0], outputs[1]);

    let worst = check_gradient(|x| apply(RowCosine, &[&x[0], &x[1]]), &[a, b])?;
    if let Some(worst) = worst {
        println!("the gradient that differs most from finite differences: {worst}");
        assert!(worst.error < 1e-7);
    }
    Ok(())
}

fn main() -> Result<()> {
    run()
}

#[test]
fn the_gradients_are_those_of_finite_differences() {
    run().unwrap();
}
