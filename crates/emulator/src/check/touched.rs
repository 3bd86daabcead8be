//! Which bytes of global memory were touched, and how: what blocks of different clusters share, and how many bytes a
//! launch touches at all.

use crate::check::page::{PAGE, SpanLanes, Way};
use crate::check::pages::Pages;
use crate::check::span::each_span;
use crate::memory::{Request, Scope};

/// A bit for each byte of a page.
type Bits = [u64; PAGE as usize / 64];

/// How the bytes of a page were touched.
#[derive(Clone, Default)]
pub(crate) struct Bytes {
    /// By weak accesses, and by strong ones whose scope is not all of the GPU.
    read: Bits,
    written: Bits,
    /// By strong accesses.
    strongly_read: Bits,
    strongly_written: Bits,
}

/// Bytes of global memory that were touched.
#[derive(Default)]
pub(crate) struct Touched(Pages<Bytes>);

impl Touched {
    /// Adds an access of a warp.
    #[inline]
    pub fn add_lanes(&mut self, request: &Request) {
        let way = Way::from(request.kind);
        let bytes = u64::from(request.bytes);
        each_span(request.mask, request.addresses, request.bytes, |address, lanes| match lanes {
            SpanLanes::Consecutive { count, .. } => self.add(address, bytes * *count as u64, way),
            SpanLanes::Same(_) => self.add(address, bytes, way),
        });
    }

    /// Adds an access within a page.
    #[inline]
    pub fn add(&mut self, address: u64, bytes: u64, way: Way) {
        let page = self.0.get(address / PAGE, Bytes::default);
        let bits = match (way.write, way.strong) {
            (false, Some(Scope::Gpu)) => &mut page.strongly_read,
            (true, Some(Scope::Gpu)) => &mut page.strongly_written,
            (false, _) => &mut page.read,
            (true, _) => &mut page.written,
        };
        let (mut at, end) = (address % PAGE, address % PAGE + bytes);
        while at < end {
            let count = (64 - at % 64).min(end - at);
            bits[at as usize / 64] |= (u64::MAX >> (64 - count)) << (at % 64);
            at += count;
        }
    }

    /// Adds what a cluster touched. Returns the pages in which it accessed bytes that others accessed, one of them
    /// writing, and not both strongly. In whatever order clusters are added, all such pages are found.
    pub fn merge(&mut self, cluster: &Touched) -> Vec<u64> {
        let mut contested = Vec::new();
        for (number, theirs) in cluster.0.iter() {
            let ours = self.0.get(number, Bytes::default);
            let mut conflict = 0;
            for k in 0..ours.read.len() {
                let [read, written, strongly_read, strongly_written] =
                    [theirs.read[k], theirs.written[k], theirs.strongly_read[k], theirs.strongly_written[k]];
                let weak = ours.read[k] | ours.written[k];
                let all = weak | ours.strongly_read[k] | ours.strongly_written[k];
                conflict |= written & all
                    | strongly_written & weak
                    | read & (ours.written[k] | ours.strongly_written[k])
                    | strongly_read & ours.written[k];
                ours.read[k] |= read;
                ours.written[k] |= written;
                ours.strongly_read[k] |= strongly_read;
                ours.strongly_written[k] |= strongly_written;
            }
            if conflict != 0 {
                contested.push(number);
            }
        }
        contested
    }

    /// How many bytes were read, and how many written.
    pub fn count(&self) -> (u64, u64) {
        let ones =
            |a: &Bits, b: &Bits| a.iter().zip(b).map(|(a, b)| u64::from((a | b).count_ones())).sum::<u64>();
        self.0.iter().fold((0, 0), |(read, written), (_, page)| {
            (
                read + ones(&page.read, &page.strongly_read),
                written + ones(&page.written, &page.strongly_written),
            )
        })
    }
}
