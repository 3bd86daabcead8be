//! Needs NVRTC and no GPU.

use longhand_gpu::{Compiler, Error};
use longhand_verify::cards::{Use, uses};

/// Kernels that use local memory in some form, and how many bytes of it at most: to be mended, and not to grow.
const IN_LOCAL_MEMORY: [(&str, u32); 4] = [
    ("activation_backward", 8),
    ("attention_backward_key", 8),
    ("attention_merge", 8),
    ("norm_backward", 256),
];

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills_or_local_memory_but_for_those_known() {
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(error @ Error::LibraryNotFound { .. }) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let uses = uses(&compiler).unwrap();
    let spilling: Vec<String> =
        uses.iter().filter(|used| used.has_local_memory() && !is_known(used)).map(told).collect();
    assert!(spilling.is_empty(), "these kernels spill or use local memory:\n{}", spilling.join("\n"));
}

fn is_known(used: &Use) -> bool {
    let known = IN_LOCAL_MEMORY.iter().find(|(entry, _)| *entry == used.kernel.entry);
    known.is_some_and(|(_, bytes)| used.resources.stack_bytes <= *bytes)
}

fn told(used: &Use) -> String {
    let Use { arch, kernel, resources } = used;
    format!("{arch} {} {}: {resources:?}", kernel.entry, kernel.program.constants_text())
}
