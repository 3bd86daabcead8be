//! Lists of numbers that kernels read, such as the pages and lengths of a cache: all layers of a model have the same in a
//! step, and upload them once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use longhand_gpu::Buffer;

use super::Gpu;
use crate::Result;

/// So many are kept: tables and lengths of several caches, to append and to attend to.
const KEPT: usize = 8;

/// The lists uploaded last, the newest first.
#[derive(Default)]
pub(crate) struct IndexLists(Mutex<VecDeque<(Vec<u32>, Arc<Buffer>)>>);

impl Gpu {
    /// These numbers in the memory of the device, where they may be from before; nobody may write there.
    pub(crate) fn index_list(&self, values: Vec<u32>) -> Result<Arc<Buffer>> {
        let mut lists = self.0.index_lists.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lists.iter().position(|(known, _)| *known == values);
        let (values, buffer) = match known.and_then(|known| lists.remove(known)) {
            Some(known) => known,
            None => {
                let buffer = self.workspace(4 * values.len())?;
                buffer.upload(0, bytemuck::cast_slice(&values))?;
                (values, Arc::new(buffer))
            }
        };
        lists.push_front((values, Arc::clone(&buffer)));
        lists.truncate(KEPT);
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use longhand_gpu::emulator::Options;

    use super::*;

    #[test]
    fn a_list_is_uploaded_once_until_others_took_its_place() {
        let gpu = Gpu::emulated("sm_80".parse().unwrap(), Options::default()).unwrap();
        let address = |values: &[u32]| gpu.index_list(values.to_vec()).unwrap().ptr();
        let first = gpu.index_list(vec![1, 2, 3]).unwrap();
        assert_eq!(address(&[1, 2, 3]), first.ptr());
        assert_ne!(address(&[1, 2, 4]), first.ptr());
        for i in 0..KEPT as u32 {
            address(&[i]);
        }
        // Whoever holds it still has it.
        assert_ne!(address(&[1, 2, 3]), first.ptr());
    }
}
