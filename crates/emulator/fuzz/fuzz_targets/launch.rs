//! Any text that loads can be launched: it ends, or is a fault, and never a panic, a hang or an exhausted memory.

#![no_main]

use libfuzzer_sys::fuzz_target;
use longhand_emulator::ptx::parse;
use longhand_emulator::{Checks, Gpu, Module, Options, Shape};

/// Blocks of more threads than this only take longer.
const THREADS_LIMIT: u64 = 128;

/// Bytes of the one buffer that parameters point to.
const BUFFER: usize = 1 << 16;

/// Kernels have parameters of at most this many bytes.
const PARAMS_LIMIT: usize = 32_764;

fuzz_target!(|text: &str| {
    let Ok(parsed) = parse(text) else { return };
    let Some(entry) = parsed.functions.iter().find(|function| function.entry) else { return };
    let options = Options { checks: Checks::ALL, threads: 1, instruction_limit: 2000 };
    let gpu = Gpu::with_options("sm_90a".parse().unwrap(), options);
    let Ok(module) = Module::from_ptx(&gpu, text) else { return };

    let buffer = gpu.alloc(BUFFER as u64).unwrap();
    let bytes: Vec<u8> = (0..BUFFER).map(|i| (i * i >> 6) as u8).collect();
    gpu.upload(buffer, &bytes).unwrap();
    let places = module.params(&entry.name).unwrap();
    let size = places.iter().map(|(offset, bytes)| offset + bytes).max().unwrap_or(0);
    assert!(size <= PARAMS_LIMIT, "{size} bytes of parameters");
    let mut params = vec![0; size];
    for &(offset, bytes) in &places {
        // Structs are taken for addresses too.
        let value = if bytes % 8 == 0 { buffer } else { 5 };
        let value = value.to_le_bytes();
        params[offset..][..bytes].iter_mut().zip(value.iter().cycle()).for_each(|(to, from)| *to = *from);
    }

    let cluster = entry.required_cluster.filter(|it| *it != [0; 3]).unwrap_or([1; 3]);
    let few = cluster.iter().all(|it| *it <= 16);
    let grid = if cluster == [1; 3] || !few { [2, 1, 1] } else { cluster };
    let block = entry.required_block.unwrap_or([48, 1, 1]);
    if block.iter().fold(1, |product: u64, it| product.saturating_mul((*it).into())) > THREADS_LIMIT {
        return;
    }
    let shape = Shape { grid, block, cluster, dynamic_shared: 2048 };
    let _ = module.launch(&entry.name, &shape, &params);
});
