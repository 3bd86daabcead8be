//! `kernels/embedding/sort.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use super::EmbeddingShape;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::{Result, Variant};

const THREADS: u32 = 256;
/// Ids of a thread.
const ROUNDS: usize = 8;
/// Ids of a block.
const TILE: usize = THREADS as usize * ROUNDS;
const DIGIT_BITS: u32 = 8;
const DIGITS: usize = 1 << DIGIT_BITS;

params! {
    struct Params {
        ids: DevicePtr,
        from_ids: DevicePtr,
        from_positions: DevicePtr,
        to_ids: DevicePtr,
        to_positions: DevicePtr,
        counts: DevicePtr,
        totals: DevicePtr,
        count: i64,
        tiles: i64,
        vocabulary: u32,
        padding: u32,
        shift: i32,
        _pad: u32,
    }
}

/// The compiled sort of ids with their positions.
#[derive(Clone, Debug)]
pub(super) struct Sort {
    count: Loaded,
    scan: Loaded,
    scatter: Loaded,
}

/// The ids in order, each with its position; those that are left out are `V`, and last.
pub(super) struct Sorted {
    pub ids: DevicePtr,
    pub positions: DevicePtr,
}

pub(super) fn variants() -> [Variant; 3] {
    let [file] = cuda_files!["embedding/sort.cu"];
    let constants = Constants::new().int("THREADS", THREADS).int("ROUNDS", ROUNDS as i64);
    let program = program(*file, &[], constants).params(Params::LAYOUT);
    ["sort_count", "sort_scan", "sort_scatter"].map(|entry| Variant {
        program: program.clone(),
        entry,
        threads: THREADS,
        shared_bytes: 0,
    })
}

impl Sort {
    pub fn new(device: &Device) -> Result<Sort> {
        let [count, scan, scatter] = &variants();
        let load = |variant| Loaded::new(device, variant);
        Ok(Sort { count: load(count)?, scan: load(scan)?, scatter: load(scatter)? })
    }

    /// Bytes of scratch memory for so many ids, which hold the result too: ids and positions twice, and counts.
    pub fn workspace_bytes(count: usize) -> usize {
        4 * (4 * count + DIGITS * count.div_ceil(TILE) + DIGITS)
    }

    /// Enqueues the sort of `ids`, of which there are some. `padding` is left out.
    ///
    /// # Safety
    ///
    /// `ids` and, at a multiple of 4 bytes, the workspace lie in memory of the stream's device that stays allocated until
    /// the stream has come to this point.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        shape: EmbeddingShape,
        (ids, padding): (DevicePtr, Option<u32>),
        workspace: DevicePtr,
    ) -> Result<Sorted> {
        let EmbeddingShape { vocabulary, count, .. } = shape;
        let array = |i: usize| workspace.offset((4 * i * count) as i64);
        let tiles = count.div_ceil(TILE);
        let counts = array(4);
        let (mut from, mut to) = ([array(0), array(1)], [array(2), array(3)]);
        let passes = (usize::BITS - vocabulary.leading_zeros()).div_ceil(DIGIT_BITS);
        for pass in 0..passes {
            let params = Params {
                ids: if pass == 0 { ids } else { DevicePtr::NULL },
                from_ids: from[0],
                from_positions: from[1],
                to_ids: to[0],
                to_positions: to[1],
                counts,
                totals: counts.offset((4 * DIGITS * tiles) as i64),
                count: count as i64,
                tiles: tiles as i64,
                vocabulary: vocabulary as u32,
                padding: padding.unwrap_or(u32::MAX),
                shift: (pass * DIGIT_BITS) as i32,
                _pad: 0,
            };
            // SAFETY: the caller answers for the memory, of which these are distinct pieces.
            unsafe {
                self.count.launch(stream, [tiles as u32, 1], &params)?;
                self.scan.launch(stream, [DIGITS as u32, 1], &params)?;
                self.scatter.launch(stream, [tiles as u32, 1], &params)?;
            }
            (from, to) = (to, from);
        }
        Ok(Sorted { ids: from[0], positions: from[1] })
    }
}
