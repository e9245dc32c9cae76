//! Who holds shares of a member's key: everybody in the cohort, or a committee drawn from all members of the federation;
//! and how many of those who hold one are assumed to help the server.
//!
//! Of M members c collude, and k of them are drawn, each set of k as likely as any other. The number X of colluders among
//! them is hypergeometric:
//!
//! ```text
//! P[X = x] = C(c, x)·C(M − c, k − x) / C(M, k)
//! ```
//!
//! c_k is the least number with P[X > c_k] ≤ 2⁻⁴⁰. The thresholds of a cohort then hold within the committee, with k in
//! the place of n and c_k in that of c: 2t ≥ k + c_k + 1, so that at most one roster of a context gathers t echoes, and
//! t > c_k, so that colluders alone open nothing. Everything that decides is an exact integer; floats are for people.

use num_bigint::BigUint;

use crate::admit::default_threshold;
use crate::error::Error;
use crate::policy::MAX_MEMBERS;

/// A committee with more colluders than are reckoned with is drawn with probability at most 2⁻⁴⁰.
pub const BAD_COMMITTEE_LOG2: u32 = 40;

/// Those who hold shares, and how many of them are assumed to help the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// n of a cohort, or k of a committee.
    pub holders: usize,
    /// c among a cohort, or c_k among a committee.
    pub colluders: usize,
}

impl Sharing {
    /// Everybody in a cohort of n holds a share, and c of them collude.
    #[must_use]
    pub fn among_all(cohort: usize, colluders: usize) -> Self {
        Self {
            holders: cohort,
            colluders,
        }
    }

    /// k of M members are drawn, of whom c collude: c_k is the least number that X exceeds with probability at most
    /// 2⁻⁴⁰.
    ///
    /// # Errors
    /// `Refused` when k is not in 2..=M or M beyond [`MAX_MEMBERS`], or when a committee of k consists of colluders alone
    /// more often than that: says how many would do.
    pub fn among_committee(
        members: usize,
        colluders: usize,
        committee: usize,
    ) -> Result<Self, Error> {
        let draw = Draw::of(members, colluders, committee)?;
        let within = draw.tolerated();
        if within < committee {
            return Ok(Self {
                holders: committee,
                colluders: within,
            });
        }
        // The larger, the rarer.
        let sizes: Vec<usize> = (committee + 1..=members).collect();
        let small = sizes.partition_point(|k| {
            binomial(colluders, *k) << BAD_COMMITTEE_LOG2 > binomial(members, *k)
        });
        let enough = sizes.get(small).map_or_else(
            || "no committee would do".into(),
            |k| format!("{k} would do"),
        );
        Err(Error::Refused(format!(
            "a committee of {committee} among {members} members, {colluders} of them colluding, may consist of colluders \
             alone, with a probability above 2^-{BAD_COMMITTEE_LOG2}; {enough}"
        )))
    }

    /// A committee of k where one is asked for, else the whole cohort.
    ///
    /// # Errors
    /// As [`Sharing::among_committee`].
    pub fn of(
        members: usize,
        cohort: usize,
        colluders: usize,
        committee: Option<usize>,
    ) -> Result<Self, Error> {
        match committee {
            None => Ok(Self::among_all(cohort, colluders)),
            Some(k) => Self::among_committee(members, colluders, k),
        }
    }

    /// The least t with 2t ≥ holders + colluders + 1.
    #[must_use]
    pub fn least_threshold(&self) -> usize {
        default_threshold(self.holders, self.colluders)
    }
}

/// log₂ of P\[X > `within`\] for k of M members drawn, c of them colluding, rounded up to a tenth; `None` for impossible.
/// For people: nothing is decided by it.
///
/// # Errors
/// As [`Sharing::among_committee`], where k does not fit M.
pub fn odds_of_more_log2(
    members: usize,
    colluders: usize,
    committee: usize,
    within: usize,
) -> Result<Option<f64>, Error> {
    let draw = Draw::of(members, colluders, committee)?;
    let worse: BigUint = draw
        .worst_first()
        .take_while(|(x, _)| *x > within)
        .map(|(_, ways)| ways)
        .sum();
    if worse == BigUint::ZERO {
        return Ok(None);
    }
    let log2 = log2(&worse) - log2(&draw.all);
    Ok(Some((log2 * 10.0).ceil() / 10.0))
}

/// k of M members, c of them colluding, drawn without putting back.
struct Draw {
    honest: usize,
    colluders: usize,
    committee: usize,
    /// C(M, k)
    all: BigUint,
}

impl Draw {
    fn of(members: usize, colluders: usize, committee: usize) -> Result<Self, Error> {
        if members > MAX_MEMBERS as usize || !(2..=members).contains(&committee) {
            return Err(Error::Refused(format!(
                "a committee of {committee} cannot be drawn among {members} members: it has from 2 to all of at most \
                 {MAX_MEMBERS}"
            )));
        }
        let colluders = colluders.min(members);
        Ok(Self {
            honest: members - colluders,
            colluders,
            committee,
            all: binomial(members, committee),
        })
    }

    /// x and C(c, x)·C(M − c, k − x), the committees with exactly x colluders: from the most colluders down.
    fn worst_first(&self) -> impl Iterator<Item = (usize, BigUint)> {
        let most = self.committee.min(self.colluders);
        let ways = binomial(self.colluders, most) * binomial(self.honest, self.committee - most);
        // One colluder of x makes room for one of the honest who are outside.
        std::iter::successors(Some((most, ways)), |(x, ways)| {
            let fewer = x.checked_sub(1)?;
            let outside = (self.honest + x).saturating_sub(self.committee);
            let ways = ways * *x * outside / (self.colluders - fewer) / (self.committee - fewer);
            Some((fewer, ways))
        })
    }

    /// c_k: the least with Σ_{x > c_k} ways(x) · 2⁴⁰ ≤ C(M, k).
    fn tolerated(&self) -> usize {
        let mut worse = BigUint::ZERO;
        for (x, ways) in self.worst_first() {
            worse += ways;
            if &worse << BAD_COMMITTEE_LOG2 > self.all {
                return x;
            }
        }
        0
    }
}

/// C(n, r); 0 for r > n.
fn binomial(n: usize, r: usize) -> BigUint {
    if r > n {
        return BigUint::ZERO;
    }
    let mut product = BigUint::from(1_u8);
    for i in 0..r.min(n - r) {
        product *= n - i;
        product /= i + 1; // exact: a product of i + 1 consecutive integers is a multiple of (i + 1)!
    }
    product
}

/// log₂ of a positive integer, from its 64 leading bits: within 2⁻⁵⁰.
fn log2(value: &BigUint) -> f64 {
    let cut = value.bits().saturating_sub(64);
    let leading = (value >> cut).iter_u64_digits().next().unwrap_or(1);
    (leading as f64).log2() + cut as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binomials_are_pascals() {
        let mut row = vec![BigUint::from(1_u8)];
        for n in 0..40 {
            for (r, expected) in row.iter().enumerate() {
                assert_eq!(binomial(n, r), *expected, "C({n}, {r})");
            }
            assert_eq!(binomial(n, n + 1), BigUint::ZERO);
            let inner = row.windows(2).map(|pair| &pair[0] + &pair[1]);
            row = std::iter::once(1_u8.into())
                .chain(inner)
                .chain([1_u8.into()])
                .collect();
        }
    }

    /// Every committee of a small federation, counted one by one.
    #[test]
    fn the_odds_are_those_of_counting_every_committee() {
        for members in 2..=11_usize {
            for colluders in 0..=members {
                for committee in 2..=members {
                    let draw = Draw::of(members, colluders, committee).unwrap();
                    let mut counted = vec![0_u32; committee + 1];
                    for set in 0_u32..1 << members {
                        if set.count_ones() as usize == committee {
                            let bad = set & ((1 << colluders) - 1);
                            counted[bad.count_ones() as usize] += 1;
                        }
                    }
                    for (x, ways) in draw.worst_first() {
                        let expected = std::mem::take(&mut counted[x]);
                        assert_eq!(ways, BigUint::from(expected), "{members} {committee} {x}");
                    }
                    assert!(
                        counted.iter().all(|left| *left == 0),
                        "more colluders than looked at"
                    );
                }
            }
        }
    }

    #[test]
    fn a_small_federation_reckons_with_every_colluder() {
        // Nothing that can happen in so few draws is as rare as 2⁻⁴⁰.
        for (members, colluders, committee, within) in
            [(7, 0, 3, 0), (7, 1, 3, 1), (7, 2, 3, 2), (20, 3, 10, 3)]
        {
            let sharing = Sharing::among_committee(members, colluders, committee).unwrap();
            assert_eq!(sharing.colluders, within);
            assert_eq!(
                odds_of_more_log2(members, colluders, committee, within).unwrap(),
                None
            );
        }
        let refused = Sharing::among_committee(20, 3, 3).unwrap_err().to_string();
        assert!(
            refused.contains("may consist of colluders alone"),
            "{refused}"
        );
        assert!(refused.contains("4 would do"), "{refused}");
        assert!(
            Sharing::among_committee(20, 20, 3)
                .unwrap_err()
                .to_string()
                .contains("no committee would do")
        );
    }

    /// c_k, t, how many may be missing, and log₂ of the odds, as Python's integers give them (`math.comb`).
    #[test]
    fn the_thresholds_of_large_federations_are_those_worked_out_elsewhere() {
        for (members, colluders, committee, within, threshold, missing, odds) in [
            (1000, 100, 100, 34, 68, 32, Some(-41.9)),
            (1000, 100, 50, 24, 38, 12, Some(-43.3)),
            (1000, 200, 100, 49, 75, 25, Some(-40.0)),
            (1000, 50, 30, 14, 23, 7, Some(-41.5)),
            (1000, 333, 200, 110, 156, 44, Some(-41.4)),
            (1000, 10, 20, 7, 14, 6, Some(-41.9)),
            (300, 30, 60, 23, 42, 18, Some(-44.0)),
            (100, 10, 40, 10, 26, 14, None),
            (200, 0, 20, 0, 11, 9, None),
        ] {
            let sharing = Sharing::among_committee(members, colluders, committee).unwrap();
            assert_eq!(sharing.holders, committee);
            assert_eq!(sharing.colluders, within, "k = {committee} of {members}");
            assert_eq!(sharing.least_threshold(), threshold);
            assert_eq!(committee - sharing.least_threshold(), missing);
            let found = odds_of_more_log2(members, colluders, committee, within).unwrap();
            assert_eq!(found, odds, "k = {committee} of {members}");
        }
    }

    /// Two sets of t holders share more than c_k, and c_k are fewer than t: for every committee of some federations.
    #[test]
    fn the_least_threshold_holds_for_every_committee_that_is_not_refused() {
        let mut held = 0;
        for members in [2, 3, 5, 10, 40, 200, 1000] {
            for colluders in [0, 1, members / 10, members / 3, members - 1] {
                for committee in (2..=members).step_by(1 + members / 50) {
                    let draw = Draw::of(members, colluders, committee).unwrap();
                    let Ok(sharing) = Sharing::among_committee(members, colluders, committee)
                    else {
                        assert_eq!(draw.tolerated(), committee);
                        continue;
                    };
                    let (c, t) = (sharing.colluders, sharing.least_threshold());
                    assert!(c < t && t <= committee && 2 * t > committee + c);
                    assert!(2 * (t - 1) <= committee + c, "not the least");
                    held += 1;
                }
            }
        }
        assert!(held > 500, "{held}");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        for (members, committee) in [(7, 0), (7, 1), (7, 8), (1, 2), (1001, 10), (usize::MAX, 2)] {
            assert!(Sharing::among_committee(members, 0, committee).is_err());
        }
        // More colluders than members are all of them.
        assert!(Sharing::among_committee(7, usize::MAX, 3).is_err());
    }

    #[test]
    fn the_whole_federation_as_its_committee_is_the_whole_cohort() {
        for members in [3, 7, 64, 1000] {
            for colluders in [0, 1, members / 3] {
                assert_eq!(
                    Sharing::among_committee(members, colluders, members).unwrap(),
                    Sharing::among_all(members, colluders)
                );
            }
        }
    }
}
