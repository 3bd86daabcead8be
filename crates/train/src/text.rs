//! The text to train on: documents out of files and folders, and what is held out of each.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ignore::WalkBuilder;

use crate::{Error, Result, Tokenizer};

/// One file's text.
#[derive(Debug, Clone)]
pub struct Document {
    /// Where it was read.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

impl Document {
    /// Reads one file.
    ///
    /// # Errors
    /// A file that is missing, unreadable, empty or not UTF-8.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::file("read text", path))?;
        if bytes.is_empty() {
            return Err(Error::EmptyText { paths: path.display().to_string() });
        }
        let text = String::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
            path: path.into(),
            offset: error.utf8_error().valid_up_to(),
        })?;
        Ok(Self { path: path.into(), text })
    }

    /// The first nine tenths, to train on, and the last tenth, held out (in bytes, moved to the
    /// nearest character boundary before).
    pub fn split(&self) -> (&str, &str) {
        let length = self.text.len();
        let mut at = length - length / 10;
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        self.text.split_at(at)
    }
}

/// Documents in a fixed order: as named, and sorted by path within a folder.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    /// None of them empty, and at least one.
    pub documents: Vec<Document>,
    /// Files inside folders that were left out because they are not UTF-8.
    pub skipped: usize,
}

impl Corpus {
    /// Reads the named files and, recursively, the named folders, leaving out what lies in `except`.
    ///
    /// Inside a folder, hidden and git-ignored files are passed over, and files that are not UTF-8 are counted
    /// in [`Corpus::skipped`].
    ///
    /// # Errors
    /// A path that is missing or unreadable, a named file that is empty or not UTF-8, or no text at all.
    pub fn read(paths: &[PathBuf], except: Option<&Path>) -> Result<Self> {
        let mut corpus = Self::default();
        for path in paths {
            if path.is_dir() {
                corpus.read_folder(path, except, |_| true)?;
            } else {
                corpus.documents.push(Document::read(path)?);
            }
        }
        if corpus.documents.is_empty() {
            let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(Error::EmptyText { paths: paths.join(", ") });
        }
        Ok(corpus)
    }

    /// Longhand's own sources and documents under `root` (see [`repository`]).
    ///
    /// # Errors
    /// A file that cannot be read, or no text at all.
    pub fn read_repository(root: &Path) -> Result<Self> {
        let mut corpus = Self::default();
        corpus.read_folder(root, None, is_source)?;
        if corpus.documents.is_empty() {
            return Err(Error::EmptyText { paths: root.display().to_string() });
        }
        Ok(corpus)
    }

    /// Bytes of text in all documents.
    pub fn bytes(&self) -> u64 {
        self.documents.iter().map(|document| document.text.len() as u64).sum()
    }

    fn read_folder(&mut self, folder: &Path, except: Option<&Path>, wanted: fn(&Path) -> bool) -> Result<()> {
        let except = except.and_then(|path| path.canonicalize().ok());
        let walk = WalkBuilder::new(folder)
            .require_git(false)
            .sort_by_file_path(Path::cmp)
            .filter_entry(move |entry| {
                except.is_none() || entry.path().canonicalize().ok().as_ref() != except.as_ref()
            })
            .build();
        for entry in walk {
            let entry = entry.map_err(|error| Error::File {
                action: "read text",
                path: folder.into(),
                source: std::io::Error::other(error),
            })?;
            let path = entry.path();
            if !path.is_file() || !wanted(path) {
                continue;
            }
            match Document::read(path) {
                Ok(document) => self.documents.push(document),
                Err(Error::NotUtf8 { .. }) => self.skipped += 1,
                Err(Error::EmptyText { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A corpus as tokens: [`END_OF_TEXT`](crate::END_OF_TEXT) before each document, so that every other token is
/// predicted from something.
#[derive(Debug, Clone)]
pub struct Text {
    /// What the model learns from.
    pub train: Vec<u32>,
    /// What it is evaluated on.
    pub held_out: Vec<u32>,
    /// Files read.
    pub documents: usize,
    /// Files inside folders that are not UTF-8.
    pub skipped: usize,
    /// Bytes of text, of both parts together.
    pub bytes: u64,
}

impl Text {
    /// Splits each document (see [`Document::split`]) and encodes the parts.
    ///
    /// # Errors
    /// A text too short to hold a part of it out.
    pub fn new(corpus: &Corpus, tokenizer: &Tokenizer) -> Result<Self> {
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for document in &corpus.documents {
            let (first, last) = document.split();
            for (part, tokens) in [(first, &mut train), (last, &mut held_out)] {
                if !part.is_empty() {
                    tokens.extend(tokenizer.end_of_text());
                    tokens.extend(tokenizer.encode(part)?);
                }
            }
        }
        if held_out.len() < 2 {
            return Err(Error::TooFewTokens { tokens: held_out.len(), part: "held-out" });
        }
        let (documents, skipped) = (corpus.documents.len(), corpus.skipped);
        Ok(Self { train, held_out, documents, skipped, bytes: corpus.bytes() })
    }

    /// Tells this text from another (FNV-1a over the tokens).
    pub(crate) fn digest(&self) -> u64 {
        self.train
            .iter()
            .chain(&[u32::MAX])
            .chain(&self.held_out)
            .fold(0xcbf2_9ce4_8422_2325, |hash, token| {
                (hash ^ u64::from(*token)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

/// Source code and documents by their ending; not lock files, nor data that some program wrote.
fn is_source(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    matches!(ending, "rs" | "cu" | "cuh" | "h" | "c" | "cpp" | "py" | "md" | "toml" | "sh" | "yml")
}

/// The root of Longhand's repository: at or above the current folder, or else where it was when this was
/// compiled. Its sources and documents are the text to train on when none is named.
///
/// # Errors
/// Neither is there.
pub fn repository() -> Result<PathBuf> {
    let is_root = |folder: &&Path| folder.join("crates/train/src/text.rs").is_file();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    let current = std::env::current_dir().unwrap_or_default();
    let found = current.ancestors().chain([built_in]).find(is_root);
    found.map(Path::to_path_buf).ok_or_else(|| Error::NoDefaultText { built_in: built_in.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, bytes: &[u8]) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_folder_is_read_in_sorted_order_without_hidden_ignored_and_binary_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(at("b.txt"), b"second");
        write(at("a/z.txt"), b"first");
        write(at(".hidden"), b"hidden");
        write(at(".gitignore"), b"ignored.txt\n");
        write(at("ignored.txt"), b"ignored");
        write(at("binary"), &[0xff, 0x00]);
        write(at("empty.txt"), b"");
        write(at("run/metrics.jsonl"), b"{}");
        let corpus = Corpus::read(&[folder.path().into()], Some(&at("run"))).unwrap();
        let texts: Vec<_> = corpus.documents.iter().map(|document| document.text.as_str()).collect();
        assert_eq!(texts, ["first", "second"]);
        assert_eq!(corpus.skipped, 1);
        assert_eq!(corpus.bytes(), 11);
    }

    #[test]
    fn a_named_file_that_is_not_utf8_is_an_error_with_the_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path().join("text"), b"caf\xe9");
        let error = Corpus::read(&[path], None).unwrap_err();
        assert!(matches!(error, Error::NotUtf8 { offset: 3, .. }), "{error}");
    }

    #[test]
    fn missing_and_empty_texts_are_errors_that_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let empty = write(folder.path().join("empty"), b"");
        for path in [folder.path().join("missing"), empty] {
            let error = Corpus::read(std::slice::from_ref(&path), None).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn the_last_tenth_of_a_document_is_held_out_and_no_character_is_cut() {
        for text in ["", "a", "0123456789", "éééééééééé", "日本語日本語日本語日本語"] {
            let document = Document { path: PathBuf::new(), text: text.into() };
            let (train, held_out) = document.split();
            assert_eq!([train, held_out].concat(), text);
            assert!(held_out.len() >= text.len() / 10 && held_out.len() < text.len() / 10 + 4);
        }
    }

    #[test]
    fn the_default_text_is_this_repository() {
        let corpus = Corpus::read_repository(&repository().unwrap()).unwrap();
        assert!(corpus.documents.iter().any(|document| document.path.ends_with("crates/train/src/text.rs")));
        assert!(!corpus.documents.iter().any(|document| document.path.ends_with("Cargo.lock")));
    }
}
