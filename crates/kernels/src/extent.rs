//! Where tensors lie, and that what a launch writes lies apart from all else.

use std::fmt;

use longhand_gpu::DevicePtr;

use crate::Result;
use crate::attention::Heads;
use crate::check::Check;

/// The most dimensions of an [`Extent`] that are looked at.
const MAX_DIMS: usize = 6;
/// How many places are tried where two tensors lie between each other's elements. Those of one layout take a few dozen.
const MOST_TRIES: usize = 1000;

/// An argument of a launch, and the bytes that are its.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    name: &'static str,
    /// What stands in the name in the place of `{}`.
    number: usize,
    written: bool,
    /// The arguments whose very place it may have.
    may_be: &'static [&'static str],
    place: Place,
}

impl Extent {
    /// `inner` elements of `size` bytes next to each other, at each index of dimensions with as many elements and with so
    /// many elements from one to the next. Null, or without elements, it is nowhere.
    pub fn strided(
        name: &'static str,
        data: DevicePtr,
        dims: impl IntoIterator<Item = (usize, i64)>,
        inner: usize,
        size: usize,
    ) -> Extent {
        Extent { name, number: 0, written: false, may_be: &[], place: Place::new(data, dims, inner, size) }
    }

    /// `count` elements of `size` bytes.
    pub fn contiguous(name: &'static str, data: DevicePtr, count: usize, size: usize) -> Extent {
        Extent::strided(name, data, [], count, size)
    }

    /// `(rows, width)`, rows `stride` elements apart.
    pub fn rows(
        name: &'static str,
        data: DevicePtr,
        [rows, width]: [usize; 2],
        stride: i64,
        size: usize,
    ) -> Extent {
        Extent::strided(name, data, [(rows, stride)], width, size)
    }

    /// `(batch, token, head, D)`.
    pub fn heads(name: &'static str, heads: &Heads, shape: [usize; 4], size: usize) -> Extent {
        let [batches, tokens, heads_of_token, dim] = shape;
        let Heads { data, strides } = *heads;
        let dims = [(batches, strides.batch), (tokens, strides.token), (heads_of_token, strides.head)];
        Extent::strided(name, data, dims, dim, size)
    }

    /// It is written.
    pub fn written(self) -> Extent {
        Extent { written: true, ..self }
    }

    /// It may also have the very place of one of these, with the same strides.
    pub fn may_be(self, others: &'static [&'static str]) -> Extent {
        Extent { may_be: others, ..self }
    }

    /// Of several arguments with this name.
    pub fn number(self, number: usize) -> Extent {
        Extent { number, ..self }
    }

    fn is_allowed(&self, other: &Extent) -> bool {
        self.may_be.contains(&other.name) && self.number == other.number && self.place == other.place
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.split_once("{}") {
            Some((before, after)) => write!(f, "{before}{}{after}", self.number),
            None => f.write_str(self.name),
        }
    }
}

impl Check {
    /// Nothing that is written overlaps anything else, but for what it may be. Tensors that lie between each other's
    /// elements, such as the slices of packed queries, keys and values, are apart.
    pub fn apart<'a>(self, extents: impl IntoIterator<Item = &'a Extent, IntoIter: Clone>) -> Result<()> {
        let extents = extents.into_iter();
        for (i, a) in extents.clone().enumerate() {
            for b in extents.clone().take(i) {
                let (of, other) = if b.written { (b, a) } else { (a, b) };
                if of.written && of.place.meets(&other.place) && !a.is_allowed(b) && !b.is_allowed(a) {
                    let or = if of.may_be.contains(&other.name) { ", or in its very place" } else { "" };
                    let expected = format!("apart from {other} at {}{or}", other.place);
                    return Err(self.error(&of.to_string(), format!("at {}", of.place), expected));
                }
            }
        }
        Ok(())
    }

    /// The same of any number of contiguous tensors, all of them written. Returns them in the order they lie in, without
    /// those that are nowhere.
    pub fn all_apart(self, mut extents: Vec<Extent>) -> Result<Vec<Extent>> {
        extents.retain(|extent| extent.place.inner > 0);
        extents.sort_by_key(|extent| extent.place.start);
        extents.windows(2).try_for_each(|neighbours| self.apart(neighbours))?;
        Ok(extents)
    }

    /// A contiguous tensor lies apart from all of these, which are in the order they lie in, apart from each other.
    pub fn apart_from_all(self, extent: &Extent, sorted: &[Extent]) -> Result<()> {
        let at = sorted.partition_point(|other| other.place.end <= extent.place.start);
        sorted.get(at).map_or(Ok(()), |nearest| self.apart([extent, nearest]))
    }
}

/// In bytes. Where two are equal, each element of one is at the same index in the other.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    /// The first byte.
    start: i128,
    /// After the last.
    end: i128,
    /// What is next to each other.
    inner: i128,
    /// The dimensions with more than one element, outermost first; 0 and 0 past the last.
    dims: [Dim; MAX_DIMS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Dim {
    stride: i128,
    /// After the first element.
    more: i128,
}

impl Place {
    fn new(
        data: DevicePtr,
        dims: impl IntoIterator<Item = (usize, i64)>,
        inner: usize,
        size: usize,
    ) -> Place {
        let inner = if data.is_null() { 0 } else { inner as i128 * size as i128 };
        let start = i128::from(data.0);
        let mut place = Place { start, end: start + inner, inner, dims: [Dim::default(); MAX_DIMS] };
        let mut used = 0;
        for (count, stride) in dims {
            let (count, stride) = (count as i128, i128::from(stride) * size as i128);
            if count == 0 {
                place.inner = 0;
            }
            if count <= 1 || stride == 0 || used == MAX_DIMS {
                continue;
            }
            let reach = stride * (count - 1);
            place.start += reach.min(0);
            place.end += reach.max(0);
            // A dimension that goes on where the one within it ends is one with it.
            match place.dims[..used].last_mut() {
                Some(outer) if outer.stride == stride * count => {
                    *outer = Dim { stride, more: (outer.more + 1) * count - 1 };
                }
                _ => {
                    place.dims[used] = Dim { stride, more: count - 1 };
                    used += 1;
                }
            }
        }
        if let Some(innermost) = place.dims[..used].last_mut()
            && innermost.stride == place.inner
        {
            place.inner *= innermost.more + 1;
            *innermost = Dim::default();
        }
        place
    }

    /// Whether a byte of one is a byte of the other; false, too, where that takes too long to find out.
    fn meets(&self, other: &Place) -> bool {
        if self.inner == 0 || other.inner == 0 || self.end <= other.start || other.end <= self.start {
            return false;
        }
        // Steps along dimensions of this one, less those of the other, that lead to the other's start, or as far before or
        // behind it as there are bytes next to each other.
        let mut steps = [Steps::default(); 2 * MAX_DIMS];
        let mine = self.dims.iter().map(|dim| Steps { stride: dim.stride.abs(), least: 0, most: dim.more });
        let others =
            other.dims.iter().map(|dim| Steps { stride: dim.stride.abs(), least: -dim.more, most: 0 });
        let mut used = 0;
        for step in mine.chain(others).filter(|step| step.stride > 0) {
            let at = steps[..used].partition_point(|known| known.stride > step.stride);
            if at < used && steps[at].stride == step.stride {
                steps[at].least += step.least;
                steps[at].most += step.most;
            } else {
                steps[at..=used].rotate_right(1);
                steps[at] = step;
                used += 1;
            }
        }
        let far = other.start - self.start;
        lead_to(&steps[..used], [far - self.inner + 1, far + other.inner - 1], &mut MOST_TRIES.clone())
    }
}

/// From the first byte to after the last.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

/// How often a stride may be taken, forth or, less than 0, back.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    stride: i128,
    least: i128,
    most: i128,
}

/// Whether some of these steps, longest first, lead to between these, both included.
fn lead_to(steps: &[Steps], [low, high]: [i128; 2], tries: &mut usize) -> bool {
    let Some((&Steps { stride, least, most }, shorter)) = steps.split_first() else {
        return low <= 0 && 0 <= high;
    };
    let reach = |of: fn(&Steps) -> i128| shorter.iter().map(|step| step.stride * of(step)).sum::<i128>();
    let first = -(reach(|step| step.most) - low).div_euclid(stride);
    let last = (high - reach(|step| step.least)).div_euclid(stride);
    for count in first.max(least)..=last.min(most) {
        let Some(left) = tries.checked_sub(1) else { return false };
        *tries = left;
        if lead_to(shorter, [low - count * stride, high - count * stride], tries) {
            return true;
        }
    }
    false
}

/// An argument's address among all arguments.
#[cfg(test)]
type Pointer<A> = fn(&mut A) -> &mut DevicePtr;

/// The `pointers` of arguments that errors call by their names.
#[cfg(test)]
macro_rules! pointers {
    ($($name:ident),*) => { &[$((stringify!($name), |args| &mut args.$name)),*] };
}
#[cfg(test)]
pub(crate) use pointers;

/// Of a launch whose tensors all lie apart: every one that is written, of which `pointers` has so many first, is refused in
/// the place of every other; in that of one that it may be, a little off. The error names both.
#[cfg(test)]
pub(crate) fn assert_apart<A: Copy>(
    args: A,
    check: impl Fn(&A) -> Result<()>,
    written: usize,
    pointers: &[(&'static str, Pointer<A>)],
    may_be: &[[&str; 2]],
) {
    check(&args).expect("tensors that lie apart are fine");
    for (i, &(name, pointer)) in pointers[..written].iter().enumerate() {
        for &(other, pointer_of_other) in
            pointers.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, of)| of)
        {
            let mut moved = args;
            *pointer(&mut moved) = *pointer_of_other(&mut moved);
            if may_be.contains(&[name, other]) || may_be.contains(&[other, name]) {
                check(&moved).expect("one in the place of another that it may be is fine");
                *pointer(&mut moved) = pointer(&mut moved).offset(16);
            }
            let error = check(&moved).expect_err(&format!("{name} in the place of {other}")).to_string();
            let named = |name: &str| {
                error.contains(&format!(" {name} is at 0x"))
                    || error.contains(&format!("apart from {name} at 0x"))
            };
            assert!(named(name) && named(other), "{name} in the place of {other}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHECK: Check = Check("packing");

    fn extent(name: &'static str, start: u64, dims: &[(usize, i64)], inner: usize) -> Extent {
        Extent::strided(name, DevicePtr(start), dims.iter().copied(), inner, 2)
    }

    #[test]
    fn an_error_names_both_arguments_and_where_they_are() {
        let x = extent("x[{}]", 0x1000, &[(4, 8)], 8).number(3);
        let out = extent("out", 0x1020, &[], 32).written();
        let message = |extents: &[Extent]| CHECK.apart(extents).map_err(|error| error.to_string());
        let expected = "packing: out is at 0x1020..0x1060, it has to be apart from x[3] at 0x1000..0x1040";
        assert_eq!(message(&[x, out]).unwrap_err(), expected);
        assert_eq!(message(&[out, x]).unwrap_err(), expected);
        let may = out.may_be(&["x[{}]"]).number(3);
        assert_eq!(message(&[x, may]).unwrap_err(), format!("{expected}, or in its very place"));
        let same = extent("out", 0x1000, &[], 32).written();
        assert!(message(&[same, x]).is_err());
        assert_eq!(message(&[same.may_be(&["x[{}]"]).number(3), x]), Ok(()));
        assert_eq!(message(&[x, extent("read", 0x1000, &[], 32)]), Ok(()));
    }

    #[test]
    fn slices_of_packed_queries_keys_and_values_are_apart_and_what_laps_over_is_not() {
        // (B, T, 4 + 2 + 2 heads, 64)
        let slice = |name, start: u64, heads| {
            extent(name, 0x1000 + 128 * start, &[(3, 8 * 64 * 5), (5, 8 * 64), (heads, 64)], 64)
        };
        let packed = [slice("q", 0, 4), slice("k", 4, 2), slice("v", 6, 2)].map(Extent::written);
        CHECK.apart(&packed).unwrap();
        let error = CHECK.apart(&[packed[0], slice("k", 3, 2).written()]).unwrap_err().to_string();
        assert!(error.contains("q is at 0x1000") && error.contains("apart from k at"), "{error}");
        let contiguous = extent("lse", 0x1000 + 2 * 512, &[], 100);
        assert!(
            CHECK.apart(&[packed[1], contiguous]).is_ok() && CHECK.apart(&[packed[0], contiguous]).is_err()
        );
    }

    #[test]
    fn of_many_tensors_the_two_that_overlap_are_found() {
        let tensor =
            |i: usize| extent("tensor {}", 0x1000 + 64 * (i as u64 * 7 % 100), &[], 32).written().number(i);
        let many: Vec<Extent> = (0..100).map(tensor).collect();
        let sorted = CHECK.all_apart(many.clone()).unwrap();
        let read = |start: u64, count| extent("read", start, &[], count);
        for (start, count) in [(0x1000 - 2, 1), (0x1000 + 64 * 100, 9), (0x1000 + 70, 0)] {
            CHECK.apart_from_all(&read(start, count), &sorted).unwrap();
        }
        for (start, count) in [(0x1000 - 2, 2), (0x1000 + 64 * 100 - 2, 9), (0x1000 + 70, 1)] {
            CHECK.apart_from_all(&read(start, count), &sorted).unwrap_err();
        }
        let over = extent("tensor {}", 0x1000 + 32, &[], 8).written().number(100);
        let error = CHECK.all_apart([many, vec![over]].concat()).unwrap_err().to_string();
        assert_eq!(
            error,
            "packing: tensor 0 is at 0x1000..0x1040, it has to be apart from tensor 100 at 0x1020..0x1030"
        );
    }

    #[test]
    fn what_is_null_or_empty_is_nowhere() {
        let all = extent("all", 0, &[], 1000).written();
        let [null, none] = [extent("null", 0, &[], 8), extent("none", 64, &[(0, 8)], 8)];
        CHECK.apart(&[all, null.written(), none.written()]).unwrap();
        let whole = extent("whole", 16, &[], 1000);
        CHECK.apart(&[whole, none.written()]).unwrap();
    }

    /// Every byte of a tensor.
    fn bytes(start: u64, dims: &[(usize, i64)], inner: usize) -> Vec<i64> {
        let mut at = vec![start as i64];
        for &(count, stride) in dims {
            at = at.iter().flat_map(|at| (0..count as i64).map(move |i| at + 2 * i * stride)).collect();
        }
        at.iter().flat_map(|at| *at..*at + 2 * inner as i64).collect()
    }

    proptest! {
        #[test]
        fn two_tensors_meet_where_they_have_a_byte_in_common(
            a in prop::collection::vec((0usize..4, -20i64..20), 0..4),
            b in prop::collection::vec((0usize..4, -20i64..20), 0..4),
            (a_inner, b_inner) in (0usize..5, 0usize..5), far in 0u64..60, alike: bool,
        ) {
            let b = if alike { a.clone() } else { b };
            let (start, other) = (10_000, 10_000 + far);
            let here = bytes(start, &a, a_inner);
            let expected = bytes(other, &b, b_inner).iter().any(|byte| here.contains(byte));
            let [one, two] = [extent("one", start, &a, a_inner), extent("two", other, &b, b_inner)];
            prop_assert_eq!(one.place.meets(&two.place), expected);
            prop_assert_eq!(two.place.meets(&one.place), expected);
        }
    }
}
