//! `kernels/common/chunks.cuh`: many tensors in one launch.

use std::sync::{Mutex, PoisonError};

use longhand_gpu::{Buffer, DevicePtr, Stream};

use crate::check::Check;
use crate::extent::Extent;
use crate::{Error, Result};

/// Elements that one block works on.
pub(crate) const CHUNK: usize = 16_384;

/// A list of tensors in device memory, for operations that take many at once ([`AdamW`](crate::adamw::AdamW),
/// [`GradientNorm`](crate::reduction::GradientNorm)): how long each is, and where it lies.
#[derive(Debug)]
pub struct TensorList {
    counts: Vec<usize>,
    device_counts: Buffer,
    pointers: Buffer,
    chunks: Buffer,
    /// As last set.
    addresses: Mutex<Vec<DevicePtr>>,
    apart_from: Option<Written>,
}

/// What launches write that read the tensors of a list.
#[derive(Debug)]
struct Written {
    check: Check,
    /// Of an element of the list's tensors.
    size: usize,
    /// In the order they lie in, apart from each other.
    extents: Vec<Extent>,
}

impl TensorList {
    /// Allocates and uploads, on `stream`, a list of tensors of `counts` elements. Where they lie is to be said by
    /// [`TensorList::set`].
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for more tensors or elements than a launch can count (2³¹ - 1 chunks of 16,384 elements);
    /// [`Error::Gpu`] where the device refuses.
    pub fn new(stream: &Stream, counts: &[usize]) -> Result<TensorList> {
        TensorList::of_chunks(stream, counts, &chunks(counts)?)
    }

    /// One tensor of which a launch sees one chunk only.
    #[cfg(test)]
    pub(crate) fn of_chunk(stream: &Stream, count: usize, chunk: usize) -> Result<TensorList> {
        TensorList::of_chunks(stream, &[count], &[[0, chunk as i32]])
    }

    fn of_chunks(stream: &Stream, counts: &[usize], chunks: &[[i32; 2]]) -> Result<TensorList> {
        let list = TensorList {
            counts: counts.to_vec(),
            device_counts: stream.alloc(counts.len() * 8)?,
            pointers: stream.alloc(counts.len() * 8)?,
            chunks: stream.alloc(chunks.len() * 8)?,
            addresses: Mutex::new(vec![DevicePtr::NULL; counts.len()]),
            apart_from: None,
        };
        let counts: Vec<i64> = counts.iter().map(|&count| count as i64).collect();
        list.device_counts.upload(0, bytemuck::cast_slice(&counts))?;
        list.chunks.upload(0, bytemuck::cast_slice(chunks))?;
        Ok(list)
    }

    /// Uploads where the tensors lie, on the stream that the list was made on: contiguous memory of as many elements as
    /// [`TensorList::counts`] says, one address each.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for another number of addresses than tensors, a null one for a tensor with elements, or one in
    /// what launches over the list write; [`Error::Gpu`] where the device refuses.
    pub fn set(&self, pointers: &[DevicePtr]) -> Result<()> {
        self.check(pointers)?;
        if let Some(Written { check, size, extents }) = &self.apart_from {
            for (i, (&count, &pointer)) in self.counts.iter().zip(pointers).enumerate() {
                check.apart_from_all(&gradient(i, pointer, count, *size), extents)?;
            }
        }
        self.pointers.upload(0, bytemuck::cast_slice(pointers))?;
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).copy_from_slice(pointers);
        Ok(())
    }

    /// Tensors of elements of `size` bytes, which may not be set to lie in any of these, as [`Check::all_apart`] returned
    /// them.
    pub(crate) fn apart_from(self, check: Check, size: usize, extents: Vec<Extent>) -> TensorList {
        TensorList { apart_from: Some(Written { check, size, extents }), ..self }
    }

    /// What a launch writes lies apart from the tensors, of elements of `size` bytes, and is none of what others write.
    pub(crate) fn check_apart(&self, check: Check, size: usize, written: &[Extent]) -> Result<()> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, (&count, &pointer)) in self.counts.iter().zip(&*addresses).enumerate() {
            let tensor = gradient(i, pointer, count, size);
            written.iter().try_for_each(|written| check.apart([&tensor, written]))?;
        }
        Ok(())
    }

    /// A number that a launch reads or writes lies apart from what it writes of tensors.
    pub(crate) fn check_number(&self, number: &Extent) -> Result<()> {
        self.apart_from.as_ref().map_or(Ok(()), |of| of.check.apart_from_all(number, &of.extents))
    }

    fn check(&self, pointers: &[DevicePtr]) -> Result<()> {
        check_pointers(&self.counts, pointers)
    }

    /// Elements of each tensor.
    #[must_use]
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Blocks that a launch over the list has.
    pub(crate) fn blocks(&self) -> usize {
        self.chunks.len() / 8
    }

    pub(crate) fn pointers_ptr(&self) -> DevicePtr {
        self.pointers.ptr()
    }

    pub(crate) fn counts_ptr(&self) -> DevicePtr {
        self.device_counts.ptr()
    }

    pub(crate) fn chunks_ptr(&self) -> DevicePtr {
        self.chunks.ptr()
    }
}

fn gradient(number: usize, data: DevicePtr, count: usize, size: usize) -> Extent {
    Extent::contiguous("gradient of tensor {}", data, count, size).number(number)
}

fn check_pointers(counts: &[usize], pointers: &[DevicePtr]) -> Result<()> {
    if pointers.len() != counts.len() {
        let expected = format!("{}, as many as there are tensors", counts.len());
        return Err(error("number of addresses", pointers.len().to_string(), expected));
    }
    match counts.iter().zip(pointers).position(|(&count, pointer)| count > 0 && pointer.is_null()) {
        Some(i) => Err(error(&format!("address of tensor {i}"), "null".into(), "device memory".into())),
        None => Ok(()),
    }
}

/// `Chunk`, one for each block: tensor, chunk within it.
fn chunks(counts: &[usize]) -> Result<Vec<[i32; 2]>> {
    let total = counts.iter().try_fold(0usize, |sum, count| sum.checked_add(count.div_ceil(CHUNK)));
    let limit = i32::MAX as usize;
    if counts.len() > limit || total.is_none_or(|total| total > limit) {
        let was = format!("{} tensors of {:?} chunks", counts.len(), total);
        return Err(error("counts", was, format!("at most {limit} tensors and chunks of {CHUNK} elements")));
    }
    let of_tensor = |(tensor, count): (usize, &usize)| {
        (0..count.div_ceil(CHUNK)).map(move |index| [tensor as i32, index as i32])
    };
    Ok(counts.iter().enumerate().flat_map(of_tensor).collect())
}

fn error(argument: &str, was: String, expected: String) -> Error {
    Error::argument("tensor list", argument, was, expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhand_gpu::Device;

    #[test]
    fn chunks_cover_each_tensor_once_and_an_empty_one_has_none() {
        let chunks = chunks(&[0, 1, CHUNK, 0, CHUNK + 1]).unwrap();
        assert_eq!(chunks, [[1, 0], [2, 0], [4, 0], [4, 1]]);
    }

    #[test]
    fn more_chunks_than_blocks_can_be_counted_are_refused_before_they_are_listed() {
        let message = chunks(&[CHUNK << 31]).unwrap_err().to_string();
        assert!(
            message.starts_with("tensor list: counts is 1 tensors of Some(2147483648) chunks"),
            "{message}"
        );
        assert!(chunks(&[usize::MAX; 1 << 20]).is_err());
    }

    #[test]
    fn gradients_lie_apart_from_what_launches_write() {
        let stream = Device::emulated("sm_80".parse().unwrap()).unwrap().new_stream().unwrap();
        let check = Check("optimizer");
        let updated = [(0, 1), (1, 2)]
            .map(|(i, at)| Extent::contiguous("p[{}]", DevicePtr(at << 12), 64, 4).written().number(i));
        let list = TensorList::new(&stream, &[64, 0, 64]).unwrap().apart_from(check, 4, updated.into());
        let message = |result: Result<()>| result.map_or_else(|error| error.to_string(), |()| "fine".into());
        let set = |last: u64| message(list.set(&[DevicePtr(3 << 12), DevicePtr::NULL, DevicePtr(last)]));
        assert_eq!(set((1 << 12) + 256), "fine");
        let expected = "optimizer: p[1] is at 0x2000..0x2100, it has to be apart from gradient of tensor 2 at 0x20fc..0x21fc";
        assert_eq!(set((2 << 12) + 252), expected);
        // That was not set.
        let norm = |at| [Extent::contiguous("norm", DevicePtr(at), 1, 4).written()];
        assert_eq!(message(list.check_apart(check, 4, &norm((2 << 12) + 260))), "fine");
        let expected = "optimizer: norm is at 0x30fc..0x3100, it has to be apart from gradient of tensor 0 at 0x3000..0x3100";
        assert_eq!(message(list.check_apart(check, 4, &norm((3 << 12) + 252))), expected);
        assert_eq!(message(list.check_number(&norm((1 << 12) + 256)[0])), "fine");
        assert!(message(list.check_number(&norm(1 << 12)[0])).contains("apart from"));
    }

    #[test]
    fn every_tensor_with_elements_needs_an_address() {
        let [null, there] = [DevicePtr::NULL, DevicePtr(512)];
        assert!(check_pointers(&[0, 3], &[null, there]).is_ok());
        let message = |pointers: &[DevicePtr]| check_pointers(&[0, 3], pointers).unwrap_err().to_string();
        assert_eq!(
            message(&[there, null]),
            "tensor list: address of tensor 1 is null, it has to be device memory"
        );
        assert_eq!(
            message(&[there]),
            "tensor list: number of addresses is 1, it has to be 2, as many as there are tensors"
        );
    }
}
