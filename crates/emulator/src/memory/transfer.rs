//! Moving the bytes of an access that was checked, between registers and memory.

use crate::fault::Problem;
use crate::lanes::{Done, LANES, Lanes, lanes_of};
use crate::machine::{Context, Stop};
use crate::memory::access::{Request, Target, not_writable};
use crate::memory::global::Found;

impl Context<'_> {
    pub(super) fn load_from(&mut self, request: &Request, out: &mut [Lanes<u32>]) -> Done {
        match (request.target, request.bytes) {
            (Target::Shared(rank), 4) => self.load_shared_words::<1>(rank, request, out),
            (Target::Shared(rank), 8) => self.load_shared_words::<2>(rank, request, out),
            (Target::Shared(rank), 16) => self.load_shared_words::<4>(rank, request, out),
            (Target::Global, 4) => self.load_global_words::<1>(request, out),
            (Target::Global, 8) => self.load_global_words::<2>(request, out),
            (Target::Global, 16) => self.load_global_words::<4>(request, out),
            (Target::Const | Target::Param, _) if self.load_same(request, out) => Ok(()),
            _ => self.load_words(request, out),
        }
    }

    /// All lanes read the same constant, which is what constants are for.
    fn load_same(&mut self, request: &Request, out: &mut [Lanes<u32>]) -> bool {
        let first = request.addresses[request.mask.trailing_zeros() as usize % LANES];
        if lanes_of(request.mask).any(|lane| request.addresses[lane] != first) {
            return false;
        }
        for (k, out) in out.iter_mut().enumerate().take(request.words()) {
            let bytes = (request.bytes - 4 * k as u32).min(4);
            *out = [self.read_word(request.target, 0, first + 4 * k as u64, bytes).0; LANES];
        }
        true
    }

    /// The common case, whole words of one page; everything else goes the general way.
    #[inline(always)]
    fn load_global_words<const N: usize>(&mut self, request: &Request, out: &mut [Lanes<u32>]) -> Done {
        let (Some((page, base)), Some(out)) = (request.page, out.first_chunk_mut::<N>()) else {
            return self.load_words(request, out);
        };
        let page = self.global.page(page);
        let mut initialised = u32::MAX;
        for lane in lanes_of(request.mask) {
            let word = (request.addresses[lane] - base) as usize / 4;
            let words = page.words::<N>(word);
            for k in 0..N {
                out[k][lane] = words[k];
            }
            initialised &= !(u32::from(!page.written::<N>(word)) << lane);
        }
        self.check_initialised(request, initialised)
    }

    #[inline(always)]
    fn load_shared_words<const N: usize>(
        &self,
        rank: usize,
        request: &Request,
        out: &mut [Lanes<u32>],
    ) -> Done {
        let Some(out) = out.first_chunk_mut::<N>() else { return Ok(()) };
        let shared = &self.cluster.blocks[rank].shared;
        let mut initialised = u32::MAX;
        for lane in lanes_of(request.mask) {
            let address = request.addresses[lane] as usize;
            let words = shared.words::<N>(address);
            for k in 0..N {
                out[k][lane] = words[k];
            }
            initialised &= !(u32::from(!shared.is_written::<N>(address)) << lane);
        }
        self.check_initialised(request, initialised)
    }

    fn load_words(&mut self, request: &Request, out: &mut [Lanes<u32>]) -> Done {
        let mut initialised = u32::MAX;
        for lane in lanes_of(request.mask) {
            let address = request.addresses[lane];
            let mut written = true;
            for (k, out) in out.iter_mut().enumerate().take(request.words()) {
                let bytes = (request.bytes - 4 * k as u32).min(4);
                let (value, known) = self.read_word(request.target, lane, address + 4 * k as u64, bytes);
                out[lane] = value;
                written &= known;
            }
            initialised &= !(u32::from(!written) << lane);
        }
        self.check_initialised(request, initialised)
    }

    #[inline]
    pub(super) fn read_word(&mut self, target: Target, lane: usize, address: u64, bytes: u32) -> (u32, bool) {
        match target {
            Target::Global => match self.global.find(address, bytes.into()) {
                Found::In(index) => {
                    let allocation = &self.global.allocations[index];
                    allocation.read(address - allocation.base, bytes)
                }
                Found::Freed | Found::Outside => (0, true),
            },
            Target::Shared(rank) => {
                let shared = &self.cluster.blocks[rank].shared;
                let written = shared.written[address as usize..][..bytes as usize].iter().all(|it| *it);
                (from_bytes(&shared.bytes, address, bytes), written)
            }
            Target::Local => self.warp.local.read(lane, address as u32, bytes),
            Target::Const => (from_bytes(&self.launch.program.constants.bytes, address, bytes), true),
            Target::Param => (from_bytes(self.launch.params, address, bytes), true),
        }
    }

    pub(super) fn check_initialised(&self, request: &Request, initialised: u32) -> Done {
        let wrong = request.mask & !initialised;
        if wrong == 0 || !self.launch.options.checks.init {
            return Ok(());
        }
        let lane = wrong.trailing_zeros() as usize;
        Err(Stop::lane(lane, Problem::Uninitialised { access: request.access(lane) }))
    }

    pub(super) fn store_to(&mut self, request: &Request) -> Done {
        if matches!(request.target, Target::Const | Target::Param) {
            return Err(not_writable(request));
        }
        match (request.target, request.bytes) {
            (Target::Shared(rank), 4) => self.store_shared_words::<1>(rank, request),
            (Target::Shared(rank), 8) => self.store_shared_words::<2>(rank, request),
            (Target::Shared(rank), 16) => self.store_shared_words::<4>(rank, request),
            (Target::Global, 4) => self.store_global_words::<1>(request),
            (Target::Global, 8) => self.store_global_words::<2>(request),
            (Target::Global, 16) => self.store_global_words::<4>(request),
            _ => self.store_each_word(request),
        }
        Ok(())
    }

    #[inline(always)]
    fn store_global_words<const N: usize>(&mut self, request: &Request) {
        let (Some((page, base)), Some(data)) = (request.page, request.data.first_chunk::<N>()) else {
            return self.store_each_word(request);
        };
        let page = self.global.page(page);
        for lane in lanes_of(request.mask) {
            let word = (request.addresses[lane] - base) as usize / 4;
            page.set_words::<N>(word, std::array::from_fn(|k| data[k][lane]));
        }
    }

    #[inline(always)]
    fn store_shared_words<const N: usize>(&mut self, rank: usize, request: &Request) {
        let Some(data) = request.data.first_chunk::<N>() else { return };
        let shared = &mut self.cluster.blocks[rank].shared;
        for lane in lanes_of(request.mask) {
            shared.set_words::<N>(request.addresses[lane] as usize, std::array::from_fn(|k| data[k][lane]));
        }
    }

    fn store_each_word(&mut self, request: &Request) {
        for lane in lanes_of(request.mask) {
            for (k, data) in request.data.iter().enumerate().take(request.words()) {
                let bytes = (request.bytes - 4 * k as u32).min(4);
                let address = request.addresses[lane] + 4 * k as u64;
                self.write_word(request.target, lane, address, bytes, data[lane]);
            }
        }
    }

    #[inline]
    pub(super) fn write_word(&mut self, target: Target, lane: usize, address: u64, bytes: u32, value: u32) {
        match target {
            Target::Global => {
                if let Found::In(index) = self.global.find(address, bytes.into()) {
                    let allocation = &self.global.allocations[index];
                    allocation.write(address - allocation.base, bytes, value);
                }
            }
            Target::Shared(rank) => {
                let shared = &mut self.cluster.blocks[rank].shared;
                let range = address as usize..address as usize + bytes as usize;
                shared.bytes[range.clone()].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
                shared.written[range].fill(true);
            }
            Target::Local => self.warp.local.write(lane, address as u32, bytes, value),
            Target::Const | Target::Param => {}
        }
    }
}

#[inline]
fn from_bytes(memory: &[u8], address: u64, bytes: u32) -> u32 {
    let mut word = [0; 4];
    word[..bytes as usize].copy_from_slice(&memory[address as usize..][..bytes as usize]);
    u32::from_le_bytes(word)
}
