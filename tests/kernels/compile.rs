//! Needs NVRTC and no GPU. The table of what every kernel uses:
//!
//! ```text
//! cargo test -p longhand-tests --test kernels compile -- --nocapture
//! ```

use longhand_gpu::{Arch, Compiler, Error, Program, Resources};
use longhand_kernels::{Variant, variants};
use std::collections::BTreeMap;
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
    let rows = compile_all(&compiler, Arch::TESTED.iter().flat_map(|&arch| programs(arch)).collect());
    println!("{}", table(&rows));

    let spilling: Vec<&Row> = rows.iter().filter(|row| row.uses_local_memory()).collect();
    assert!(spilling.is_empty(), "these kernels spill or use local memory:\n{}", table(spilling));
}

/// The kernels of one program, for one architecture.
struct Wanted {
    arch: Arch,
    program: Program,
    kernels: Vec<Variant>,
}

fn programs(arch: Arch) -> Vec<Wanted> {
    let mut programs: Vec<Wanted> = Vec::new();
    for variant in variants(arch) {
        match programs.iter_mut().find(|wanted| wanted.program == variant.program) {
            Some(wanted) if wanted.kernels.iter().any(|kernel| kernel.entry == variant.entry) => (),
            Some(wanted) => wanted.kernels.push(variant),
            None => programs.push(Wanted { arch, program: variant.program.clone(), kernels: vec![variant] }),
        }
    }
    programs
}

/// One kernel and what it uses on one architecture.
struct Row {
    arch: Arch,
    kernel: Variant,
    resources: Resources,
}

impl Row {
    fn uses_local_memory(&self) -> bool {
        let Resources { spill_stores, spill_loads, stack_bytes, .. } = self.resources;
        spill_stores + spill_loads + stack_bytes > 0
    }
}

/// On all cores: the compiler itself runs on one.
fn compile_all(compiler: &Compiler, wanted: Vec<Wanted>) -> Vec<Row> {
    let wanted = Mutex::new(wanted.into_iter());
    let next = || wanted.lock().unwrap().next();
    let work = || std::iter::from_fn(next).flat_map(|wanted| compile(compiler, wanted)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

fn compile(compiler: &Compiler, Wanted { arch, program, kernels }: Wanted) -> Vec<Row> {
    let image = compiler.compile(&program, arch).unwrap_or_else(|error| panic!("{error}"));
    let row = |kernel: Variant| {
        let resources = image.resources().iter().find(|resources| resources.entry == kernel.entry);
        let resources =
            resources.unwrap_or_else(|| panic!("{} reports no {}", program.name(), kernel.entry)).clone();
        Row { arch, kernel, resources }
    };
    kernels.into_iter().map(row).collect()
}

/// One line for each variant: registers, bytes of shared memory and spills on each architecture.
fn table<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let mut lines: BTreeMap<(&str, String), BTreeMap<Arch, String>> = BTreeMap::new();
    for Row { kernel, arch, resources } in rows {
        let shared = kernel.shared_bytes + resources.shared_bytes;
        let spills = resources.spill_stores + resources.spill_loads;
        let cell = format!("{} / {shared} / {spills}", resources.registers);
        lines.entry((kernel.entry, kernel.program.constants_text())).or_default().insert(*arch, cell);
    }
    let header = Arch::TESTED.map(|arch| format!(" {arch} |")).concat();
    let mut table = format!("registers / shared memory / spills\n\n| kernel | constants |{header}\n");
    table += &format!("|---|---|{}\n", "---|".repeat(Arch::TESTED.len()));
    for ((entry, constants), cells) in lines {
        let cells = Arch::TESTED.map(|arch| format!(" {} |", cells.get(&arch).map_or("", String::as_str)));
        table += &format!("| {entry} | {constants} |{}\n", cells.concat());
    }
    table
}
