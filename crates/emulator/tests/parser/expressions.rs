//! What constants are worth.

use longhand_emulator::ptx::ast::Operand;
use proptest::prelude::*;

use crate::{body, module};

fn operand(text: &str) -> Operand {
    let mut body = body(&format!("op _, {text};")).expect("it is PTX");
    body.instructions.remove(0).operands.remove(1)
}

/// What ptxas 13.4 makes of them.
#[test]
fn expressions_are_worth_what_ptxas_says() {
    let signed: [(&str, i64); 36] = [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("-8/3", -2),
        ("-8 % 3", 2),
        ("8 % -3", 8),
        ("-8 >> 1", -4),
        ("-8U >> 1", 0x7FFF_FFFF_FFFF_FFFC),
        ("~0 >> 4", 0x0FFF_FFFF_FFFF_FFFF),
        ("(-8 & -4) / 2", -4),
        ("(-8 & -4U) >> 1", 0x7FFF_FFFF_FFFF_FFFC),
        ("(-8 | 0) >> 1", -4),
        ("(-8 % 3 - 5) / 2", 0x7FFF_FFFF_FFFF_FFFE),
        ("-1 < 1U", 0),
        ("-1 > 1U", 1),
        ("((1U < 2U) - 2) >> 1", -1),
        ("!5", 0),
        ("(!0 - 2) >> 1", -1),
        ("5 && 0", 0),
        ("5 || 0", 1),
        ("1 || 0 && 0", 1),
        ("1 ? 2 : 3", 2),
        ("1 ? 0 ? 1 : 2 : 3", 2),
        ("(1 ? -8 : 3U) >> 1", -4),
        ("(0 ? 3 : -8U) >> 1", 0x7FFF_FFFF_FFFF_FFFC),
        ("1 << 64", 1),
        ("1 << 70", 64),
        ("-1 >> 70", -1),
        ("(.u64)-8 >> 1", 0x7FFF_FFFF_FFFF_FFFC),
        ("(.s64)-8U / 2", -4),
        ("18446744073709551615 >> 1", i64::MAX),
        ("(0x8000000000000000) / -1", 0),
        ("5 - -3", 8),
        ("+-5", -5),
        ("6 & 3 == 3", 0),
        ("6 | 1 ^ 1 & 0", 7),
        ("WARP_SZ*2", 64),
    ];
    for (text, value) in signed {
        assert_eq!(operand(text), Operand::Integer(value as u64), "{text}");
    }
}

#[test]
fn literals_of_every_radix_are_read() {
    for text in ["30", "036", "0x1e", "0X1E", "0b11110", "0B11110U", "30U", "036U", "0x1eU"] {
        assert_eq!(operand(text), Operand::Integer(30), "{text}");
    }
    for text in [
        "08",
        "0b2",
        "0xG",
        "12_3",
        "5u",
        "0x",
        "30UU",
        "18446744073709551616",
        "1.5.2",
        "0f123",
        "0d3F800000",
    ] {
        assert!(body(&format!("op {text};")).is_err(), "{text}");
    }
}

#[test]
fn fractions_are_read() {
    assert_eq!(operand("0f3F800000"), Operand::F32(0x3F80_0000));
    assert_eq!(operand("0Fff800000"), Operand::F32(0xFF80_0000));
    assert_eq!(operand("0dBFF0000000000000"), Operand::F64(0xBFF0_0000_0000_0000));
    for (text, value) in [
        ("1.5", 1.5_f64),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1e3),
        ("15.e-1", 1.5),
        ("-1.5", -1.5),
        ("-(1.5)", -1.5),
        ("1.5 + 2.5 * 2.0", 6.5),
        ("-0d3FF8000000000000", -1.5),
        ("1 ? .5 : 2", 0.5),
    ] {
        assert_eq!(operand(text), Operand::F64(value.to_bits()), "{text}");
    }
    assert_eq!(operand("2.5 > 1.5"), Operand::Integer(1));
}

#[test]
fn what_has_no_value_is_an_error() {
    for text in [
        "5 / 0",
        "5 % 0",
        "1.5 + 1",
        "-0f3F800000",
        "~1.5",
        "1.5 % 2.0",
        "(.s64)1.5",
        "1.5 ? 1 : 2",
        "(1",
        "1 +",
        "1 ? 2",
    ] {
        assert!(body(&format!("op {text};")).is_err(), "{text}");
    }
    assert!(module(".global .u32 x[1.5];").is_err());
    assert!(module(".global .align 3 .u32 x;").is_err());
}

/// A tree of operators, and how tightly each binds.
#[derive(Clone, Debug)]
enum Tree {
    Literal(i64),
    Unary(&'static str, Box<Tree>),
    Binary(&'static str, usize, Box<[Tree; 2]>),
    Choice(Box<[Tree; 3]>),
}

const BINARY: [(&str, usize); 16] = [
    ("||", 1),
    ("&&", 2),
    ("|", 3),
    ("^", 4),
    ("&", 5),
    ("==", 6),
    ("!=", 6),
    ("<", 7),
    ("<=", 7),
    (">", 7),
    (">=", 7),
    ("<<", 8),
    (">>", 8),
    ("+", 9),
    ("-", 9),
    ("*", 10),
];
const UNARY: usize = 11;

impl Tree {
    fn binds(&self) -> usize {
        match self {
            Tree::Literal(_) => UNARY + 1,
            Tree::Unary(..) => UNARY,
            Tree::Binary(_, binds, _) => *binds,
            Tree::Choice(_) => 0,
        }
    }

    /// With parentheses around whatever binds less tightly than `least`, or around everything.
    fn text(&self, least: usize, everywhere: bool) -> String {
        let text = match self {
            Tree::Literal(value) => format!("{value}"),
            Tree::Unary(operator, of) => format!("{operator} {}", of.text(UNARY, everywhere)),
            Tree::Binary(operator, binds, sides) => {
                let [left, right] = &**sides;
                format!("{} {operator} {}", left.text(*binds, everywhere), right.text(binds + 1, everywhere))
            }
            Tree::Choice(parts) => {
                let [condition, yes, no] = &**parts;
                format!(
                    "{} ? {} : {}",
                    condition.text(1, everywhere),
                    yes.text(0, everywhere),
                    no.text(0, everywhere)
                )
            }
        };
        if everywhere || self.binds() < least { format!("({text})") } else { text }
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    (0..100_i64).prop_map(Tree::Literal).prop_recursive(5, 40, 3, |inner| {
        prop_oneof![
            (prop::sample::select(vec!["-", "~", "!", "+"]), inner.clone())
                .prop_map(|(operator, of)| Tree::Unary(operator, Box::new(of))),
            (prop::sample::select(BINARY.to_vec()), inner.clone(), inner.clone()).prop_map(
                |((operator, binds), left, right)| Tree::Binary(operator, binds, Box::new([left, right]))
            ),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(condition, yes, no)| Tree::Choice(Box::new([condition, yes, no]))),
        ]
    })
}

proptest! {
    #[test]
    fn parentheses_that_precedence_implies_change_nothing(tree in trees()) {
        prop_assert_eq!(operand(&tree.text(0, false)), operand(&tree.text(0, true)));
    }

    #[test]
    fn any_integer_is_read_as_it_is_written(value: u64) {
        for text in [format!("{value}"), format!("{value:#x}"), format!("{value:#b}U"), format!("0{value:o}")] {
            prop_assert_eq!(operand(&text), Operand::Integer(value));
        }
        prop_assert_eq!(operand(&format!("{}", value as i64)), Operand::Integer(value));
    }

    #[test]
    fn any_decimal_is_read_as_it_is_written(value in -1e30..1e30_f64) {
        prop_assert_eq!(operand(&format!("{value:?}")), Operand::F64(value.to_bits()));
        prop_assert_eq!(operand(&format!("{value:.17e}")), Operand::F64(value.to_bits()));
    }
}
