//! Reads the resource report that `ptxas -v` leaves in NVRTC's log.

use crate::Resources;

/// One report for each kernel, in the order of the log.
///
/// ```text
/// ptxas info    : Compiling entry function 'scale' for 'sm_90a'
/// ptxas info    : Function properties for scale
///     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
/// ptxas info    : Used 10 registers, used 1 barriers, 128 bytes smem, 552 bytes cmem[0]
/// ```
pub(crate) fn parse(log: &str) -> Vec<Resources> {
    let mut kernels: Vec<Resources> = Vec::new();
    // A device function that is not inlined has a report of its own, which is not the kernel's.
    let mut of_kernel = false;
    for line in log.lines() {
        if let Some(entry) =
            after(line, "Compiling entry function '").and_then(|rest| rest.split('\'').next())
        {
            kernels.push(Resources::none(entry));
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if let Some(function) = after(line, "Function properties for ") {
            of_kernel = function.trim() == kernel.entry;
        } else if line.contains("bytes stack frame") && of_kernel {
            kernel.stack_bytes = number_before(line, " bytes stack frame");
            kernel.spill_stores = number_before(line, " bytes spill stores");
            kernel.spill_loads = number_before(line, " bytes spill loads");
        } else if line.contains("Used ") && line.contains(" registers") {
            kernel.registers = number_before(line, " registers");
            kernel.barriers = number_before(line, " barriers");
            kernel.shared_bytes = number_before(line, " bytes smem");
            // Its own frame and those of the functions it calls.
            kernel.stack_bytes = kernel.stack_bytes.max(number_before(line, " bytes cumulative stack size"));
        }
    }
    kernels
}

impl Resources {
    fn none(entry: &str) -> Resources {
        Resources {
            entry: entry.to_owned(),
            registers: 0,
            spill_stores: 0,
            spill_loads: 0,
            stack_bytes: 0,
            shared_bytes: 0,
            barriers: 0,
        }
    }
}

fn after<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    line.split_once(marker).map(|(_, rest)| rest)
}

/// The number that stands right before `unit`; 0 where the line does not mention it.
fn number_before(line: &str, unit: &str) -> u32 {
    let Some((head, _)) = line.split_once(unit) else { return 0 };
    let digits = head.len() - head.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    head[head.len() - digits..].parse().unwrap_or(0)
}
