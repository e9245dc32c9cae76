//! `sentence@label` lines, as Financial PhraseBank is published.

use super::{Record, Result, Source, decode};

/// Reads `text@label` lines; the last `@` of a line divides, blank lines are skipped.
pub(super) fn parse(bytes: &[u8], source: &Source<'_>) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (index, line) in decode(bytes).lines().enumerate() {
        let number = index + 1;
        if line.trim().is_empty() {
            continue;
        }
        let Some((sentence, label)) = line.rsplit_once('@') else {
            return Err(source.malformed(number, "no `@`; expected `sentence@label`"));
        };
        let sentence = sentence.trim();
        if sentence.is_empty() {
            return Err(source.malformed(number, "nothing before `@`; expected `sentence@label`"));
        }
        records.push(Record::sentence(sentence, source.label(number, label)?));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use crate::data::{Dataset, Record, Schema};

    fn read(bytes: &[u8], schema: &Schema) -> crate::Result<Dataset> {
        Dataset::parse(bytes, "txt", "bank.txt", schema)
    }

    #[test]
    fn latin_1_and_utf_8_and_both_line_ends_read_alike() {
        let latin = b"Yhti\xF6 grew @positive\r\nflat@neutral\r\n";
        let utf8 = "\u{FEFF}Yhtiö grew@positive\nflat@neutral".as_bytes();
        let want = [
            Record::sentence("Yhtiö grew", "positive"),
            Record::sentence("flat", "neutral"),
        ];
        for bytes in [&latin[..], utf8] {
            assert_eq!(read(bytes, &Schema::default()).unwrap().records(), want);
        }
    }

    #[test]
    fn the_last_at_sign_divides() {
        let data = read(b"write to a@b.fi@neutral\n", &Schema::default()).unwrap();
        assert_eq!(
            data.records(),
            [Record::sentence("write to a@b.fi", "neutral")]
        );
    }

    #[test]
    fn a_malformed_line_is_an_error_with_its_file_and_line() {
        for (bytes, want) in [
            (&b"a@x\n\nno label here\n"[..], "bank.txt, line 3: no `@`"),
            (b"a@x\n@x\n", "bank.txt, line 2: nothing before"),
            (b"a@x\nb@ \n", "bank.txt, line 2: the label is empty"),
        ] {
            let error = read(bytes, &Schema::default()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn an_unknown_label_is_refused_with_the_known_ones() {
        let schema = Schema::with_labels(["positive", "negative"]);
        let error = read(b"a@positive\nb@postive\n", &schema)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && error.contains("\"postive\""),
            "{error}"
        );
        assert!(error.contains("\"negative\""), "{error}");
    }
}
