//! `longhand emulate`.

use std::fs;

use serde_json::Value;

use crate::workplace::{Workplace, stderr};

/// `y[i] = x[i] * factor` for `i < n`, with the parameters one by one, and with them in a struct.
const SCALE: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 x, .param .u64 y, .param .f32 factor, .param .u32 n)
{
.reg .pred %p<2>;
.reg .b32 %r<8>;
.reg .f32 %f<4>;
.reg .b64 %rd<8>;
ld.param.u64 %rd1, [x];
ld.param.u64 %rd2, [y];
ld.param.f32 %f1, [factor];
ld.param.u32 %r1, [n];
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mov.u32 %r4, %tid.x;
mad.lo.u32 %r5, %r2, %r3, %r4;
setp.ge.u32 %p1, %r5, %r1;
@%p1 bra END;
mul.wide.u32 %rd3, %r5, 4;
add.u64 %rd4, %rd1, %rd3;
add.u64 %rd5, %rd2, %rd3;
ld.global.f32 %f2, [%rd4];
mul.rn.f32 %f3, %f2, %f1;
st.global.f32 [%rd5], %f3;
END: ret;
}
.visible .entry copy_params(.param .align 8 .b8 p[40])
{
.reg .b64 %rd<8>;
ld.param.u64 %rd1, [p];
ld.param.u64 %rd2, [p+8];
st.global.u64 [%rd1], %rd2;
ld.param.u64 %rd3, [p+16];
st.global.u64 [%rd1+8], %rd3;
ld.param.u64 %rd4, [p+24];
st.global.u64 [%rd1+16], %rd4;
ld.param.u64 %rd5, [p+32];
st.global.u64 [%rd1+24], %rd5;
ret;
}
";

/// An array of one axis in a file as NumPy writes it.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    npy_ordered(descr, "False", shape, data)
}

fn npy_ordered(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|it| it.to_le_bytes()).collect()
}

/// A place with `scale.ptx`, and 6 numbers in `x.npy`.
fn place() -> Workplace {
    let place = Workplace::new();
    place.write("scale.ptx", SCALE);
    place.write("x.npy", npy("'<f4'", "(6,)", &f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])));
    place
}

fn scale<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut all = "emulate scale.ptx --entry scale --grid 2,1,1 --block 4,1,1".split(' ').collect::<Vec<_>>();
    all.extend(
        arguments.iter().flat_map(|it| if it.starts_with("--") { vec![*it] } else { vec!["--arg", it] }),
    );
    all
}

const ARGUMENTS: [&str; 4] = ["in=x.npy", "out=f32:2x3:y.npy", "f32=0.5", "i32=6"];

/// The arguments with one in the place of another.
fn with(index: usize, argument: &str) -> Vec<&str> {
    let mut all = ARGUMENTS;
    all[index] = argument;
    scale(&all)
}

#[test]
fn a_kernel_reads_one_file_and_writes_another() {
    let place = place();
    let told = place.succeed(&scale(&ARGUMENTS));
    assert!(told.contains("scale") && told.contains("global bytes requested"), "{told}");
    let written = fs::read(place.path("y.npy")).unwrap();
    assert_eq!(written, npy("'<f4'", "(2, 3)", &f32s(&[0.5, 1.0, 1.5, 2.0, 2.5, 3.0])));
}

#[test]
fn a_file_says_for_which_gpu_it_is_and_an_option_says_another() {
    let place = place();
    // More shared memory than a block of sm_80 has, and not more than one of sm_90.
    let large = [&ARGUMENTS[..], &["--shared=200000"]].concat();
    place.fail(&scale(&large), &["shared memory", "166912"]);
    place.succeed(&scale(&[&large[..], &["--arch=sm_90"]].concat()));
}

#[test]
fn a_buffer_is_changed_where_it_is_and_written_to_a_second_file() {
    let place = place();
    let text = SCALE.replace("add.u64 %rd5, %rd2, %rd3", "add.u64 %rd5, %rd1, %rd3");
    place.write("scale.ptx", text);
    place.succeed(&scale(&["inout=x.npy:y.npy", "null", "f32=2", "u32=5"]));
    let written = fs::read(place.path("y.npy")).unwrap();
    assert_eq!(written, npy("'<f4'", "(6,)", &f32s(&[2.0, 4.0, 6.0, 8.0, 10.0, 6.0])));
    assert_eq!(
        fs::read(place.path("x.npy")).unwrap(),
        npy("'<f4'", "(6,)", &f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    );
}

#[test]
fn json_holds_the_counts_and_a_launch_counts_the_same_every_time() {
    let place = place();
    let arguments = [&ARGUMENTS[..], &["--json"]].concat();
    let first = place.succeed(&scale(&arguments));
    let report: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(report["fault"], Value::Null);
    assert_eq!(report["report"]["kernel"], "scale");
    assert_eq!(report["report"]["global_bytes"], 48);
    assert_eq!(place.succeed(&scale(&arguments)), first);
}

/// The 32 bytes that `copy_params` finds behind the pointer of its struct.
fn struct_bytes(arguments: &[&str]) -> Vec<u8> {
    let place = place();
    place.write("raw.bin", [1, 2, 3, 4, 5]);
    let mut all = "emulate scale.ptx --entry copy_params --grid 1,1,1 --block 1,1,1 --arg out=u8:32:y.npy"
        .split(' ')
        .collect::<Vec<_>>();
    all.extend(arguments.iter().flat_map(|it| ["--arg", it]));
    place.succeed(&all);
    fs::read(place.path("y.npy")).unwrap()[128..].to_vec()
}

#[test]
fn values_of_every_type_fill_a_struct_as_c_lays_it_out() {
    let bytes = struct_bytes(&["u8=255", "i16=-2", "bool=1", "f32=0.1", "bf16=-1.5", "i64=-3", "f16=0.5"]);
    let mut expected = vec![0; 32];
    expected[0] = 255;
    expected[2..4].copy_from_slice(&(-2i16).to_le_bytes());
    expected[4] = 1;
    expected[8..12].copy_from_slice(&0.1f32.to_le_bytes());
    expected[12..14].copy_from_slice(&0xBFC0u16.to_le_bytes());
    expected[16..24].copy_from_slice(&(-3i64).to_le_bytes());
    expected[24..26].copy_from_slice(&0x3800u16.to_le_bytes());
    assert_eq!(bytes, expected);
    let bytes =
        struct_bytes(&["i8=-128", "u16=0xABCD", "u32=4294967295", "i32=7", "f64=-2.5", "bytes=raw.bin"]);
    let mut expected = vec![0; 32];
    expected[0] = 0x80;
    expected[2..4].copy_from_slice(&0xABCDu16.to_le_bytes());
    expected[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    expected[8] = 7;
    expected[16..24].copy_from_slice(&(-2.5f64).to_le_bytes());
    expected[24..29].copy_from_slice(&[1, 2, 3, 4, 5]);
    assert_eq!(bytes, expected);
    assert_eq!(struct_bytes(&["null", "u64=18446744073709551615", "null", "null"])[8..16], [255; 8]);
}

#[test]
fn scratch_is_zero_and_what_is_left_unwritten_of_an_output_is_0xff() {
    let place = place();
    place.succeed(&scale(&["zeros=f32:6", "out=f32:8:y.npy", "f32=3", "i32=6"]));
    let written = fs::read(place.path("y.npy")).unwrap();
    assert_eq!(written[128..], [vec![0; 24], vec![0xFF; 8]].concat());
}

#[test]
fn a_fault_is_told_with_its_place_and_writes_no_file() {
    let place = place();
    let output = place.run(&with(3, "i32=7"));
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.starts_with("fault: scale: out of bounds: read of 4 bytes"), "{told}");
    assert!(
        told.contains("block (1, 0, 0), warp 0, lane 2, PTX line 24") && told.contains("ld.global.f32"),
        "{told}"
    );
    assert!(!place.path("y.npy").exists());

    let output = place.run(&[with(0, "out=f32:6:z.npy"), vec!["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["fault"]["problem"]["Uninitialised"].is_object(), "{told}");
    assert!(told["message"].as_str().unwrap().contains("uninitialised"), "{told}");
}

#[test]
fn a_cuda_file_is_compiled_with_the_headers_beside_it() {
    let place = place();
    place.write("scale.cuh", "struct Params { const float* x; float* y; float factor; int n; };");
    place.write(
        "scale.cu",
        "#include \"scale.cuh\"
extern \"C\" __global__ void scale(const __grid_constant__ Params p) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n)
        p.y[i] = p.x[i] * p.factor;
}",
    );
    let mut arguments = scale(&ARGUMENTS);
    arguments[1] = "scale.cu";
    let output = place.run(&arguments);
    if stderr(&output).contains("NVRTC") {
        println!("skipped: {}", stderr(&output));
        return;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(place.path("y.npy")).unwrap()[128..], f32s(&[0.5, 1.0, 1.5, 2.0, 2.5, 3.0]));

    let mut arguments = with(3, "i32=7");
    arguments[1] = "scale.cu";
    let fault = String::from_utf8(place.run(&arguments).stdout).unwrap();
    assert!(fault.contains("scale.cu:5"), "{fault}");

    place.write("broken.cu", "__global__ void scale() { nonsense; }");
    arguments[1] = "broken.cu";
    place.fail(&arguments, &["broken.cu", "nonsense"]);
}

#[test]
fn files_that_cannot_be_used_are_told_of() {
    let place = place();
    let data = f32s(&[0.0; 6]);
    place.write("be.npy", npy("'>f4'", "(6,)", &data));
    place.write("complex.npy", npy("'<c8'", "(3,)", &data));
    place.write("records.npy", npy("[('a', '<f4')]", "(6,)", &data));
    place.write("fortran.npy", npy_ordered("'<f4'", "True", "(2, 3)", &data));
    place.write("short.npy", npy("'<f4'", "(7,)", &data));
    place.write("shapeless.npy", npy("'<f4'", "6", &data));
    place.write("huge.npy", npy("'<f4'", "(9999999999, 9999999999)", &data));
    place.write("cut.npy", &npy("'<f4'", "(6,)", &data)[..40]);
    place.write("version.npy", b"\x93NUMPY\x09\x00");
    place.write("text.npy", "1 2 3");
    for (file, why) in [
        ("nowhere.npy", "No such file"),
        ("be.npy", "big-endian"),
        ("complex.npy", "c8"),
        ("records.npy", "one plain type"),
        ("fortran.npy", "Fortran order"),
        ("short.npy", "24 bytes"),
        ("shapeless.npy", "without a shape"),
        ("huge.npy", "too large"),
        ("cut.npy", "ends within its header"),
        ("version.npy", "version 9"),
        ("text.npy", "is no .npy file"),
    ] {
        place.fail(&with(0, &format!("in={file}")), &["argument 1", file, why]);
        place.fail(&with(0, &format!("inout={file}:y.npy")), &["argument 1", file, why]);
    }
}

#[test]
fn arguments_that_make_no_sense_are_told_of() {
    let place = place();
    for (index, argument, why) in [
        (0, "x.npy", "KIND=VALUE"),
        (0, "inn=x.npy", "\"inn\" must be in, inout"),
        (0, "inout=x.npy", "inout=FILE:FILE"),
        (0, "bytes=nowhere.bin", "No such file"),
        (1, "out=f32:6", "out=TYPE:SHAPE:FILE"),
        (1, "out=f33:6:y.npy", "\"f33\" is none of bool"),
        (1, "out=f32:6x:y.npy", "shape"),
        (1, "out=f32:-6:y.npy", "shape"),
        (1, "out=f64:4294967296x4294967296:y.npy", "too large"),
        (1, "out=f32:6:nowhere/y.npy", "cannot be written"),
        (1, "zeros=f32", "TYPE:SHAPE"),
        (2, "f32=half", "\"half\" is no number"),
        (2, "f16=", "is no number"),
        (3, "i32=2147483648", "-2147483648 to 2147483647"),
        (3, "u32=-1", "0 to 4294967295"),
        (3, "i32=6.5", "no whole number"),
        (3, "i32=0xZ", "no whole number"),
        (3, "bool=2", "0 to 1"),
    ] {
        place.fail(&with(index, argument), &[&format!("argument {}", index + 1), why]);
    }
    place.fail(&with(3, "i64=6"), &["argument 4 has 8 bytes", "the parameter 4"]);
    place.fail(&scale(&ARGUMENTS[..3]), &["3 arguments", "4 parameters"]);
    place.fail(&scale(&[]), &["0 arguments", "4 parameters"]);
}

#[test]
fn launches_that_cannot_be_are_told_of() {
    let place = place();
    let with = |option: &str, value: &str| {
        let mut all = scale(&ARGUMENTS).iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        match all.iter().position(|it| it == option) {
            Some(at) => all[at + 1] = value.to_owned(),
            None => all.extend([option.to_owned(), value.to_owned()]),
        }
        all
    };
    for (option, value, parts) in [
        ("--entry", "scales", ["\"scales\"", "copy_params, scale"]),
        ("--grid", "0,1,1", ["grid", "from 1"]),
        ("--grid", "1,2,3,4", ["--grid", "X,Y,Z"]),
        ("--grid", "two", ["--grid", "X,Y,Z"]),
        ("--block", "2048,1,1", ["block", "1024"]),
        ("--block", "4294967295,4294967295,4294967295", ["block", "1024"]),
        ("--cluster", "3,1,1", ["cluster", "divide the grid"]),
        ("--shared", "1k", ["--shared", "bytes"]),
        ("--shared", "300000", ["shared memory", "166912"]),
        ("--arch", "hopper", ["hopper", "sm_90a"]),
    ] {
        let all = with(option, value);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        place.fail(&all, &parts);
    }
    let mut one_field =
        "emulate scale.ptx --entry copy_params --grid 1 --block 1 --arg null".split(' ').collect::<Vec<_>>();
    place.fail(&one_field, &["1 argument of 8 bytes", "parameter of 40"]);
    one_field[1] = "nowhere.ptx";
    place.fail(&one_field, &["nowhere.ptx", "No such file"]);
    place.write("broken.ptx", "this is no PTX");
    one_field[1] = "broken.ptx";
    place.fail(&one_field, &["broken.ptx", "not PTX"]);
    place.write("unknown.ptx", SCALE.replace("mul.rn.f32", "mull.rn.f32"));
    one_field[1] = "unknown.ptx";
    place.fail(&one_field, &["unknown.ptx", "line 25", "mull.rn.f32"]);
}
