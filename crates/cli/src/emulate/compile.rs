//! The PTX of a file, which may be CUDA C++.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use longhand_gpu::{Compiler, Program};

/// The PTX text of a `.ptx` file, or of a `.cu` file as NVRTC compiles it.
pub fn ptx(path: &Path, arch: longhand_gpu::Arch) -> anyhow::Result<String> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| name.clone())?;
    if path.extension().is_none_or(|it| it != "cu") {
        return Ok(text);
    }
    let mut headers = BTreeMap::new();
    let folder = path.parent().unwrap_or(Path::new(""));
    collect(folder, &text, &mut headers);
    let program =
        headers.into_iter().fold(Program::new(name, text), |it, (name, text)| it.header(name, text));
    Ok(Compiler::new()?.compile(&program, arch)?.ptx().to_owned())
}

/// The headers that `#include "name"` names and the folder has. Those that it has not the compiler tells of.
fn collect(folder: &Path, text: &str, headers: &mut BTreeMap<String, String>) {
    let included = text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
        Some(rest.trim_start().strip_prefix('"')?.split_once('"')?.0)
    });
    for name in included {
        if headers.contains_key(name) {
            continue;
        }
        if let Ok(header) = fs::read_to_string(folder.join(name)) {
            headers.insert(name.to_owned(), header.clone());
            collect(folder, &header, headers);
        }
    }
}
