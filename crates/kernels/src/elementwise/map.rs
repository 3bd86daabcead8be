//! `kernels/elementwise/map.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("elementwise map");
const THREADS: u32 = 256;
/// Elements of one block.
const BLOCK: usize = THREADS as usize * 8;

params! {
    struct Params {
        a: DevicePtr,
        b: DevicePtr,
        out: DevicePtr,
        count: i64,
        a_period: i64,
        b_period: i64,
        scalar: f32,
        aligned: i32,
    }
}

/// What a [`Map`] computes, in f32, for each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `scalar`.
    Fill,
    /// `a`, in the output's dtype.
    Cast,
    /// `a * scalar`.
    Scale,
    /// `a * scalar`, where the scalar is one f32 in device memory, whatever the dtype: `b`.
    ScaleBy,
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a + scalar * b`.
    AddScaled,
}

impl Operation {
    const ALL: [Operation; 8] = {
        use Operation::{Add, AddScaled, Cast, Fill, Mul, Scale, ScaleBy, Sub};
        [Fill, Cast, Scale, ScaleBy, Add, Sub, Mul, AddScaled]
    };

    fn operands(self) -> usize {
        match self {
            Operation::Fill => 0,
            Operation::Cast | Operation::Scale => 1,
            Operation::ScaleBy | Operation::Add | Operation::Sub | Operation::Mul | Operation::AddScaled => 2,
        }
    }
}

/// The same arithmetic on every element: `out[i] = f(a[i], b[i], scalar)`.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    operation: Operation,
    dtype: Dtype,
    output: Dtype,
}

impl Map {
    /// Of operands of `dtype`, which is also the output's.
    #[must_use]
    pub fn new(operation: Operation, dtype: Dtype) -> Map {
        Map { operation, dtype, output: dtype }
    }

    /// The output's dtype, where it is another.
    #[must_use]
    pub fn output(self, output: Dtype) -> Map {
        Map { output, ..self }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<MapPlan> {
        Ok(MapPlan { kind: *self, kernel: Loaded::new(device, &self.variant())? })
    }

    fn variant(self) -> Variant {
        let [file] = cuda_files!["elementwise/map.cu"];
        let constants = Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .alias("Output", self.output.cuda_name())
            .int("OPERATION", self.operation as i64)
            .int("THREADS", THREADS);
        Variant {
            program: program(*file, &[], constants).params(Params::LAYOUT),
            entry: "elementwise_map",
            threads: THREADS,
            shared_bytes: 0,
        }
    }
}

/// Every operation in one type, every type in one operation.
pub(super) fn variants() -> Vec<Variant> {
    let plain = Operation::ALL.into_iter().map(|operation| Map::new(operation, Dtype::Bf16));
    let types = [
        Map::new(Operation::Cast, Dtype::F32).output(Dtype::Bf16),
        Map::new(Operation::Cast, Dtype::F16).output(Dtype::F32),
        Map::new(Operation::Add, Dtype::F32),
        Map::new(Operation::Add, Dtype::F16),
    ];
    plain.chain(types).map(Map::variant).collect()
}

/// An operand of a [`Map`]: contiguous, and repeated as often as it takes to fill the output, as if it were broadcast
/// along leading dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Its first element.
    pub data: DevicePtr,
    /// Its number of elements, of which the output's is a multiple.
    pub count: usize,
}

impl Operand {
    /// What is given for an operand that the operation does not have.
    pub const NONE: Operand = Operand { data: DevicePtr::NULL, count: 0 };
}

/// What [`MapPlan::launch`] computes with. Any alignment will do; with all tensors at multiples of 16 bytes, and the
/// size of an operand that is repeated at a multiple of 8 elements, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct MapArgs {
    /// Elements of the output.
    pub count: usize,
    /// The first operand.
    pub a: Operand,
    /// The second operand.
    pub b: Operand,
    /// For [`Operation::Fill`], [`Operation::Scale`] and [`Operation::AddScaled`]; otherwise unused.
    pub scalar: f32,
    /// Contiguous, overwritten. It may be an operand of the same size and dtype itself.
    pub out: DevicePtr,
}

/// A compiled [`Map`].
#[derive(Clone, Debug)]
pub struct MapPlan {
    kind: Map,
    kernel: Loaded,
}

impl MapPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no elements.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes, in memory of the stream's device that stays allocated until the stream has
    /// come to this point; the output overlaps no operand, but for what is said at `out`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &MapArgs) -> Result<()> {
        check(self.kind, args)?;
        if args.count == 0 {
            return Ok(());
        }
        let params = params(self.kind, args);
        let blocks = args.count.div_ceil(BLOCK) as u32;
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.kernel.launch(stream, [blocks, 1], &params) }
    }
}

fn params(kind: Map, args: &MapArgs) -> Params {
    let MapArgs { count, a, b, scalar, out } = *args;
    let whole = |operand: Operand| operand.count == count || operand.count.is_multiple_of(8);
    let wide =
        aligned([a.data, b.data, out]) && whole(a) && (kind.operation == Operation::ScaleBy || whole(b));
    Params {
        a: a.data,
        b: b.data,
        out,
        count: count as i64,
        a_period: a.count as i64,
        b_period: b.count as i64,
        scalar,
        aligned: i32::from(wide),
    }
}

fn check(kind: Map, args: &MapArgs) -> Result<()> {
    CHECK.size("count", args.count, 0, MAX_BLOCKS * BLOCK)?;
    for (i, (name, operand)) in [("a", args.a), ("b", args.b)].into_iter().enumerate() {
        if i >= kind.operation.operands() {
            if operand != Operand::NONE {
                return Err(CHECK.error(name, "given", format!("none for {:?}", kind.operation)));
            }
        } else if args.count > 0 {
            if operand.count == 0 || !args.count.is_multiple_of(operand.count) {
                let name = format!("size of {name}");
                return Err(CHECK.error(&name, operand.count, format!("a divisor of {}", args.count)));
            }
            let is_scalar = i == 1 && kind.operation == Operation::ScaleBy;
            if is_scalar && operand.count != 1 {
                return Err(CHECK.error("size of b", operand.count, "1 for ScaleBy"));
            }
            CHECK.tensor(name, operand.data, if is_scalar { Dtype::F32 } else { kind.dtype })?;
        }
    }
    if args.count == 0 {
        return Ok(());
    }
    CHECK.tensor("out", args.out, kind.output)?;
    let size = kind.dtype.size();
    let size_of_b = if kind.operation == Operation::ScaleBy { Dtype::F32.size() } else { size };
    CHECK.apart(&[
        Extent::contiguous("a", args.a.data, args.a.count, size),
        Extent::contiguous("b", args.b.data, args.b.count, size_of_b),
        Extent::contiguous("out", args.out, args.count, kind.output.size()).written().may_be(&["a", "b"]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::assert_apart;

    const AT: DevicePtr = DevicePtr(4096);

    fn operand(count: usize) -> Operand {
        Operand { data: AT, count }
    }

    #[test]
    fn operations_have_the_numbers_that_the_kernel_gives_them() {
        let [(_, code)] = cuda_files!["elementwise/map.cu"];
        let names = code.split_once("enum Operation {").unwrap().1.split_once('}').unwrap().0;
        let names: Vec<String> =
            names.split(',').map(|name| name.trim().replace('_', "").to_lowercase()).collect();
        let ours = Operation::ALL.map(|operation| format!("{operation:?}").to_lowercase());
        assert_eq!(names, ours);
        assert!(Operation::ALL.into_iter().enumerate().all(|(i, operation)| operation as usize == i));
    }

    #[test]
    fn the_output_is_apart_from_the_operands_or_one_of_them() {
        let [a, b, out] = [1, 2, 3].map(|i| DevicePtr(i << 20));
        let args = MapArgs {
            count: 12,
            a: Operand { data: a, count: 12 },
            b: Operand { data: b, count: 12 },
            scalar: 0.0,
            out,
        };
        assert_apart(
            args,
            |args| check(Map::new(Operation::Add, Dtype::F32), args),
            1,
            &[("out", |args| &mut args.out), ("a", |args| &mut args.a.data), ("b", |args| &mut args.b.data)],
            &[["out", "a"], ["out", "b"]],
        );
        let repeated = MapArgs { out: a, a: Operand { data: a, count: 4 }, ..args };
        assert!(check(Map::new(Operation::Add, Dtype::F32), &repeated).is_err());
    }

    #[test]
    fn an_operand_has_to_fill_the_output_whole_times() {
        let add = Map::new(Operation::Add, Dtype::F32);
        let message = |a, b| {
            let args = MapArgs { count: 12, a, b, scalar: 0.0, out: DevicePtr(8192) };
            check(add, &args).map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(message(operand(12), operand(4)), "fine");
        assert_eq!(
            message(operand(12), operand(5)),
            "elementwise map: size of b is 5, it has to be a divisor of 12"
        );
        assert_eq!(
            message(operand(0), operand(12)),
            "elementwise map: size of a is 0, it has to be a divisor of 12"
        );
    }

    #[test]
    fn an_operand_that_the_operation_does_not_have_is_refused() {
        let args = MapArgs { count: 4, a: operand(4), b: operand(4), scalar: 2.0, out: AT };
        let error = check(Map::new(Operation::Scale, Dtype::Bf16), &args).unwrap_err();
        assert_eq!(error.to_string(), "elementwise map: b is given, it has to be none for Scale");
    }

    #[test]
    fn wide_accesses_need_every_address_and_every_repetition_aligned() {
        let add = Map::new(Operation::Add, Dtype::F32);
        let wide = |a: Operand, b: Operand| {
            params(add, &MapArgs { count: 24, a, b, scalar: 0.0, out: AT }).aligned == 1
        };
        assert!(
            wide(operand(24), operand(24))
                && wide(operand(24), operand(8))
                && wide(operand(24), Operand::NONE)
        );
        assert!(!wide(operand(24), operand(12)) && !wide(operand(24), operand(1)));
        assert!(!wide(operand(24), Operand { data: DevicePtr(4104), count: 24 }));
    }
}
