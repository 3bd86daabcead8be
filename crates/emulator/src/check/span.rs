//! The accesses of a warp, as few as they can be told.

use std::convert::Infallible;

use crate::check::page::{PAGE, SpanLanes};
use crate::lanes::{LANES, Lanes};

/// Calls a function for each run of lanes that access one after another within a page, and of lanes that access the same
/// bytes, with the address of the first.
#[inline]
pub(crate) fn spans<E>(
    mask: u32,
    addresses: &Lanes<u64>,
    bytes: u32,
    mut f: impl FnMut(u64, &SpanLanes) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = mask;
    while rest != 0 {
        let first = rest.trailing_zeros() as usize;
        let start = addresses[first];
        let active = (rest >> first).trailing_ones() as usize;
        let room = if bytes.is_power_of_two() { (PAGE - start % PAGE) / u64::from(bytes) } else { 1 };
        let most = active.min(room as usize);
        let mut count = 1;
        while count < most && addresses[first + count] == start + count as u64 * u64::from(bytes) {
            count += 1;
        }
        if count == 1 {
            while count < active && addresses[first + count] == start {
                count += 1;
            }
            let lanes = (u32::MAX >> (LANES - count)) << first;
            f(start, &SpanLanes::Same(lanes))?;
        } else {
            f(start, &SpanLanes::Consecutive { first, count })?;
        }
        rest &= !((u32::MAX >> (LANES - count)) << first);
    }
    Ok(())
}

/// As [`spans`], where nothing can fail.
#[inline]
pub(crate) fn each_span(mask: u32, addresses: &Lanes<u64>, bytes: u32, mut f: impl FnMut(u64, &SpanLanes)) {
    let done: Result<(), Infallible> = spans(mask, addresses, bytes, |address, lanes| {
        f(address, lanes);
        Ok(())
    });
    match done {
        Ok(()) => {}
    }
}
