//! Any text is a module that refers only to what it has, or it is an error within the text: never a panic.

#![no_main]

#[path = "../../tests/parser/consistent.rs"]
mod consistent;

use libfuzzer_sys::fuzz_target;
use longhand_emulator::ptx::parse;

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(module) => consistent::check(&module),
        Err(errors) => {
            let lines = text.split('\n').count();
            assert!(!errors.0.is_empty());
            assert!(errors.0.iter().all(|error| (1..=lines).contains(&(error.line as usize))));
        }
    }
});
