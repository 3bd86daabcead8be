//! Needs NVRTC and no GPU.

use crate::catalogue;
use longhand_gpu::{Compiler, Error};
use longhand_verify::Op;
use longhand_verify::cards::{Use, resources, uses};

/// One test of both, because compiling is what takes the time.
#[test]
fn every_kernel_compiles_for_every_architecture_without_spills_or_local_memory_as_its_card_says() {
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(error @ Error::LibraryNotFound { .. }) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let uses = uses(&compiler).unwrap();
    let spilling: Vec<String> = uses.iter().filter(|used| used.has_local_memory()).map(told).collect();
    assert!(spilling.is_empty(), "these kernels spill or use local memory:\n{}", spilling.join("\n"));
    if catalogue::is_pinned_nvrtc() {
        for op in Op::ALL {
            catalogue::assert_has(op, &resources(op, &uses));
        }
    }
}

fn told(used: &Use) -> String {
    let Use { arch, kernel, resources } = used;
    format!("{arch} {} {}: {resources:?}", kernel.entry, kernel.program.constants_text())
}
