//! Text to token numbers: Hugging Face's `tokenizer.json`, and a word-level one for small models.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::{Error, Result};

/// A tokenizer as its publisher ships it, without the truncation and padding that file may ask for.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: Vec<u8>,
}

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Token numbers, special tokens among them.
    pub ids: Vec<u32>,
    /// How many special tokens end the text (a `[SEP]`, an end of sequence).
    pub trailing_special: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Fault`] where the file cannot be read, [`Error::Malformed`]
    /// where it is no tokenizer.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)
            .map_err(|e| Error::Fault(format!("cannot read {}: {e}", path.display())))?;
        Self::from_bytes(&bytes).map_err(|e| Error::Malformed(format!("{}: {e}", path.display())))
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`] where they are no tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let malformed =
            |e: tokenizers::Error| Error::Malformed(format!("not a tokenizer.json: {e}"));
        // The library's readers panic on parts that are no JSON, and on some that contradict one another: the first is
        // found out before, the second is a refusal like any other.
        serde_json::from_slice::<serde_json::Value>(bytes).map_err(|e| malformed(e.into()))?;
        let mut inner = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes))
            .unwrap_or_else(|_| Err("its parts contradict one another".into()))
            .map_err(malformed)?;
        inner.with_truncation(None).map_err(malformed)?;
        inner.with_padding(None);
        Ok(Self {
            inner,
            json: bytes.to_vec(),
        })
    }

    /// Writes the `tokenizer.json` this was read from, byte for byte.
    ///
    /// # Errors
    /// [`Error::Fault`] where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        std::fs::write(path, &self.json)
            .map_err(|e| Error::Fault(format!("cannot write {}: {e}", path.display())))
    }

    /// The `tokenizer.json` this was read from.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// One more than the greatest token number.
    pub fn vocab_size(&self) -> usize {
        let vocabulary = self.inner.get_vocab(true);
        vocabulary
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1)
    }

    /// The number of one token, written as the vocabulary writes it.
    pub fn token(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The tokens of a text, with the special tokens the tokenizer puts around one.
    ///
    /// # Errors
    /// [`Error::Fault`] where the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let encoding = self.inner.encode_fast(text, true).map_err(fault)?;
        let special = encoding.get_special_tokens_mask().iter();
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            trailing_special: special.rev().take_while(|&&s| s == 1).count(),
        })
    }

    /// The tokens of a text alone.
    ///
    /// # Errors
    /// [`Error::Fault`] where the tokenizer fails.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(fault)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, without the special ones.
    ///
    /// # Errors
    /// [`Error::Fault`] where the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(fault)
    }
}

fn fault(error: tokenizers::Error) -> Error {
    Error::Fault(format!("tokenizer: {error}"))
}

/// The token of a word that is not in the vocabulary.
pub const UNKNOWN: &str = "<unk>";

/// A word-level tokenizer whose vocabulary is the commonest words of `sentences`.
///
/// Lower case, split at white space and punctuation; number 0 is
/// [`UNKNOWN`], then words by falling count, equal counts in the order of
/// their bytes: the same vocabulary from the same sentences, whatever their
/// order. `vocab_size` counts the unknown word.
///
/// # Errors
/// [`Error::Misuse`] for a vocabulary without room for a word or sentences without one.
pub fn word_level<S: AsRef<str>>(sentences: &[S], vocab_size: usize) -> Result<Tokenizer> {
    if vocab_size < 2 {
        return Err(Error::Misuse(
            "a vocabulary needs room for a word".to_owned(),
        ));
    }
    // The pipeline itself says what a word is: one vocabulary-less pass counts.
    let splitter = Tokenizer::from_bytes(&word_level_json(&BTreeMap::new()))?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for sentence in sentences {
        for word in splitter.words(sentence.as_ref())? {
            *counts.entry(word).or_insert(0) += 1;
        }
    }
    counts.remove(UNKNOWN);
    if counts.is_empty() {
        return Err(Error::Misuse("the sentences hold no word".to_owned()));
    }
    let mut words: Vec<(String, usize)> = counts.into_iter().collect();
    words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    words.truncate(vocab_size - 1);
    let vocabulary = (words.into_iter().map(|(word, _)| word).zip(1..)).collect();
    Tokenizer::from_bytes(&word_level_json(&vocabulary))
}

impl Tokenizer {
    /// The words the normaliser and the pre-tokenizer make of a text.
    fn words(&self, text: &str) -> Result<Vec<String>> {
        use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType};
        use tokenizers::{PreTokenizedString, PreTokenizer};
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(fault)?;
        }
        let mut pieces = PreTokenizedString::from(normalized);
        if let Some(splitter) = self.inner.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut pieces).map_err(fault)?;
        }
        let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        Ok(splits
            .into_iter()
            .map(|(word, _, _)| word.to_owned())
            .collect())
    }
}

fn word_level_json(vocabulary: &BTreeMap<String, u32>) -> Vec<u8> {
    let mut vocab: serde_json::Map<_, _> =
        (vocabulary.iter().map(|(w, &id)| (w.clone(), json!(id)))).collect();
    vocab.insert(UNKNOWN.to_owned(), json!(0));
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": UNKNOWN },
    });
    file.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENTENCES: [&str; 3] = ["Sales rose.", "sales fell sharply.", "Profit rose"];

    #[test]
    fn word_level_numbers_words_by_count_then_by_spelling() {
        let tokenizer = word_level(&SENTENCES, 6).unwrap();
        // "." "rose" "sales" twice, then "fell" before "profit"; "sharply" finds no room.
        let ids = |text: &str| tokenizer.encode(text).unwrap().ids;
        assert_eq!(ids(". ROSE Sales fell profit"), [1, 2, 3, 4, 5]);
        assert_eq!(ids("sharply unseen"), [0, 0]);
        assert_eq!(tokenizer.vocab_size(), 6);
        assert_eq!(tokenizer.decode(&[3, 2]).unwrap(), "sales rose");
        assert_eq!(tokenizer.token("rose"), Some(2));
    }

    #[test]
    fn word_level_is_the_same_file_whatever_the_order_and_reads_back() {
        let mut reversed = SENTENCES;
        reversed.reverse();
        let tokenizer = word_level(&SENTENCES, 6).unwrap();
        assert_eq!(tokenizer.json(), word_level(&reversed, 6).unwrap().json());
        let path = std::env::temp_dir().join(format!("ct-tokenizer-{}.json", std::process::id()));
        tokenizer.save(&path).unwrap();
        let again = Tokenizer::load(&path);
        std::fs::remove_file(&path).unwrap();
        let text = "profit fell";
        assert_eq!(
            again.unwrap().encode(text).unwrap(),
            tokenizer.encode(text).unwrap()
        );
    }

    #[test]
    fn no_words_no_room_and_no_tokenizer_are_refused() {
        assert!(matches!(word_level(&SENTENCES, 1), Err(Error::Misuse(_))));
        assert!(matches!(word_level(&[" "], 9), Err(Error::Misuse(_))));
        assert!(matches!(
            Tokenizer::from_bytes(b"{}"),
            Err(Error::Malformed(_))
        ));
        let missing = Tokenizer::load(Path::new("/no/such/tokenizer.json"));
        assert!(
            missing
                .err()
                .unwrap()
                .to_string()
                .contains("/no/such/tokenizer.json")
        );
    }

    #[test]
    fn a_published_tokenizer_neither_pads_nor_truncates_and_shows_its_special_tokens() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/models/all-MiniLM-L6-v2/tokenizer.json"
        );
        if !Path::new(path).exists() {
            eprintln!("SKIPPED: no tokenizer at {path}");
            return;
        }
        let tokenizer = Tokenizer::load(Path::new(path)).unwrap();
        let short = tokenizer.encode("Profit rose").unwrap();
        assert_eq!(short.ids, [101, 5618, 3123, 102]); // [CLS] profit rose [SEP]
        assert_eq!(short.trailing_special, 1);
        assert_eq!(tokenizer.encode_bare("Profit rose").unwrap(), [5618, 3123]);
        let long = tokenizer.encode(&"profit ".repeat(700)).unwrap();
        assert_eq!(long.ids.len(), 702);
        assert_eq!(tokenizer.vocab_size(), 30_522);
    }
}
