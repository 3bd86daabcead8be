//! Needs NVRTC and no GPU. The table of what every kernel uses:
//!
//! ```text
//! cargo test -p longhand-tests --test kernels compile -- --nocapture
//! ```

use longhand_gpu::{Arch, Compiler, Error, Resources};
use longhand_kernels::{Variant, variants};
use std::fmt::Write;
use std::sync::Mutex;

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
    let wanted =
        Arch::TESTED.iter().flat_map(|&arch| variants(arch).into_iter().map(move |variant| (arch, variant)));
    let mut rows = compile_all(&compiler, wanted.collect());
    rows.sort_by(|a, b| a.key().cmp(&b.key()));
    println!("{}", table(&rows));

    let spilling: Vec<&Row> = rows.iter().filter(|row| row.uses_local_memory()).collect();
    assert!(spilling.is_empty(), "these kernels spill or use local memory:\n{}", table(spilling));
}

/// One variant and what its kernel uses on one architecture.
struct Row {
    variant: Variant,
    arch: Arch,
    resources: Resources,
}

impl Row {
    fn key(&self) -> (&str, String, Arch) {
        (self.variant.entry, self.variant.program.constants_text(), self.arch)
    }

    fn uses_local_memory(&self) -> bool {
        let Resources { spill_stores, spill_loads, stack_bytes, .. } = self.resources;
        spill_stores + spill_loads + stack_bytes > 0
    }
}

/// On all cores: the compiler runs on one.
fn compile_all(compiler: &Compiler, wanted: Vec<(Arch, Variant)>) -> Vec<Row> {
    let wanted = Mutex::new(wanted.into_iter());
    let next = || wanted.lock().unwrap().next();
    let work = || {
        std::iter::from_fn(next).map(|(arch, variant)| compile(compiler, arch, variant)).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

fn compile(compiler: &Compiler, arch: Arch, variant: Variant) -> Row {
    let image = compiler.compile(&variant.program, arch).unwrap_or_else(|error| panic!("{error}"));
    let resources = image.resources().iter().find(|resources| resources.entry == variant.entry);
    let resources =
        resources.unwrap_or_else(|| panic!("{} reports no {}", image.program(), variant.entry)).clone();
    Row { variant, arch, resources }
}

fn table<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let mut table =
        String::from("| kernel | constants | architecture | registers | shared memory | spills | stack |\n");
    table += "|---|---|---|---:|---:|---:|---:|\n";
    for row in rows {
        let Row { variant, arch, resources } = row;
        let shared = variant.shared_bytes + resources.shared_bytes;
        let spills = resources.spill_stores + resources.spill_loads;
        let (entry, constants) = (variant.entry, variant.program.constants_text());
        let Resources { registers, stack_bytes, .. } = resources;
        writeln!(
            table,
            "| {entry} | {constants} | {arch} | {registers} | {shared} | {spills} | {stack_bytes} |"
        )
        .unwrap();
    }
    table
}
