//! Compilation by NVRTC, on any machine that has it.

mod common;

use longhand_gpu::{Arch, Constants, DevicePtr, Error, Program, params};

const SCALE: &str = r#"
#include "constants.cuh"
#include "common/twice.cuh"

struct Params {
    float*    x;
    long long n;
    float     factor;
};

extern "C" __global__ void __launch_bounds__(THREADS) scale(const __grid_constant__ Params p) {
    __shared__ float block[THREADS];
    const long long i = blockIdx.x * (long long)THREADS + threadIdx.x;
    block[threadIdx.x] = i < p.n ? p.x[i] : 0;
    __syncthreads();
    if (i < p.n) p.x[i] = twice(block[THREADS - 1 - threadIdx.x] * p.factor);
}
"#;

params! {
    struct Params {
        x: DevicePtr,
        n: i64,
        factor: f32,
        _pad: u32,
    }
}

fn scale() -> Program {
    Program::new("scale.cu", SCALE)
        .header("common/twice.cuh", "#pragma once\ninline float twice(float x) { return 2 * x; }\n")
        .constants(Constants::new().int("THREADS", 128))
        .params(Params::LAYOUT)
}

#[test]
fn every_tested_architecture_gets_a_cubin_its_ptx_and_a_resource_report() {
    let Some(compiler) = common::compiler() else { return };
    for arch in Arch::TESTED {
        let image = compiler.compile(&scale(), arch).unwrap();
        assert_eq!(&image.cubin().unwrap()[..4], b"\x7fELF", "{arch}");
        assert!(image.ptx().contains(&format!(".target {arch}")), "{arch}");
        // The PTX leads back to the source, under the name the program has and no folder of this machine.
        assert!(image.ptx().contains(".loc\t1 16 "), "{arch}: {}", image.ptx());
        assert!(image.ptx().contains(".file\t1 \"scale.cu\""), "{arch}: {}", image.ptx());
        let [scale] = image.resources() else { panic!("{arch}: {:?}", image.resources()) };
        assert_eq!(scale.entry, "scale");
        assert!((1..=255).contains(&scale.registers), "{arch}: {scale:?}");
        assert_eq!((scale.shared_bytes, scale.barriers), (512, 1), "{arch}");
        assert_eq!((scale.stack_bytes, scale.spill_stores, scale.spill_loads), (0, 0, 0), "{arch}");
    }
}

#[test]
fn spills_and_stack_of_each_kernel_are_reported() {
    let Some(compiler) = common::compiler() else { return };
    let code = r#"
        struct Params { float* x; int i; };
        extern "C" __global__ void plain(const __grid_constant__ Params p) { p.x[threadIdx.x] = 1; }
        // 64 values stay live across the barrier, and 32 registers are what 2048 threads leave each.
        extern "C" __global__ void __launch_bounds__(1024, 2) crowded(const __grid_constant__ Params p) {
            float held[64];
            #pragma unroll
            for (int k = 0; k < 64; ++k) held[k] = p.x[k * 1024 + threadIdx.x];
            __syncthreads();
            #pragma unroll
            for (int k = 0; k < 64; ++k) p.x[k * 1024 + threadIdx.x] = held[63 - k] * held[k];
        }
        extern "C" __global__ void indexed(const __grid_constant__ Params p) {
            float table[32];
            for (int k = 0; k < 32; ++k) table[(k * p.i) & 31] = p.x[k];
            p.x[threadIdx.x] = table[p.i & 31];
        }
    "#;
    let image = compiler.compile(&Program::new("spills.cu", code), "sm_80".parse().unwrap()).unwrap();
    let of = |name: &str| image.resources().iter().find(|r| r.entry == name).unwrap();
    assert_eq!(image.resources().len(), 3);
    assert_eq!((of("plain").spill_stores, of("plain").stack_bytes), (0, 0));
    assert!(of("crowded").spill_stores > 0 && of("crowded").spill_loads > 0, "{:?}", of("crowded"));
    assert_eq!(of("crowded").registers, 32);
    assert_eq!((of("indexed").stack_bytes, of("indexed").spill_stores), (128, 0), "{:?}", of("indexed"));
}

#[test]
fn a_function_that_is_not_inlined_does_not_disturb_its_callers_report() {
    let Some(compiler) = common::compiler() else { return };
    let code = r#"
        struct Params { float* x; int i; };
        __noinline__ float helper(float* x, int i) {
            float table[32];
            for (int k = 0; k < 32; ++k) table[(k * i) & 31] = x[k];
            return table[i & 31];
        }
        extern "C" __global__ void caller(const __grid_constant__ Params p) {
            __shared__ float block[64];
            block[threadIdx.x] = p.x[0];
            __syncthreads();
            p.x[threadIdx.x] = helper(p.x, p.i) + block[63 - threadIdx.x];
        }
    "#;
    for arch in Arch::TESTED {
        let image = compiler.compile(&Program::new("caller.cu", code), arch).unwrap();
        let [caller] = image.resources() else { panic!("{:?}", image.resources()) };
        assert_eq!((caller.stack_bytes, caller.shared_bytes, caller.barriers), (128, 256, 1), "{arch}");
    }
}

#[test]
fn a_compile_error_names_program_architecture_constants_file_and_line() {
    let Some(compiler) = common::compiler() else { return };
    let program = Program::new("broken.cu", "#include \"constants.cuh\"\n\nint x = WIDTH +;\n")
        .constants(Constants::new().int("WIDTH", 8).bool("CAUSAL", true));
    let error = compiler.compile(&program, "sm_90a".parse().unwrap()).unwrap_err().to_string();
    for part in ["broken.cu", "sm_90a", "WIDTH=8, CAUSAL=true", "broken.cu(3): error: expected an expression"]
    {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
}

#[test]
fn an_error_in_a_header_names_the_header() {
    let Some(compiler) = common::compiler() else { return };
    let program = Program::new("a.cu", "#include \"common/b.cuh\"\n").header("common/b.cuh", "\nnonsense;\n");
    let error = compiler.compile(&program, Arch::TESTED[0]).unwrap_err().to_string();
    assert!(error.contains("common/b.cuh(2)"), "{error}");
}

#[test]
fn an_instruction_that_the_target_lacks_is_a_compile_error() {
    let Some(compiler) = common::compiler() else { return };
    let code = r#"
        extern "C" __global__ void later(int* p) { asm volatile("wgmma.fence.sync.aligned;"); *p = 1; }
    "#;
    let program = Program::new("later.cu", code);
    compiler.compile(&program, "sm_90a".parse().unwrap()).unwrap();
    let error = compiler.compile(&program, "sm_80".parse().unwrap()).unwrap_err();
    assert!(matches!(&error, Error::Compile { log, .. } if log.contains("wgmma.fence")), "{error}");
}

#[test]
fn an_architecture_newer_than_nvrtc_gets_ptx_of_the_newest_it_knows() {
    let Some(compiler) = common::compiler() else { return };
    let image = compiler.compile(&scale(), "sm_999a".parse().unwrap()).unwrap();
    assert_eq!(image.cubin(), None);
    assert!(image.ptx().contains(".entry scale"));
    assert!(image.resources().is_empty());
}

#[test]
fn an_architecture_older_than_nvrtc_supports_is_an_error_that_lists_what_it_does() {
    let Some(compiler) = common::compiler() else { return };
    let error = compiler.compile(&scale(), "sm_20".parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::UnsupportedArch { .. }));
    assert!(error.to_string().contains("sm_80, "), "{error}");
}

mod layouts {
    use super::*;

    fn error_for(layout: longhand_gpu::Layout) -> Option<String> {
        let compiler = common::compiler()?;
        let program = Program::new("layout.cu", "struct Params { float* x; long long n; float factor; };\n");
        Some(compiler.compile(&program.params(layout), Arch::TESTED[0]).unwrap_err().to_string())
    }

    #[test]
    fn fields_in_another_order_do_not_compile_and_the_error_names_them() {
        params! { struct Params { n: i64, x: DevicePtr, factor: f32, _pad: u32 } }
        let Some(error) = error_for(Params::LAYOUT) else { return };
        assert!(error.contains("Params.n is 8 bytes at offset 0 in Rust"), "{error}");
        assert!(error.contains("Params.x is 8 bytes at offset 8 in Rust"), "{error}");
        assert!(!error.contains("Params.factor"), "{error}");
    }

    #[test]
    fn another_size_does_not_compile() {
        params! { struct Params { x: DevicePtr, n: i64 } }
        let Some(error) = error_for(Params::LAYOUT) else { return };
        assert!(error.contains("Params is 16 bytes in Rust"), "{error}");
    }

    #[test]
    fn a_field_of_another_size_at_the_same_offset_does_not_compile() {
        params! { struct Params { x: DevicePtr, n: i64, factor: f64 } }
        let Some(error) = error_for(Params::LAYOUT) else { return };
        assert!(error.contains("Params.factor is 8 bytes at offset 16 in Rust"), "{error}");
    }

    #[test]
    fn a_field_that_cuda_does_not_have_does_not_compile() {
        params! { struct Params { x: DevicePtr, n: i64, scale: f32, _pad: u32 } }
        let Some(error) = error_for(Params::LAYOUT) else { return };
        assert!(error.contains("has no member \"scale\""), "{error}");
        assert!(error.contains("layout of the parameter struct, Rust against CUDA"), "{error}");
    }
}

#[test]
fn constants_have_in_cuda_the_very_values_given_in_rust() {
    let Some(compiler) = common::compiler() else { return };
    let constants = Constants::new()
        .int("SMALL", -3)
        .int("LEAST_INT", i64::from(i32::MIN))
        .int("LEAST", i64::MIN)
        .int("MOST", i64::MAX)
        .bool("YES", true)
        .bool("NO", false)
        .float("TENTH", 0.1)
        .float("ONE", 1.0)
        .float("TINY", f32::from_bits(1))
        .float("INFINITE", f32::INFINITY)
        .float("MINUS_INFINITE", f32::NEG_INFINITY)
        .float("NOT_A_NUMBER", f32::NAN)
        .alias("Element", "bf16")
        .alias("Index", "unsigned int");
    let code = r#"
        #include "constants.cuh"
        struct bf16 { unsigned short bits; };
        template <class A, class B> constexpr bool same = false;
        template <class A> constexpr bool same<A, A> = true;
        static_assert(SMALL == -3 && same<decltype(SMALL), const int>);
        static_assert(LEAST_INT == -2147483648LL);
        static_assert(LEAST == -0x7fffffffffffffffLL - 1 && MOST == 0x7fffffffffffffffLL);
        static_assert(YES && !NO);
        static_assert(TENTH == 0x1.99999ap-4f && ONE == 1 && TINY == 0x1p-149f);
        static_assert(same<decltype(TENTH), const float>);
        static_assert(INFINITE > 3e38f && MINUS_INFINITE < -3e38f && NOT_A_NUMBER != NOT_A_NUMBER);
        static_assert(sizeof(Element) == 2 && same<Element, bf16> && same<Index, unsigned>);
    "#;
    compiler.compile(&Program::new("constants.cu", code).constants(constants), Arch::TESTED[0]).unwrap();
}
