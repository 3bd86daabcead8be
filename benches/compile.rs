//! Compiling a kernel with NVRTC, and reading it from the cache on disk. It runs on the CPU alone.

use anyhow::Result;
use longhand_benches::{Bench, Row};
use longhand_gpu::{Arch, Compiler, Error};
use longhand_kernels::{Variant, variants};

const ARCH: &str = "sm_90a";

/// The kernels that take the longest, and a small one.
const KERNELS: [&str; 3] = ["attention_backward_key", "attention_forward", "norm_forward"];

fn compile(bench: &mut Bench) -> Result<()> {
    let arch: Arch = ARCH.parse()?;
    let cold = match Compiler::with_cache(None) {
        Err(error @ Error::LibraryNotFound { .. }) => return bench.leave_out("compile", &error.to_string()),
        compiler => compiler?,
    };
    let all = variants(arch);
    for entry in KERNELS {
        let Some(Variant { program, .. }) = all.iter().find(|variant| variant.entry == entry) else {
            anyhow::bail!("there is no kernel {entry}");
        };
        // The axis is the architecture: there is one.
        let row = |how: &str| {
            let row = Row::new("compile", "cubin", "arch", arch.number() as usize);
            row.variant(&format!("{entry} {how}")).of(1, "kernel")
        };
        bench.measure(row("cold"), || Ok(|| Ok(cold.compile(program, arch)?)))?;
        bench.measure(row("from cache"), || {
            let folder = tempfile::tempdir()?;
            let compiler = Compiler::with_cache(Some(folder.path().to_owned()))?;
            compiler.compile(program, arch)?;
            Ok(move || {
                let image = compiler.compile(program, arch)?;
                anyhow::ensure!(image.from_cache(), "{entry} was not in {}", folder.path().display());
                Ok(())
            })
        })?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main_on_cpu(compile)
}
