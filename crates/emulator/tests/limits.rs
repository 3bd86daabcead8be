//! What asks for more memory than a GPU has is an error with the number of bytes, never memory of the host.

use longhand_emulator::{Arch, Gpu, MemoryError, Module, Problem, Shape};

fn gpu() -> Gpu {
    Gpu::new("sm_90a".parse::<Arch>().unwrap())
}

fn load(module: &str, body: &str) -> Result<Module, String> {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n{module}\n.visible .entry k()\n{{\n{body}\nret;\n}}\n"
    );
    Module::from_ptx(&gpu(), &text).map_err(|error| error.to_string())
}

#[test]
fn variables_larger_than_their_space_are_refused_when_loaded() {
    let refused = |module: &str, body: &str, bytes: &str| {
        let error = load(module, body).err().expect("too large");
        assert!(error.contains(bytes), "{error}");
    };
    refused(".global .b8 x[70368744177664];", "", "70368744177664 bytes of global variables");
    refused(".global .b8 x[900000000];\n.global .b8 y[900000000];", "", "1800000000 bytes");
    refused(".const .b8 x[8589934592];", "", "8589934592 bytes of constant memory");
    refused("", ".shared .b8 x[4294967290];", "4294967290 bytes of shared memory");
    refused(".shared .b8 x[300000];", ".reg .b32 r; mov.u32 r, x;", "300000 bytes of shared memory");
    refused("", ".local .b8 x[600000];", "600000 bytes of local memory");
    refused(".entry p(.param .b8 x[40000]) { ret; }", "", "40000 bytes of parameters");
    assert!(load(".global .b8 x[1000000];", ".shared .b8 y[200000]; .local .b8 z[500000];").is_ok());
}

#[test]
fn an_allocation_of_more_than_a_tebibyte_is_refused() {
    let bytes = (1 << 40) + 1;
    assert_eq!(gpu().alloc(bytes), Err(MemoryError::NoSpace { bytes }));
    assert!(gpu().alloc(100 << 30).is_ok());
}

/// A function that calls itself `%n` times.
fn recursive(local: u32) -> String {
    format!(
        ".func f(.reg .b32 n)
{{
.local .b8 space[{local}];
.reg .pred p;
.reg .b32 m;
setp.eq.u32 p, n, 0;
@p ret;
sub.u32 m, n, 1;
call f, (m);
ret;
}}"
    )
}

#[test]
fn calls_that_need_more_than_a_threads_stack_are_a_fault() {
    let shape = Shape { grid: [1; 3], block: [32, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    let run = |local: u32, calls: u32| {
        let body = format!(".reg .b32 n; mov.u32 n, {calls}; call f, (n);");
        load(&recursive(local), &body).unwrap().launch("k", &shape, &[])
    };
    assert!(run(100_000, 3).is_ok());
    let fault = run(100_000, 5).unwrap_err();
    assert!(
        matches!(&fault.problem, Problem::Illegal(what) if what.contains("stack of 6") && what.contains("524288")),
        "{}",
        fault.problem
    );
    assert!(run(16, 1000).is_ok());
    assert!(run(16, u32::MAX).is_err());
}
