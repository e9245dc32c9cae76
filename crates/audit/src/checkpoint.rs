//! The state of a log at one moment, in words that can be signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// Longest name of a log.
const ORIGIN_BYTES: usize = 256;

/// How many entries a log has, and the root of their Merkle tree (RFC 6962, section 2.1).
///
/// Its bytes are a C2SP tlog-checkpoint without extension lines: origin, size, base64 of the root, each with
/// a newline. They are what is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: [u8; 32],
}

impl Checkpoint {
    /// # Errors
    /// `Misuse` unless the origin is 1 to 256 bytes without white space, control characters or '+'.
    pub fn new(origin: &str, size: u64, root: [u8; 32]) -> Result<Self> {
        let fits = (1..=ORIGIN_BYTES).contains(&origin.len());
        if !fits
            || origin
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == '+')
        {
            return Err(Error::Misuse(
                "a log's name is 1 to 256 bytes without white space or '+'".into(),
            ));
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }

    /// The name of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The number of entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the Merkle tree over them.
    #[must_use]
    pub fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// The bytes to sign.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            STANDARD.encode(self.root)
        )
        .into_bytes()
    }

    /// Reads [`Self::to_bytes`] and nothing else.
    ///
    /// # Errors
    /// `Malformed` on any other bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = || {
            Error::Malformed(
                "not a checkpoint: origin, size and root, a line each, are wanted".into(),
            )
        };
        let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
        let lines: Vec<&str> = text.split('\n').take(5).collect();
        let [origin, size, root, ""] = lines[..] else {
            return Err(wrong());
        };
        let size = size.parse().map_err(|_| wrong())?;
        let root = STANDARD
            .decode(root)
            .ok()
            .and_then(|root| root.try_into().ok())
            .ok_or_else(wrong)?;
        let checkpoint = Self::new(origin, size, root).map_err(|_| wrong())?;
        if checkpoint.to_bytes() == bytes {
            Ok(checkpoint)
        } else {
            Err(wrong())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_the_stated_bytes_and_reads_back() {
        let checkpoint = Checkpoint::new("hospital-a.example/audit", 12, [0; 32]).unwrap();
        let expected =
            "hospital-a.example/audit\n12\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
        assert_eq!(checkpoint.to_bytes(), expected.as_bytes());
        assert_eq!(Checkpoint::parse(expected.as_bytes()).unwrap(), checkpoint);
    }

    #[test]
    fn any_other_text_is_refused() {
        let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        for text in [
            String::new(),
            format!("a\n12\n{root}"),
            format!("a\n012\n{root}\n"),
            format!("a\n+12\n{root}\n"),
            format!("\n12\n{root}\n"),
            format!("a\n12\n{root}\nmore\n"),
            "a\n12\nAAAA\n".into(),
            format!("a\n99999999999999999999\n{root}\n"),
        ] {
            assert!(Checkpoint::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Checkpoint::parse(&[0xff; 70]).is_err());
        assert!(Checkpoint::new("two\nlines", 0, [0; 32]).is_err());
    }
}
