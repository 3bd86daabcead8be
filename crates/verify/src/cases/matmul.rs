//! Matrix products.

use crate::tolerance::Rule::Forward;
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View};
use longhand_gpu::DevicePtr;
use longhand_kernels::matmul::{Matmul as Kernel, MatmulArgs, Matrix, Operand, Order};
use longhand_reference as reference;
use std::fmt;

/// One batch of products.
#[derive(Clone, Debug)]
pub struct Matmul {
    /// Of the operands.
    pub precision: Precision,
    /// Of the product and the bias: f32, or that of the operands.
    pub output: Precision,
    /// Number of products.
    pub batch: usize,
    /// Rows of a, columns of b, and what is summed over.
    pub sizes: [usize; 3],
    /// How a and b lie.
    pub orders: [Order; 2],
    /// Whether there is a bias.
    pub bias: bool,
    /// What else is added.
    pub addend: Addend,
    /// Elements between the rows, or columns, of each matrix.
    pub gap: usize,
    /// Elements that each matrix starts after an aligned address.
    pub shift: usize,
    /// Of the operands.
    pub seed: u64,
}

/// What is added to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addend {
    /// Nothing.
    None,
    /// Another matrix.
    Other,
    /// What the output held.
    Output,
}

impl Addend {
    /// All of them.
    pub const ALL: [Addend; 3] = [Addend::None, Addend::Other, Addend::Output];
}

impl Case for Matmul {
    fn operation(&self) -> &'static str {
        "matmul"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Matmul { precision, output, batch, sizes: [m, n, k], orders, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let (a_values, b_values) = (draw.vec(batch * m * k), draw.vec(batch * k * n));
        let mut draw = Draw::new(output, self.seed);
        let (bias_values, c_values) = (draw.vec(n), draw.vec(batch * m * n));
        let (expected, plain) = self.products(&a_values, &b_values, &bias_values, &c_values);

        let a_layout = self.layout([m, k], orders[0]);
        let b_layout = self.layout([k, n], orders[1]);
        let d_layout = self.layout([m, n], Order::RowMajor);
        let a = trial.input("a", precision, &a_layout, &a_values)?;
        let b = trial.input("b", precision, &b_layout, &b_values)?;
        let bias = trial.vector("bias", output, &bias_values)?;
        let c = trial.input("c", output, &d_layout, &c_values)?;
        let d = match self.addend {
            Addend::Output => trial.input("d", output, &d_layout, &c_values)?,
            Addend::None | Addend::Other => trial.output("d", output, &d_layout)?,
        };
        let operand_of_d = operand(&d, Order::RowMajor);
        let plan = Kernel::new(precision.dtype()).output(output.dtype()).orders(orders[0], orders[1]);
        let plan = plan.plan(trial.stream().device())?;
        let args = MatmulArgs {
            m,
            n,
            k,
            batch,
            a: operand(&a, orders[0]),
            b: operand(&b, orders[1]),
            bias: if self.bias { bias.ptr() } else { DevicePtr::NULL },
            c: match self.addend {
                Addend::None => None,
                Addend::Other => Some(operand(&c, Order::RowMajor)),
                Addend::Output => Some(operand_of_d),
            },
            d: operand_of_d,
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the download.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        // Sums of either sign cancel: f32 leaves this much of products of size 1.
        let cancellation = f64::from(f32::EPSILON) * k as f64;
        trial.judge_with(Forward, &d, &plain, &expected, cancellation)
    }
}

impl fmt::Display for Matmul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Matmul { precision, output, batch, sizes: [m, n, k], orders, .. } = self;
        write!(f, "{precision}")?;
        if output != precision {
            write!(f, " to {output}")?;
        }
        let letter = |order| if order == Order::RowMajor { 'n' } else { 't' };
        write!(f, " B{batch} M{m} N{n} K{k} {}{}", letter(orders[0]), letter(orders[1]))?;
        write!(f, "{}", if self.bias { " bias" } else { "" })?;
        f.write_str(match self.addend {
            Addend::None => "",
            Addend::Other => " plus another",
            Addend::Output => " added",
        })?;
        write!(f, "{}", if self.gap > 0 { " strided" } else { "" })?;
        write!(f, "{}", if self.shift > 0 { " shifted" } else { "" })
    }
}

impl Matmul {
    /// The types that the kernels take: of operands and of the product.
    pub const TYPES: [(Precision, Precision); 5] = [
        (Precision::F32, Precision::F32),
        (Precision::Bf16, Precision::Bf16),
        (Precision::Bf16, Precision::F32),
        (Precision::F16, Precision::F16),
        (Precision::F16, Precision::F32),
    ];

    /// How a and b may lie.
    pub const ORDERS: [[Order; 2]; 4] = [
        [Order::RowMajor, Order::RowMajor],
        [Order::RowMajor, Order::ColumnMajor],
        [Order::ColumnMajor, Order::RowMajor],
        [Order::ColumnMajor, Order::ColumnMajor],
    ];

    /// The cases that tell the most: each combination of types and orders over several tiles along each dimension; the
    /// edges of a tile; none of this or that; no alignment.
    #[must_use]
    pub fn telling() -> Vec<Matmul> {
        let new = |(precision, output), orders, sizes| Matmul {
            precision,
            output,
            batch: 1,
            sizes,
            orders,
            bias: false,
            addend: Addend::None,
            gap: 0,
            shift: 0,
            seed: 1,
        };
        let of_types = |types| Matmul::ORDERS.map(|orders| new(types, orders, [72, 136, 200]));
        let mut cases: Vec<Matmul> = Matmul::TYPES.into_iter().flat_map(of_types).collect();
        let [f32, bf16, bf16_to_f32, ..] = Matmul::TYPES;
        let plain = Matmul::ORDERS[0];
        for sizes in [[0, 8, 8], [8, 8, 0], [1, 1, 1], [64, 64, 64], [65, 63, 129]] {
            cases.push(Matmul { bias: true, ..new(bf16, plain, sizes) });
        }
        cases.push(Matmul { batch: 3, gap: 8, bias: true, ..new(bf16, plain, [40, 72, 24]) });
        cases.push(Matmul { batch: 2, gap: 3, shift: 1, ..new(bf16, Matmul::ORDERS[3], [40, 72, 24]) });
        let others = [(f32, Addend::Other), (bf16, Addend::Other), (bf16_to_f32, Addend::Output)];
        for (types, addend) in others {
            cases.push(Matmul { addend, bias: true, batch: 2, ..new(types, plain, [70, 66, 20]) });
            cases.push(Matmul { addend, gap: 3, ..new(types, plain, [70, 66, 20]) });
        }
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let (m, n, k) = (128, 192, 256);
        let product = |precision| Matmul {
            precision,
            output: precision,
            batch: 1,
            sizes: [m, n, k],
            orders: Matmul::ORDERS[0],
            bias: false,
            addend: Addend::None,
            gap: 0,
            shift: 0,
            seed: 1,
        };
        let (elements, operations) = (m * k + k * n + m * n, 2 * m * n * k);
        let bf16 = product(Precision::Bf16);
        let added = Matmul {
            output: Precision::F32,
            addend: Addend::Output,
            orders: Matmul::ORDERS[2],
            ..bf16.clone()
        };
        let bytes_added = 2 * (m * k + k * n) + 4 * 2 * m * n;
        vec![
            Canonical::multiplying("matmul_bf16", bf16, 2 * elements, operations),
            Canonical::multiplying("matmul_bf16_added_to_f32", added, bytes_added, operations),
            Canonical::moving("matmul_f32", product(Precision::F32), 4 * elements),
        ]
    }

    /// What the reference says, and what sums in f32 say.
    fn products(&self, a: &[f64], b: &[f64], bias: &[f64], c: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let [m, n, k] = self.sizes;
        let mut expected = Vec::with_capacity(self.batch * m * n);
        let mut plain = Vec::with_capacity(self.batch * m * n);
        for i in 0..self.batch {
            let (a, b) = (&a[i * m * k..][..m * k], &b[i * k * n..][..k * n]);
            if k > 0 && n > 0 {
                expected.extend(reference::linear((k, n), a, b, self.bias.then_some(bias)));
            } else {
                expected.extend((0..m).flat_map(|_| bias.iter().map(|x| if self.bias { *x } else { 0.0 })));
            }
            for row in 0..m {
                let mut sums = vec![0.0f32; n];
                for (x, b) in a[row * k..][..k].iter().zip(b.chunks_exact(n.max(1))) {
                    sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += *x as f32 * *y as f32);
                }
                let biased = |(sum, bias): (f32, &f64)| if self.bias { sum + *bias as f32 } else { sum };
                plain.extend(sums.into_iter().zip(bias).map(biased).map(f64::from));
            }
        }
        for ((expected, plain), c) in expected.iter_mut().zip(&mut plain).zip(c) {
            let c = if self.addend == Addend::None { 0.0 } else { *c };
            *expected += c;
            *plain = self.output.round(*plain as f32 + c as f32).into();
        }
        (expected, plain)
    }

    /// Of a batch of matrices.
    fn layout(&self, [rows, columns]: [usize; 2], order: Order) -> Layout {
        let (lines, length) = if order == Order::RowMajor { (rows, columns) } else { (columns, rows) };
        let leading = (length.max(1) + self.gap) as i64;
        let batch = lines.max(1) as i64 * leading;
        let strides = if order == Order::RowMajor { [batch, leading, 1] } else { [batch, 1, leading] };
        Layout::strided(&[self.batch, rows, columns], &strides).shifted(self.shift)
    }
}

fn operand(view: &View, order: Order) -> Operand {
    let [batch_stride, row, column] = view.strides()[..] else { unreachable!("(batch, rows, columns)") };
    let leading = if order == Order::RowMajor { row } else { column };
    Operand { data: view.ptr(), matrix: Matrix { order, leading, batch_stride } }
}
