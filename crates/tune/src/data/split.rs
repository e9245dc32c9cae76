//! A deterministic split of one corpus into the members' shares and a common validation set.

use super::Record;
use crate::random::SplitMix;
use crate::{Error, Result};

/// Disjoint shares of one corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// One member's records each, all of the same size.
    pub members: Vec<Vec<Record>>,
    /// The records no member holds; never empty.
    pub validation: Vec<Record>,
}

/// Shuffles `records` and deals `per_member` of them to each of `members`; the rest validates.
///
/// The same records in the same order with the same seed give the same shares
/// on every machine: the shuffle is Fisher and Yates's, driven by
/// [`SplitMix`], integers only. Deduplicate first ([`super::Dataset`] does),
/// or a copy of a training sentence may validate.
///
/// # Errors
/// [`Error::Misuse`] where there is nothing to share, or the records do not
/// suffice for the members and at least one validation record.
pub fn federate(
    mut records: Vec<Record>,
    members: usize,
    per_member: usize,
    seed: u64,
) -> Result<Shares> {
    if members == 0 || per_member == 0 {
        return Err(Error::Misuse(
            "a split needs at least one member and one record a member".to_owned(),
        ));
    }
    let wanted = members.checked_mul(per_member);
    let Some(wanted) = wanted.filter(|&wanted| wanted < records.len()) else {
        return Err(Error::Misuse(format!(
            "{members} members × {per_member} records and a validation set need more than the \
             {} records there are",
            records.len()
        )));
    };
    SplitMix::new(seed).shuffle(&mut records);
    let validation = records.split_off(wanted);
    let members = records.chunks(per_member).map(<[_]>::to_vec).collect();
    Ok(Shares {
        members,
        validation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn corpus(n: usize) -> Vec<Record> {
        (0..n)
            .map(|i| Record::sentence(format!("s{i}"), "x"))
            .collect()
    }

    #[test]
    fn shares_are_disjoint_and_complete_and_repeat_with_the_seed() {
        let shares = federate(corpus(100), 3, 20, 7).unwrap();
        assert_eq!(shares, federate(corpus(100), 3, 20, 7).unwrap());
        assert_ne!(shares, federate(corpus(100), 3, 20, 8).unwrap());
        assert!(shares.members.iter().all(|m| m.len() == 20));
        assert_eq!((shares.members.len(), shares.validation.len()), (3, 40));
        let all: BTreeSet<_> = shares
            .members
            .iter()
            .flatten()
            .chain(&shares.validation)
            .collect();
        assert_eq!(all.len(), 100);
    }

    #[test]
    fn the_split_of_seed_zero_is_this_one_on_every_machine() {
        let shares = federate(corpus(8), 2, 3, 0).unwrap();
        let names: Vec<_> = (shares.members.iter().flatten().chain(&shares.validation))
            .map(|r| r.fields["sentence"].as_str())
            .collect();
        assert_eq!(names.join(" "), PINNED);
    }
    /// Computed by an independent implementation in Python integers.
    const PINNED: &str = "s2 s5 s0 s3 s4 s6 s1 s7";

    #[test]
    fn too_few_records_are_refused_with_the_numbers() {
        let error = federate(corpus(60), 3, 20, 7).unwrap_err().to_string();
        assert!(
            error.contains("3 members × 20") && error.contains("60 records"),
            "{error}"
        );
        assert!(federate(corpus(60), 0, 20, 7).is_err());
        assert!(federate(corpus(60), usize::MAX, 20, 7).is_err());
    }
}
