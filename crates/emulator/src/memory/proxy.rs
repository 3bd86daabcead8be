//! The generic proxy and the asynchronous one (PTX ISA, "Memory Consistency Model: Proxies").
//!
//! What ordinary stores wrote to shared memory, the engines of bulk copies and of warpgroup products see once a
//! `fence.proxy.async` lies between: one by the warp that wrote, or one by another that the writer has since
//! synchronised with. Each byte keeps the warp that wrote it last, and in which of the warp's epochs: epochs end
//! where the warp tells others that it is done. A fence covers all epochs of its own warp, and those of others that
//! have ended.

/// A warp of a cluster: 32 times the rank of its block, and its number in the block.
pub(crate) type Writer = usize;

/// Bits of a note that are the epoch; the others are the writer.
const EPOCH_BITS: u32 = 23;

/// The epochs of a cluster's warps, and which of them a proxy fence has covered.
#[derive(Debug)]
pub(crate) struct Proxies {
    /// The one that each warp is in, from 1 on.
    epochs: Vec<u32>,
    /// The last one of each that is covered.
    covered: Vec<u32>,
}

impl Proxies {
    pub fn new(blocks: usize) -> Self {
        Proxies { epochs: vec![1; 32 * blocks], covered: vec![0; 32 * blocks] }
    }

    /// What a byte keeps that this warp writes now.
    pub fn note(&self, writer: Writer) -> u32 {
        (writer as u32) << EPOCH_BITS | self.epochs[writer]
    }

    /// A warp tells others that it is done with something.
    pub fn end_epoch(&mut self, writer: Writer) {
        let epoch = &mut self.epochs[writer];
        *epoch = (*epoch + 1).min((1 << EPOCH_BITS) - 1);
    }

    /// A warp executes `fence.proxy.async`.
    pub fn fence(&mut self, by: Writer) {
        for (covered, epoch) in self.covered.iter_mut().zip(&self.epochs) {
            *covered = (*covered).max(epoch - 1);
        }
        self.covered[by] = self.epochs[by];
        self.end_epoch(by);
    }

    /// Whose write a note tells, if no fence covers it.
    pub fn uncovered(&self, note: u32) -> Option<Writer> {
        let (writer, epoch) = ((note >> EPOCH_BITS) as usize, note & ((1 << EPOCH_BITS) - 1));
        (note != 0 && epoch > self.covered[writer]).then_some(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::Proxies;

    #[test]
    fn a_fence_covers_what_its_warp_wrote_before_and_nothing_after() {
        let mut proxies = Proxies::new(2);
        let before = proxies.note(33);
        assert_eq!(proxies.uncovered(before), Some(33));
        proxies.fence(33);
        let after = proxies.note(33);
        assert_eq!((proxies.uncovered(before), proxies.uncovered(after)), (None, Some(33)));
    }

    #[test]
    fn a_fence_of_another_warp_covers_what_was_written_before_the_writer_synchronised() {
        let mut proxies = Proxies::new(1);
        let early = proxies.note(0);
        proxies.fence(1);
        assert_eq!(proxies.uncovered(early), Some(0));
        proxies.end_epoch(0);
        let late = proxies.note(0);
        proxies.fence(1);
        assert_eq!((proxies.uncovered(early), proxies.uncovered(late)), (None, Some(0)));
    }

    #[test]
    fn bytes_that_nobody_wrote_need_no_fence() {
        assert_eq!(Proxies::new(1).uncovered(0), None);
    }
}
