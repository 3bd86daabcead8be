//! The README's list of instructions is that of the code.

const START: &str = "<!-- instructions -->\n";
const END: &str = "<!-- end -->";

#[test]
fn the_list_in_the_readme_is_what_is_supported() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once(START).expect("the README has where the list starts");
    let (list, tail) = rest.split_once(END).expect("the README has where the list ends");
    let supported = longhand_emulator::supported();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, format!("{head}{START}{supported}{END}{tail}")).unwrap();
        return;
    }
    assert_eq!(list, supported, "the list is out of date: see how to write it in the README");
}
