//! Logic, shifts and bit fields, bit by bit.

use crate::draw::{Draw, integers};
use crate::machine::{Case, Operands, case, check};

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// Bits 0 .. `bits` of which `bit` tells each.
fn build(bits: u32, bit: impl Fn(u32) -> bool) -> u64 {
    (0..bits).map(|i| u64::from(bit(i)) << i).sum()
}

#[test]
fn logic_is_of_each_bit() {
    for bits in [16, 32, 64] {
        let [d, a, b, c] = ["d", "a", "b", "c"].map(|it| format!("{it}{bits}"));
        let mut cases = vec![
            case(format!("and.b{bits} {d}, {a}, {b}"), move |[a, b, _]| a & b),
            case(format!("or.b{bits} {d}, {a}, {b}"), move |[a, b, _]| a | b),
            case(format!("xor.b{bits} {d}, {a}, {b}"), move |[a, b, _]| a ^ b),
            case(format!("not.b{bits} {d}, {a}"), move |[a, ..]| !a & mask(bits)),
            case(format!("cnot.b{bits} {d}, {a}"), move |[a, ..]| u64::from(a == 0)),
            case(format!("selp.b{bits} {d}, {a}, {b}, s"), move |[a, b, c]| if c & 1 == 1 { a } else { b }),
        ];
        if bits == 32 {
            for table in [0x01, 0x80, 0x96, 0xca, 0xe8, 0xd1] {
                cases.push(case(format!("lop3.b32 {d}, {a}, {b}, {c}, {table}"), move |[a, b, c]| {
                    build(32, |i| table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1 == 1)
                }));
            }
        }
        check(&cases, &integers(bits, 800));
    }
}

#[test]
fn predicates_have_logic_too() {
    let of = |it: Operands| (it[0] & 1 == 1, it[2] & 1 == 1);
    let a = "and.b32 e32, a32, 1; setp.ne.u32 q, e32, 0;";
    let end = "setp.ne.u32 q, zero, 0";
    let cases = [
        case(format!("{a} and.pred p, q, s; {end}"), move |it| u64::from(of(it).0 & of(it).1)),
        case(format!("{a} or.pred p, q, s; {end}"), move |it| u64::from(of(it).0 | of(it).1)),
        case(format!("{a} xor.pred p, q, s; {end}"), move |it| u64::from(of(it).0 ^ of(it).1)),
        case(format!("{a} and.pred p, !q, s; {end}"), move |it| u64::from(!of(it).0 & of(it).1)),
        case("not.pred p, s".to_owned(), move |it| u64::from(!of(it).1)),
        case("lop3.or.b32 _|p, a32, b32, c32, 0x80, s".to_owned(), |[a, b, c]| {
            u64::from(a & b & c != 0 || c & 1 == 1)
        }),
        case("lop3.and.b32 _|p, a32, b32, c32, 0xfe, s".to_owned(), |[a, b, c]| {
            u64::from(a | b | c != 0 && c & 1 == 1)
        }),
    ];
    check(&cases, &integers(32, 500));
}

/// Operands whose b and c are small now and then, as amounts of shifts are.
fn amounts(bits: u32) -> Vec<Operands> {
    let mut draw = Draw::new(bits.into());
    let amount = |draw: &mut Draw| if draw.below(4) == 0 { draw.integer(32) } else { draw.below(70) };
    (0..3000).map(|_| [draw.integer(bits), amount(&mut draw), amount(&mut draw)]).collect()
}

#[test]
fn shifts_bring_zeros_or_signs() {
    for bits in [16, 32, 64] {
        let at = move |a: u64, i: u64| i < bits && a >> i & 1 == 1;
        let width = bits as u32;
        let sign = move |a: u64, i: u64| if i < bits { at(a, i) } else { at(a, bits - 1) };
        let [d, a] = ["d", "a"].map(|it| format!("{it}{bits}"));
        let mut cases = vec![case(format!("shl.b{bits} {d}, {a}, b32"), move |[a, by, _]| {
            build(width, |i| u64::from(i) >= by && at(a, u64::from(i) - by))
        })];
        for ty in ["b", "u"] {
            cases.push(case(format!("shr.{ty}{bits} {d}, {a}, b32"), move |[a, by, _]| {
                build(width, |i| at(a, u64::from(i) + by))
            }));
        }
        cases.push(case(format!("shr.s{bits} {d}, {a}, b32"), move |[a, by, _]| {
            build(width, |i| sign(a, u64::from(i) + by))
        }));
        check(&cases, &amounts(width));
    }
}

#[test]
fn funnels_take_from_two_registers() {
    let mut draw = Draw::new(5);
    let operands: Vec<Operands> = (0..2000)
        .map(|i| {
            [draw.integer(32), draw.integer(32), if i % 5 == 0 { draw.integer(32) } else { draw.below(40) }]
        })
        .collect();
    let mut cases = Vec::new();
    for (mode, wraps) in [("wrap", true), ("clamp", false)] {
        let by = move |c: u64| if wraps { c & 31 } else { c.min(32) };
        cases.push(case(format!("shf.l.{mode}.b32 d32, a32, b32, c32"), move |[a, b, c]| {
            let both = u128::from(b << 32 | a) << by(c);
            (both >> 32) as u64 & mask(32)
        }));
        cases.push(case(format!("shf.r.{mode}.b32 d32, a32, b32, c32"), move |[a, b, c]| {
            (b << 32 | a).checked_shr(by(c) as u32).unwrap_or(0) & mask(32)
        }));
    }
    check(&cases, &operands);
}

#[test]
fn bytes_are_permuted() {
    let byte = |[a, b, _]: Operands, i: u64| (b << 32 | a) >> (8 * (i & 7)) & 0xff;
    let join = |bytes: [u64; 4]| bytes.iter().rev().fold(0, |all, byte| all << 8 | byte);
    let mut cases = vec![case("prmt.b32 d32, a32, b32, c32", move |it| {
        join([0, 1, 2, 3].map(|i| {
            let selector = it[2] >> (4 * i) & 15;
            let chosen = byte(it, selector);
            if selector < 8 { chosen } else { 0xff * (chosen >> 7) }
        }))
    })];
    // PTX ISA, prmt: which bytes d.b3, d.b2, d.b1 and d.b0 are, for c = 0, 1, 2 and 3.
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    for (mode, table) in modes {
        cases.push(case(format!("prmt.b32.{mode} d32, a32, b32, c32"), move |it| {
            let mut bytes = table[(it[2] & 3) as usize].map(|i| byte(it, i));
            bytes.reverse();
            join(bytes)
        }));
    }
    check(&cases, &integers(32, 1500));
}

#[test]
fn bit_fields_are_taken_and_put() {
    for bits in [32u64, 64] {
        let width = bits as u32;
        let mut cases: Vec<Case> = Vec::new();
        for (ty, signed) in [("u", false), ("s", true)] {
            // Of position and length the low 8 bits count; what lies beyond the register is its sign.
            cases.push(case(
                format!("bfe.{ty}{bits} d{bits}, a{bits}, b32, c32"),
                move |[a, position, length]| {
                    let (position, length) = (position & 0xff, length & 0xff);
                    let at = |i: u64| a >> i & 1 == 1;
                    let sign = signed && length != 0 && at((position + length - 1).min(bits - 1));
                    build(width, |i| {
                        let i = u64::from(i);
                        if i < length && position + i < bits { at(position + i) } else { sign }
                    })
                },
            ));
            for amount in ["", ".shiftamt"] {
                let text = format!("bfind{amount}.{ty}{bits} d32, a{bits}");
                cases.push(case(text, move |[a, ..]| {
                    let negative = signed && a >> (bits - 1) & 1 == 1;
                    let significant = if negative { !a & mask(width) } else { a };
                    match (0..bits).rev().find(|i| significant >> i & 1 == 1) {
                        None => mask(32),
                        Some(place) if amount.is_empty() => place,
                        Some(place) => bits - 1 - place,
                    }
                }));
            }
        }
        cases.push(case(format!("popc.b{bits} d32, a{bits}"), move |[a, ..]| {
            (0..bits).filter(|i| a >> i & 1 == 1).count() as u64
        }));
        cases.push(case(format!("clz.b{bits} d32, a{bits}"), move |[a, ..]| {
            (0..bits).take_while(|i| a >> (bits - 1 - i) == 0).count() as u64
        }));
        cases.push(case(format!("brev.b{bits} d{bits}, a{bits}"), move |[a, ..]| {
            build(width, |i| a >> (width - 1 - i) & 1 == 1)
        }));
        check(&cases, &amounts(width));
        let insert = case(
            format!(
                "and.b64 e64, c64, 0xff; mov.b64 {{e32, f32}}, e64; shr.u64 c64, c64, 8; mov.b64 {{c32, f32}}, c64; bfi.b{bits} d{bits}, a{bits}, b{bits}, e32, c32"
            ),
            move |[a, b, c]| {
                let (position, length) = (c & 0xff, c >> 8 & 0xff);
                build(width, |i| {
                    let i = u64::from(i);
                    if i >= position && i < position + length {
                        a >> (i - position) & 1 == 1
                    } else {
                        b >> i & 1 == 1
                    }
                })
            },
        );
        let mut draw = Draw::new(9);
        let operands: Vec<Operands> = (0..2000)
            .map(|_| [draw.integer(width), draw.integer(width), draw.below(70) | draw.below(70) << 8])
            .collect();
        check(&[insert], &operands);
    }
}

#[test]
fn masks_and_extensions_clamp_or_wrap() {
    let mut cases = Vec::new();
    for (mode, wraps) in [("clamp", false), ("wrap", true)] {
        let of = move |x: u64| if wraps { x & 31 } else { x.min(32) };
        cases.push(case(format!("bmsk.{mode}.b32 d32, b32, c32"), move |[_, b, c]| {
            build(32, |i| (of(b)..of(b) + of(c)).contains(&i.into()))
        }));
        for (ty, signed) in [("u32", false), ("s32", true)] {
            cases.push(case(format!("szext.{mode}.{ty} d32, a32, b32"), move |[a, b, _]| {
                let width = of(b);
                let sign = signed && width > 0 && a >> (width - 1) & 1 == 1;
                build(32, |i| if u64::from(i) < width { a >> i & 1 == 1 } else { sign })
            }));
        }
    }
    check(&cases, &amounts(32));
}

/// PTX ISA, fns: the offset-th set bit of the mask from base, upwards or downwards.
#[test]
fn the_nth_set_bit_is_found() {
    let mut draw = Draw::new(3);
    let operands: Vec<Operands> = (0..2000)
        .map(|_| [draw.integer(32), draw.below(32), draw.below(19).wrapping_sub(9) & mask(32)])
        .collect();
    let cases = [case("fns.b32 d32, a32, b32, c32", |[a, base, offset]| {
        let set = |i: &i64| a >> i & 1 == 1;
        let (base, offset) = (base as i64, i64::from(offset as i32));
        let found = match offset {
            0 => Some(base).filter(set),
            1.. => (base..32).filter(set).nth(offset as usize - 1),
            _ => (0..=base).rev().filter(set).nth(-offset as usize - 1),
        };
        found.map_or(mask(32), |i| i as u64)
    })];
    check(&cases, &operands);
}
