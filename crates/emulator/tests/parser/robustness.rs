//! Texts that are nearly PTX, or not at all: an error perhaps, a panic never.

use longhand_emulator::ptx::parse;
use proptest::prelude::*;

use crate::files::FILES;
use crate::{HEADER, body, consistent, errors, module};

/// Where each token of a file starts, more or less: at each change between kinds of characters.
fn cuts(text: &str) -> Vec<usize> {
    let kind = |c: char| (c.is_alphanumeric() || "_$%.".contains(c), c.is_whitespace());
    let mut last = None;
    let mut cuts = Vec::new();
    for (offset, c) in text.char_indices() {
        if last != Some(kind(c)) || !kind(c).0 {
            cuts.push(offset);
        }
        last = Some(kind(c));
    }
    cuts.push(text.len());
    cuts
}

/// A part of a file, from one token to another.
fn part(text: &'static str) -> impl Strategy<Value = &'static str> {
    let cuts = cuts(text);
    (0..cuts.len() - 1, 1..6_usize).prop_map(move |(from, length)| {
        let to = (from + length).min(cuts.len() - 1);
        &text[cuts[from]..cuts[to]]
    })
}

fn file() -> impl Strategy<Value = &'static str> {
    prop::sample::select(FILES.to_vec())
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}", after_header: bool) {
        let header = if after_header { HEADER } else { "" };
        let _ = parse(&format!("{header}{text}"));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = module(&String::from_utf8_lossy(&bytes));
        let _ = body(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn tokens_in_random_order_never_panic(parts in prop::collection::vec(file().prop_flat_map(part), 0..60), inside: bool) {
        let text = parts.join(" ");
        let _ = if inside { body(&text).map(|_| ()) } else { module(&text).map(|_| ()) };
    }

    #[test]
    fn a_file_cut_short_never_panics_and_errors_lie_in_it(text in file(), at: prop::sample::Index) {
        let cut = &text[..at.index(text.len())];
        if let Err(errors) = parse(cut) {
            let lines = cut.split('\n').count() as u32;
            prop_assert!(errors.0.iter().all(|error| (1..=lines).contains(&error.line)), "{}", errors);
        }
    }

    #[test]
    fn a_file_with_a_part_replaced_is_an_error_or_refers_to_what_it_has(text in file(), with in file().prop_flat_map(part), at: prop::sample::Index, removed in 0..20_usize) {
        let at = at.index(text.len());
        let end = (at + removed).min(text.len());
        if let Ok(module) = parse(&format!("{}{with}{}", &text[..at], &text[end..])) {
            consistent::check(&module);
        }
    }
}

#[test]
fn a_body_cut_short_is_an_error() {
    let text = ".entry k () { .reg .b32 r; op r, {r, 5}; { op [r+4]; } ret;";
    for length in ".entry k".len()..text.len() {
        assert!(module(&text[..length]).is_err(), "{}", &text[..length]);
    }
}

/// What opens many times over, in a body or in a module.
#[test]
fn deep_nesting_is_an_error() {
    const DEEP: usize = 100_000;
    let in_body =
        ["{", "op (", "op -", "op !", "op 1 ? ", "op 1 ? 1 : ", "op (.s64)", "op [(", "op {", "call ("];
    for opening in in_body {
        let (start, again) = opening.split_at(opening.find(' ').map_or(0, |space| space + 1));
        let found = errors(body(&format!("{start}{}", again.repeat(DEEP))));
        assert!(!found.is_empty());
    }
    for again in ["[", "{", "(", "-", "{{}, ", "{1, {"] {
        let found = errors(module(&format!(".global .u32 x[1][1] = {}", again.repeat(DEEP))));
        assert!(!found.is_empty());
    }
    assert!(module(&format!(".global .u32 x{} = {}", "[1]".repeat(DEEP), "{".repeat(DEEP))).is_err());
    let deepest = format!("{}{}", "{".repeat(63), "}".repeat(63));
    assert!(body(&deepest).is_ok());
    assert!(errors(body(&format!("{{{deepest}}}")))[0].3.contains("nesting"));
}
