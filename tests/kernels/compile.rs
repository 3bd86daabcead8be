//! Needs NVRTC and no GPU.

use longhand_gpu::{Compiler, Error};
use longhand_verify::cards::{Use, uses};

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills_or_local_memory() {
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
}

fn told(used: &Use) -> String {
    let Use { arch, kernel, resources } = used;
    format!("{arch} {} {}: {resources:?}", kernel.entry, kernel.program.constants_text())
}
