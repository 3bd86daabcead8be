//! Runs instructions on many operands at once.

use std::fmt::Write;

use longhand_emulator::{Arch, Gpu, Module, Shape};

use crate::exact::Format;

/// The bits of the operands a, b and c, in the low bits of 64.
pub type Operands = [u64; 3];

/// An instruction and what it must give.
pub struct Case {
    /// `add.f32 d32, a32, b32`, or several instructions: registers are named by the operand and its bits. `p` and `q` are predicates that are
    /// written, `s` is one that is read: the lowest bit of c.
    pub text: String,
    pub expected: Box<dyn Fn(Operands) -> u64>,
    /// Where any NaN is as good as another: of which format.
    pub any_nan: Option<Format>,
}

impl Case {
    pub fn any_nan(self, format: Format) -> Case {
        Case { any_nan: Some(format), ..self }
    }
}

pub fn case(text: impl Into<String>, expected: impl Fn(Operands) -> u64 + 'static) -> Case {
    Case { text: text.into(), expected: Box::new(expected), any_nan: None }
}

/// Runs each instruction on all operands. Results of `p` and `q` are bits 0 and 1.
pub fn run(instructions: &[&str], operands: &[Operands]) -> Vec<Vec<u64>> {
    const THREADS: usize = 128;
    let padded = operands.len().next_multiple_of(THREADS);
    let mut body = String::new();
    for (index, text) in instructions.iter().enumerate() {
        let collects = [
            ("d64", ""),
            ("d32", "mov.b64 d64, {d32, zero};"),
            ("d16", "mov.b32 d32, {d16, zero16}; mov.b64 d64, {d32, zero};"),
            ("d8", "cvt.u64.u8 d64, d8;"),
        ];
        let target = collects.iter().find(|(name, _)| text.contains(name));
        let collect = target.map_or("selp.u64 d64, 1, 0, p; @q or.b64 d64, d64, 2;", |(_, collect)| collect);
        let offset = 8 * padded * index;
        writeln!(
            body,
            "setp.ne.u32 p, zero, 0; setp.ne.u32 q, zero, 0;\n{text};\n{collect} st.global.u64 [out+{offset}], d64;"
        )
        .unwrap();
    }
    let text = format!(
        ".version 9.0
.target sm_100a
.address_size 64
.entry k(.param .u64 in, .param .u64 out_)
{{
.reg .b8 a8, d8;
.reg .b16 a16, b16, c16, d16, e16, zero16;
.reg .b32 a32, b32, c32, d32, e32, f32, zero, i;
.reg .b64 a64, b64, c64, d64, e64, in_, out, offset;
.reg .pred p, q, s;
mov.u32 zero, 0;
mov.u16 zero16, 0;
mov.u32 i, %ctaid.x;
mad.lo.u32 i, i, {THREADS}, %tid.x;
ld.param.u64 in_, [in];
mad.wide.u32 in_, i, 24, in_;
ld.param.u64 out, [out_];
mad.wide.u32 out, i, 8, out;
ld.global.u64 a64, [in_];
ld.global.u64 b64, [in_+8];
ld.global.u64 c64, [in_+16];
mov.b64 {{a32, e32}}, a64;
mov.b64 {{b32, e32}}, b64;
mov.b64 {{c32, e32}}, c64;
mov.b32 {{a16, e16}}, a32;
mov.b32 {{b16, e16}}, b32;
mov.b32 {{c16, e16}}, c32;
cvt.u8.u32 a8, a32;
and.b32 e32, c32, 1;
setp.ne.u32 s, e32, 0;
{body}
ret;
}}
"
    );
    let gpu = Gpu::new("sm_100a".parse::<Arch>().unwrap());
    let module = Module::from_ptx(&gpu, &text).unwrap_or_else(|error| panic!("{error}"));
    let blocks = padded / THREADS;
    let input = gpu.alloc(24 * padded as u64).unwrap();
    let output = gpu.alloc((8 * padded * instructions.len()) as u64).unwrap();
    gpu.fill(input, 0, 24 * padded as u64).unwrap();
    let bytes: Vec<u8> = operands.as_flattened().iter().flat_map(|it| it.to_le_bytes()).collect();
    gpu.upload(input, &bytes).unwrap();
    let shape = Shape {
        grid: [blocks as u32, 1, 1],
        block: [THREADS as u32, 1, 1],
        cluster: [1; 3],
        dynamic_shared: 0,
    };
    let params: Vec<u8> = [input, output].iter().flat_map(|it| it.to_le_bytes()).collect();
    module.launch("k", &shape, &params).unwrap_or_else(|fault| panic!("{fault}"));
    let results = (0..instructions.len()).map(|index| {
        let mut bytes = vec![0; 8 * operands.len()];
        gpu.download(output + (8 * padded * index) as u64, &mut bytes).unwrap();
        bytes.as_chunks::<8>().0.iter().map(|it| u64::from_le_bytes(*it)).collect()
    });
    results.collect()
}

/// Panics at the first instruction and operands whose result is not what it must be.
pub fn check(cases: &[Case], operands: &[Operands]) {
    for cases in cases.chunks(64) {
        let texts: Vec<&str> = cases.iter().map(|case| &*case.text).collect();
        for (case, results) in cases.iter().zip(run(&texts, operands)) {
            for (operands, result) in operands.iter().zip(results) {
                let expected = (case.expected)(*operands);
                let both_nan = |it: Format| it.is_nan(result) && it.is_nan(expected);
                assert!(
                    result == expected || case.any_nan.is_some_and(both_nan),
                    "{} of {operands:x?} is {result:#x}, not {expected:#x}",
                    case.text
                );
            }
        }
    }
}
