//! `kernels/elementwise/copy.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS};
use crate::extent::Extent;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Result, Variant};

const CHECK: Check = Check("strided copy");
const THREADS: u32 = 256;
/// What one thread can move at once, in bytes, with the kernel that does.
const UNITS: [(u64, &str); 4] = [(2, "copy_2"), (4, "copy_4"), (8, "copy_8"), (16, "copy_16")];

/// For elements whose neighbours in the source are not those in the target: what one thread moves, the kernel, and the
/// side of the square that a block moves.
const TRANSPOSED: [(u64, &str, i64); 3] =
    [(2, "copy_transposed_2", 64), (4, "copy_transposed_4", 32), (8, "copy_transposed_8", 32)];
/// With fewer neighbours than this in either, squares would be mostly empty.
const LEAST_SIDE: i64 = 8;

/// The most dimensions of a copy, not counting those of size 1, nor those that can be seen as one with the next.
pub const MAX_RANK: usize = 6;

params! {
    struct Params {
        source: DevicePtr,
        target: DevicePtr,
        count: i64,
        size: [i64; MAX_RANK],
        source_stride: [i64; MAX_RANK],
        target_stride: [i64; MAX_RANK],
    }
}

/// Copies between two layouts of the same shape: `target[i..] = source[i..]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copy;

impl Copy {
    /// Of elements of any type.
    #[must_use]
    pub fn new() -> Copy {
        Copy
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<CopyPlan> {
        let kernels = variants();
        let kernels = kernels.iter().map(|variant| Loaded::new(device, variant));
        Ok(CopyPlan { kernels: kernels.collect::<Result<_>>()? })
    }
}

/// In the order of [`UNITS`], then of [`TRANSPOSED`].
pub(super) fn variants() -> Vec<Variant> {
    let [file] = cuda_files!["elementwise/copy.cu"];
    let program = program(*file, &[], Constants::new()).params(Params::LAYOUT);
    let entries = UNITS.into_iter().map(|(_, entry)| entry).chain(TRANSPOSED.map(|(_, entry, _)| entry));
    entries
        .map(|entry| Variant { program: program.clone(), entry, threads: THREADS, shared_bytes: 0 })
        .collect()
}

/// What [`CopyPlan::launch`] copies.
#[derive(Clone, Copy, Debug)]
pub struct CopyArgs<'a> {
    /// Bytes of an element: 2, 4 or 8.
    pub element_bytes: usize,
    /// Elements along each dimension, outermost first.
    pub shape: &'a [usize],
    /// The first element.
    pub source: DevicePtr,
    /// Elements from one to the next along each dimension; 0 repeats.
    pub source_strides: &'a [i64],
    /// Overwritten.
    pub target: DevicePtr,
    /// Elements from one to the next along each dimension.
    pub target_strides: &'a [i64],
}

/// A compiled [`Copy`](struct@Copy).
#[derive(Clone, Debug)]
pub struct CopyPlan {
    /// In the order of [`variants`].
    kernels: Vec<Loaded>,
}

impl CopyPlan {
    /// Enqueues on `stream`: no allocation on the device, no synchronisation. Launches nothing where there are no
    /// elements.
    ///
    /// # Safety
    ///
    /// Source and target lie, with this shape and these strides, in memory of the stream's device that stays allocated
    /// until the stream has come to this point, and do not overlap.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for shapes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &CopyArgs) -> Result<()> {
        let Some((way, params)) = params(args)? else {
            return Ok(());
        };
        let (kernel, blocks) = match way {
            Way::Units(i) => (i, (params.count as usize).div_ceil(THREADS as usize)),
            Way::Transposed(i) => (UNITS.len() + i, squares(&params, TRANSPOSED[i].2)),
        };
        CHECK.size("number of blocks", blocks, 0, MAX_BLOCKS)?;
        // SAFETY: the caller answers for the memory; `params` has checked the kernel's other assumptions.
        unsafe { self.kernels[kernel].launch(stream, [blocks as u32, 1], &params) }
    }
}

/// One dimension of both layouts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dim {
    size: i64,
    source: i64,
    target: i64,
}

/// Which kernel copies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Of [`UNITS`].
    Units(usize),
    /// Of [`TRANSPOSED`].
    Transposed(usize),
}

/// The squares of the last two dimensions, over all others.
fn squares(params: &Params, side: i64) -> usize {
    let [outer @ .., rows, columns] = params.size;
    let along = |size: i64| (size as usize).div_ceil(side as usize);
    outer.iter().map(|size| *size as usize).product::<usize>() * along(rows) * along(columns)
}

/// The kernel, and what it gets; None where there is nothing to copy.
fn params(args: &CopyArgs) -> Result<Option<(Way, Params)>> {
    let dims = dims(args)?;
    if dims.iter().any(|dim| dim.size == 0) {
        return Ok(None);
    }
    CHECK.memory("source", args.source, args.element_bytes as u64)?;
    CHECK.memory("target", args.target, args.element_bytes as u64)?;
    let dims = merge(&dims);
    check_distinct(&dims)?;
    let extent = |name, data, stride: fn(&Dim) -> i64| {
        let dims = dims.iter().map(|dim| (dim.size as usize, stride(dim)));
        Extent::strided(name, data, dims, 1, args.element_bytes)
    };
    CHECK.apart(&[
        extent("source", args.source, |dim| dim.source),
        extent("target", args.target, |dim| dim.target).written(),
    ])?;
    let (way, dims) = match transposed(args, &dims) {
        Some((i, dims)) => (Way::Transposed(i), dims),
        None => {
            let (unit, dims) = widen(args, dims);
            (Way::Units(unit), dims)
        }
    };
    if dims.len() > MAX_RANK {
        let expected = format!("at most {MAX_RANK}, once dimensions that are one in both layouts are merged");
        return Err(CHECK.error("number of dimensions", dims.len(), expected));
    }
    let count: i64 = dims.iter().map(|dim| dim.size).product();
    let mut params = Params {
        source: args.source,
        target: args.target,
        count,
        size: [1; MAX_RANK],
        source_stride: [0; MAX_RANK],
        target_stride: [0; MAX_RANK],
    };
    for (i, dim) in (MAX_RANK - dims.len()..).zip(&dims) {
        params.size[i] = dim.size;
        params.source_stride[i] = dim.source;
        params.target_stride[i] = dim.target;
    }
    Ok(Some((way, params)))
}

/// Index into [`TRANSPOSED`], and the same dimensions with that of stride 1 in the source last, and that of stride 1 in the
/// target before it; None where that is not the way.
fn transposed(args: &CopyArgs, dims: &[Dim]) -> Option<(usize, Vec<Dim>)> {
    let index = TRANSPOSED.iter().position(|(bytes, ..)| *bytes as usize == args.element_bytes)?;
    let long = |i: &usize| dims[*i].size >= LEAST_SIDE;
    let columns = (0..dims.len()).find(|&i| dims[i].source == 1).filter(long)?;
    let rows = (0..dims.len()).find(|&i| dims[i].target == 1).filter(long)?;
    let others = dims.iter().enumerate().filter(|(i, _)| *i != columns && *i != rows).map(|(_, dim)| *dim);
    (columns != rows).then(|| (index, others.chain([dims[rows], dims[columns]]).collect()))
}

fn dims(args: &CopyArgs) -> Result<Vec<Dim>> {
    let CopyArgs { element_bytes, shape, source_strides, target_strides, .. } = *args;
    if !matches!(element_bytes, 2 | 4 | 8) {
        return Err(CHECK.error("element_bytes", element_bytes, "2, 4 or 8"));
    }
    for (name, strides) in [("source_strides", source_strides), ("target_strides", target_strides)] {
        if strides.len() != shape.len() {
            let name = format!("number of {name}");
            return Err(CHECK.error(&name, strides.len(), format!("{}, as shape has", shape.len())));
        }
        let reach = |(&size, &stride): (&usize, &i64)| (size as i128 * i128::from(stride)).abs();
        let extent = shape.iter().zip(strides).map(reach).fold(0, i128::saturating_add);
        if extent > i128::from(i64::MAX / 16) {
            return Err(CHECK.error(name, format!("{strides:?}"), "small enough for 64-bit addresses"));
        }
    }
    let elements = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    if !shape.contains(&0) && elements.is_none_or(|elements| i64::try_from(elements).is_err()) {
        return Err(CHECK.error("shape", format!("{shape:?}"), "fewer than 2^63 elements"));
    }
    let strides = source_strides.iter().zip(target_strides);
    let dim = |(&size, (&source, &target))| Dim { size: size as i64, source, target };
    Ok(shape.iter().zip(strides).map(dim).collect())
}

/// The same layouts with as few dimensions as possible: without those of size 1, and with neighbours made one where the
/// outer goes on where the inner ends, in both layouts.
fn merge(dims: &[Dim]) -> Vec<Dim> {
    let mut merged: Vec<Dim> = Vec::new();
    for &dim in dims.iter().filter(|dim| dim.size != 1) {
        match merged.last_mut() {
            Some(last) if last.source == dim.source * dim.size && last.target == dim.target * dim.size => {
                *last = Dim { size: last.size * dim.size, ..dim };
            }
            _ => merged.push(dim),
        }
    }
    merged
}

/// The same layouts in the widest unit that they can be copied in.
fn widen(args: &CopyArgs, mut dims: Vec<Dim>) -> (usize, Vec<Dim>) {
    let fits = |&(unit, (bytes, _)): &(usize, (u64, &str))| {
        let times = bytes as i64 / args.element_bytes as i64;
        if times <= 1 {
            return bytes as usize == args.element_bytes;
        }
        let Some((inner, outer)) = dims.split_last() else { return false };
        inner.source == 1
            && inner.target == 1
            && inner.size % times == 0
            && outer.iter().all(|dim| dim.source % times == 0 && dim.target % times == 0)
            && [args.source, args.target].iter().all(|address| address.is_aligned(UNITS[unit].0))
    };
    let widest = UNITS.into_iter().enumerate().rfind(fits);
    let (unit, (bytes, _)) = widest.unwrap_or((0, UNITS[0])); // the element itself always fits
    let times = bytes as i64 / args.element_bytes as i64;
    if let Some((inner, outer)) = dims.split_last_mut().filter(|_| times > 1) {
        inner.size /= times;
        for dim in outer {
            dim.source /= times;
            dim.target /= times;
        }
    }
    (unit, dims)
}

/// No two elements of the target may be the same: as the dimensions go from near to far, each strides over all that the
/// nearer ones reach.
fn check_distinct(dims: &[Dim]) -> Result<()> {
    let mut by_stride = dims.to_vec();
    by_stride.sort_by_key(|dim| dim.target.unsigned_abs());
    let mut reach = 1;
    for Dim { size, target, .. } in by_stride {
        if target.abs() < reach {
            return Err(CHECK.error(
                "a target stride",
                target,
                format!("at least {reach}: elements overlap"),
            ));
        }
        reach += (size - 1) * target.abs();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};
    use proptest::prelude::*;

    /// Byte addresses that a copy reads and writes, in pairs, as the kernel computes them.
    fn pairs(args: &CopyArgs) -> Vec<(u64, u64)> {
        let Some((way, params)) = params(args).unwrap() else { return Vec::new() };
        let bytes = match way {
            Way::Units(i) => UNITS[i].0,
            Way::Transposed(i) => {
                assert_eq!((params.source_stride[MAX_RANK - 1], params.target_stride[MAX_RANK - 2]), (1, 1));
                TRANSPOSED[i].0
            }
        };
        let mut pairs = Vec::new();
        for index in 0..params.count {
            let (mut rest, mut source, mut target) = (index, 0, 0);
            for d in (0..MAX_RANK).rev() {
                let i = rest % params.size[d];
                rest /= params.size[d];
                source += i * params.source_stride[d];
                target += i * params.target_stride[d];
            }
            let byte = |address: DevicePtr, units: i64| address.offset(units * bytes as i64).0;
            assert!(
                byte(args.source, source).is_multiple_of(bytes)
                    && byte(args.target, target).is_multiple_of(bytes)
            );
            pairs.extend((0..bytes).map(|k| (byte(args.source, source) + k, byte(args.target, target) + k)));
        }
        pairs.sort_unstable();
        pairs
    }

    fn naive(args: &CopyArgs) -> Vec<(u64, u64)> {
        let mut offsets = vec![(0i64, 0i64)];
        for ((&size, &source), &target) in args.shape.iter().zip(args.source_strides).zip(args.target_strides)
        {
            let along =
                |&(s, t): &(i64, i64)| (0..size as i64).map(move |i| (s + i * source, t + i * target));
            offsets = offsets.iter().flat_map(along).collect();
        }
        let bytes = args.element_bytes as i64;
        let of_element = |&(source, target): &(i64, i64)| {
            let (s, t) = (args.source.offset(source * bytes).0, args.target.offset(target * bytes).0);
            (0..bytes as u64).map(move |k| (s + k, t + k))
        };
        let mut pairs: Vec<_> = offsets.iter().flat_map(of_element).collect();
        pairs.sort_unstable();
        pairs
    }

    fn contiguous(shape: &[usize]) -> Vec<i64> {
        (1..=shape.len()).map(|d| shape[d..].iter().product::<usize>() as i64).collect()
    }

    proptest! {
        #[test]
        fn merging_and_widening_copy_the_same_bytes_to_the_same_places(
            dims in proptest::collection::vec((0usize..6, 0usize..3), 0..6),
            order: u64,
            scale in prop_oneof![Just(1usize), Just(8)],
            element_bytes in prop_oneof![Just(2usize), Just(4), Just(8)],
            misaligned in 0u64..2,
        ) {
            // The source is a permuted view of a tensor with some padding along each dimension.
            let mut shape: Vec<usize> = dims.iter().map(|&(size, _)| size).collect();
            if let Some(inner) = shape.last_mut() {
                *inner *= scale;
            }
            let mut permutation: Vec<usize> = (0..shape.len()).collect();
            if order % 2 == 0 {
                permutation.sort_by_key(|&d| (order >> (8 * d)) & 255);
            }
            let padded: Vec<usize> =
                permutation.iter().map(|&d| shape[d] + if order % 3 == 0 { dims[d].1 } else { 0 }).collect();
            let mut source_strides = vec![0; shape.len()];
            for (&d, stride) in permutation.iter().zip(contiguous(&padded)) {
                source_strides[d] = stride;
            }
            let args = CopyArgs {
                element_bytes,
                shape: &shape,
                source: DevicePtr(1 << 20).offset((misaligned * element_bytes as u64) as i64),
                source_strides: &source_strides,
                target: DevicePtr(1 << 30),
                target_strides: &contiguous(&shape),
            };
            prop_assert_eq!(pairs(&args), naive(&args));
        }
    }

    fn args<'a>(shape: &'a [usize], source_strides: &'a [i64], target_strides: &'a [i64]) -> CopyArgs<'a> {
        let [source, target] = [DevicePtr(4096), DevicePtr(1 << 20)];
        CopyArgs { element_bytes: 2, shape, source, source_strides, target, target_strides }
    }

    #[test]
    fn source_and_target_are_apart_and_may_lie_between_each_other() {
        let rows = args(&[6, 10], &[10, 1], &[20, 1]);
        assert_apart(rows, |args| params(args).map(drop), 1, pointers![target, source], &[]);
        let halves = CopyArgs { target: rows.source.offset(20), ..args(&[6, 10], &[20, 1], &[20, 1]) };
        assert!(params(&halves).is_ok());
    }

    #[test]
    fn a_contiguous_copy_is_one_dimension_of_16_byte_units() {
        let (way, params) = params(&args(&[3, 1, 8], &[8, 0, 1], &[8, 99, 1])).unwrap().unwrap();
        assert_eq!((way, params.count, params.size), (Way::Units(3), 3, [1, 1, 1, 1, 1, 3]));
    }

    #[test]
    fn a_transposition_goes_square_by_square_unless_a_side_is_short() {
        let way = |args: CopyArgs| params(&args).unwrap().unwrap();
        let (first, found) = way(args(&[3, 8, 70], &[1000, 1, 8], &[560, 70, 1]));
        assert_eq!((first, found.size), (Way::Transposed(0), [1, 1, 1, 3, 70, 8]));
        assert_eq!(squares(&found, 64), 6);
        assert_eq!(way(args(&[7, 70], &[1, 7], &[70, 1])).0, Way::Units(0));
        let four = CopyArgs { element_bytes: 4, ..args(&[8, 70], &[1, 8], &[70, 1]) };
        assert_eq!(way(four).0, Way::Transposed(1));
    }

    #[test]
    fn repeated_sources_are_copied_and_overlapping_targets_are_refused() {
        assert!(params(&args(&[4, 2], &[0, 1], &[2, 1])).is_ok());
        let error = params(&args(&[4, 2], &[2, 1], &[1, 1])).unwrap_err().to_string();
        assert_eq!(error, "strided copy: a target stride is 1, it has to be at least 4: elements overlap");
    }

    #[test]
    fn arguments_that_contradict_each_other_are_named() {
        let message = |args: CopyArgs| params(&args).unwrap_err().to_string();
        assert_eq!(
            message(args(&[4, 2], &[1], &[2, 1])),
            "strided copy: number of source_strides is 1, it has to be 2, as shape has"
        );
        assert_eq!(
            message(CopyArgs { element_bytes: 3, ..args(&[1], &[1], &[1]) }),
            "strided copy: element_bytes is 3, it has to be 2, 4 or 8"
        );
        let message = message(args(&[3; 7], &[1, 3, 9, 27, 81, 243, 729], &[729, 243, 81, 27, 9, 3, 1]));
        assert!(
            message.starts_with("strided copy: number of dimensions is 7, it has to be at most 6"),
            "{message}"
        );
    }
}
