//! Matrix products, plain: for where cuBLASLt is not, and for devices that it does not know.
//!
//! ```no_run
//! use longhand_gpu::{Device, DevicePtr};
//! use longhand_kernels::Dtype;
//! use longhand_kernels::matmul::{Matmul, MatmulArgs, Matrix, Operand};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // y (512, 3072) = x (512, 768) · w (768, 3072), in bf16.
//! let device = Device::emulated("sm_80".parse()?)?;
//! let stream = device.new_stream()?;
//! let plan = Matmul::new(Dtype::Bf16).plan(&device)?;
//! let [x, w, y] = [512 * 768, 768 * 3072, 512 * 3072].map(|n| stream.alloc(2 * n));
//! let (x, w, y) = (x?, w?, y?);
//! let args = MatmulArgs {
//!     m: 512,
//!     n: 3072,
//!     k: 768,
//!     batch: 1,
//!     a: Operand { data: x.ptr(), matrix: Matrix::row_major(768) },
//!     b: Operand { data: w.ptr(), matrix: Matrix::row_major(3072) },
//!     bias: DevicePtr::NULL,
//!     c: None,
//!     d: Operand { data: y.ptr(), matrix: Matrix::row_major(3072) },
//! };
//! // SAFETY: all tensors lie within the allocations above, which outlive the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

pub use longhand_gpu::cublaslt::{Matrix, Order};
use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS};
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("matmul");
/// Rows and columns of `d` that a block computes.
const TILE: usize = 64;

params! {
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    struct Params {
        a: DevicePtr,
        b: DevicePtr,
        bias: DevicePtr,
        c: DevicePtr,
        d: DevicePtr,
        M: i64,
        N: i64,
        K: i64,
        a_leading: i64,
        b_leading: i64,
        c_leading: i64,
        d_leading: i64,
        a_batch: i64,
        b_batch: i64,
        c_batch: i64,
        d_batch: i64,
        a_aligned: i32,
        b_aligned: i32,
        d_aligned: i32,
        _pad: u32,
    }
}

/// `d = a · b (+ bias) (+ c)`, for each product of a batch: `a` is `(M, K)`, `b` `(K, N)`, `c` and `d` `(M, N)`, `bias`
/// `(N)`, added to every row. Sums are f32; products of f32 are full f32.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    dtype: Dtype,
    output: Dtype,
    a: Order,
    b: Order,
}

impl Matmul {
    /// Of row-major operands of `dtype`, which is also the output's.
    #[must_use]
    pub fn new(dtype: Dtype) -> Matmul {
        Matmul { dtype, output: dtype, a: Order::RowMajor, b: Order::RowMajor }
    }

    /// The dtype of `d`, `c` and the bias, where it is f32 and that of the operands is not.
    #[must_use]
    pub fn output(self, output: Dtype) -> Matmul {
        Matmul { output, ..self }
    }

    /// How the operands lie.
    #[must_use]
    pub fn orders(self, a: Order, b: Order) -> Matmul {
        Matmul { a, b, ..self }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for an output dtype that is neither f32 nor that of the operands, or for 16-bit operands on
    /// a device older than sm_80; [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<MatmulPlan> {
        if self.output != self.dtype && self.output != Dtype::F32 {
            return Err(CHECK.error("output", self.output, format!("{} or f32", self.dtype)));
        }
        if self.dtype != Dtype::F32 && device.arch().number() < 80 {
            return Err(CHECK.error("architecture", device.arch(), "sm_80 or later"));
        }
        Ok(MatmulPlan { kind: *self, kernel: Loaded::new(device, &self.variant())? })
    }

    fn variant(self) -> Variant {
        let [mma, fma] = *cuda_files!["matmul/mma.cu", "matmul/fma.cu"];
        let (file, entry, threads) =
            if self.dtype == Dtype::F32 { (fma, "matmul_fma", 256) } else { (mma, "matmul_mma", 128) };
        let constants = Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .alias("Output", self.output.cuda_name())
            .bool("A_ALONG_K", self.a == Order::RowMajor)
            .bool("B_ALONG_K", self.b == Order::ColumnMajor);
        let program = program(file, cuda_files!["matmul/params.cuh"], constants).params(Params::LAYOUT);
        Variant { program, entry, threads, shared_bytes: 0 }
    }
}

/// Every order in one type of each kernel, every type in one order.
pub(crate) fn variants() -> Vec<Variant> {
    use Dtype::{Bf16, F16, F32};
    use Order::{ColumnMajor, RowMajor};
    let of_orders = |dtype| {
        [(RowMajor, RowMajor), (RowMajor, ColumnMajor), (ColumnMajor, RowMajor), (ColumnMajor, ColumnMajor)]
            .map(|(a, b)| Matmul { dtype, output: dtype, a, b })
    };
    let of_types =
        [(F16, F16), (Bf16, F32)].map(|(dtype, output)| Matmul { dtype, output, a: RowMajor, b: RowMajor });
    [Bf16, F32].into_iter().flat_map(of_orders).chain(of_types).map(Matmul::variant).collect()
}

/// A matrix, or a batch of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The first element.
    pub data: DevicePtr,
    /// Where the others are.
    pub matrix: Matrix,
}

/// What [`MatmulPlan::launch`] computes with. Any alignment will do; a matrix whose rows (or columns, where those are
/// without gaps) all start at multiples of 16 bytes is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct MatmulArgs {
    /// Rows of `a` and `d`.
    pub m: usize,
    /// Columns of `b` and `d`.
    pub n: usize,
    /// Columns of `a`, rows of `b`. With 0, the products are 0.
    pub k: usize,
    /// Number of products.
    pub batch: usize,
    /// In the order that the plan says.
    pub a: Operand,
    /// In the order that the plan says.
    pub b: Operand,
    /// `(N)`, of the output's dtype; [`DevicePtr::NULL`] for none.
    pub bias: DevicePtr,
    /// What is added to the product before it is rounded, such as a residual: row-major, of the output's dtype. It may be
    /// `d` itself, to which the product is then added.
    pub c: Option<Operand>,
    /// Row-major, overwritten.
    pub d: Operand,
}

/// A compiled [`Matmul`].
#[derive(Clone, Debug)]
pub struct MatmulPlan {
    kind: Matmul,
    kernel: Loaded,
}

impl MatmulPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where `d` has no elements.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; `d` overlaps no other tensor, unless it is `c`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take; [`Error::Gpu`](crate::Error::Gpu) where the device
    /// refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &MatmulArgs) -> Result<()> {
        let MatmulArgs { m, n, k, batch, a, b, bias, c, d } = *args;
        if m == 0 || n == 0 || batch == 0 {
            return Ok(());
        }
        let blocks = check(self.kind, args)?;
        let [input, output] = [self.kind.dtype.size(), self.kind.output.size()];
        let params = Params {
            a: a.data,
            b: b.data,
            bias,
            c: c.map_or(DevicePtr::NULL, |c| c.data),
            d: d.data,
            M: m as i64,
            N: n as i64,
            K: k as i64,
            a_leading: a.matrix.leading,
            b_leading: b.matrix.leading,
            c_leading: c.map_or(0, |c| c.matrix.leading),
            d_leading: d.matrix.leading,
            a_batch: a.matrix.batch_stride,
            b_batch: b.matrix.batch_stride,
            c_batch: c.map_or(0, |c| c.matrix.batch_stride),
            d_batch: d.matrix.batch_stride,
            a_aligned: i32::from(a.is_aligned(input)),
            b_aligned: i32::from(b.is_aligned(input)),
            d_aligned: i32::from(d.is_aligned(output) && c.is_none_or(|c| c.is_aligned(output))),
            _pad: 0,
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.kernel.launch(stream, [blocks, 1], &params) }
    }
}

/// What errors call an operand, its order, and its strides.
macro_rules! names {
    ($name:literal) => {
        [
            $name,
            concat!("order of ", $name),
            concat!("leading stride of ", $name),
            concat!("batch stride of ", $name),
        ]
    };
}

/// Returns the number of blocks.
fn check(kind: Matmul, args: &MatmulArgs) -> Result<u32> {
    let MatmulArgs { m, n, k, batch, a, b, bias, c, d } = *args;
    let tiles = m.div_ceil(TILE).checked_mul(n.div_ceil(TILE)).and_then(|tiles| tiles.checked_mul(batch));
    let Some(blocks) = tiles.filter(|&blocks| blocks <= MAX_BLOCKS) else {
        let was = format!("{batch} products of {m} x {n}");
        return Err(CHECK.error("size", was, format!("at most {MAX_BLOCKS} tiles of {TILE} x {TILE}")));
    };
    if k > 0 {
        check_operand(names!("a"), &a, kind.a, (m, k, batch), kind.dtype)?;
        check_operand(names!("b"), &b, kind.b, (k, n, batch), kind.dtype)?;
    }
    check_operand(names!("d"), &d, Order::RowMajor, (m, n, batch), kind.output)?;
    if let Some(c) = c {
        check_operand(names!("c"), &c, Order::RowMajor, (m, n, batch), kind.output)?;
    }
    let extent = (m - 1).saturating_mul(d.matrix.leading as usize).saturating_add(n);
    CHECK.written_stride("batch stride of d", d.matrix.batch_stride, batch, extent)?;
    CHECK.optional("bias", bias, kind.output)?;
    let none = Operand { data: DevicePtr::NULL, matrix: d.matrix };
    CHECK.apart(&[
        a.extent("a", (m, k, batch), kind.dtype),
        b.extent("b", (k, n, batch), kind.dtype),
        Extent::contiguous("bias", bias, n, kind.output.size()),
        c.unwrap_or(none).extent("c", (m, n, batch), kind.output),
        d.extent("d", (m, n, batch), kind.output).written().may_be(&["c"]),
    ])?;
    Ok(blocks as u32)
}

impl Operand {
    /// Of batches of products.
    fn extent(
        &self,
        name: &'static str,
        (rows, columns, batch): (usize, usize, usize),
        dtype: Dtype,
    ) -> Extent {
        let Matrix { order, leading, batch_stride } = self.matrix;
        let (lines, length) = if order == Order::RowMajor { (rows, columns) } else { (columns, rows) };
        Extent::strided(name, self.data, [(batch, batch_stride), (lines, leading)], length, dtype.size())
    }

    fn is_aligned(&self, element_bytes: usize) -> bool {
        let whole = |stride: i64| stride % (16 / element_bytes as i64) == 0;
        self.data.is_aligned(16) && whole(self.matrix.leading) && whole(self.matrix.batch_stride)
    }
}

fn check_operand(
    [name, name_of_order, name_of_leading, name_of_batch]: [&str; 4],
    operand: &Operand,
    order: Order,
    (rows, columns, batch): (usize, usize, usize),
    dtype: Dtype,
) -> Result<()> {
    let Matrix { order: was, leading, batch_stride } = operand.matrix;
    if was != order {
        return Err(CHECK.error(name_of_order, format!("{was:?}"), format!("{order:?}, as planned")));
    }
    let (lines, length) = if order == Order::RowMajor { (rows, columns) } else { (columns, rows) };
    if leading < 1 {
        return Err(CHECK.error(name_of_leading, leading, "at least 1"));
    }
    CHECK.written_stride(name_of_leading, leading, lines, length)?;
    CHECK.stride(name_of_batch, batch_stride, batch)?;
    CHECK.tensor(name, operand.data, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::assert_apart;

    const AT: DevicePtr = DevicePtr(4096);

    fn operand(matrix: Matrix) -> Operand {
        Operand { data: AT, matrix }
    }

    /// 4 x 6 by 6 x 8.
    fn args() -> MatmulArgs {
        let row_major =
            |i: u64, leading| Operand { data: DevicePtr(i << 20), matrix: Matrix::row_major(leading) };
        MatmulArgs {
            m: 4,
            n: 8,
            k: 6,
            batch: 1,
            a: row_major(1, 6),
            b: row_major(2, 8),
            bias: DevicePtr(3 << 20),
            c: None,
            d: row_major(4, 8),
        }
    }

    fn message(args: MatmulArgs) -> String {
        check(Matmul::new(Dtype::Bf16), &args).map_or_else(|error| error.to_string(), |_| "fine".into())
    }

    #[test]
    fn d_is_apart_from_all_else_but_for_c() {
        let c = Some(Operand { data: DevicePtr(5 << 20), ..args().d });
        assert_apart(
            MatmulArgs { c, ..args() },
            |args| check(Matmul::new(Dtype::Bf16), args).map(drop),
            1,
            &[
                ("d", |args| &mut args.d.data),
                ("a", |args| &mut args.a.data),
                ("b", |args| &mut args.b.data),
                ("bias", |args| &mut args.bias),
                ("c", |args| &mut args.c.as_mut().expect("given").data),
            ],
            &[["d", "c"]],
        );
    }

    #[test]
    fn what_the_kernel_cannot_take_is_named() {
        assert_eq!(message(args()), "fine");
        let a = operand(Matrix::column_major(4));
        assert_eq!(
            message(MatmulArgs { a, ..args() }),
            "matmul: order of a is ColumnMajor, it has to be RowMajor, as planned"
        );
        let b = operand(Matrix::row_major(7));
        assert_eq!(
            message(MatmulArgs { b, ..args() }),
            "matmul: leading stride of b is 7, it has to be at least 8: rows would overlap"
        );
        let d = operand(Matrix::row_major(8).batched(31));
        assert_eq!(
            message(MatmulArgs { d, batch: 2, ..args() }),
            "matmul: batch stride of d is 31, it has to be at least 32: rows would overlap"
        );
        let c = Some(operand(Matrix::column_major(8)));
        assert_eq!(
            message(MatmulArgs { c, ..args() }),
            "matmul: order of c is ColumnMajor, it has to be RowMajor, as planned"
        );
        let c = Some(Operand { matrix: Matrix::row_major(9), ..args().d });
        assert_eq!(
            message(MatmulArgs { c, ..args() }),
            "matmul: d is at 0x400000..0x400040, it has to be apart from c at 0x400000..0x400046, or in its very place"
        );
        let d = Operand { data: DevicePtr(4097), ..args().d };
        assert!(message(MatmulArgs { d, ..args() }).contains("d is DevicePtr(0x1001)"));
        assert_eq!(
            message(MatmulArgs { m: 1 << 40, n: 1 << 10, ..args() }),
            "matmul: size is 1 products of 1099511627776 x 1024, it has to be at most 2147483647 tiles of 64 x 64"
        );
    }

    #[test]
    fn what_is_not_read_may_be_missing() {
        let missing = Operand { data: DevicePtr::NULL, matrix: Matrix::row_major(1) };
        assert_eq!(message(MatmulArgs { k: 0, a: missing, b: missing, ..args() }), "fine");
    }

    #[test]
    fn wide_accesses_need_every_row_of_every_product_aligned() {
        let aligned = |data: u64, leading: i64, batch: i64| {
            let matrix = Matrix::row_major(leading).batched(batch);
            Operand { data: DevicePtr(data), matrix }.is_aligned(2)
        };
        assert!(aligned(4096, 8, 0) && aligned(4096, 24, 48));
        assert!(!aligned(4104, 8, 0) && !aligned(4096, 12, 0) && !aligned(4096, 8, 4));
    }
}
