//! Names of federations and parties, and the roles that parties have.

use std::{fmt, str::FromStr};

use ciphertune_round::message;

use crate::error::{Error, Result, malformed};

/// The name of a federation or of a party: 1 to 63 of `a-z`, `0-9` and `-`, with no `-` at either end, as a label of
/// a host name (RFC 1123 §2.1), so that it stands unescaped in a URI, a path and a table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Parses a name.
    pub fn new(text: &str) -> Result<Self> {
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let ends = !text.starts_with('-') && !text.ends_with('-');
        if (1..=63).contains(&text.len()) && letters && ends {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(malformed(
            "name",
            format!("{shown:?}: 1 to 63 of a-z, 0-9 and -, with no - at either end"),
        ))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a party does in a federation. One certificate, one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// An institution that contributes updates and opens sums.
    Member,
    /// Adds what it cannot open.
    Server,
    /// Signs the federation's policy.
    Officer,
    /// Signs jobs.
    Researcher,
    /// Reads and verifies logs.
    Auditor,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [
        Self::Member,
        Self::Server,
        Self::Officer,
        Self::Researcher,
        Self::Auditor,
    ];

    /// As certificates and commands write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Server => "server",
            Self::Officer => "officer",
            Self::Researcher => "researcher",
            Self::Auditor => "auditor",
        }
    }

    /// With its article: `a member`, `an officer`.
    pub fn with_article(self) -> String {
        let article = match self {
            Self::Officer | Self::Auditor => "an",
            Self::Member | Self::Server | Self::Researcher => "a",
        };
        format!("{article} {self}")
    }

    pub(crate) fn of_message(role: i32) -> Result<Self> {
        match message::Role::try_from(role) {
            Ok(message::Role::Member) => Ok(Self::Member),
            Ok(message::Role::Server) => Ok(Self::Server),
            Ok(message::Role::Officer) => Ok(Self::Officer),
            Ok(message::Role::Researcher) => Ok(Self::Researcher),
            Ok(message::Role::Auditor) => Ok(Self::Auditor),
            Ok(message::Role::Unspecified) | Err(_) => {
                Err(malformed("role", format!("{role} is none of the five")))
            }
        }
    }

    pub(crate) fn to_message(self) -> message::Role {
        match self {
            Self::Member => message::Role::Member,
            Self::Server => message::Role::Server,
            Self::Officer => message::Role::Officer,
            Self::Researcher => message::Role::Researcher,
            Self::Auditor => message::Role::Auditor,
        }
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| {
                let shown: String = text.chars().take(80).collect();
                malformed(
                    "role",
                    format!("{shown:?}: member, server, officer, researcher or auditor"),
                )
            })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const SCHEME: &str = "ciphertune://";

/// `ciphertune://FEDERATION`: the URI in the authority's own certificate.
pub(crate) fn authority_uri(federation: &Name) -> String {
    format!("{SCHEME}{federation}")
}

/// `ciphertune://FEDERATION/ROLE/NAME`: the URI in a party's certificate.
pub(crate) fn party_uri(federation: &Name, role: Role, name: &Name) -> String {
    format!("{SCHEME}{federation}/{role}/{name}")
}

/// Reads [`authority_uri`].
pub(crate) fn parse_authority_uri(uri: &str) -> Result<Name> {
    Name::new(uri.strip_prefix(SCHEME).unwrap_or_default())
}

/// Reads [`party_uri`].
pub(crate) fn parse_party_uri(uri: &str) -> Result<(Name, Role, Name)> {
    let parts: Vec<&str> = uri
        .strip_prefix(SCHEME)
        .unwrap_or_default()
        .split('/')
        .collect();
    match parts.as_slice() {
        [federation, role, name] => Ok((Name::new(federation)?, role.parse()?, Name::new(name)?)),
        _ => Err(malformed(
            "certificate",
            "its URI is not ciphertune://FEDERATION/ROLE/NAME",
        )),
    }
}

/// Whether a URI is of this project's scheme at all.
pub(crate) fn is_ours(uri: &str) -> bool {
    uri.get(..SCHEME.len())
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_outside_the_alphabet_is_refused() {
        let long = "a".repeat(64);
        for text in [
            "", "-", "a-", "-a", "North", "a b", "a/b", "a.b", "ä", "a\0", "../a", &long,
        ] {
            assert!(Name::new(text).is_err(), "{text:?}");
        }
        for text in ["a", "7", "north-hospital-2", &long[..63]] {
            assert_eq!(Name::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_uri_survives_its_text_and_nothing_else_is_one() {
        let (f, n) = (Name::new("lab").unwrap(), Name::new("north").unwrap());
        for role in Role::ALL {
            let uri = party_uri(&f, role, &n);
            assert_eq!(parse_party_uri(&uri).unwrap(), (f.clone(), role, n.clone()));
        }
        for uri in [
            "ciphertune://lab/member",
            "ciphertune://lab/member/north/",
            "ciphertune://lab/member/north/more",
            "ciphertune://lab/king/north",
            "ciphertune://lab/member/",
            "https://lab/member/north",
            "",
        ] {
            assert!(parse_party_uri(uri).is_err(), "{uri}");
        }
    }
}
