//! What a text that is not PTX is told.

use longhand_emulator::ptx::{ParseErrors, parse};

use crate::{body, errors, module};

fn text(outcome: Result<impl std::fmt::Debug, ParseErrors>) -> String {
    outcome.expect_err("the text is not PTX").to_string()
}

#[test]
fn an_error_says_where_and_what() {
    for (found, expected) in [
        (text(parse("")), "PTX 1:1: found the end of the file, expected `.version`"),
        (text(parse(".version 9")), "PTX 1:10: found `9`, expected a version such as 9.0"),
        (text(parse("\n  .version 9.0\n .entry")), "PTX 3:2: found `.entry`, expected `.target`"),
        (text(module(".address_size 32")), "PTX 4:15: found `32`, expected 64: addresses of 64 bits"),
        (text(module("\n\n  nonsense;")), "PTX 6:3: found `nonsense`, expected a directive"),
        (text(module(".nonsense;")), "PTX 4:1: found `.nonsense`, expected a directive of a module"),
        (text(module(".reg .b32 %r<3>;")), "PTX 4:1: found `.reg`, expected it within a function"),
        (text(module(".global x;")), "PTX 4:9: found `x`, expected a type"),
        (
            text(module(".global .tensor x;")),
            "PTX 4:9: found `.tensor`, expected a fundamental type such as `.b32`",
        ),
        (text(module(".global .v4 .f64 x;")), "PTX 4:18: found `x`, expected a vector of at most 16 bytes"),
        (
            text(module(".global .align 3 .f64 x;")),
            "PTX 4:16: found `3`, expected an alignment that is a power of two",
        ),
        (text(module(".global .u32 x[2] = {1, 2 3};")), "PTX 4:27: found `3`, expected `,` or `}`"),
        (
            text(module(".global .u32 x;\n.global .u32 x;")),
            "PTX 5:14: found `x`, expected another name: this one is declared in line 4",
        ),
        (
            text(module(".func f () { ret; }\n.func f () { ret; }")),
            "PTX 5:7: found `f`, expected another name: this one is defined in line 4",
        ),
        (
            text(module(".func f (.param .b32 a);\n.func f () { ret; }")),
            "PTX 5:7: found `f`, expected the parameters that it is declared with in line 4",
        ),
        (text(module(".entry k (.u32 a) { ret; }")), "PTX 4:11: found `.u32`, expected `.param` or `.reg`"),
        (
            text(module(".entry k () .global { ret; }")),
            "PTX 4:13: found `.global`, expected a directive of a function, or its body",
        ),
        (text(module(".entry k () {\n ret;\n")), "PTX 6:1: found the end of the file, expected `}`"),
        (text(body("op %r1, %r99;")), "PTX 5:9: found `%r99`, expected a register that is declared"),
        (text(body("op {%r1, x};")), "PTX 5:10: found `x`, expected a name that is declared"),
        (text(body("op [x];")), "PTX 5:5: found `x`, expected a register or variable that is declared"),
        (text(body("@x op;")), "PTX 5:2: found `x`, expected a register that is declared"),
        (
            text(body("bra NOWHERE;")),
            "PTX 5:5: found `NOWHERE`, expected a name that is declared, or a label of the function",
        ),
        (
            text(body("L: op;\n L: op;")),
            "PTX 6:2: found `L`, expected another label: this scope has one of this name",
        ),
        (text(body("op %r1 %r2;")), "PTX 5:8: found `%r2`, expected `,` or `;`"),
        (text(body("op [%rd1 %r2];")), "PTX 5:10: found `%r2`, expected `+`, `,` or `]`"),
        (text(body("op\n}")), "PTX 6:1: found `}`, expected an operand"),
        (text(body("op 5 / 0;")), "PTX 5:6: found `/`, expected a divisor that is not 0"),
        (text(body("op 08;")), "PTX 5:4: found `08`, expected a literal of PTX"),
        (text(body("op \"text\";")), "PTX 5:4: found `\"text\"`, expected an operand"),
        (text(body("op \"text;")), "PTX 5:4: found a string that is not closed, expected an operand"),
        (text(body("op /* text;")), "PTX 5:4: found a comment that is not closed, expected an operand"),
        (text(body("op é#;")), "PTX 5:4: found \"é\", expected an operand"),
        (
            text(body(".branchtargets L;")),
            "PTX 5:1: found `.branchtargets`, expected a directive of a function's body",
        ),
        (text(body(".loc 1 x 3")), "PTX 5:8: found `x`, expected a number"),
        (text(body("t: .calltargets k2;")), "PTX 5:17: found `k2`, expected a function that is declared"),
    ] {
        assert_eq!(found.lines().next(), Some(expected));
    }
}

#[test]
fn columns_count_characters() {
    assert_eq!(errors(module("/* é∀ */ x"))[0].1, 10);
    assert_eq!(errors(module("\t\tx"))[0].1, 3);
}

#[test]
fn reading_goes_on_after_an_error() {
    let found = errors(module(
        ".global x;
         .entry a () {
             .reg .b32 r;
             op r s;
             op {r, (}, r;
             { op %q; }
             op r
         }
         .wrong { a; b; } .global .u32 y
         .global .u32 z;
         .entry b () { bra L; }",
    ));
    let lines: Vec<u32> = found.iter().map(|error| error.0).collect();
    assert_eq!(lines, [4, 7, 8, 9, 11, 12, 13, 14]);
}

#[test]
fn errors_are_in_the_order_of_the_text() {
    let found = errors(body("bra FIRST;\nop %x;\nbra THIRD;"));
    assert_eq!(found.iter().map(|error| error.0).collect::<Vec<_>>(), [5, 6, 7]);
}

#[test]
fn a_missing_label_is_told_once() {
    assert_eq!(errors(body("bra L; { bra L; { bra L; } } bra L;")).len(), 1);
}

#[test]
fn a_list_of_errors_is_cut_short() {
    assert_eq!(errors(body(&"op %x;\n".repeat(1000))).len(), 50);
    assert_eq!(errors(module(&"x;\n".repeat(1000))).len(), 50);
}

#[test]
fn a_long_name_is_told_in_part() {
    let found = errors(body(&format!("op %{};", "x".repeat(100_000))));
    assert!(found[0].2.len() < 100);
}
