//! Registers, shared memory and occupancy.

use crate::Error;
use longhand_gpu::{Arch, Compiler, Program, Resources, occupancy};
use longhand_kernels::{Variant, variants};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::{Mutex, PoisonError};

/// One kernel in one form, and what it uses on one architecture.
#[derive(Clone, Debug)]
pub struct Use {
    /// What it was compiled for.
    pub arch: Arch,
    /// The kernel.
    pub kernel: Variant,
    /// What it uses.
    pub resources: Resources,
}

impl Use {
    /// Whether registers did not suffice, or an array is indexed at run time.
    #[must_use]
    pub fn has_local_memory(&self) -> bool {
        let Resources { spill_stores, spill_loads, stack_bytes, .. } = self.resources;
        spill_stores + spill_loads + stack_bytes > 0
    }

    /// The folder of `kernels/` that it lies in.
    pub(super) fn folder(&self) -> &str {
        let name = self.kernel.program.name();
        name.split_once('/').map_or(name, |(folder, _)| folder)
    }

    fn shared_bytes(&self) -> u32 {
        self.kernel.shared_bytes + self.resources.shared_bytes
    }

    fn occupancy(&self) -> f64 {
        occupancy(self.arch, self.kernel.threads, self.resources.registers, self.shared_bytes())
    }
}

/// Compiles every listed kernel, on all cores: the compiler itself runs on one.
pub fn compile(compiler: &Compiler, architectures: &[Arch]) -> Result<Vec<Use>, Error> {
    let programs = Mutex::new(architectures.iter().flat_map(|&arch| programs(arch)).collect::<Vec<_>>());
    let next = || programs.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || std::iter::from_fn(next).map(|wanted| wanted.compile(compiler)).collect::<Vec<_>>();
    let done = std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    let mut uses = Vec::new();
    for used in done {
        uses.extend(used?);
    }
    Ok(uses)
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

impl Wanted {
    fn compile(self, compiler: &Compiler) -> Result<Vec<Use>, Error> {
        let image = compiler.compile(&self.program, self.arch)?;
        let used = |kernel: Variant| {
            let resources = image.resources().iter().find(|resources| resources.entry == kernel.entry)?;
            Some(Use { arch: self.arch, kernel, resources: resources.clone() })
        };
        Ok(self.kernels.into_iter().filter_map(used).collect())
    }
}

/// A row for each kernel: its forms, and from the least to the most that they use.
pub fn table<'a>(uses: impl Iterator<Item = &'a Use>) -> String {
    let mut kernels: BTreeMap<(&str, &str), Vec<&Use>> = BTreeMap::new();
    for used in uses {
        kernels.entry((used.kernel.program.name(), used.kernel.entry)).or_default().push(used);
    }
    let names = Arch::TESTED.map(|arch| format!(" {arch} |")).concat();
    let mut text = format!("| kernel | forms | threads | shared memory, KiB |{names}\n");
    text += &format!("|---|---|---|---|{}\n", "---|".repeat(Arch::TESTED.len()));
    for ((_, entry), uses) in kernels {
        let forms = uses.iter().filter(|used| used.arch == Arch::TESTED[0]).count();
        let threads = range(uses.iter().map(|used| used.kernel.threads));
        let shared = range(uses.iter().map(|used| used.shared_bytes().div_ceil(1024)));
        let _ = write!(text, "| `{entry}` | {forms} | {threads} | {shared} |");
        for arch in Arch::TESTED {
            let on = || uses.iter().filter(|used| used.arch == arch);
            let registers = range(on().map(|used| used.resources.registers));
            let percent = range(on().map(|used| (used.occupancy() * 100.0).round() as u32));
            let cell =
                if on().next().is_none() { "none".to_owned() } else { format!("{registers} / {percent}%") };
            let _ = write!(text, " {cell} |");
        }
        text += "\n";
    }
    text
}

fn range<T: Ord + Copy + Display>(values: impl Iterator<Item = T> + Clone) -> String {
    match (values.clone().min(), values.max()) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least}–{most}"),
        _ => String::new(),
    }
}
