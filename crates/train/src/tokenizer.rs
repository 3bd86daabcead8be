//! Byte-level BPE (Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2),
//! trained on the text or read from a Hugging Face folder.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokenizers::{
    AddedToken, TokenizerBuilder,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

use crate::{Error, Result, files};

/// What stands between documents, and at the start of a text; the one special token.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The smallest vocabulary: every byte, and [`END_OF_TEXT`].
pub const SMALLEST_VOCABULARY: usize = 257;

/// Text to token identifiers and back, with no text it cannot represent.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Where it was read, for errors.
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// Bytes of text each token stands for; 0 for special ones.
    bytes: Vec<u8>,
}

impl Tokenizer {
    /// Learns at most `vocabulary` tokens from `texts` (fewer where the texts have no more pairs to merge). The
    /// same texts give the same tokenizer.
    ///
    /// # Errors
    /// A vocabulary below [`SMALLEST_VOCABULARY`].
    pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send, vocabulary: usize) -> Result<Self> {
        if vocabulary < SMALLEST_VOCABULARY {
            return Err(Error::Setting {
                name: "vocab",
                value: vocabulary.to_string(),
                expected: "at least 257: every byte, and the end of text",
            });
        }
        let texts: Vec<&str> = texts.collect();
        // Each merge leaves a text with a token less; memory is taken for as many as are asked for.
        let most = texts.iter().fold(SMALLEST_VOCABULARY, |most, text| most.saturating_add(text.len()));
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocabulary.min(most))
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build();
        let byte_level = ByteLevel::new(false, true, true);
        let path = Path::new("(in training)");
        let mut inner = TokenizerBuilder::<BPE, tokenizers::NormalizerWrapper, _, _, _>::new()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(byte_level))
            .with_post_processor(Some(byte_level))
            .with_decoder(Some(byte_level))
            .build()
            .map_err(|error| damaged(path, &error))?;
        inner.train(&mut trainer, texts.into_iter()).map_err(|error| damaged(path, &error))?;
        Self::new(inner.into(), path)
    }

    /// Reads the tokenizer of a Hugging Face folder: `tokenizer.json`, or else `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// A file that is missing or damaged, or a tokenizer that is not byte-level.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        if !path.exists() && vocab.exists() && merges.exists() {
            let name = |path: &Path| path.to_string_lossy().into_owned();
            let model = BPE::from_file(&name(&vocab), &name(&merges))
                .build()
                .map_err(|error| damaged(&vocab, &error))?;
            let mut inner = tokenizers::Tokenizer::new(model);
            inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
            inner.with_decoder(Some(ByteLevel::new(false, true, true)));
            inner
                .add_special_tokens([AddedToken::from(END_OF_TEXT, true)])
                .map_err(|error| damaged(&vocab, &error))?;
            return Self::new(inner, &vocab);
        }
        let content = std::fs::read(&path).map_err(Error::file("read tokenizer", &path))?;
        let inner = tokenizers::Tokenizer::from_bytes(content).map_err(|error| damaged(&path, &error))?;
        Self::new(inner, &path)
    }

    fn new(mut inner: tokenizers::Tokenizer, path: &Path) -> Result<Self> {
        if !matches!(inner.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_))) {
            return Err(damaged(path, &"the decoder is not ByteLevel: expected byte-level BPE, as GPT-2's"));
        }
        // `<|endoftext|>` written out in a text is thirteen bytes of that text, not its end.
        inner.set_encode_special_tokens(true);
        let special: Vec<_> = inner.get_added_tokens_decoder().into_keys().collect();
        let mut bytes = vec![0; inner.get_vocab_size(true)];
        for (token, id) in inner.get_vocab(true) {
            let slot = bytes.get_mut(id as usize).ok_or_else(|| {
                damaged(path, &format!("token {token:?} has id {id}: expected ids without gaps"))
            })?;
            if !special.contains(&id) {
                // The byte-level alphabet writes each byte as one character.
                *slot = u8::try_from(token.chars().count()).unwrap_or(u8::MAX);
            }
        }
        Ok(Self { path: path.into(), inner, bytes })
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, which Hugging Face's `AutoTokenizer` reads.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path, context: usize) -> Result<()> {
        let path = folder.join("tokenizer.json");
        let content = self.inner.to_string(false).map_err(|error| damaged(&path, &error))?;
        files::write(&path, content.as_bytes())?;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "model_max_length": context,
            "clean_up_tokenization_spaces": false,
        });
        files::write(&folder.join("tokenizer_config.json"), format!("{config:#}\n").as_bytes())
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.bytes.len()
    }

    /// The identifier of [`END_OF_TEXT`], where the tokenizer has it.
    pub fn end_of_text(&self) -> Option<u32> {
        self.inner.token_to_id(END_OF_TEXT)
    }

    /// The tokens of `text`; [`Tokenizer::decode`] gives it back.
    ///
    /// # Errors
    /// A byte that the tokenizer has no token for (one that was not made from all 256).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| damaged(&self.path, &error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `tokens`, without special ones. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// None for tokens of this tokenizer.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner.decode(tokens, true).map_err(|error| damaged(&self.path, &error))
    }

    /// Bytes of text that `tokens` stand for. Special tokens stand for none.
    pub fn bytes(&self, tokens: &[u32]) -> u64 {
        tokens.iter().map(|&token| u64::from(self.bytes.get(token as usize).copied().unwrap_or(0))).sum()
    }
}

fn damaged(path: &Path, reason: &impl ToString) -> Error {
    Error::Tokenizer { path: PathBuf::from(path), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use tokenizers::Model;

    use super::*;

    const TEXT: &str = "fn main() { println!(\"Grüße, 世界\"); } // the end of the main function\n";

    #[test]
    fn any_text_comes_back_from_its_tokens_and_its_bytes_are_counted() {
        let tokenizer = Tokenizer::train([TEXT].into_iter(), 300).unwrap();
        for text in [TEXT, "", "\0\u{1F980} never seen\r\n", "a <|endoftext|> inside"] {
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
            assert_eq!(tokenizer.bytes(&tokens), text.len() as u64, "{text:?}");
        }
        assert_eq!(tokenizer.bytes(&[tokenizer.end_of_text().unwrap()]), 0);
    }

    #[test]
    fn the_same_text_gives_the_same_tokenizer_and_saving_keeps_it() {
        let train = || Tokenizer::train([TEXT, TEXT].into_iter(), 320).unwrap();
        let folder = tempfile::tempdir().unwrap();
        train().save(folder.path(), 64).unwrap();
        let first = std::fs::read(folder.path().join("tokenizer.json")).unwrap();
        let loaded = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(loaded.encode(TEXT).unwrap(), train().encode(TEXT).unwrap());
        assert_eq!(loaded.bytes, train().bytes);
        train().save(folder.path(), 64).unwrap();
        assert_eq!(first, std::fs::read(folder.path().join("tokenizer.json")).unwrap());
    }

    #[test]
    fn the_vocabulary_is_never_larger_than_asked_and_smaller_on_a_short_text() {
        assert_eq!(Tokenizer::train([TEXT].into_iter(), 260).unwrap().vocabulary(), 260);
        assert!(Tokenizer::train(["ab"].into_iter(), 1000).unwrap().vocabulary() < 262);
        assert!(Tokenizer::train([TEXT].into_iter(), 256).is_err());
        let all = Tokenizer::train([TEXT].into_iter(), usize::MAX).unwrap().vocabulary();
        assert!((258..257 + TEXT.len()).contains(&all), "{all}");
    }

    #[test]
    fn a_folder_with_vocab_and_merges_alone_reads_as_the_same_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::train([TEXT].into_iter(), 300).unwrap();
        tokenizer.inner.get_model().save(folder.path(), None).unwrap();
        let loaded = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(loaded.encode(TEXT).unwrap(), tokenizer.encode(TEXT).unwrap());
        assert_eq!(loaded.bytes, tokenizer.bytes);
    }

    #[test]
    fn missing_damaged_and_foreign_tokenizers_are_errors_that_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut errors = vec![Tokenizer::load(folder.path()).unwrap_err().to_string()];
        for content in ["{", r#"{"model":{"type":"BPE","vocab":{},"merges":[]}}"#] {
            std::fs::write(&path, content).unwrap();
            errors.push(Tokenizer::load(folder.path()).unwrap_err().to_string());
        }
        for error in errors {
            assert!(error.contains("tokenizer.json"), "{error}");
        }
    }
}
