//! A level of privacy to compare at.

use std::{fmt, str::FromStr};

use ciphertune_policy::Decimal;

/// The ε of a policy, or as good as none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Level {
    /// ε.
    Epsilon(Decimal),
    /// `inf`: the same steps along the same clipped gradients, without noise.
    Infinite,
}

impl Level {
    /// A policy at record level, changed to this level.
    pub fn applied_to(&self, policy: &toml::Table) -> toml::Table {
        let mut policy = policy.clone();
        let section = |policy: &mut toml::Table, name: &str, change: &dyn Fn(&mut toml::Table)| {
            if let Some(section) = policy.get_mut(name).and_then(toml::Value::as_table_mut) {
                change(section);
            }
        };
        match self {
            Self::Epsilon(epsilon) => {
                let epsilon = epsilon.to_string();
                let change = |section: &mut toml::Table| {
                    section.insert("epsilon".into(), epsilon.as_str().into());
                };
                section(&mut policy, "privacy", &change);
                section(&mut policy, "budget", &change);
            }
            Self::Infinite => {
                section(&mut policy, "privacy", &|privacy| {
                    privacy.retain(|key, _| matches!(key, "clip_norm" | "rounds"));
                    privacy.insert("unit".into(), "none".into());
                });
                policy.remove("budget");
            }
        }
        policy
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "inf" {
            return Ok(Self::Infinite);
        }
        match text.parse() {
            Ok(epsilon) if Decimal::ZERO < epsilon => Ok(Self::Epsilon(epsilon)),
            _ => Err("an epsilon above 0, or inf".into()),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epsilon(epsilon) => epsilon.fmt(f),
            Self::Infinite => f.write_str("inf"),
        }
    }
}

#[cfg(test)]
mod tests {
    use ciphertune_policy::{Policy, Unit};

    use super::*;

    const RECORD: &str = include_str!("../../../policies/record-epsilon-8.toml");

    #[test]
    fn a_level_changes_epsilon_and_nothing_else_and_infinity_says_that_nothing_is_hidden() {
        let base: toml::Table = toml::from_str(RECORD).unwrap();
        let at = |level: &str| {
            let level: Level = level.parse().unwrap();
            let text = toml::to_string(&level.applied_to(&base)).unwrap();
            (Policy::parse(&text).unwrap(), text)
        };
        let (one, text) = at("1.5");
        assert_eq!(one.job_limit().unwrap().epsilon.to_string(), "1.5");
        let back: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!("8".parse::<Level>().unwrap().applied_to(&back), base);
        let (infinite, _) = at("inf");
        assert_eq!(infinite.unit(), Unit::None);
        assert_eq!(infinite.clip_norm(), one.clip_norm());
        for wrong in ["0", "-1", "infinity", "", "eight"] {
            assert!(wrong.parse::<Level>().is_err(), "{wrong:?}");
        }
    }
}
