//! The disk cache of compiled programs.
//!
//! One file for each entry, named by the hash of everything that its content depends on. An entry is written
//! under a temporary name and renamed, so that a reader sees all of it or nothing, whoever else is writing. It
//! starts with a checksum: one that is damaged counts as absent and is written anew. The cache only ever saves
//! time: one that cannot be read or written is the same as one that is empty.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::library::variable;

/// Changes whenever the form of an entry does.
pub(crate) const FORMAT: &str = "longhand image 1";

/// What is kept of a compiled program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Empty where there is none.
    pub cubin: Vec<u8>,
    pub ptx: String,
    pub log: String,
}

/// A folder of entries.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// The folder that `LONGHAND_CACHE` names, or `longhand` in the user's cache directory; None where there is none.
pub(crate) fn default_folder() -> Option<PathBuf> {
    variable("LONGHAND_CACHE").or_else(|| dirs::cache_dir().map(|folder| folder.join("longhand")))
}

/// Whether entries can be written to the folder, or to one that would be made for it.
pub(crate) fn probe(folder: &Path) -> std::io::Result<()> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    tempfile::tempfile_in(existing).map(drop)
}

/// The hash of a list of texts, each with its length, so that no two lists give the same bytes.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cache {
    pub fn new(folder: PathBuf) -> Cache {
        Cache { folder }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key).with_extension("image")
    }

    /// The entry, unless it is absent or damaged.
    pub fn get(&self, key: &str) -> Option<Entry> {
        decode(&fs::read(self.path(key)).ok()?)
    }

    /// Keeps an entry.
    pub fn put(&self, key: &str, entry: &Entry) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(&self.folder)?;
        file.write_all(&encode(entry))?;
        file.persist(self.path(key)).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Checksum of the rest, then each part with its length.
fn encode(entry: &Entry) -> Vec<u8> {
    let mut body = Vec::new();
    for part in [&entry.cubin[..], entry.ptx.as_bytes(), entry.log.as_bytes()] {
        body.extend((part.len() as u64).to_le_bytes());
        body.extend(part);
    }
    let mut bytes = Sha256::digest(&body).to_vec();
    bytes.extend(body);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Entry> {
    let (checksum, mut body) = bytes.split_at_checked(32)?;
    if Sha256::digest(body).as_slice() != checksum {
        return None;
    }
    let mut part = || {
        let (length, rest) = body.split_first_chunk::<8>()?;
        let (part, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        body = rest;
        Some(part.to_vec())
    };
    let cubin = part()?;
    let ptx = String::from_utf8(part()?).ok()?;
    let log = String::from_utf8(part()?).ok()?;
    Some(Entry { cubin, ptx, log })
}
